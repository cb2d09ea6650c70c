package doctest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// logSources are the packages whose warnings an operator sees.
var logSources = []string{".", "netlinkx", "store/etcd", "store/memory", "examples/hostgwd", "examples/internal/filter", "examples/internal/embedded"}

// passedOn are the places that log what another place made up, and what that is
// called on the page.
var passedOn = map[string]string{
	"examples/hostgwd/main.go":   "environment variable HOSTGWD_… is none that hostgwd knows",
	"examples/hostgwd/daemon.go": "", // what status shows as a problem: TestProblems
}

// warnings returns the texts that a package logs as a warning or an error.
func warnings(t *testing.T, dir string) (texts []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			at := map[string]int{"Warn": 0, "Error": 0, "WarnContext": 1, "ErrorContext": 1}
			if !ok || !isLog(fun.X) {
				return true
			}
			arg, ok := at[fun.Sel.Name]
			if !ok || arg >= len(call.Args) {
				return true
			}
			if text, ok := call.Args[arg].(*ast.BasicLit); ok {
				s, err := strconv.Unquote(text.Value)
				if err != nil {
					t.Fatal(err)
				}
				texts = append(texts, s)
				return true
			}
			where, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			s, ok := passedOn[where]
			if !ok {
				t.Errorf("%s logs a warning that is no constant; say in this test what it is called on the page", where)
			}
			if s != "" {
				texts = append(texts, s)
			}
			return true
		})
	}
	return texts
}

// isLog reports whether x is what the code calls a logger, rather than a
// testing.T or an error.
func isLog(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return x.Name == "log" || x.Name == "slog" || x.Name == "logger"
	case *ast.SelectorExpr:
		return x.Sel.Name == "log" || x.Sel.Name == "Logger"
	}
	return false
}

// TestLogLines has every warning and error of the code on the page, and no other.
func TestLogLines(t *testing.T) {
	var known []string
	for _, dir := range logSources {
		if _, err := os.Stat(filepath.Join(root, dir)); err != nil {
			t.Fatal(err)
		}
		for _, w := range warnings(t, dir) {
			if !slices.Contains(known, w) {
				known = append(known, w)
			}
		}
	}
	if len(known) < 15 {
		t.Errorf("only %d warnings found in the code: does this test still know a logger when it sees one?", len(known))
	}
	sameSet(t, "docs/operating.md, Log lines,", first(readPage(t, "docs/operating.md").table(t, "Log lines")), known)
}

// problemTexts are the parts of the errors that hostgwd status shows as problems
// and the log as warnings of the same text, each with where it is made.
var problemTexts = map[string]string{
	"is 0: this host forwards no packets":               "examples/internal/filter/status.go",
	"cannot be switched on":                             "examples/internal/filter/status.go",
	"has the policy drop":                               "examples/internal/filter/status.go",
	"drops every packet that reaches its end":           "examples/internal/filter/status.go",
	"drops what other hosts send to containers":         "examples/internal/filter/status.go",
	"FORWARD chain has the policy":                      "examples/internal/filter/status.go",
	"is in force: its FORWARD chain must accept":        "examples/internal/filter/status.go",
	"change faster than they can be put right":          "examples/internal/filter/filter_linux.go",
	"add blackhole":                                     "examples/internal/blackhole/route_linux.go",
	"another process answers on the socket":             "examples/internal/status/socket.go",
	"hostgwd status does not work":                      "examples/hostgwd/serve.go",
	"claims this host's lease with this host's address": "examples/internal/status/report.go",
	"the config in the store is refused":                "examples/internal/status/report.go",
	"no longer fits the config in the store":            "examples/internal/status/report.go",
}

func TestProblems(t *testing.T) {
	rows := readPage(t, "docs/operating.md").table(t, "Problems")
	var known []string
	for text, file := range problemTexts {
		known = append(known, text)
		source, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.ReplaceAll(string(source), "%s", "…"), text) {
			t.Errorf("%s does not say %q any more", file, text)
		}
	}
	sameSet(t, "docs/operating.md, Problems,", first(rows), known)
	// Nobody has added a kind of problem meanwhile.
	source, err := os.ReadFile(filepath.Join(root, "examples/internal/filter/status.go"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), ") Error() string"); n != 4 {
		t.Errorf("package filter has %d kinds of problem, this test and the page know 4", n)
	}
}
