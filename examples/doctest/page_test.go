package doctest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// root is the repository's, from this directory.
const root = "../.."

// page is a Markdown file.
type page struct {
	name   string // as in docs/moving.md
	lines  []string
	blocks []block
}

// block is a fenced one.
type block struct {
	line     int    // of its first line in the page, from 1
	language string // sh, console, go…
	how      string // what stands in the comment before it; empty if there is none
	lines    []string
}

func (b block) text() string { return strings.Join(b.lines, "\n") + "\n" }

var instruction = regexp.MustCompile(`^<!-- run: (.*) -->$`)

func readPage(t *testing.T, name string) page {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	p := page{name: name, lines: strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")}
	how := ""
	for i := 0; i < len(p.lines); i++ {
		line := p.lines[i]
		language, fenced := strings.CutPrefix(line, "```")
		switch m := instruction.FindStringSubmatch(line); {
		case m != nil:
			how = m[1]
		case fenced:
			end := slices.Index(p.lines[i+1:], "```")
			if end < 0 {
				t.Fatalf("%s:%d: the block does not end", name, i+1)
			}
			p.blocks = append(p.blocks, block{i + 2, language, how, p.lines[i+1 : i+1+end]})
			how = ""
			i += end + 1
		case line != "":
			if how != "" {
				t.Errorf("%s:%d: no block follows the comment that says how to run it", name, i+1)
			}
			how = ""
		}
	}
	return p
}

// pages returns the README and all of docs/.
func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	list := []page{readPage(t, "README.md")}
	for _, f := range files {
		list = append(list, readPage(t, "docs/"+filepath.Base(f)))
	}
	return list
}

// table returns the cells of the table under a heading of the page, without the
// names of its columns. Several tables under it are taken for one.
func (p page) table(t *testing.T, heading string) [][]string {
	t.Helper()
	start := slices.IndexFunc(p.lines, func(l string) bool { return strings.TrimLeft(l, "# ") == heading && l != heading })
	if start < 0 {
		t.Fatalf("%s has no heading %q", p.name, heading)
	}
	var rows [][]string
	for i, line := range p.lines[start+1:] {
		if strings.HasPrefix(line, "#") {
			break
		}
		next := start + 2 + i
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") || next < len(p.lines) && strings.HasPrefix(p.lines[next], "|--") {
			continue
		}
		row := strings.Split(strings.Trim(line, "|"), " | ")
		for i := range row {
			row[i] = strings.TrimSpace(row[i])
		}
		rows = append(rows, row)
	}
	return rows
}

// first returns the first cell of each row, without its code marks.
func first(rows [][]string) (cells []string) {
	for _, r := range rows {
		cells = append(cells, strings.Trim(r[0], "`"))
	}
	return cells
}

// sameSet fails for what is in only one of two lists, whatever their order.
func sameSet(t *testing.T, where string, written, known []string) {
	t.Helper()
	for _, w := range written {
		if !slices.Contains(known, w) {
			t.Errorf("%s has %q, which the code does not know", where, w)
		}
	}
	for _, k := range known {
		if !slices.Contains(written, k) {
			t.Errorf("%s lacks %q", where, k)
		}
	}
	if len(known) == 0 {
		t.Errorf("%s: the code knows nothing; does this test look at the right place?", where)
	}
}

// Every link to another file of the repository leads to one.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	for _, p := range pages(t) {
		for i, line := range p.lines {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if _, err := os.Stat(filepath.Join(root, filepath.Dir(p.name), m[1])); err != nil {
					t.Errorf("%s:%d: %v", p.name, i+1, err)
				}
			}
		}
	}
}

// Every Go block of a page is part of a file that is compiled, and mostly run, by
// the tests.
func TestSnippets(t *testing.T) {
	var files []string
	for _, pattern := range []string{"examples/doctest/*.go", "examples/embed/*.go", "netlinkx/*_test.go"} {
		match, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(match) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		files = append(files, match...)
	}
	var sources []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, "\n"+string(text))
	}
	n := 0
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.language != "go" {
				continue
			}
			n++
			if !slices.ContainsFunc(sources, func(s string) bool { return strings.Contains(s, "\n"+b.text()) }) {
				t.Errorf("%s:%d: this is in no Go file that the tests compile:\n%s", p.name, b.line, b.text())
			}
		}
	}
	if n == 0 {
		t.Error("no page shows any Go")
	}
}
