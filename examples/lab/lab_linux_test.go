package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/daemon"
)

// programs builds hostgwd and the lab where every user can run them.
func programs(t *testing.T) (hostgwd, lab string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "labtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if hostgwd, err = daemon.Build(t.Context(), dir, &log); err != nil {
		t.Fatalf("%v:\n%s", err, &log)
	}
	lab = filepath.Join(dir, "lab")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", lab, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the lab: %v:\n%s", err, out)
	}
	return hostgwd, lab
}

// emptyTemp lets the lab put its files into a directory that must be empty
// again at the end.
func emptyTemp(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lab-") // short: there is a socket below
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("the lab left files behind: %v, %v", left, err)
		}
		os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// check looks for what a person looks for.
func check(t *testing.T, out string, nodes int, ipv6 bool) {
	t.Helper()
	want := []string{
		"ttl=62", "3 packets transmitted, 3 received",
		"1  192.168.", "host1's docker0", "2  172.17.42.41", "3  192.168.", "host2's container",
		"via 172.17.42.41 dev eth0 proto 104", "via 172.17.42.40 dev eth0 proto 104",
		"FLANNEL_NETWORK=192.168.0.0/16", "FLANNEL_MTU=1500",
		" 0 of them encapsulated",
		fmt.Sprintf("It works: %d hosts", nodes),
	}
	pings := nodes * (nodes - 1)
	if ipv6 {
		pings *= 2
		want = append(want, "FLANNEL_IPV6_NETWORK=fd99::/48", "via fd00:17:42::41 dev eth0 proto 104", "2  fd00:17:42::41")
	}
	want = append(want, fmt.Sprintf("each other one: %d pings", pings))
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("the lab did not print %q", w)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestLab(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	hostgwd, lab := programs(t)

	for _, tt := range []struct {
		nodes int
		ipv6  bool
	}{{2, false}, {3, true}, {5, false}} {
		t.Run(fmt.Sprintf("%d hosts ipv6=%v", tt.nodes, tt.ipv6), func(t *testing.T) {
			t.Setenv("TMPDIR", emptyTemp(t))
			var out bytes.Buffer
			status, err := run(t.Context(), &out, settings{nodes: tt.nodes, ipv6: tt.ipv6, hostgwd: hostgwd})
			if status != 0 || err != nil {
				t.Errorf("status %d, error %v", status, err)
			}
			check(t, out.String(), tt.nodes, tt.ipv6)
		})
	}

	t.Run("not root", func(t *testing.T) {
		nobody := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		probe := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--net", "true")
		probe.SysProcAttr = nobody
		cmd := exec.CommandContext(t.Context(), lab, "-ipv6", "-hostgwd", hostgwd)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "TMPDIR="+emptyTemp(t))
		cmd.SysProcAttr = nobody
		out, err := cmd.CombinedOutput()
		if may := probe.Run(); may != nil {
			if err == nil || !strings.Contains(string(out), "sudo sysctl -w") {
				t.Errorf("the kernel does not let users make user namespaces (%v), and the lab does not say what to do: %v\n%s", may, err, out)
			}
			return
		}
		if err != nil {
			t.Error(err)
		}
		check(t, string(out), 2, true)
	})

	t.Run("keep", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), lab, "-keep", "-hostgwd", hostgwd)
		cmd.Env = append(os.Environ(), "TMPDIR="+emptyTemp(t))
		out := newWaiter("Press Enter")
		cmd.Stdout, cmd.Stderr = out, out
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-out.seen:
		case err := <-ended:
			t.Fatalf("the lab did not stay up (%v):\n%s", err, out)
		}
		links, err := filepath.Glob(fmt.Sprintf("%s/lab%d-*", published, cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := exec.LookPath("ip"); err == nil && len(links) != 4 {
			t.Errorf("%d namespaces in %s, want 4", len(links), published)
		}
		if _, err := io.WriteString(stdin, "\n"); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for _, l := range links {
			if _, err := os.Lstat(l); err == nil {
				t.Errorf("%s is still there", l)
			}
		}
		if t.Failed() {
			t.Log(out.String())
		}
	})

	t.Run("interrupted", func(t *testing.T) {
		t.Setenv("TMPDIR", emptyTemp(t))
		ctx, cancel := context.WithCancel(t.Context())
		out := newWaiter("2. Start")
		go func() {
			<-out.seen
			cancel()
		}()
		status, err := run(ctx, out, settings{nodes: 2, hostgwd: hostgwd})
		if status != 1 || err == nil || !strings.Contains(err.Error(), "interrupted") {
			t.Errorf("status %d, error %v", status, err)
		}
	})

	// What does not work must not be called working.
	t.Run("daemon ends", func(t *testing.T) {
		t.Setenv("TMPDIR", emptyTemp(t))
		program := filepath.Join(t.TempDir(), "hostgwd")
		if err := os.WriteFile(program, []byte("#!/bin/sh\necho no, thanks\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		status, err := run(t.Context(), &out, settings{nodes: 2, hostgwd: program})
		if status != 1 || err != nil {
			t.Errorf("status %d, error %v", status, err)
		}
		for _, want := range []string{"It does not work:", "no, thanks"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("the lab did not print %q:\n%s", want, &out)
			}
		}
	})
}
