package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sandboxVariable, in the environment, makes this test program a sandbox.
const sandboxVariable = "HOSTGW_RELEASE_SANDBOX"

func TestMain(m *testing.M) {
	if spec := os.Getenv(sandboxVariable); spec != "" {
		fmt.Fprintln(os.Stderr, "sandbox:", enterSandbox(spec))
		os.Exit(125)
	}
	os.Exit(m.Run())
}

// sandbox is what a systemd unit leaves to its process, made without systemd.
type sandbox struct {
	Root     string   // is all there is of the file system, besides /proc
	Writable []string // directories in Root that are the process's own; all else is read-only
	Settings []string // directories in /proc/sys that are not read-only
	Caps     []int    // capabilities
	ID       int      // of user and group
	Command  []string
}

// enterSandbox turns this process into a sandboxed one. It returns only if that
// fails.
func enterSandbox(spec string) error {
	// Everything below belongs to the thread, and the thread becomes the process.
	runtime.LockOSThread()
	var s sandbox
	if err := json.Unmarshal([]byte(spec), &s); err != nil {
		return err
	}
	for _, step := range []func() error{s.fileSystem, s.probe, s.identity} {
		if err := step(); err != nil {
			return err
		}
	}
	unix.Umask(0o077)
	env := os.Environ()
	for i, e := range env {
		if strings.HasPrefix(e, sandboxVariable+"=") {
			env[i] = "LANG=C"
		}
	}
	return fmt.Errorf("execute %s: %w", s.Command[0], unix.Exec(s.Command[0], s.Command, env))
}

// fileSystem makes the process's view of the file system.
func (s sandbox) fileSystem() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	bind := func(from, to string, readOnly bool) error {
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", from, to, err)
		}
		if !readOnly {
			return nil
		}
		if err := unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
			return fmt.Errorf("make %s read-only: %w", to, err)
		}
		return nil
	}
	proc := filepath.Join(s.Root, "proc")
	if err := os.MkdirAll(proc, 0o755); err != nil {
		return err
	}
	for _, dir := range s.Writable {
		path := filepath.Join(s.Root, dir)
		if err := errors.Join(os.MkdirAll(path, 0o755), os.Chown(path, s.ID, s.ID)); err != nil {
			return err
		}
	}
	if err := bind(s.Root, s.Root, true); err != nil {
		return err
	}
	for _, dir := range s.Writable {
		path := filepath.Join(s.Root, dir)
		if err := bind(path, path, false); err != nil {
			return err
		}
		// It has taken read-only over from what it was bound from.
		if err := unix.Mount("", path, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("make %s writable: %w", path, err)
		}
	}
	if err := errors.Join(bind("/proc", proc, false), bind("/proc/sys", filepath.Join(proc, "sys"), true)); err != nil {
		return err
	}
	for _, dir := range s.Settings {
		if err := bind(dir, filepath.Join(s.Root, dir), false); err != nil {
			return err
		}
	}
	if err := unix.Chroot(s.Root); err != nil {
		return fmt.Errorf("chroot: %w", err)
	}
	return os.Chdir("/")
}

// probe makes sure that it is a sandbox: not even root may write elsewhere.
func (s sandbox) probe() error {
	for _, path := range []string{"/written", "/usr/sbin/written", "/run/written", "/var/lib/written"} {
		if err := os.WriteFile(path, nil, 0o600); !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("%s can be written: %w", path, err)
		}
	}
	const setting = "/proc/sys/kernel/domainname"
	if err := os.WriteFile(setting, []byte("x"), 0); !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%s can be written: %w", setting, err)
	}
	return nil
}

// identity takes the thread all privileges but the capabilities. System calls are
// made directly, for package unix makes some of them on all threads.
func (s sandbox) identity() error {
	var last uintptr
	var mask uint64
	for last = 0; unix.Prctl(unix.PR_CAPBSET_READ, last, 0, 0, 0) == nil; last++ {
	}
	for _, c := range s.Caps {
		mask |= 1 << c
	}
	for c := range last {
		if mask&(1<<c) == 0 {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return fmt.Errorf("drop capability %d: %w", c, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	id := uintptr(s.ID)
	for _, call := range [][4]uintptr{{unix.SYS_SETGROUPS}, {unix.SYS_SETRESGID, id, id, id}, {unix.SYS_SETRESUID, id, id, id}} {
		if _, _, errno := unix.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return fmt.Errorf("become user %d: %w", id, errno)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	half := func(m uint64) unix.CapUserData {
		return unix.CapUserData{Effective: uint32(m), Permitted: uint32(m), Inheritable: uint32(m)}
	}
	data := [2]unix.CapUserData{half(mask), half(mask >> 32)}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	for _, c := range s.Caps {
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(c), 0, 0); err != nil {
			return fmt.Errorf("keep capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	return nil
}
