package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// program is the package that hostgwd is built from, below the root.
const program = "./examples/hostgwd"

// builder runs the go command.
type builder struct {
	root, version string
	work          string // a directory of its own
}

// build builds hostgwd without anything in it that depends on where, by whom or
// when it is built.
func (b builder) build(ctx context.Context, goos, goarch string) ([]byte, error) {
	path, err := b.buildFile(ctx, goos, goarch)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

func (b builder) buildFile(ctx context.Context, goos, goarch string) (string, error) {
	path := filepath.Join(b.work, "hostgwd-"+goos+"-"+goarch)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	_, err := b.run(ctx, goos, goarch, "build", "-buildvcs=auto", "-ldflags=-s -w -X main.version="+b.version, "-o", path, program)
	return path, err
}

// run runs the go command with settings that do not depend on its user's.
func (b builder) run(ctx context.Context, goos, goarch string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0",
		"GOFLAGS=-trimpath", "GOWORK="+filepath.Join(b.root, "go.work"), "GOAMD64=v1", "GOARM64=v8.0")
	return output(cmd)
}

// shells are those that hostgwd has a completion script for.
func shells() []string { return []string{"bash", "zsh", "fish"} }

// completions asks hostgwd itself for its completion scripts, by shell.
func (b builder) completions(ctx context.Context) (map[string][]byte, error) {
	native, err := b.buildFile(ctx, runtime.GOOS, runtime.GOARCH)
	if err != nil {
		return nil, err
	}
	scripts := make(map[string][]byte)
	for _, shell := range shells() {
		if scripts[shell], err = output(exec.CommandContext(ctx, native, "completion", shell)); err != nil {
			return nil, err
		}
	}
	return scripts, nil
}

// output runs a command, and returns what it prints. What it says besides is in
// the error if it fails.
func output(cmd *exec.Cmd) ([]byte, error) {
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(said.Bytes()))
	}
	return out, nil
}
