package workflow

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/hostgw/hostgw/examples/internal/netns"
	"github.com/hostgw/hostgw/subnet"
)

// cniTools are the programs that the workflow with CNI takes.
var cniTools = map[string]string{
	"bridge":     "containernetworking-plugins",
	"host-local": "containernetworking-plugins",
}

// cniDirs are where CNI plugins are: Debian's directory, and the one that the
// container engines' own packages use.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin"}

// The config of the bridge and host-local plugins, as far as it is used here.
type (
	cniConfig struct {
		CNIVersion       string  `json:"cniVersion"`
		Name             string  `json:"name"`
		Type             string  `json:"type"`
		Bridge           string  `json:"bridge"`
		IsDefaultGateway bool    `json:"isDefaultGateway"`
		HairpinMode      bool    `json:"hairpinMode"`
		IPMasq           bool    `json:"ipMasq"`
		MTU              int     `json:"mtu"`
		IPAM             cniIPAM `json:"ipam"`
	}
	cniIPAM struct {
		Type    string       `json:"type"`
		DataDir string       `json:"dataDir"`
		Ranges  [][]cniRange `json:"ranges"`
		Routes  []cniRoute   `json:"routes"`
	}
	cniRange struct {
		Subnet netip.Prefix `json:"subnet"`
	}
	cniRoute struct {
		Dst netip.Prefix `json:"dst"`
	}
)

// cniConfigOf is what the flannel plugin makes of a subnet.env for the plugins
// that it delegates to, with hairpinMode and isDefaultGateway from the config
// that is usual with it.
func cniConfigOf(env subnet.Env, dataDir string) cniConfig {
	c := cniConfig{
		CNIVersion: "0.4.0", Name: "cbr0", Type: "bridge", Bridge: "cni0",
		HairpinMode: true, IsDefaultGateway: true,
		IPMasq: !env.IPMasq, // one of the two translates, and never both
		MTU:    env.MTU,
		IPAM:   cniIPAM{Type: "host-local", DataDir: dataDir},
	}
	for _, p := range []struct{ network, subnet netip.Prefix }{{env.Network, env.Subnet}, {env.IPv6Network, env.IPv6Subnet}} {
		if p.subnet.IsValid() {
			c.IPAM.Ranges = append(c.IPAM.Ranges, []cniRange{{p.subnet.Masked()}})
			c.IPAM.Routes = append(c.IPAM.Routes, cniRoute{p.network})
		}
	}
	return c
}

// cniResult is what the plugins answer to ADD.
type cniResult struct {
	IPs []struct {
		Address netip.Prefix `json:"address"`
		Gateway netip.Addr   `json:"gateway"`
	} `json:"ips"`
}

// cni calls the plugin of a config on a host, as a container engine does, about
// the interface eth0 of a container. command is ADD or DEL; only the first has a
// result.
func cni(ctx context.Context, host *netns.Namespace, command string, container *netns.Namespace, c cniConfig) (cniResult, error) {
	result, err := callPlugin(ctx, host, command, container, c)
	if err != nil {
		err = fmt.Errorf("CNI plugin %s, %s of %s on %s: %w", c.Type, command, container.Name, host.Name, err)
	}
	return result, err
}

func callPlugin(ctx context.Context, host *netns.Namespace, command string, container *netns.Namespace, c cniConfig) (cniResult, error) {
	var result cniResult
	path, err := findTool(c.Type, cniDirs)
	if err != nil {
		return result, err
	}
	config, err := json.Marshal(c)
	if err != nil {
		return result, err
	}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = []string{
		"PATH=" + searchPath,
		"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + container.Name, "CNI_IFNAME=eth0",
		"CNI_NETNS=" + container.Path(), "CNI_PATH=" + strings.Join(cniDirs, ":"),
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(config), &stdout, &stderr
	if err = host.Start(cmd); err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return result, fmt.Errorf("%w: %s%s", err, &stdout, &stderr)
	}
	if command != "ADD" {
		return result, nil
	}
	return result, json.Unmarshal(stdout.Bytes(), &result)
}
