package workflow

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// machine runs one program on a host, as the only thing on a machine of its own:
// in the host's network namespace, and in a PID and a mount namespace that end
// with it. It keeps the /sys of the real machine.
type machine struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	log    string // file of what the program says
	done   chan struct{}
	cgroup string // the name of the one that the program may make, in every hierarchy
}

// machineOptions are what a machine needs.
type machineOptions struct {
	dir     string   // exists, and is removed with the machine
	log     string   // file that gets what the program says
	cgroup  string   // cgroup that the program may make, removed with the machine
	command []string // what runs, as for exec
	env     []string
}

// startMachine starts a machine on the host. Stop it; if this process dies, it
// stops by itself.
func startMachine(host *netns.Namespace, o machineOptions) (*machine, error) {
	log, err := os.OpenFile(o.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("/proc/self/exe", slices.Concat([]string{bootArgument, o.cgroup, o.dir}, o.command)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = o.env
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   unix.CLONE_NEWPID,
		Unshareflags: unix.CLONE_NEWNS, // with every mount made private
		Setpgid:      true,             // Ctrl-C in a terminal is for the test alone
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	// Not host.Start, whose processes are killed when this one dies: this one
	// must live long enough to clean up then.
	if err := host.Do(cmd.Start); err != nil {
		return nil, fmt.Errorf("starting a machine on %s: %w", host.Name, err)
	}
	m := &machine{cmd: cmd, stdin: stdin, log: o.log, done: make(chan struct{}), cgroup: o.cgroup}
	go func() {
		defer close(m.done)
		_ = cmd.Wait() // read from ProcessState
	}()
	return m, nil
}

// stop stops the program and the machine, and waits until nothing of it is left.
func (m *machine) stop() error {
	m.stdin.Close()
	select {
	case <-m.done:
	case <-time.After(30 * time.Second):
		_ = m.cmd.Process.Kill() // and everything in its PID namespace with it
		<-m.done
	}
	if !m.cmd.ProcessState.Success() {
		return fmt.Errorf("the machine ended with %v", m.cmd.ProcessState)
	}
	if left := cgroups(m.cgroup); len(left) > 0 {
		return fmt.Errorf("the machine left cgroups behind: %v", left)
	}
	return nil
}

// says returns what the program has said so far.
func (m *machine) says() string {
	b, err := os.ReadFile(m.log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// boot is the first process of a machine: it prepares the machine, starts the
// program, waits until its standard input is closed, and then ends everything in
// order. It returns its exit status.
func boot(args []string) int {
	cgroup, dir, command := args[0], args[1], args[2:]
	if err := prepareMachine(); err != nil {
		fmt.Fprintln(os.Stderr, "preparing the machine:", err)
		return 1
	}
	program, err := os.StartProcess(command[0], command, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the program:", err)
		return 1
	}
	ended, empty := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(empty)
		reap(program.Pid, ended)
	}()
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		_, _ = io.Copy(io.Discard, os.Stdin) // it ends when whoever started the machine says so, or dies
	}()

	status := 0
	select {
	case <-asked:
		_ = unix.Kill(program.Pid, unix.SIGTERM) // it may have ended just now
		select {
		case <-ended:
		case <-time.After(15 * time.Second):
			fmt.Fprintln(os.Stderr, "the program did not stop when asked to")
			status = 1
		}
	case <-ended:
		fmt.Fprintln(os.Stderr, "the program ended by itself")
		status = 1
	}
	if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		fmt.Fprintln(os.Stderr, "killing the rest:", err)
		status = 1
	}
	<-empty
	if err := errors.Join(removeCgroups(cgroup), removeDir(dir)); err != nil {
		fmt.Fprintln(os.Stderr, "cleaning up:", err)
		status = 1
	}
	return status
}

// prepareMachine gives the machine a /proc of its own, empty directories where
// programs keep their state and settings, and cgroups if it has none.
func prepareMachine() error {
	for _, m := range []struct{ kind, path string }{{"proc", "/proc"}, {"tmpfs", "/run"}, {"tmpfs", "/etc/docker"}} {
		if err := unix.Mount(m.kind, m.path, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.kind, m.path, err)
		}
	}
	if mounted, err := cgroupsMounted(); mounted || err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", cgroupRoot, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mounting cgroup2 on %s: %w", cgroupRoot, err)
	}
	return nil
}

// reap waits for every child, also those that were left to us by others, until
// there is none. It closes ended when the one called pid has ended.
func reap(pid int, ended chan<- struct{}) {
	for {
		switch child, err := unix.Wait4(-1, nil, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD
			return
		case child == pid:
			close(ended)
		}
	}
}

// removeDir removes a directory in which the program may have mounted something.
func removeDir(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			_ = unix.Unmount(fields[4], unix.MNT_DETACH) // gone with an earlier one that it was in
		}
	}
	return os.RemoveAll(dir)
}

const cgroupRoot = "/sys/fs/cgroup"

// machineCgroup names the cgroup of a machine that process pid starts on a host.
func machineCgroup(pid int, host string) string { return fmt.Sprintf("hostgw-%d-%s", pid, host) }

// cgroupsMounted reports whether cgroups can be seen at all, of either version.
func cgroupsMounted() (bool, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	return strings.Contains(string(mounts), " - cgroup"), err
}

// cgroups returns the directories of the cgroup called name: one in each
// hierarchy of version 1, one for version 2.
func cgroups(name string) []string {
	var found []string
	for _, pattern := range []string{filepath.Join(cgroupRoot, name), filepath.Join(cgroupRoot, "*", name)} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			panic(err) // a bad name
		}
		found = append(found, dirs...)
	}
	return found
}

// removeCgroups removes the cgroup called name, with those inside. A process
// that has ended leaves its cgroup a moment later.
func removeCgroups(name string) error {
	var err error
	for range 200 {
		err = nil
		for _, root := range cgroups(name) {
			err = errors.Join(err, removeCgroup(root))
		}
		if err == nil {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroup(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, unix.Rmdir(dir))
}
