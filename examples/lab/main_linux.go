package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
)

// settings are the command line's.
type settings struct {
	nodes   int
	ipv6    bool
	keep    bool
	verbose bool
	hostgwd string // the program to run; found or built if empty
}

func main() {
	var s settings
	flag.IntVar(&s.nodes, "nodes", 2, "number of hosts, 2 to 100")
	flag.BoolVar(&s.ipv6, "ipv6", false, "dual-stack: an IPv6 network beside the IPv4 one")
	flag.BoolVar(&s.keep, "keep", false, "leave it up until Enter or Ctrl-C, and say how to enter each host")
	flag.BoolVar(&s.verbose, "v", false, "show what each hostgwd logs")
	flag.StringVar(&s.hostgwd, "hostgwd", "", "the hostgwd `program` to run (default: the one beside this program, else built from source, else the one in PATH)")
	flag.Parse()
	wrong := ""
	switch {
	case flag.NArg() > 0:
		wrong = fmt.Sprintf("unexpected argument %q", flag.Arg(0))
	case s.nodes < 2 || s.nodes > 100:
		wrong = fmt.Sprintf("-nodes %d: must be 2 to 100", s.nodes)
	}
	if wrong != "" {
		fmt.Fprintf(os.Stderr, "lab: %s\n", wrong)
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	status, err := run(ctx, os.Stdout, s)
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %v\n", err)
	}
	os.Exit(status)
}

// run runs the lab here, or in a user namespace if this user may not, and
// returns the exit status. Its files are in one directory, gone at the end.
func run(ctx context.Context, out io.Writer, s settings) (status int, err error) {
	inside := os.Getenv(insideVariable)
	dir := inside
	if dir == "" {
		if dir, err = os.MkdirTemp("", "hostgw-lab-"); err != nil {
			return 1, err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	if s.hostgwd == "" {
		if s.hostgwd, err = daemon.Find(ctx, dir, os.Stderr); ctx.Err() != nil {
			return 1, errors.New("interrupted")
		} else if err != nil {
			return 1, err
		}
	}

	trial, err := netns.New("trial")
	switch {
	case err == nil:
		if err := trial.Close(); err != nil {
			return 1, err
		}
		return play(ctx, out, dir, s)
	case !errors.Is(err, unix.EPERM):
		return 1, err
	case inside != "":
		return 1, errors.New(whatToDo)
	}
	return rerun(ctx, out, dir, s)
}

// play builds the lab, shows it, and takes it down.
func play(ctx context.Context, out io.Writer, dir string, s settings) (status int, err error) {
	l := &lab{settings: s, dir: dir, out: out}
	defer func() { err = errors.Join(err, l.takeDown()) }()
	if err = l.build(ctx); err == nil {
		err = l.show(ctx)
	}
	switch {
	case ctx.Err() != nil:
		return 1, errors.New("interrupted; taking everything down")
	case err != nil:
		fmt.Fprintf(out, "\nIt does not work: %v\n", err)
		return 1, nil
	}
	if s.keep {
		l.wait(ctx)
	}
	return min(len(l.problems), 1), nil
}
