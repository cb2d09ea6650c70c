// Package daemon finds or builds hostgwd and runs it, for the lab and the tests.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

const importPath = "github.com/hostgw/hostgw/examples/hostgwd"

// Find returns the path of a hostgwd program: the one beside the running
// program; else built into dir, if the source this program was built from and a Go
// toolchain are there; else the one in PATH. What the build has to say goes to
// progress.
func Find(ctx context.Context, dir string, progress io.Writer) (string, error) {
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "hostgwd")
		if i, err := os.Stat(beside); err == nil && i.Mode().IsRegular() && i.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	built, buildErr := Build(ctx, dir, progress)
	if buildErr == nil {
		return built, nil
	}
	if ctx.Err() == nil {
		if path, err := exec.LookPath("hostgwd"); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("there is no hostgwd beside this program nor in PATH, and %w", buildErr)
}

// Build builds hostgwd from the source this program was built from, into dir.
func Build(ctx context.Context, dir string, progress io.Writer) (string, error) {
	_, here, _, ok := runtime.Caller(0)
	source := filepath.Dir(here)
	if _, err := os.Stat(source); !ok || err != nil {
		return "", errors.New("building hostgwd: its source is not here")
	}
	tool, err := exec.LookPath("go")
	if err != nil {
		return "", fmt.Errorf("building hostgwd: %w", err)
	}
	path := filepath.Join(dir, "hostgwd")
	fmt.Fprintln(progress, "Building hostgwd. The first time takes a minute.")
	cmd := exec.CommandContext(ctx, tool, "build", "-o", path, importPath)
	cmd.Dir, cmd.Stdout, cmd.Stderr = source, progress, progress
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("building hostgwd: %w", err)
	}
	return path, nil
}
