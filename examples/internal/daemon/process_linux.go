package daemon

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

// Process is a hostgwd running on a host.
type Process struct {
	Args       []string // as started, with the program's name
	SubnetFile string   // the -subnet-file it was given

	name  string
	cmd   *exec.Cmd
	log   *log
	ready chan struct{} // closed when it has said that it is ready
	done  chan struct{} // closed when it has ended
}

// Options say how a hostgwd is run.
type Options struct {
	Program    string    // its path, from Find or Build
	Dir        string    // where it keeps its files; made if missing
	SubnetFile string    // subnet.env in Dir if empty
	Args       []string  // further flags
	Env        []string  // in addition to this process's own environment without HOSTGWD_… and FLANNELD_…
	Output     io.Writer // gets a copy of what it logs, with the host's name before each line; nil for none
}

// Start starts hostgwd on a host. It is killed when the host's namespace is
// closed, if it runs until then.
func Start(host *netns.Namespace, o Options) (*Process, error) {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("starting hostgwd on %s: %w", host.Name, err)
	}
	p := &Process{
		SubnetFile: cmp.Or(o.SubnetFile, filepath.Join(o.Dir, "subnet.env")),
		name:       host.Name,
		log:        &log{prefix: host.Name + " | ", copy: o.Output},
		ready:      make(chan struct{}),
		done:       make(chan struct{}),
	}
	notify, err := listenNotify(filepath.Join(o.Dir, "notify"))
	if err != nil {
		return nil, fmt.Errorf("starting hostgwd on %s: %w", host.Name, err)
	}
	args := append(slices.Clone(o.Args),
		"-subnet-file", p.SubnetFile,
		"-socket", filepath.Join(o.Dir, "hostgwd.sock"))
	p.Args = append([]string{"hostgwd"}, args...)
	p.cmd = exec.Command(o.Program, args...)
	p.cmd.Dir = o.Dir
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HOSTGWD_") && !strings.HasPrefix(e, "FLANNELD_") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	p.cmd.Env = append(p.cmd.Env, "NOTIFY_SOCKET="+notify.LocalAddr().String())
	p.cmd.Env = append(p.cmd.Env, o.Env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := host.Start(p.cmd); err != nil {
		return nil, errors.Join(err, notify.Close())
	}
	var listening sync.WaitGroup
	listening.Go(func() { p.listen(notify) })
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait() // read from ProcessState
		notify.Close()
		listening.Wait()
	}()
	return p, nil
}

// listenNotify opens a socket of the kind through which services tell systemd
// that they are ready.
func listenNotify(path string) (*net.UnixConn, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err // of an earlier run
	}
	return net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
}

// listen waits for the process to say that it is ready, until the socket is closed.
func (p *Process) listen(notify *net.UnixConn) {
	buf := make([]byte, 4096)
	said := false
	for {
		n, err := notify.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:n])) {
			if strings.TrimSpace(line) == "READY=1" && !said {
				said = true
				close(p.ready)
			}
		}
	}
}

// Ready waits until the process says, as systemd would be told, that subnet.env
// is written and its routes are in.
func (p *Process) Ready(ctx context.Context) error {
	var err error
	select {
	case <-p.ready:
		return nil
	case <-p.done:
		err = fmt.Errorf("it ended (%v)", p.cmd.ProcessState)
	case <-ctx.Done():
		err = ctx.Err()
	}
	return fmt.Errorf("waiting for hostgwd on %s to be ready: %w; it says:\n%s", p.name, err, p.Log())
}

// Stop asks the process to stop, as systemd does, and waits. It returns the exit
// status, or an error if it had to be killed after 15 seconds.
func (p *Process) Stop() (status int, err error) {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(15 * time.Second):
		p.Kill()
		return -1, fmt.Errorf("hostgwd on %s did not stop within 15 s of SIGTERM", p.name)
	}
}

// Kill ends the process as kill -9 does, and waits.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Wait waits until the process ends and returns its exit status, -1 if a signal
// ended it.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return -1, fmt.Errorf("waiting for hostgwd on %s to end: %w; it says:\n%s", p.name, ctx.Err(), p.Log())
	}
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// PID returns the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what the process has logged so far.
func (p *Process) Log() string { return p.log.String() }

// Env waits until the process has written subnet.env, and reads it.
func (p *Process) Env(ctx context.Context) (subnet.Env, error) {
	for {
		env, err := subnet.ReadEnv(p.SubnetFile)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return env, err
		}
		if err := p.poll(ctx); err != nil {
			return env, fmt.Errorf("waiting for the subnet.env of %s: %w; it says:\n%s", p.name, err, p.Log())
		}
	}
}

// WaitLog waits until the process has logged a line that contains text.
func (p *Process) WaitLog(ctx context.Context, text string) error {
	for !strings.Contains(p.Log(), text) {
		if err := p.poll(ctx); err != nil {
			return fmt.Errorf("waiting for hostgwd on %s to say %q: %w; it says:\n%s", p.name, text, err, p.Log())
		}
	}
	return nil
}

// poll waits a moment, or returns why there is nothing to wait for.
func (p *Process) poll(ctx context.Context) error {
	select {
	case <-p.done:
		return fmt.Errorf("it ended (%v)", p.cmd.ProcessState)
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Millisecond):
		return nil
	}
}

// log keeps what a process writes and passes it on by the line.
type log struct {
	prefix string
	copy   io.Writer

	mu   sync.Mutex
	all  bytes.Buffer
	line []byte
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(b)
	if l.copy == nil {
		return len(b), nil
	}
	l.line = append(l.line, b...)
	for {
		i := bytes.IndexByte(l.line, '\n')
		if i < 0 {
			return len(b), nil
		}
		fmt.Fprintf(l.copy, "%s%s\n", l.prefix, l.line[:i])
		l.line = l.line[i+1:]
	}
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}
