package main

import (
	"errors"

	"github.com/hostgw/hostgw"
	"github.com/hostgw/hostgw/examples/internal/embedded"
	"github.com/hostgw/hostgw/subnet"
)

// Exit statuses. They are part of the interface: unit files name them.
const (
	exitOK         = 0
	exitFailure    = 1
	exitUsage      = 2
	exitUplink     = 3
	exitSubnetFile = 4
	exitSubnetLost = 5
	exitFull       = 6
	exitInUse      = 7
)

// exits says what each status means.
func exits() map[int]string {
	return map[int]string{
		exitOK:         "stopped by a signal, or the command did what it was asked",
		exitFailure:    "anything without a status of its own",
		exitUsage:      "a flag, an argument or an environment variable is wrong",
		exitUplink:     "the interface to the other hosts is not there, or has no address that is needed",
		exitSubnetFile: "the subnet file cannot be written",
		exitSubnetLost: "another host has come to hold this host's subnet, or the lease was lost and no longer fits the network; its containers must move",
		exitFull:       "the network has no free subnet",
		exitInUse:      "another hostgwd runs on this host, or on this data directory",
	}
}

var (
	errUsage      = errors.New("usage")
	errUplink     = errors.New("uplink")
	errSubnetFile = errors.New("subnet file")
	errInUse      = errors.New("another hostgwd is running")
)

// classed is an error that has an exit status through its class, which its text
// leaves out.
type classed struct{ class, err error }

func (c classed) Error() string   { return c.err.Error() }
func (c classed) Unwrap() []error { return []error{c.class, c.err} }

func exitStatus(err error) int {
	for _, c := range []struct {
		err    error
		status int
	}{
		{nil, exitOK},
		{errUsage, exitUsage},
		{errUplink, exitUplink},
		{errSubnetFile, exitSubnetFile},
		{hostgw.ErrSubnetLost, exitSubnetLost},
		{subnet.ErrNoFreeSubnet, exitFull},
		{errInUse, exitInUse},
		{embedded.ErrInUse, exitInUse},
	} {
		if errors.Is(err, c.err) {
			return c.status
		}
	}
	return exitFailure
}
