package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
)

// insideVariable tells the program that it runs in a user namespace of its own
// already, and its directory.
const insideVariable = "HOSTGW_LAB_INSIDE"

// whatToDo is what to tell a user whom the kernel does not let make namespaces.
const whatToDo = `this user may not make network namespaces, neither directly nor in a user namespace of its own. One of these helps:
  - run it as root:                     sudo go run ./examples/lab
  - let users make user namespaces:     sudo sysctl -w user.max_user_namespaces=10000
      and, on Ubuntu 23.10 and later:   sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0
      or, on older Debian:              sudo sysctl -w kernel.unprivileged_userns_clone=1
  - in a container:                     start it with docker run --privileged`

// rerun runs the lab in a user namespace, where this user is root: over its own
// network namespaces, and over nothing else.
func rerun(ctx context.Context, out io.Writer, dir string, s settings) (status int, err error) {
	fmt.Fprintln(out, "Not root: going on in a user namespace, as root of nothing but this lab.")
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := exec.Command(self, slices.Concat(os.Args[1:], []string{"-hostgwd", s.hostgwd})...)
	cmd.Env = append(os.Environ(), insideVariable+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, out, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGTERM,
	}
	// The signal at our death is really at this thread's.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("%s\n(the kernel said: %w)", whatToDo, err)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}
