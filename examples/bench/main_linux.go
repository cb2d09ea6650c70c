package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often each start is measured; the table shows the median")
	repairs := flag.Int("repairs", 500, "how many routes are deleted by hand")
	program := flag.String("hostgwd", "", "the hostgwd to measure; built from the source if empty")
	only := flag.String("only", "", "measure only this: starts, size, changes or healing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx, *program, *only, *rounds, *repairs); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, program, only string, rounds, repairs int) error {
	if os.Getuid() != 0 {
		return errors.New("needs root: it makes network namespaces and routes")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		return fmt.Errorf("needs iproute2, to compare with: %w", err)
	}
	b, err := newBench(ctx, program)
	if err != nil {
		return err
	}
	defer b.close()
	fmt.Println(machine())
	fmt.Println()
	for _, m := range []struct {
		name    string
		measure func(context.Context) error
	}{
		{"starts", func(ctx context.Context) error { return b.starts(ctx, rounds) }},
		{"size", b.size},
		{"changes", b.changes},
		{"healing", func(ctx context.Context) error { return b.healing(ctx, repairs) }},
	} {
		if only != "" && only != m.name {
			continue
		}
		if err := m.measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// machine says what this ran on.
func machine() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // then the kernel's name is empty
	cpu := "unknown processor"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			cpu = strings.TrimSpace(value)
			break
		}
	}
	return fmt.Sprintf("%d × %s, Linux %s, %s", runtime.NumCPU(), cpu, unix.ByteSliceToString(u.Release[:]), runtime.Version())
}
