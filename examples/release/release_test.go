package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// built is a release of this checkout, as it is, for one architecture.
type built struct {
	commit              string
	program, deb, tarGz string // paths
	files               []string
}

// TestRelease makes a release and tries everything that is in it. It is one test,
// for making a release takes a while.
func TestRelease(t *testing.T) {
	root := commitCopy(t)
	b := built{commit: gitOutput(t, root, "rev-parse", "HEAD")}
	var err error
	if b.files, err = (release{Root: root, Out: filepath.Join(root, "dist"), Arch: []string{arch()}}).make(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range b.files {
		switch base := filepath.Base(name); {
		case strings.HasSuffix(base, ".deb"):
			b.deb = name
		case strings.HasSuffix(base, ".tar.gz"):
			b.tarGz = name
		case strings.HasPrefix(base, "hostgwd-linux-"):
			b.program = name
		}
	}
	tree := t.TempDir()
	unpack(t, b.tarGz, tree)
	page := manualPage(t, tree)

	t.Run("same bytes from another checkout", func(t *testing.T) { testReproducible(t, root, b) })
	t.Run("checksums", func(t *testing.T) { testChecksums(t, b) })
	t.Run("program", func(t *testing.T) { testProgram(t, b) })
	t.Run("third-party licences", func(t *testing.T) { testLicences(t, tree) })
	t.Run("manual", func(t *testing.T) { testManual(t, b, page) })
	t.Run("completions", func(t *testing.T) { testCompletions(t, tree) })
	t.Run("package", func(t *testing.T) { testPackage(t, b, tree) })
	t.Run("unit", func(t *testing.T) { testUnit(t, tree) })
	t.Run("least privilege", func(t *testing.T) { testLeastPrivilege(t, b.tarGz) })
}

// arch is what the tests build for: what they run on, so that they can run it.
func arch() string {
	if runtime.GOOS == "linux" {
		return runtime.GOARCH
	}
	return "amd64"
}

// commitCopy commits a copy of this checkout, with whatever is not committed in
// it, to a repository of its own. The date is not today's.
func commitCopy(t *testing.T) string {
	t.Helper()
	needTool(t, "git", "git")
	from, to := filepath.Join("..", ".."), t.TempDir()
	skip := []string{".git", "dist", "bin"}
	err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // somebody is at work
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case slices.Contains(skip, rel):
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		case e.IsDir():
			return os.MkdirAll(target, 0o755)
		case !e.Type().IsRegular():
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	gitOutput(t, to, "init", "--quiet")
	gitOutput(t, to, "add", "--all")
	gitOutput(t, to, "commit", "--quiet", "--message=all")
	return to
}

func gitOutput(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	const date = "2026-01-02T03:04:05Z"
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=n", "GIT_AUTHOR_EMAIL=n@example.org", "GIT_AUTHOR_DATE="+date,
		"GIT_COMMITTER_NAME=n", "GIT_COMMITTER_EMAIL=n@example.org", "GIT_COMMITTER_DATE="+date)
	out, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// unpack unpacks a tarball into dir, without its top directory.
func unpack(t *testing.T, tarball, dir string) {
	t.Helper()
	data, err := os.ReadFile(tarball)
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader(gunzip(t, data)))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		path := filepath.Join(dir, name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, h.FileInfo().Mode())
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func gunzip(t *testing.T, data []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if z.Name != "" || !z.ModTime.IsZero() {
		t.Errorf("a compressed file has the name %q and the date %v in it", z.Name, z.ModTime)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// needTool skips the test unless a program is there, or fails it if
// HOSTGW_REQUIRE_TOOLS is set. It returns the program's path.
func needTool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch {
	case err == nil:
	case os.Getenv("HOSTGW_REQUIRE_TOOLS") != "":
		t.Fatalf("needs Debian's %s: %v", debian, err)
	default:
		t.Skipf("needs Debian's %s: %v", debian, err)
	}
	return path
}

func testReproducible(t *testing.T, root string, b built) {
	other := filepath.Join(t.TempDir(), "elsewhere")
	gitOutput(t, t.TempDir(), "clone", "--quiet", root, other)
	// Whoever builds it has other habits.
	for name, value := range map[string]string{"GOFLAGS": "-tags=theirs", "GOAMD64": "v3", "CGO_ENABLED": "1", "TZ": "Asia/Tokyo", "LC_ALL": "C"} {
		t.Setenv(name, value)
	}
	names, err := release{Root: other, Out: filepath.Join(other, "dist"), Arch: []string{arch()}}.make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != len(b.files) || len(names) != 4 {
		t.Fatalf("%q and %q", b.files, names)
	}
	for i, name := range names {
		if filepath.Base(name) != filepath.Base(b.files[i]) || !bytes.Equal(read(t, name), read(t, b.files[i])) {
			t.Errorf("%s and %s differ", name, b.files[i])
		}
	}
	if s := gitOutput(t, other, "status", "--porcelain"); s != "" {
		t.Errorf("a release changes the checkout, so that the next one would be another:\n%s", s)
	}
	if binary := read(t, b.program); bytes.Contains(binary, []byte(root)) {
		t.Error("the program knows where it was built")
	}
}

func testChecksums(t *testing.T, b built) {
	cmd := exec.CommandContext(t.Context(), needTool(t, "sha256sum", "coreutils"), "--check", "--strict", sumsName)
	cmd.Dir = filepath.Dir(b.program)
	out, err := output(cmd)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), ": OK\n"); n != len(b.files)-1 {
		t.Errorf("%d files are checked, not %d:\n%s", n, len(b.files)-1, out)
	}
}

func testProgram(t *testing.T, b built) {
	f, err := elf.Open(b.program)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil && !errors.Is(err, elf.ErrNoSymbols) {
		t.Fatal(err)
	}
	if len(libraries) > 0 || slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Errorf("the program is not static: it needs %v", libraries)
	}
	if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
		t.Error("the program is not stripped")
	}
	if runtime.GOOS != "linux" {
		return
	}
	out, err := output(exec.CommandContext(t.Context(), b.program, "-version"))
	if err != nil {
		t.Fatal(err)
	}
	// No tag, so the version is the commit too.
	if want := "hostgwd " + b.commit[:12] + " revision " + b.commit + " "; !strings.HasPrefix(string(out), want) {
		t.Errorf("-version says %q, which does not begin with %q", out, want)
	}
}

func testLicences(t *testing.T, tree string) {
	text := string(gunzip(t, read(t, tree, doc, "THIRD-PARTY-LICENCES.gz")))
	for _, want := range []string{
		"\n== go.etcd.io/etcd/server/v3 ", "\n== golang.org/x/sys ", "\n== github.com/prometheus/client_golang ",
		"Redistributions in binary form", "Apache License",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the licences do not have %q", want)
		}
	}
	if !strings.HasPrefix(text, "== Go standard library: LICENSE\n") {
		t.Error("the licences do not begin with Go's")
	}
}
