package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// licenceFile is how files are called that must go with a program made of a
// module.
var licenceFile = regexp.MustCompile(`(?i)^(licen[cs]e|copying|copyright|notice)([.-].*)?$`)

// licences are the licences and notices of everything that is linked into
// hostgwd besides hostgw itself, in one text.
func (b builder) licences(ctx context.Context, goarch string) ([]byte, error) {
	listed, err := b.run(ctx, "linux", goarch, "list", "-deps",
		"-f", "{{with .Module}}{{if .Version}}{{.Path}}\t{{.Version}}\t{{.Dir}}{{end}}{{end}}", program)
	if err != nil {
		return nil, err
	}
	goroot, err := b.run(ctx, "linux", goarch, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	modules := strings.Split(strings.TrimSpace(string(listed)), "\n")
	slices.Sort(modules)
	modules = append([]string{"Go\tstandard library\t" + strings.TrimSpace(string(goroot))}, slices.Compact(modules)...)
	var out bytes.Buffer
	for _, m := range modules {
		f := strings.Split(m, "\t")
		if len(f) != 3 {
			return nil, fmt.Errorf("go list says %q of a module", m)
		}
		if err := appendLicences(&out, f[0]+" "+f[1], f[2]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

func appendLicences(out *bytes.Buffer, module, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !licenceFile.MatchString(e.Name()) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		found = true
		fmt.Fprintf(out, "== %s: %s\n\n%s\n\n", module, e.Name(), bytes.TrimSpace(text))
	}
	if !found {
		return fmt.Errorf("%s, in %s, has no licence that could go with the program", module, dir)
	}
	return nil
}
