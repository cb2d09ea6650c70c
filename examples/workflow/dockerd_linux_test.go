package workflow

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hostgw/hostgw/examples/internal/netns"
)

// dockerTools are the programs that Docker's workflow takes.
var dockerTools = map[string]string{
	"dockerd":    "docker.io",
	"docker":     "docker.io",
	"containerd": "containerd",
	"runc":       "runc",
	"busybox":    "busybox-static",
	"iptables":   "iptables",
}

// How dockerd is started once subnet.env is there: in the workflow, and with what
// the workflow switches off left on.
const (
	dockerdWorkflow = dockerdIPTables + " --iptables=false --ip-masq=false"
	dockerdIPTables = "dockerd --bip=${FLANNEL_SUBNET} --mtu=${FLANNEL_MTU}"
)

// image is the name of the one image there is: a static busybox.
const image = "busybox"

// docker is a dockerd on a host.
type docker struct {
	machine *machine
	host    string
	client  string   // path of the docker command
	env     []string // for it
}

// dockerOptions say how a dockerd is started.
type dockerOptions struct {
	subnetFile string // subnet.env
	command    string // for a shell that has read it; further flags are added to it
	path       string // directories where dockerd looks for programs before searchPath
	dir        string // exists, with a short name: sockets are below. Removed with the dockerd, but for its log
}

// startDocker starts a dockerd on a host, and waits until it serves and has the
// image. Stop it; if this process dies, it stops by itself.
func startDocker(ctx context.Context, host *netns.Namespace, o dockerOptions) (*docker, error) {
	d, err := launchDocker(host, o)
	if err != nil {
		return nil, fmt.Errorf("starting dockerd on %s: %w", host.Name, err)
	}
	if err = d.ready(ctx, filepath.Join(o.dir, "docker.sock")); err == nil {
		err = d.importImage(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting dockerd on %s: %w; it says:\n%s", host.Name, err, d.machine.says()), d.machine.stop())
	}
	return d, nil
}

func launchDocker(host *netns.Namespace, o dockerOptions) (*docker, error) {
	path := searchPath
	if o.path != "" {
		path = o.path + ":" + path
	}
	client, err := findTool("docker", filepath.SplitList(searchPath))
	if err != nil {
		return nil, err
	}
	cgroup := machineCgroup(os.Getpid(), host.Name)
	m, err := startMachine(host, machineOptions{
		dir:    o.dir,
		log:    o.dir + ".log",
		cgroup: cgroup,
		command: []string{"/bin/sh", "-c", `. "$0" && exec ` + o.command + ` "$@"`, o.subnetFile,
			"--host=unix://" + filepath.Join(o.dir, "docker.sock"),
			"--data-root=" + filepath.Join(o.dir, "data"),
			"--exec-root=/run/docker", // the machine's own: the sockets of containerd are there
			"--pidfile=/run/docker.pid",
			"--storage-driver=vfs", // works on every file system
			"--log-level=warn",
			"--exec-opt=native.cgroupdriver=cgroupfs", // no systemd is asked to make them
			"--cgroup-parent=/" + cgroup,
		},
		env: []string{"PATH=" + path, "HOME=" + o.dir},
	})
	if err != nil {
		return nil, err
	}
	return &docker{machine: m, host: host.Name, client: client, env: []string{
		"PATH=" + searchPath, "HOME=" + o.dir, "DOCKER_HOST=unix://" + filepath.Join(o.dir, "docker.sock"),
	}}, nil
}

// ready waits until dockerd takes connections.
func (d *docker) ready(ctx context.Context, socket string) error {
	for {
		c, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return c.Close()
		}
		select {
		case <-d.machine.done:
			return errors.New("it ended")
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// importImage gives dockerd its image, as tar … | docker import - does.
func (d *docker) importImage(ctx context.Context) error {
	path, err := findTool("busybox", filepath.SplitList(searchPath))
	if err != nil {
		return err
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	err = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(busybox))})
	if err == nil {
		_, err = w.Write(busybox)
	}
	for _, applet := range []string{"ip", "nc", "ping", "sh", "sleep", "traceroute"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}))
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	_, err = d.command(ctx, &archive, "import", "-", image)
	return err
}

// do runs a docker command and returns what it prints.
func (d *docker) do(ctx context.Context, args ...string) (string, error) {
	return d.command(ctx, nil, args...)
}

func (d *docker) command(ctx context.Context, stdin *bytes.Buffer, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.client, args...)
	cmd.Env = d.env
	if stdin != nil {
		cmd.Stdin = stdin
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s$ docker %s: %w:\n%s", d.host, strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// run starts a container on Docker's bridge and returns its address.
func (d *docker) run(ctx context.Context, name string) (netip.Addr, error) {
	// A first process that has not asked for SIGTERM does not get it: without
	// another signal, docker stop takes ten seconds.
	if _, err := d.do(ctx, "run", "--detach", "--net=bridge", "--name="+name, "--stop-signal=KILL", image, "/bin/sleep", "3600"); err != nil {
		return netip.Addr{}, err
	}
	out, err := d.do(ctx, "inspect", "--format={{.NetworkSettings.Networks.bridge.IPAddress}}", name)
	if err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(strings.TrimSpace(out))
	if err != nil {
		return a, fmt.Errorf("the address of container %s on %s: %w", name, d.host, err)
	}
	return a, nil
}
