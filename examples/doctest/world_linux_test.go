package doctest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hostgw/hostgw/examples/internal/daemon"
	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

// patience is how long anything may take.
const patience = 30 * time.Second

// bin holds hostgwd and the stand-ins; TestMain makes it.
var bin string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	if os.Getuid() != 0 {
		return m.Run() // what needs root skips
	}
	dir, err := os.MkdirTemp("", "hostgw-doctest-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.CopyFS(dir, os.DirFS("testdata/bin"))
	}
	var log bytes.Buffer
	if err == nil {
		_, err = daemon.Build(context.Background(), dir, &log)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, &log)
		return 1
	}
	bin = dir
	return m.Run()
}

// etcdURL is where the etcd of a world listens, if it has one: on the segment's
// router.
const etcdURL = "http://172.17.42.1:2379"

// world is what the commands of one page run in.
type world struct {
	*netns.Segment
	machines []*machine
	etcdctl  string // what ETCDCTL_ENDPOINTS is on all machines
}

// machine is a host with files, processes and a name of its own, in namespaces
// besides that of its network.
type machine struct {
	*netns.Host
	world  *world
	init   *exec.Cmd
	docker bool // docker0 is there
}

// newWorld makes two machines on a segment; with etcd also that, empty. It ends
// with the test.
func newWorld(t *testing.T, etcd bool) *world {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes namespaces")
	}
	for _, tool := range []string{"etcd", "etcdctl", "ip", "ping", "iptables", "nft", "curl", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("HOSTGW_REQUIRE_TOOLS") != "" {
				t.Fatalf("HOSTGW_REQUIRE_TOOLS is set, but: %v", err)
			}
			t.Skipf("needs %s (Debian: apt-get install etcd-server etcd-client iproute2 iputils-ping iptables nftables curl)", tool)
		}
	}
	segment, err := netns.NewSegment(2, netns.SegmentOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := segment.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Segment: segment, etcdctl: etcdURL}
	for i, h := range segment.Hosts {
		w.machines = append(w.machines, w.newMachine(t, h, fmt.Sprintf("host%d", i+1)))
	}
	if etcd {
		w.startEtcd(t)
	} else {
		w.etcdctl = fmt.Sprintf("http://%s:2379", w.machines[0].IPv4)
	}
	return w
}

// boot gives a machine the places that commands write to, with what the package
// puts there, and stays as the process that the others live below.
const boot = `set -e
mount --make-rprivate /
mount -t proc proc /proc
layer=$1; shift
mount -t tmpfs tmpfs "$layer"
mkdir "$layer"/upper "$layer"/work
mount -t overlay overlay -o lowerdir=/etc,upperdir="$layer"/upper,workdir="$layer"/work /etc
mkdir -p /etc/iproute2/rt_protos.d
cp "$2" /etc/iproute2/rt_protos.d
for d in /run /root /var/log /var/lib; do mount -t tmpfs tmpfs $d; done
hostname "$1"
echo up
while :; do sleep 3600 & wait; done`

func (w *world) newMachine(t *testing.T, h *netns.Host, name string) *machine {
	t.Helper()
	m := &machine{Host: h, world: w}
	m.init = exec.Command("bash", "-c", boot, "init", t.TempDir(), name, filepath.Join(root, "packaging/rt_protos.d/hostgw.conf"))
	m.init.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS}
	m.init.Stderr = os.Stderr
	out, err := m.init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(m.init); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = m.init.Process.Kill() // and with it all its processes
		_ = m.init.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "up\n" {
		t.Fatalf("%s does not come up: %q, %v", name, line, err)
	}
	return m
}

// command is a script on the machine, not started yet.
func (m *machine) command(script string) *exec.Cmd {
	c := exec.Command("nsenter", "-t", fmt.Sprint(m.init.Process.Pid), "-m", "-p", "-u", "-n", "--", "bash", "-ec", script)
	c.Env = []string{
		"PATH=" + bin + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "LANG=C.UTF-8", "ETCDCTL_API=3", "ETCDCTL_ENDPOINTS=" + m.world.etcdctl,
	}
	// It ends with init, and needs no signal for the death of a parent: that would
	// be the death of a thread, which Go may choose at any moment.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return c
}

// run runs a script on the machine and returns what it prints.
func (m *machine) run(t *testing.T, script string) (string, error) {
	t.Helper()
	c := m.command(script)
	// A file and not a pipe: what the script leaves running may hold it.
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { _ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	err = c.Wait()
	text, readErr := os.ReadFile(out.Name())
	if readErr != nil {
		t.Fatal(readErr)
	}
	return string(text), err
}

// must runs what prepares a world.
func (m *machine) must(t *testing.T, script string) {
	t.Helper()
	if out, err := m.run(t, script); err != nil {
		t.Fatalf("%s: %v\n%s\n%s", m.Name, err, script, out)
	}
}

// start starts a script that goes on, and waits until it has printed text.
func (m *machine) start(t *testing.T, script, text string) {
	t.Helper()
	out := &printed{text: text, seen: make(chan struct{})}
	c := m.command(script)
	c.Stdout, c.Stderr = out, out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL)
		_ = m.init.Process.Kill() // for what has left the group
		<-ended
	})
	var why string
	select {
	case <-out.seen:
		return
	case <-ended:
		why = "it ends"
	case <-time.After(patience):
		why = "it goes on"
	}
	t.Fatalf("%s never prints %q, and %s:\n%s\n%s", m.Name, text, why, script, out)
}

// printed is what a process prints.
type printed struct {
	text string
	seen chan struct{}

	mu  sync.Mutex
	all bytes.Buffer
	was bool
}

func (p *printed) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all.Write(b)
	if !p.was && strings.Contains(p.all.String(), p.text) {
		p.was = true
		close(p.seen)
	}
	return len(b), nil
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all.String()
}

// dock gives the machine what Docker would make of its subnet.env: docker0 and a
// container.
func (m *machine) dock(t *testing.T) {
	t.Helper()
	if m.docker {
		return
	}
	text, err := m.run(t, "cat /run/flannel/subnet.env")
	if err != nil {
		return // there is none yet
	}
	env, err := subnet.ParseEnv([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.AddContainer(env); err != nil {
		t.Fatal(err)
	}
	m.docker = true
}

// startEtcd starts Debian's etcd on the segment's router.
func (w *world) startEtcd(t *testing.T) {
	t.Helper()
	log := &printed{seen: make(chan struct{})}
	c := exec.Command("etcd", "--data-dir", t.TempDir(), "--listen-client-urls", etcdURL, "--advertise-client-urls", etcdURL,
		"--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync")
	c.Stdout, c.Stderr = log, log
	if err := w.Bridge.Start(c); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	deadline := time.Now().Add(patience)
	for {
		if _, err := w.machines[0].run(t, "curl -fs "+etcdURL+"/health"); err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("etcd does not answer, and says:\n%s", log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
