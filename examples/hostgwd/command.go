package main

import (
	"context"
	"flag"
	"io"
	"log/slog"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

type flagSet = flag.FlagSet

// command is one thing that hostgwd does. Every command takes the daemon's
// settings, so that one environment file serves all of them.
type command struct {
	name  string // empty for the daemon itself
	usage string // what follows the name
	short string // one line for the list
	args  bool   // whether arguments besides flags are taken
	flags func(*flagSet, *call)
	run   func(context.Context, *call) error
}

// call is one invocation of a command.
type call struct {
	setting.Result
	stdout, stderr io.Writer
	log            *slog.Logger

	// Flags of subcommands.
	output  string
	watch   bool
	release bool
}

var daemonCommand = command{usage: "[flags]", short: "join the network and stay in it", run: runDaemon}

// commands returns the subcommands, in the order in which the help shows them.
func commands() []command {
	return []command{
		{name: "status", usage: "[-o json] [-watch]", short: "show what the daemon on this host does", flags: statusFlags, run: runStatus},
		{name: "plan", usage: "[-o json] [flags]", short: "print what a start would change on this host, and change nothing", flags: outputFlag, run: runPlan},
		{name: "lease", usage: "ls|reserve|release [SUBNET…]", short: "list the network's leases, reserve one for good (-public-ip for a host that has none yet), or delete one", args: true, flags: outputFlag, run: runLease},
		{name: "cleanup", usage: "[-release]", short: "remove routes and packet filter rules of a daemon that has stopped", flags: cleanupFlags, run: runCleanup},
		{name: "completion", usage: "bash|zsh|fish", short: "print the completion script of a shell", args: true, run: runCompletion},
		{name: "help", usage: "[command]", short: "say what hostgwd can be told", args: true, run: runHelp},
	}
}

func findCommand(name string) (command, bool) {
	for _, c := range commands() {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}
