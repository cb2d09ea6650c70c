package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Namespace is a network namespace that this process made. Its methods may be
// called concurrently.
type Namespace struct {
	Name string // for people: in errors, and as the default name to publish it under

	file      *os.File      // what keeps the namespace alive
	jobs      chan func()   // run on the namespace's own thread
	quit      chan struct{} // closed to end that thread
	done      chan struct{} // closed when it has ended
	published string        // the link that names it; "" if there is none
}

// New makes an empty namespace whose loopback is up.
func New(name string) (*Namespace, error) {
	n := &Namespace{Name: name, jobs: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	made := make(chan error)
	onThread(func() { n.keep(made) })
	if err := <-made; err != nil {
		return nil, fmt.Errorf("making network namespace %s: %w", name, err)
	}
	if err := n.SetUp("lo"); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// keep makes the namespace and then runs jobs in it. The processes that it
// starts die with its thread.
func (n *Namespace) keep(made chan<- error) {
	defer close(n.done)
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		made <- err
		return
	}
	file, err := os.Open("/proc/thread-self/ns/net")
	n.file = file
	made <- err
	if err != nil {
		return
	}
	for {
		select {
		case job := <-n.jobs:
			job()
		case <-n.quit:
			return
		}
	}
}

// Do calls fn on a thread that is in the namespace. What fn opens stays in the
// namespace (a socket belongs to where it was made); goroutines that fn starts
// are not in it.
func (n *Namespace) Do(fn func() error) error {
	result := make(chan error, 1)
	onThread(func() {
		err := errors.New("the function ended its goroutine")
		defer func() { result <- err }()
		if e := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); e != nil {
			err = fmt.Errorf("entering network namespace %s: %w", n.Name, e)
			return
		}
		err = fn()
	})
	return <-result
}

// Start starts cmd in the namespace. The process gets a process group of its
// own, so that Ctrl-C in a terminal reaches only whoever started it, and is killed
// when the namespace is closed or this process dies, however that happens.
func (n *Namespace) Start(cmd *exec.Cmd) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	result := make(chan error)
	select {
	case n.jobs <- func() { result <- cmd.Start() }:
	case <-n.done:
		return fmt.Errorf("starting %s in network namespace %s: %w", cmd.Path, n.Name, os.ErrClosed)
	}
	if err := <-result; err != nil {
		return fmt.Errorf("starting %s in network namespace %s: %w", cmd.Path, n.Name, err)
	}
	return nil
}

// Path names the namespace in the file system, for nsenter --net=PATH. It is
// good while this process lives.
func (n *Namespace) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd())
}

// Publish makes the namespace known to iproute2 (ip netns exec NAME) until it is
// closed: as a link to [Namespace.Path] in dir, usually /run/netns, so that
// the namespace still ends with this process.
func (n *Namespace) Publish(dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("publishing network namespace %s: %w", n.Name, err)
	}
	link := filepath.Join(dir, name)
	if err := os.Symlink(n.Path(), link); err != nil {
		return fmt.Errorf("publishing network namespace %s: %w", n.Name, err)
	}
	n.published = link
	return nil
}

// Sysctl sets a kernel parameter of the namespace: key is as for sysctl(8), with
// dots, e.g. net.ipv4.ip_forward.
func (n *Namespace) Sysctl(key, value string) error {
	path := "/proc/sys/" + strings.ReplaceAll(key, ".", "/")
	err := n.Do(func() error { return os.WriteFile(path, []byte(value), 0) })
	if err != nil {
		return fmt.Errorf("setting %s=%s in %s: %w", key, value, n.Name, err)
	}
	return nil
}

// Close gives the namespace up. The kernel removes it, with its interfaces, when
// the last socket in it is closed and the last process has left it. Call it once.
func (n *Namespace) Close() error {
	close(n.quit)
	<-n.done
	var err error
	if n.published != "" {
		err = os.Remove(n.published)
	}
	return errors.Join(err, n.file.Close())
}

// onThread calls fn on a thread of its own, which ends with fn, so that whatever
// fn does to the thread can hurt nobody else. It does not wait for fn.
func onThread(fn func()) {
	locked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread never ends, and stands for the process in /proc.
			// While it is held here, another one is found.
			onThread(fn)
			runtime.UnlockOSThread()
			close(locked)
			return
		}
		close(locked)
		fn() // still locked when it returns: the thread ends
	}()
	<-locked
}
