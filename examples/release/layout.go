package main

import (
	"os"
	"path"
	"path/filepath"
	"time"
)

// contents is what a release is made of besides files of the checkout.
type contents struct {
	version     string
	date        time.Time
	program     []byte
	completions map[string][]byte // by shell
	licences    []byte
}

// doc is where Debian wants what is to be read.
const doc = "usr/share/doc/hostgwd/"

// placed is a file of the checkout and where it goes.
type placed struct {
	to, from string
	mode     int64
	conffile bool
}

func checkedOut() []placed {
	return []placed{
		{to: "usr/lib/systemd/system/hostgwd.service", from: "packaging/systemd/hostgwd.service"},
		// There may be a password in it.
		{to: "etc/default/hostgwd", from: "packaging/default/hostgwd", mode: 0o640, conffile: true},
		{to: "etc/iproute2/rt_protos.d/hostgw.conf", from: "packaging/rt_protos.d/hostgw.conf", conffile: true},
		// Not where it would change Docker's unit: that is for an operator to do.
		{to: doc + "examples/docker.service.d/hostgwd.conf", from: "packaging/systemd/docker.service.d/hostgwd.conf"},
		{to: doc + "examples/alerts.yml", from: "examples/hostgwd/monitoring/alerts.yml"},
		{to: doc + "examples/dashboard.json", from: "examples/hostgwd/monitoring/dashboard.json"},
		{to: doc + "copyright", from: "packaging/debian/copyright"},
		{to: doc + "README.Debian", from: "packaging/debian/README.Debian"},
		{to: doc + "LICENSE", from: "LICENSE"},
		{to: doc + "README.md", from: "README.md"},
	}
}

// layout says which file goes where below the root of a host. The tarball and the
// package hold the same.
func layout(root string, c contents) (files, error) {
	page, err := manual(filepath.Join(root, "packaging", "hostgwd.8"), c.version, c.date)
	if err != nil {
		return nil, err
	}
	if page, err = compress(page); err != nil {
		return nil, err
	}
	licences, err := compress(c.licences)
	if err != nil {
		return nil, err
	}
	tree := files{
		"usr/sbin/hostgwd":                                 {mode: 0o755, data: c.program},
		"usr/share/man/man8/hostgwd.8.gz":                  {mode: 0o644, data: page},
		doc + "THIRD-PARTY-LICENCES.gz":                    {mode: 0o644, data: licences},
		"usr/share/bash-completion/completions/hostgwd":    {mode: 0o644, data: c.completions["bash"]},
		"usr/share/zsh/vendor-completions/_hostgwd":        {mode: 0o644, data: c.completions["zsh"]},
		"usr/share/fish/vendor_completions.d/hostgwd.fish": {mode: 0o644, data: c.completions["fish"]},
	}
	list := checkedOut()
	for _, pattern := range []string{"CHANGELOG.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			from := path.Join(path.Dir(pattern), filepath.Base(name))
			list = append(list, placed{to: doc + from, from: from})
		}
	}
	for _, p := range list {
		data, err := os.ReadFile(filepath.Join(root, p.from))
		if err != nil {
			return nil, err
		}
		if p.mode == 0 {
			p.mode = 0o644
		}
		tree[p.to] = file{mode: p.mode, data: data, conffile: p.conffile}
	}
	return tree, nil
}
