package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

// serviceManager listens where systemd would.
func serviceManager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func hear(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

func TestNotifyService(t *testing.T) {
	c := serviceManager(t)
	d := newDaemon(setting.Values{}, slog.New(slog.DiscardHandler), build{})
	d.notify = notifyService(d.log)
	d.wait("the store", "no\nanswer")
	if got := hear(t, c); got != "STATUS=waiting for the store: no answer" {
		t.Errorf("told %q", got)
	}

	t.Setenv("NOTIFY_SOCKET", "")
	d.notify("READY=1") // nobody to tell
}

func TestWatchdog(t *testing.T) {
	c := serviceManager(t)
	t.Setenv("WATCHDOG_USEC", "30000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	d := newDaemon(setting.Values{}, slog.New(slog.DiscardHandler), build{})
	d.notify = notifyService(d.log)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.watchdog(ctx) }()
	for range 3 {
		if got := hear(t, c); got != "WATCHDOG=1" {
			t.Errorf("told %q", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	t.Setenv("WATCHDOG_USEC", "")
	if err := d.watchdog(t.Context()); err != nil {
		t.Errorf("without a watchdog: %v", err)
	}
	t.Setenv("WATCHDOG_USEC", "x")
	if err := d.watchdog(t.Context()); exitStatus(err) != exitUsage {
		t.Errorf("with a broken one: %v", err)
	}
}
