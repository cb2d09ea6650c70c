package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

func manualPage(t *testing.T, tree string) []byte {
	t.Helper()
	return gunzip(t, read(t, tree, "usr/share/man/man8/hostgwd.8.gz"))
}

// testManual holds the page against what the program itself says.
func testManual(t *testing.T, b built, page []byte) {
	text := strings.ReplaceAll(string(page), `\-`, "-")
	_, flags, ok := strings.Cut(text, "\n.SH FLAGS\n")
	flags, _, _ = strings.Cut(flags, "\n.SH ")
	if !ok {
		t.Fatal("no flags in the manual page")
	}
	for _, s := range setting.Table() {
		if has := strings.Contains(flags, `\fB-`+s.Name+`\fR`); has == s.Refused {
			t.Errorf("-%s is refused: %t, and in the manual page: %t", s.Name, s.Refused, has)
		}
		if s.Default != "" && !strings.Contains(flags, "The default is "+s.Default+".\n") {
			t.Errorf("the default of -%s is missing", s.Name)
		}
	}
	if !strings.Contains(text, b.commit[:12]) || !strings.Contains(text, " 2026-01-02 ") {
		t.Error("the page does not bear the version and the date of the commit")
	}
	t.Run("commands", func(t *testing.T) {
		if runtime.GOOS != "linux" {
			t.Skip("needs Linux: it runs the program")
		}
		help := say(t, b, "help")
		commands := regexp.MustCompile(`(?m)^  hostgwd (\S+)`).FindAllStringSubmatch(help, -1)
		if len(commands) < 5 {
			t.Fatalf("the help lists %d commands", len(commands))
		}
		_, described, _ := strings.Cut(text, "\n.SH COMMANDS\n")
		described, _, _ = strings.Cut(described, "\n.SH ")
		for _, c := range commands {
			at := regexp.MustCompile(`(?m)^\.B[IR] "hostgwd ` + c[1] + `\b.*$`).FindString(described)
			if at == "" {
				t.Errorf("command %s is missing", c[1])
			}
			for _, f := range regexp.MustCompile(`(?m)^  (-\S+)`).FindAllStringSubmatch(say(t, b, "help", c[1]), -1) {
				if !strings.Contains(at, f[1]) {
					t.Errorf("flag %s of command %s is missing in %q", f[1], c[1], at)
				}
			}
		}
		_, statuses, _ := strings.Cut(help, "\nExit status:\n")
		lines := regexp.MustCompile(`(?m)^  (\d+)  (.+)$`).FindAllStringSubmatch(statuses, -1)
		if len(lines) < 5 {
			t.Fatalf("the help lists %d exit statuses", len(lines))
		}
		for _, l := range lines {
			entry := ".TP\n.B " + l[1] + "\n" + strings.ToUpper(l[2][:1]) + l[2][1:] + ".\n"
			if !strings.Contains(text, entry) {
				t.Errorf("the manual page has not\n%s", entry)
			}
		}
	})
	t.Run("troff", func(t *testing.T) {
		cmd := exec.CommandContext(t.Context(), needTool(t, "groff", "groff-base"), "-man", "-ww", "-z", "-Tutf8")
		cmd.Stdin = bytes.NewReader(page)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%v:\n%s", err, out)
		}
	})
}

// say runs the program and returns what it prints.
func say(t *testing.T, b built, args ...string) string {
	t.Helper()
	out, err := output(exec.CommandContext(t.Context(), b.program, args...))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestManualNeedsItsPlaces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page")
	if err := os.WriteFile(path, []byte("@DATE@ @VERSION@\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if page, err := manual(path, "v1.2.3", time.Time{}); err == nil || !strings.Contains(err.Error(), "@FLAGS@") {
		t.Errorf("a page without flags is made: %q, %v", page, err)
	}
}

func TestRoff(t *testing.T) {
	for s, want := range map[string]string{
		"a-b": `a\-b`, `a\b`: `a\eb`, ".a": `\&.a`, "'a": `\&'a`, "a.": "a.",
	} {
		if got := roff(s); got != want {
			t.Errorf("%q becomes %q, want %q", s, got, want)
		}
	}
}

// testCompletions has each shell read its script.
func testCompletions(t *testing.T, tree string) {
	for path, shell := range map[string]string{
		"usr/share/bash-completion/completions/hostgwd":    "bash",
		"usr/share/zsh/vendor-completions/_hostgwd":        "zsh",
		"usr/share/fish/vendor_completions.d/hostgwd.fish": "fish",
	} {
		script := filepath.Join(tree, path)
		for _, s := range setting.Table() {
			if !s.Refused && !strings.Contains(string(read(t, script)), s.Name) {
				t.Errorf("%s does not know -%s", path, s.Name)
			}
		}
		// Which shells there are is a matter of taste.
		if _, err := exec.LookPath(shell); err != nil {
			continue
		}
		if _, err := output(exec.CommandContext(t.Context(), shell, "-n", script)); err != nil {
			t.Error(err)
		}
	}
}
