package subnet

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const workflowEnv = `FLANNEL_NETWORK=192.168.0.0/16
FLANNEL_SUBNET=192.168.1.193/26
FLANNEL_MTU=1500
FLANNEL_IPMASQ=false
`

func TestEnvText(t *testing.T) {
	workflow := mustConfig(t, withBackend(`"Network":"192.168.0.0/16","SubnetLen":26`))
	alone6 := mustConfig(t, withBackend(`"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd99::/48"`))
	for _, tt := range []struct {
		name   string
		c      Config
		key    string
		mtu    int
		ipMasq bool
		want   string
	}{
		{"the workflow's", workflow, "192.168.1.192-26", 1500, false, workflowEnv},
		{"dual-stack", networkDual(t), "10.5.75.0-24&fd99:0:0:4b::-64", 1400, true,
			"FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.75.1/24\nFLANNEL_MTU=1400\nFLANNEL_IPMASQ=true\n" +
				"FLANNEL_IPV6_NETWORK=fd99::/48\nFLANNEL_IPV6_SUBNET=fd99:0:0:4b::1/64\n"},
		{"IPv6 alone", alone6, "fd99:0:0:4b::-64", 1500, false,
			"FLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\nFLANNEL_IPV6_NETWORK=fd99::/48\nFLANNEL_IPV6_SUBNET=fd99:0:0:4b::1/64\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := mustKey(t, tt.key)
			e := NewEnv(tt.c, k, tt.mtu, tt.ipMasq)
			text, err := e.MarshalText()
			if err != nil || string(text) != tt.want {
				t.Errorf("got  %q, %v\nwant %q", text, err, tt.want)
			}
			back, err := ParseEnv(text)
			if err != nil || back != e {
				t.Errorf("reads back as %v, %v, not %v", back, err, e)
			}
			if back.Key() != k {
				t.Errorf("names the subnets %v, not %v", back.Key(), k)
			}
		})
	}
}

