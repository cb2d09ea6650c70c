package main

import (
	"os/exec"
	"testing"
	"time"
)

func TestDebianVersion(t *testing.T) {
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	cases := []struct{ version, want string }{ // in dpkg's order
		{"0123abc", "0.0.0~20260102030405.0123abc"},
		{"0123abc-dirty", "0.0.0~20260102030405.0123abc.dirty"},
		{"v1.2.3-rc.1", "1.2.3~rc.1"},
		{"v1.2.3-rc.1-2-g0123abc", "1.2.3~rc.1+2.g0123abc"},
		{"v1.2.3", "1.2.3"},
		{"1.2.3-dirty", "1.2.3+0.dirty"},
		{"v1.2.3-4-g0123abc", "1.2.3+4.g0123abc"},
		{"v1.2.3-14-g0123abc-dirty", "1.2.3+14.g0123abc.dirty"},
		{"v1.10.0", "1.10.0"},
	}
	for _, c := range cases {
		if got, err := debianVersion(c.version, date); err != nil || got != c.want {
			t.Errorf("%s is %q to dpkg, %v; want %q", c.version, got, err, c.want)
		}
	}
	for _, bad := range []string{"", "unknown", "v1.2", "v1.2.3 ", "v1.2.3_4", "../x", "abc"} {
		if got, err := debianVersion(bad, date); err == nil {
			t.Errorf("version %q is accepted, as %q", bad, got)
		}
	}
	t.Run("order", func(t *testing.T) {
		dpkg := needTool(t, "dpkg", "dpkg")
		for i, c := range cases[1:] {
			if err := exec.CommandContext(t.Context(), dpkg, "--compare-versions", cases[i].want, "lt", c.want).Run(); err != nil {
				t.Errorf("%s is not before %s: %v", cases[i].want, c.want, err)
			}
		}
	})
}

func TestCommitDate(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "86400")
	if got, err := commitDate(t.Context(), t.TempDir()); err != nil || !got.Equal(time.Unix(86400, 0)) {
		t.Errorf("%v, %v", got, err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if got, err := commitDate(t.Context(), t.TempDir()); err == nil {
		t.Errorf("yesterday is %v", got)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if got, err := commitDate(t.Context(), t.TempDir()); err == nil {
		t.Errorf("where there is no commit, its date is %v", got)
	}
}
