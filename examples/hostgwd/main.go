// Hostgwd joins a host to a flat network of container hosts: it leases a subnet,
// tells the container engine, and keeps one kernel route to each other host.
//
// Run hostgwd help for what it can be told.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

func main() {
	// After the first signal a second one ends the process the hard way, should
	// stopping in order hang.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(invoke(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// invoke runs one command line and returns its exit status.
func invoke(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	cmd := daemonCommand
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		var ok bool
		if cmd, ok = findCommand(args[0]); !ok {
			fmt.Fprintf(stderr, "hostgwd: there is no command %q; hostgwd help lists them\n", args[0])
			return exitUsage
		}
		args = args[1:]
	}
	c := &call{stdout: stdout, stderr: stderr}
	parsed, err := setting.Parse(args, environ, func(fs *flagSet) {
		if cmd.flags != nil {
			cmd.flags(fs, c)
		}
	})
	c.Result = parsed
	switch {
	case errors.Is(err, setting.ErrHelp):
		printHelp(stdout, cmd)
		return exitOK
	case err != nil:
		fmt.Fprintf(stderr, "hostgwd: %v\n", err)
		return exitUsage
	case c.Version:
		fmt.Fprintln(stdout, thisBuild())
		return exitOK
	case !cmd.args && len(c.Args) > 0:
		fmt.Fprintf(stderr, "hostgwd: %q is one argument too many; flags begin with a dash\n", c.Args[0])
		return exitUsage
	}
	c.log = newLogger(stderr, c.Verbose)
	for _, w := range c.Warnings {
		c.log.Warn(w)
	}
	if err := cmd.run(ctx, c); err != nil {
		fmt.Fprintf(stderr, "hostgwd: %v\n", err)
		return exitStatus(err)
	}
	return exitOK
}

// newLogger logs to w, without a time where the journal adds one.
func newLogger(w io.Writer, verbose bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	if verbose {
		o.Level = slog.LevelDebug
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		o.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(w, o))
}
