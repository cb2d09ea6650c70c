package main

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// testPackage has dpkg look at the package, install it below a directory, and
// take it away again.
func testPackage(t *testing.T, b built, tree string) {
	needTool(t, "dpkg", "dpkg")
	if got := strings.TrimSpace(command(t, "dpkg-deb", "--field", b.deb, "Package", "Architecture")); got != "Package: hostgwd\nArchitecture: "+arch() {
		t.Errorf("the package is\n%s", got)
	}
	if info := command(t, "dpkg-deb", "--info", b.deb); !strings.Contains(info, "postinst") || !strings.Contains(info, "conffiles") {
		t.Errorf("dpkg-deb --info says\n%s", info)
	}
	listed := command(t, "dpkg-deb", "--contents", b.deb)
	for line := range strings.Lines(listed) {
		if !strings.Contains(line, " root/root ") || !strings.Contains(line, " 2026-01-0") {
			t.Errorf("neither root's nor as old as the commit: %s", line)
		}
	}
	// The tarball holds the same.
	err := filepath.WalkDir(tree, func(path string, e fs.DirEntry, err error) error {
		rel := strings.TrimPrefix(path, tree)
		if err == nil && !e.IsDir() && !strings.Contains(listed, " ."+rel+"\n") {
			t.Errorf("%s is in the tarball, not in the package", rel)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}

	if os.Getuid() != 0 {
		t.Skip("needs root: dpkg installs as root only")
	}
	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		must(t, os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755))
	}
	for _, file := range []string{"status", "available"} {
		must(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg", file), nil, 0o644))
	}
	// The scripts run outside of root, where there is a shell, and are told where
	// it is.
	dpkg := func(args ...string) string {
		return command(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--log=/dev/null"}, args...)...)
	}
	installed := func(path string) bool {
		_, err := os.Stat(filepath.Join(root, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	}
	config := filepath.Join(root, "etc/default/hostgwd")

	dpkg("--install", b.deb)
	if s := dpkg("--status", "hostgwd"); !strings.Contains(s, "Status: install ok installed") {
		t.Errorf("after the installation:\n%s", s)
	}
	if s := dpkg("--verify", "hostgwd"); s != "" {
		t.Errorf("what is installed is not what the package says:\n%s", s)
	}
	if info, err := os.Stat(config); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("where a password may be: %v, %v", info, err)
	}

	// What an operator has written outlives an upgrade and a removal, but no purge.
	must(t, os.WriteFile(config, []byte("HOSTGWD_NETWORK=10.5.0.0/16\n"), 0o640))
	data := filepath.Join(root, "var/lib/private/hostgwd/etcd")
	must(t, os.MkdirAll(data, 0o700))
	dpkg("--install", b.deb)
	if got := string(read(t, config)); got != "HOSTGWD_NETWORK=10.5.0.0/16\n" {
		t.Errorf("after an upgrade the settings are\n%s", got)
	}
	dpkg("--remove", "hostgwd")
	if installed("usr/sbin/hostgwd") || !installed("etc/default/hostgwd") || !installed("var/lib/private/hostgwd/etcd") {
		t.Error("after the removal the program is there, or the settings or the data are not")
	}
	dpkg("--purge", "hostgwd")
	var left []string
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if rel := strings.TrimPrefix(path, root); err == nil && !strings.HasPrefix("/var/lib/dpkg", rel) && !strings.HasPrefix(rel, "/var/lib/dpkg/") {
			left = append(left, rel)
		}
		return err
	})
	// dpkg leaves directories that it finds in use, and this one was made here.
	left = slices.DeleteFunc(left, func(s string) bool { return s == "/var/lib/private" })
	if err != nil || len(left) > 0 {
		t.Errorf("the purge leaves %q, %v", left, err)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := output(exec.CommandContext(t.Context(), name, args...))
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// testUnit has systemd read the unit and the drop-in.
func testUnit(t *testing.T, tree string) {
	analyze := needTool(t, "systemd-analyze", "systemd")
	root := t.TempDir()
	put := func(name, text string) {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o644))
	}
	const units = "usr/lib/systemd/system/"
	for _, name := range []string{"sysinit.target", "basic.target", "shutdown.target", "network-online.target", "multi-user.target"} {
		put(units+name, "[Unit]\nDescription="+name+"\n")
	}
	for _, name := range []string{"usr/sbin/hostgwd", "usr/sbin/dockerd"} {
		put(name, "")
		must(t, os.Chmod(filepath.Join(root, name), 0o755))
	}
	put(units+"hostgwd.service", string(read(t, tree, units, "hostgwd.service")))
	put(units+"docker.service", "[Unit]\nDescription=Docker\n[Service]\nType=notify\nRestart=always\nExecStart=/usr/sbin/dockerd -H fd://\n")
	put("etc/systemd/system/docker.service.d/hostgwd.conf", string(read(t, tree, doc, "examples/docker.service.d/hostgwd.conf")))

	verify := func() string {
		out, _ := exec.CommandContext(t.Context(), analyze, "verify", "--root="+root, "--man=no", "hostgwd.service", "docker.service").CombinedOutput()
		return string(out) // what it does not like it says, and does not always fail
	}
	if said := verify(); said != "" {
		t.Errorf("systemd-analyze verify says\n%s", said)
	}
	put(units+"network-online.target", "[Unit]\nNonsense=yes\n")
	if said := verify(); !strings.Contains(said, "Nonsense") {
		t.Errorf("systemd-analyze does not look: %q", said)
	}
	put(units+"network-online.target", "[Unit]\n")

	// The exposure is from 0 to 10, here in tenths. What is left is the network and
	// CAP_NET_ADMIN.
	cmd := exec.CommandContext(t.Context(), analyze, "security", "--offline=yes", "--threshold=25", "--root="+root, "hostgwd.service")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
