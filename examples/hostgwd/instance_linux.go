package main

import (
	"errors"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// lockInstance keeps a second hostgwd from writing the same routes: one in the
// same network namespace, with the same protocol number, would take the first
// one's for its own leftovers.
func lockInstance(protocol uint8) (unlock func(), err error) {
	return lockNamespace(strconv.Itoa(int(protocol)), fmt.Sprintf("keeps routes with protocol %d", protocol))
}

// lockGuard keeps a second hostgwd, on other routes, from the packet filter rules
// and the blackhole routes: there is one set of them in a network namespace.
func lockGuard() (unlock func(), err error) {
	return lockNamespace("guard", "keeps the packet filter rules and the blackhole routes")
}

// lockNamespace takes the lock of that name, or says who has it and what for.
//
// The lock is a socket with an abstract name. The kernel keeps those by network
// namespace, which is just what is to be locked, and lets go of them however a
// process ends. As any user may take such a name, one that is neither root's nor
// this user's is no lock. Where no lock can be made there is none.
func lockNamespace(lock, does string) (unlock func(), err error) {
	none := func() {}
	name := &unix.SockaddrUnix{Name: "@hostgwd/" + lock}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return none, nil
	}
	err = unix.Bind(s, name)
	if err == nil {
		err = unix.Listen(s, 1)
	}
	if err == nil {
		return func() { unix.Close(s) }, nil
	}
	defer unix.Close(s)
	if !errors.Is(err, unix.EADDRINUSE) {
		return none, nil
	}
	holder := "another hostgwd"
	switch err := unix.Connect(s, name); {
	case errors.Is(err, unix.ECONNREFUSED):
		return none, nil // it has just ended, or does not listen
	case err == nil:
		peer, err := unix.GetsockoptUcred(s, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || peer.Uid != 0 && int(peer.Uid) != unix.Geteuid() {
			return none, nil
		}
		holder += fmt.Sprintf(", process %d,", peer.Pid)
	}
	return none, classed{errInUse, fmt.Errorf("%s %s in this network namespace", holder, does)}
}
