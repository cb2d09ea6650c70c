package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hostgw/hostgw/examples/internal/setting"
)

// runLine runs a command line, in an environment of nothing but env.
func runLine(t *testing.T, env []string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = invoke(t.Context(), args, env, &out, &errs)
	return status, out.String(), errs.String()
}

func TestCommandLine(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args   string
		env    []string
		status int
		stdout string
		stderr string
	}{
		{"-version", nil, exitOK, "hostgwd ", ""},
		{"--version", nil, exitOK, "revision ", ""},
		{"-h", nil, exitOK, "-etcd-endpoints", ""},
		{"help", nil, exitOK, "Exit status", ""},
		{"help lease", nil, exitOK, "ls|reserve|release", ""},
		{"lease -h", nil, exitOK, "ls|reserve|release", ""},
		{"help nonsense", nil, exitUsage, "", "nonsense"},
		{"nonsense", nil, exitUsage, "", "nonsense"},
		{"-nonsense", nil, exitUsage, "", "-nonsense"},
		{"-v argument", nil, exitUsage, "", "argument"},
		{"-kube-subnet-mgr", nil, exitUsage, "", "Kubernetes"},
		{"-healthz-port=99999", nil, exitUsage, "", "-healthz-port"},
		{"", []string{"FLANNELD_HEALTHZ_PORT=99999"}, exitUsage, "", "FLANNELD_HEALTHZ_PORT"},
		{"-network 10.0.0.0/8 -subnet-len 9", nil, exitUsage, "", "SubnetLen"},
		{"-iface nosuchlink0 -network 10.0.0.0/8 -socket= -subnet-file " + none, nil, exitUplink, "", "nosuchlink0"},
		{"-network 10.0.0.0/8 -subnet-file /proc/x/subnet.env", nil, exitSubnetFile, "", "/proc/x/subnet.env"},
		{"status -socket " + none, nil, exitFailure, "", none},
		{"status -o xml", nil, exitUsage, "", "xml"},
		{"lease", nil, exitUsage, "", "ls"},
		{"-etcd-username x -etcd-password y", nil, exitUsage, "", "need -etcd-endpoints"},
		{"plan -etcd-username x -etcd-password y -socket " + none, nil, exitUsage, "", "need -etcd-endpoints"},
		{"lease ls -etcd-username x -etcd-password y -socket " + none, nil, exitUsage, "", "no hostgwd runs"},
		{"lease reserve", nil, exitUsage, "", "which subnet"},
		{"lease reserve 10.0.0.1/24", nil, exitUsage, "", "10.0.0.0/24"},
		{"lease release", nil, exitUsage, "", "which subnet"},
		{"completion", nil, exitUsage, "", "bash"},
		{"completion tcsh", nil, exitUsage, "", "bash"},
	} {
		status, stdout, stderr := runLine(t, c.env, strings.Fields(c.args)...)
		if status != c.status || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
			t.Errorf("hostgwd %s: status %d, want %d\n%s%s", c.args, status, c.status, stdout, stderr)
		}
		if (stderr == "") != (c.stderr == "") {
			t.Errorf("hostgwd %s says %q", c.args, stderr)
		}
	}
}

func TestHelpNamesEverySetting(t *testing.T) {
	_, help, _ := runLine(t, nil, "help")
	for _, s := range setting.Table() {
		if strings.Contains(help, "  -"+s.Name) == s.Refused {
			t.Errorf("-%s: refused is %t, and the help says otherwise", s.Name, s.Refused)
		}
	}
	for _, c := range commands() {
		if !strings.Contains(help, "hostgwd "+c.name) {
			t.Errorf("the help does not name %s", c.name)
		}
	}
}

// A shell that is installed must be able to read its completion; bash always is,
// where these tests run.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		status, script, _ := runLine(t, nil, "completion", shell)
		if status != exitOK {
			t.Fatalf("%s: status %d", shell, status)
		}
		for _, s := range setting.Table() {
			if !s.Refused && !strings.Contains(script, s.Name) {
				t.Errorf("%s does not complete -%s", shell, s.Name)
			}
		}
		path, err := exec.LookPath(shell)
		if err != nil {
			if shell == "bash" {
				t.Error(err)
			}
			continue
		}
		cmd := exec.Command(path, "-n")
		cmd.Stdin = strings.NewReader(script)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s does not take its completion: %v\n%s", shell, err, out)
		}
	}
	cmd := exec.Command("bash", "-c", `eval "$(cat)"; COMP_WORDS=(hostgwd lease r); COMP_CWORD=2; _hostgwd; echo "${COMPREPLY[@]}"`)
	_, script, _ := runLine(t, nil, "completion", "bash")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "reserve release" {
		t.Errorf("lease r completes to %q, %v", out, err)
	}
}
