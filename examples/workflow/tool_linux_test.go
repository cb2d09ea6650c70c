package workflow

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// searchPath is where tools are looked for and what they look in themselves: the
// distribution's programs first, so that those are tested that go together.
const searchPath = "/usr/sbin:/usr/bin:/sbin:/bin"

// findTool returns the path of a program in one of the directories.
func findTool(name string, dirs []string) (string, error) {
	for _, dir := range dirs {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not in %v", name, dirs)
}

// needTools skips the test, or fails it if HOSTGW_REQUIRE_TOOLS is set, unless
// the programs are there. Keys are their names, values Debian's packages.
func needTools(t *testing.T, dirs []string, tools map[string]string) {
	t.Helper()
	for name, debian := range tools {
		path, err := findTool(name, dirs)
		if err == nil && name == "busybox" {
			err = checkStatic(path)
		}
		switch {
		case err == nil:
		case os.Getenv("HOSTGW_REQUIRE_TOOLS") != "":
			t.Fatalf("needs Debian's %s: %v", debian, err)
		default:
			t.Skipf("needs Debian's %s: %v", debian, err)
		}
	}
}

// checkStatic refuses a program that needs libraries, which an image of nothing
// else does not have.
func checkStatic(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	defer f.Close()
	if slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("%s is not a static program", path)
	}
	return nil
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
}
