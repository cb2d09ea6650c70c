package workflow

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// A test that is killed, or whose process panics, must leave neither a dockerd
// nor anything of it: no process, no file, no mount, no cgroup.
func TestDockerAbandoned(t *testing.T) {
	needRoot(t)
	needTools(t, filepath.SplitList(searchPath), dockerTools)
	dir := shortDir(t)

	// Whatever is started from here holds the other end of this pipe.
	held, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", abandonArgument, dir)
	cmd.ExtraFiles = []*os.File{hold}
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	err = cmd.Start()
	hold.Close()
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Errorf("no container was started: %v, %q", err, line)
	}
	cgroup := machineCgroup(cmd.Process.Pid, "host1")
	mounted, err := cgroupsMounted() // else the dockerd has those that only it sees
	if err != nil {
		t.Error(err)
	}
	if mounted && len(cgroups(cgroup)) == 0 {
		t.Errorf("there is no cgroup %s to leave behind", cgroup)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed

	if err := held.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(held); err != nil {
		t.Fatalf("processes are left: %v", err)
	}
	if left := cgroups(cgroup); len(left) > 0 {
		t.Errorf("cgroups are left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "docker")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dockerd's directory is left: %v", err)
	}
}

// abandon starts a dockerd and a container and does nothing more, until it is
// killed.
func abandon(args []string) int {
	dir := args[0]
	if err := dockerAlone(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("running")
	select {}
}

func dockerAlone(dir string) error {
	segment, err := netns.NewSegment(1, netns.SegmentOptions{})
	if err != nil {
		return err
	}
	o := dockerOptions{command: dockerdWorkflow, dir: filepath.Join(dir, "docker"), subnetFile: filepath.Join(dir, "subnet.env")}
	if err := os.Mkdir(o.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(o.subnetFile, []byte("FLANNEL_SUBNET=192.168.1.193/26\nFLANNEL_MTU=1500\n"), 0o600); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := startDocker(ctx, segment.Hosts[0].Namespace, o)
	if err != nil {
		return err
	}
	_, err = d.run(ctx, "web")
	return err
}
