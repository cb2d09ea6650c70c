package doctest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const network = `{"Network":"192.168.0.0/16","SubnetLen":26,"Backend":{"Type":"host-gw"}}`

// The leases that the pages show, of host1 and host2.
var leases = []string{"192.168.1.192-26", "192.168.6.192-26"}

// worlds are what each page presumes.
var worlds = map[string]func(*testing.T) *world{
	// Nothing but the hosts. They were in the network before, with the subnets that
	// the pages show, so that they lease these again.
	"README.md": func(t *testing.T) *world {
		w := newWorld(t, false)
		w.remember(t)
		return w
	},
	// Flanneld has been on both hosts.
	"docs/moving.md": func(t *testing.T) *world {
		w := newWorld(t, true)
		w.machines[0].must(t, fmt.Sprintf("etcdctl put /coreos.com/network/config '%s'", network))
		for i, m := range w.machines {
			m.must(t, "echo "+leases[i]+" >/etc/default/flanneld.subnet")
		}
		for _, m := range slices.Backward(w.machines) {
			m.must(t, "systemctl start flanneld")
		}
		w.machines[1].must(t, "systemctl start flanneld") // it hears of host1
		return w
	},
	// Hostgwd runs on both hosts.
	"docs/operating.md": func(t *testing.T) *world {
		w := newWorld(t, true)
		w.remember(t)
		w.machines[0].must(t, fmt.Sprintf("etcdctl put /coreos.com/network/config '%s'", network))
		for _, m := range w.machines {
			m.must(t, "printf 'HOSTGWD_ETCD_ENDPOINTS="+etcdURL+"\nHOSTGWD_IP_MASQ=true\nHOSTGWD_HEALTHZ_PORT=8471\n' >/etc/default/hostgwd; systemctl start hostgwd")
		}
		return w
	},
	// An etcd without a password, and no hostgwd yet.
	"docs/security.md": func(t *testing.T) *world {
		w := newWorld(t, true)
		w.remember(t)
		w.machines[0].must(t, fmt.Sprintf("etcdctl put /coreos.com/network/config '%s'", network))
		return w
	},
}

// remember puts the subnet.env of an earlier life on each machine.
func (w *world) remember(t *testing.T) {
	t.Helper()
	for i, m := range w.machines {
		first := strings.Replace(strings.Replace(leases[i], ".192-26", ".193/26", 1), "-", "/", 1)
		m.must(t, "mkdir -p /run/flannel; printf 'FLANNEL_NETWORK=192.168.0.0/16\nFLANNEL_SUBNET="+first+"\nFLANNEL_MTU=1500\nFLANNEL_IPMASQ=false\n' >/run/flannel/subnet.env")
		m.docker = true // not before it has leased it again
	}
}

// instructions stand in for comments in the README, by the first words of a block.
var instructions = map[string]string{
	"go run ./examples/lab":   "never because the tests of examples/lab do it",
	"go test ./...":           "never because this test is part of it",
	"hostgwd -network":        `host1 until "msg=ready"`,
	"hostgwd -etcd-endpoints": `host2 until "msg=ready"`,
}

// never are pages whose commands measure or test for minutes, and what is true of
// all of them.
var never = map[string]string{
	"docs/scale.md": "it measures for minutes",
}

func (b block) instruction(page string) string {
	if b.how != "" {
		return b.how
	}
	if why := never[page]; why != "" {
		return "never because " + why
	}
	for words, how := range instructions {
		if page == "README.md" && strings.HasPrefix(b.text(), words) {
			return how
		}
	}
	return "host1"
}

var howTo = regexp.MustCompile(`^host([12])( until "(.*)")?$`)

// TestCommands runs what the pages tell the reader to type.
func TestCommands(t *testing.T) {
	skipped := 0
	for _, p := range pages(t) {
		var blocks []block
		for _, b := range p.blocks {
			if b.language != "sh" && b.language != "console" {
				continue
			}
			if why, ok := strings.CutPrefix(b.instruction(p.name), "never because "); ok {
				skipped++
				t.Logf("not run: %s:%d %q: %s", p.name, b.line, b.lines[0], why)
				continue
			}
			blocks = append(blocks, b)
		}
		if len(blocks) == 0 {
			continue
		}
		t.Run(strings.ReplaceAll(p.name, "/", "_"), func(t *testing.T) {
			t.Parallel()
			prepare, ok := worlds[p.name]
			if !ok {
				t.Fatalf("this test does not know what %s presumes", p.name)
			}
			w := prepare(t)
			for _, b := range blocks {
				w.runBlock(t, p, b)
			}
		})
	}
	t.Logf("%d blocks are not run", skipped)
	if skipped > 12 {
		t.Errorf("%d blocks are not run; the pages should show what can be", skipped)
	}
}

