package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// release is what to make.
type release struct {
	Root    string // the checkout
	Out     string // where to; made if missing
	Version string // empty for what git describe says
	Arch    []string
}

// sumsName is the file that holds the others' checksums, as sha256sum -c takes
// them.
const sumsName = "SHA256SUMS"

// make makes everything, and returns the paths of the files it wrote.
func (r release) make(ctx context.Context) ([]string, error) {
	var err error
	if r.Root, err = filepath.Abs(r.Root); err != nil {
		return nil, err
	}
	if r.Version == "" {
		if r.Version, err = describe(ctx, r.Root); err != nil {
			return nil, err
		}
	}
	date, err := commitDate(ctx, r.Root)
	if err != nil {
		return nil, err
	}
	debVersion, err := debianVersion(r.Version, date)
	if err != nil {
		return nil, err
	}
	if err := empty(r.Out); err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "hostgw-release-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(work)
	b := builder{root: r.Root, version: r.Version, work: work}
	said, err := b.completions(ctx)
	if err != nil {
		return nil, err
	}

	made := make(map[string][]byte)
	for _, arch := range r.Arch {
		program, err := b.build(ctx, "linux", arch)
		if err != nil {
			return nil, err
		}
		licences, err := b.licences(ctx, arch)
		if err != nil {
			return nil, err
		}
		tree, err := layout(r.Root, contents{program: program, completions: said, licences: licences, date: date, version: r.Version})
		if err != nil {
			return nil, err
		}
		deb, err := debianPackage(filepath.Join(r.Root, "packaging", "debian"), debVersion, arch, tree, date)
		if err != nil {
			return nil, err
		}
		top := fmt.Sprintf("hostgwd-%s-linux-%s", strings.TrimPrefix(r.Version, "v"), arch)
		tarball, err := archive(top+"/", tree, date)
		if err != nil {
			return nil, err
		}
		made["hostgwd-linux-"+arch] = program
		made[top+".tar.gz"] = tarball
		made[fmt.Sprintf("hostgwd_%s_%s.deb", debVersion, arch)] = deb
	}
	return r.write(made)
}

// write writes the files, and their checksums.
func (r release) write(made map[string][]byte) ([]string, error) {
	var names []string
	var sums strings.Builder
	for name, data := range sorted(made) {
		fmt.Fprintf(&sums, "%x  %s\n", sha256.Sum256(data), name)
		names = append(names, name)
	}
	made[sumsName] = []byte(sums.String())
	names = append(names, sumsName)
	for i, name := range names {
		mode := os.FileMode(0o644)
		if strings.HasPrefix(name, "hostgwd-linux-") {
			mode = 0o755
		}
		names[i] = filepath.Join(r.Out, name)
		if err := os.WriteFile(names[i], made[name], mode); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// empty makes dir, and removes from it what an earlier release left.
func empty(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var old []string
	for _, pattern := range []string{"hostgwd-linux-*", "hostgwd-*.tar.gz", "hostgwd_*.deb", sumsName} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		old = append(old, found...)
	}
	slices.Sort(old)
	var errs []error
	for _, name := range slices.Compact(old) {
		errs = append(errs, os.Remove(name))
	}
	return errors.Join(errs...)
}
