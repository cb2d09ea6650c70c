package main

import (
	"bytes"
	"crypto/md5"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// maintainerScripts are what dpkg runs before and after it does its work.
func maintainerScripts() []string { return []string{"postinst", "prerm", "postrm"} }

// debianPackage makes a Debian package of the files, as deb(5) describes it. In
// dir are its control file, in which @VERSION@, @ARCH@ and @SIZE@ stand for what
// is only known here, and the maintainer scripts.
func debianPackage(dir, version, arch string, tree files, date time.Time) ([]byte, error) {
	control := make(files)
	for _, name := range maintainerScripts() {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		control[name] = file{mode: 0o755, data: text}
	}
	text, err := os.ReadFile(filepath.Join(dir, "control"))
	if err != nil {
		return nil, err
	}
	size := 0 // in KiB, each file rounded up
	var sums, conffiles bytes.Buffer
	for name, f := range sorted(tree) {
		size += (len(f.data) + 1023) / 1024
		if f.conffile {
			fmt.Fprintf(&conffiles, "/%s\n", name)
		} else {
			fmt.Fprintf(&sums, "%x  %s\n", md5.Sum(f.data), name)
		}
	}
	filled := strings.NewReplacer("@VERSION@", version, "@ARCH@", arch, "@SIZE@", strconv.Itoa(size)).Replace(string(text))
	control["control"] = file{mode: 0o644, data: []byte(filled)}
	control["md5sums"] = file{mode: 0o644, data: sums.Bytes()}
	control["conffiles"] = file{mode: 0o644, data: conffiles.Bytes()}

	controlTar, err := archive("./", control, date)
	if err != nil {
		return nil, err
	}
	dataTar, err := archive("./", tree, date)
	if err != nil {
		return nil, err
	}
	return ar(date,
		member{"debian-binary", []byte("2.0\n")},
		member{"control.tar.gz", controlTar},
		member{"data.tar.gz", dataTar},
	), nil
}

// member is a file in an ar archive.
type member struct {
	name string // at most 16 bytes
	data []byte
}

// ar makes an archive of the kind that a Debian package is: the members one after
// another, each behind a header of sixty bytes and padded to an even length.
func ar(date time.Time, members ...member) []byte {
	out := bytes.NewBufferString("!<arch>\n")
	for _, m := range members {
		const owner, group, mode = "0", "0", "100644"
		fmt.Fprintf(out, "%-16s%-12d%-6s%-6s%-8s%-10d`\n", m.name, date.Unix(), owner, group, mode, len(m.data))
		out.Write(m.data)
		if len(m.data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}