func (w *world) runBlock(t *testing.T, p page, b block) {
	t.Helper()
	how := howTo.FindStringSubmatch(b.instruction(p.name))
	if how == nil {
		t.Fatalf("%s:%d: how is %q run?", p.name, b.line, b.instruction(p.name))
	}
	m := w.machines[how[1][0]-'1']
	switch {
	case how[3] != "":
		m.start(t, b.text(), how[3])
	case b.language == "sh":
		if out, err := m.run(t, b.text()); err != nil {
			t.Fatalf("%s:%d: %v\n%s\nprints\n%s", p.name, b.line, err, b.text(), out)
		}
	default:
		w.runConsole(t, m, p, b)
	}
	for _, m := range w.machines {
		// What is remembered does not count until hostgwd has written it anew.
		if m.docker {
			if _, err := m.run(t, "ip link show docker0 || ! hostgwd status -o json | grep -q '\"ready\": true'"); err == nil {
				continue
			}
			m.docker = false
		}
		m.dock(t)
	}
}

// runConsole runs the commands of a block, one after the other, and compares what
// they print.
func (w *world) runConsole(t *testing.T, m *machine, p page, b block) {
	t.Helper()
	for i := 0; i < len(b.lines); {
		command, ok := strings.CutPrefix(b.lines[i], "$ ")
		if !ok {
			t.Fatalf("%s:%d: a console begins with a command", p.name, b.line+i)
		}
		line := b.line + i
		for i++; strings.HasSuffix(command, "\\"); i++ {
			command = strings.TrimSuffix(command, "\\") + b.lines[i]
		}
		var want []string
		for ; i < len(b.lines) && !strings.HasPrefix(b.lines[i], "$ "); i++ {
			want = append(want, b.lines[i])
		}
		if strings.HasPrefix(command, "docker ") {
			t.Logf("not run: %s:%d %q: examples/workflow does the like", p.name, line, command)
			continue
		}
		out, err := m.run(t, command)
		got := strings.Split(strings.TrimRight(out, "\n"), "\n")
		if !alike(want, got) {
			t.Errorf("%s:%d: %s prints (%v)\n%s\nwant\n%s", p.name, line, command, err, out, strings.Join(want, "\n"))
		}
	}
}

// varying is what differs from one run to the next, with what stands for it.
var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.]+Z`), "TIME"},
	{regexp.MustCompile(`\b(\d+(\.\d+)?(d|h|ms|m|s|µs))+\b`), "DURATION"},
	{regexp.MustCompile(`\b(revision|process|_seconds) \d+(\.\d+)?(e[-+]\d+)?`), "$1 NUMBER"},
	{regexp.MustCompile(`"(revision|pid|secondsLeft|Instance)": ?[^,]*`), "$1 NUMBER"},
	{regexp.MustCompile(`time=[0-9.]+ ms`), "time"},
	{regexp.MustCompile(`\s+`), " "},
}

func plain(line string) string {
	for _, v := range varying {
		line = v.pattern.ReplaceAllString(line, v.with)
	}
	return strings.TrimSpace(line)
}

// alike reports whether got is what want shows. A line of three dots stands for
// any number of lines.
func alike(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0 || len(got) == 1 && got[0] == ""
	}
	if want[0] == "..." {
		for i := range len(got) + 1 {
			if len(want) == 1 || alike(want[1:], got[i:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && plain(want[0]) == plain(got[0]) && alike(want[1:], got[1:])
}

func TestAlike(t *testing.T) {
	for _, test := range []struct {
		want, got string
		alike     bool
	}{
		{"a 3s  b", "a 1m2s b", true},
		{"a 3s b", "a 3 b", false},
		{"a\n...\nd", "a\nb\nc\nd", true},
		{"a\n...\nd", "a\nd", true},
		{"a\n...\nd", "a\nb", false},
		{"a\n...", "a\nb", true},
		{"a", "a\nb", false},
		{"heard at revision 5, 0 outages", "heard at revision 17, 0 outages", true},
		{"heard at revision 5, 0 outages", "heard at revision 17, 1 outages", false},
		{"192.168.1.192/26", "192.168.1.128/26", false},
	} {
		if got := alike(strings.Split(test.want, "\n"), strings.Split(test.got, "\n")); got != test.alike {
			t.Errorf("%q and %q: %t", test.want, test.got, got)
		}
	}
}