func TestParseEnvTolerates(t *testing.T) {
	want, err := ParseEnv([]byte(workflowEnv))
	if err != nil {
		t.Fatal(err)
	}
	masq := want
	masq.IPMasq = true
	for text, want := range map[string]Env{
		"FLANNEL_MTU=1500\nFLANNEL_SUBNET=192.168.1.193/26\nFLANNEL_NETWORK=192.168.0.0/16":                                         want,
		"# ours\n\nA B\nFLANNEL_COLOUR blue\n" + workflowEnv + "PATH=/bin\n":                                                        want,
		strings.ReplaceAll(workflowEnv, "\n", "\r\n"):                                                                               want,
		"FLANNEL_NETWORK=\"192.168.0.0/16\"\n\tFLANNEL_SUBNET=\"192.168.1.193/26\" \nFLANNEL_MTU=\"1500\"\nFLANNEL_IPMASQ=\"true\"": masq,
		"FLANNEL_IPMASQ=false\nFLANNEL_MTU=9000\n" + workflowEnv + "FLANNEL_IPMASQ=true\n":                                          masq,
	} {
		if got, err := ParseEnv([]byte(text)); err != nil || got != want {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

func TestParseEnvRefuses(t *testing.T) {
	with := func(old, new string) string { return strings.Replace(workflowEnv, old, new, 1) }
	for text, want := range map[string]string{
		"":                 "FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET must be set",
		"\x00\xff":         "FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET must be set",
		workflowEnv[:31]:   "FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET must be set",
		workflowEnv[:60]:   `line 2: FLANNEL_SUBNET is "192.168.1.193/": netip.ParsePrefix`,
		workflowEnv[:65]:   "FLANNEL_MTU must be set to a number above zero, not 0",
		with("/16", ""):    `line 1: FLANNEL_NETWORK is "192.168.0.0": netip.ParsePrefix`,
		with("/26", ""):    `line 2: FLANNEL_SUBNET is "192.168.1.193": netip.ParsePrefix`,
		with("/26", "/33"): "line 2: FLANNEL_SUBNET",
		with("FLANNEL_NETWORK=192.168.0.0/16\n", ""):        "FLANNEL_NETWORK is missing, but FLANNEL_SUBNET is there",
		with("FLANNEL_SUBNET=192.168.1.193/26\n", ""):       "FLANNEL_SUBNET or FLANNEL_IPV6_SUBNET must be set",
		with("192.168.1.193/26", "fd99::1/64"):              "FLANNEL_SUBNET is fd99::1/64, but must be an IPv4 address",
		with("192.168.1.193/26", "::ffff:10.5.1.1/120"):     "but must be an IPv4 address",
		with("192.168.0.0/16", "192.168.0.0/16,10.0.0.0/8"): "line 1: FLANNEL_NETWORK",
		with("1500", "big"):                                 `line 3: FLANNEL_MTU is "big"`,
		with("1500", "-1"):                                  "FLANNEL_MTU must be set to a number above zero, not -1",
		with("1500", "99999999999999999999"):                "value out of range",
		with("1500", "'1500'"):                              `line 3: FLANNEL_MTU is "'1500'"`,
		with("1500", `"1500`):                               `line 3: FLANNEL_MTU is "\"1500"`,
		with("false", "no"):                                 `line 4: FLANNEL_IPMASQ is "no": must be true or false`,
		with("FLANNEL_MTU=", "FLANNEL_MTU "):                `line 3: "FLANNEL_MTU 1500" must be NAME=value, without spaces`,
		with("FLANNEL_MTU=", "FLANNEL_MTU ="):               `line 3: "FLANNEL_MTU =1500" must be NAME=value, without spaces`,
		with("FLANNEL_MTU=1500", "FLANNEL_MTU"):             `line 3: "FLANNEL_MTU" must be NAME=value, without spaces`,
		with("FLANNEL_MTU=", "FLANNEL_MTU= "):               `line 3: FLANNEL_MTU is " 1500"`,
		workflowEnv + "FLANNEL_IPV6_NETWORK=fd99::/48\n":    "FLANNEL_IPV6_SUBNET is missing, but FLANNEL_IPV6_NETWORK is there",
		workflowEnv + "FLANNEL_IPV6_SUBNET=10.5.1.1/24\nFLANNEL_IPV6_NETWORK=10.5.0.0/16\n": "FLANNEL_IPV6_NETWORK is 10.5.0.0/16, but must be an IPv6 address",
	} {
		e, err := ParseEnv([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) || e != (Env{}) {
			t.Errorf("%q:\ngot %v, %v\nwant an error with %q", text, e, err, want)
		}
	}
}

func TestWriteEnv(t *testing.T) {
	path := filepath.Join(t.TempDir(), "run", "flannel", "subnet.env")
	if _, err := ReadEnv(path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("reading a missing file: %v", err)
	}
	e, err := ParseEnv([]byte(workflowEnv))
	if err != nil {
		t.Fatal(err)
	}
	write := func(e Env) fs.FileInfo {
		t.Helper()
		if err := WriteEnv(path, e); err != nil {
			t.Fatal(err)
		}
		if back, err := ReadEnv(path); err != nil || back != e {
			t.Fatalf("reads back as %v, %v", back, err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o644 {
			t.Fatalf("mode is %v, %v", info.Mode(), err)
		}
		wantFiles(t, filepath.Dir(path), "subnet.env")
		return info
	}
	first := write(e)
	if text, err := os.ReadFile(path); err != nil || string(text) != workflowEnv {
		t.Fatalf("got %q, %v", text, err)
	}
	if again := write(e); !os.SameFile(first, again) {
		t.Error("the same content was written again")
	}
	e.MTU = 1400
	second := write(e)
	if os.SameFile(first, second) {
		t.Error("the file was changed in place")
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	write(e) // repairs the mode

	// A link is replaced, and what it points to stays.
	target := filepath.Join(t.TempDir(), "target")
	if err := errors.Join(os.WriteFile(target, []byte("mine"), 0o644), os.Remove(path), os.Symlink(target, path)); err != nil {
		t.Fatal(err)
	}
	write(e)
	if text, err := os.ReadFile(target); err != nil || string(text) != "mine" {
		t.Errorf("the link's target holds %q, %v", text, err)
	}
}

// A reader never sees half a file.
func TestWriteEnvIsAtomic(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subnet.env")
	e, err := ParseEnv([]byte(workflowEnv))
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteEnv(path, e); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for i := range 200 {
			e.MTU = 1000 + i
			if err := WriteEnv(path, e); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for reads := 0; ; reads++ {
		select {
		case err := <-done:
			if err != nil || reads == 0 {
				t.Errorf("%d reads, %v", reads, err)
			}
			return
		default:
		}
		if _, err := ReadEnv(path); err != nil {
			t.Error(err)
		}
	}
}

func TestWriteEnvFails(t *testing.T) {
	e, err := ParseEnv([]byte(workflowEnv))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	full := filepath.Join(dir, "full")
	if err := errors.Join(os.WriteFile(file, nil, 0o644), os.MkdirAll(filepath.Join(full, "x"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"",
		filepath.Join(file, "subnet.env"), // the directory is a file
		full,                              // the file is a directory
	} {
		if err := WriteEnv(path, e); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: got %v, want an error that names the path", path, err)
		}
	}
	wantFiles(t, dir, "file", "full")
	path := filepath.Join(dir, "subnet.env")
	e.MTU = 0
	if err := WriteEnv(path, e); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "FLANNEL_MTU") {
		t.Errorf("got %v, want an error that names path and variable", err)
	}
	wantFiles(t, dir, "file", "full")
}

func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %v, want %v", dir, got, want)
	}
}

func TestReadEnvRefuses(t *testing.T) {
	dir := t.TempDir()
	huge, broken := filepath.Join(dir, "huge"), filepath.Join(dir, "broken")
	if err := errors.Join(os.WriteFile(huge, []byte(workflowEnv), 0o644), os.Truncate(huge, 1<<30), // sparse
		os.WriteFile(broken, []byte("FLANNEL_MTU=x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		dir:    "must be a regular file, is a directory",
		huge:   "must be at most 65536 bytes",
		broken: "line 1: FLANNEL_MTU",
	} {
		start := time.Now()
		_, err := ReadEnv(path)
		if err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", path, err, want)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: took %v", path, took)
		}
	}
}

func TestEnvKeyOfAnyAddress(t *testing.T) {
	e := Env{Subnet: netip.MustParsePrefix("10.5.1.77/24"), IPv6Subnet: netip.MustParsePrefix("fd99:0:0:4b::7/64")}
	if got := e.Key().String(); got != "10.5.1.0-24&fd99:0:0:4b::-64" {
		t.Errorf("got %s", got)
	}
	if got := (Env{}).Key(); got != (Key{}) {
		t.Errorf("the zero Env names %v", got)
	}
}

func FuzzParseEnv(f *testing.F) {
	f.Add([]byte(workflowEnv))
	f.Add([]byte(workflowEnv + "FLANNEL_IPV6_NETWORK=fd99::/48\nFLANNEL_IPV6_SUBNET=fd99:0:0:4b::1/64\n"))
	f.Add([]byte("FLANNEL_SUBNET=\"10.5.1.1/24\"\r\nFLANNEL_NETWORK=\"10.5.0.0/16\"\nFLANNEL_MTU=\"1\"\n# x\n=\n"))
	f.Add([]byte("FLANNEL_SUBNET\nFLANNEL_MTU = 1\n"))
	f.Add([]byte("\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEnv(data)
		if err != nil {
			if e != (Env{}) {
				t.Fatalf("got %v beside %v", e, err)
			}
			return
		}
		text, err := e.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := ParseEnv(text); err != nil || again != e {
			t.Fatalf("%q\nreads back as %v, %v\nwant %v", text, again, err, e)
		}
		if k, err := ParseKey(e.Key().String()); err != nil || k != e.Key() {
			t.Fatalf("%q names %v, which is no key: %v", text, e.Key(), err)
		}
	})
}
