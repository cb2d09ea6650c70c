package filter

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
)

// forwarding makes sure that the kernel forwards the family's packets, or says
// why it does not. It reports whether it switched forwarding on.
func (c Config) forwarding(f family) (problem *ForwardingError, changed bool) {
	setting := f.forwardSetting()
	value, err := readSetting(setting)
	if err != nil {
		return &ForwardingError{Setting: setting, Err: err}, false
	}
	if value != "0" {
		return nil, false
	}
	if !c.Forward {
		return &ForwardingError{Setting: setting}, false
	}
	if f.id == nftables.TableFamilyIPv6 {
		if err := keepAdvertised(c.Uplink); err != nil {
			return &ForwardingError{Setting: setting, Err: err}, false
		}
	}
	if err := writeSetting(setting, "1"); err != nil {
		return &ForwardingError{Setting: setting, Err: err}, false
	}
	return nil, true
}

// forwardSetting returns the setting that switches the family's forwarding on,
// as sysctl spells it.
func (f family) forwardSetting() string {
	if f.id == nftables.TableFamilyIPv6 {
		return "net.ipv6.conf.all.forwarding"
	}
	return "net.ipv4.ip_forward"
}

// keepAdvertised makes a host that is about to forward go on listening to the
// router advertisements that it depends on: 2 is 1 on a host that forwards.
func keepAdvertised(uplink string) error {
	names, err := advertisedDefaults()
	if err != nil {
		return err
	}
	if uplink != "" && !slices.Contains(names, uplink) {
		names = append(names, uplink)
	}
	for _, name := range names {
		setting := "net.ipv6.conf." + strings.ReplaceAll(name, ".", "/") + ".accept_ra"
		value, err := readSetting(setting)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the interface has gone
		}
		if err != nil {
			return err
		}
		if value == "1" {
			if err := writeSetting(setting, "2"); err != nil {
				return err
			}
		}
	}
	return nil
}

// advertisedDefaults returns the interfaces through which a default route leads
// that a router advertisement brought.
func advertisedDefaults() ([]string, error) {
	const path = "/proc/net/ipv6_route"
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// A line is destination, its prefix length, source, its prefix length, next
	// hop, metric, reference count, use, flags, all hexadecimal, and the
	// interface. The flags are RTF_DEFAULT and RTF_ADDRCONF of
	// linux/ipv6_route.h, which stand for a router that advertised itself.
	const advertised = 0x00010000 | 0x00040000
	var names []string
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		f := strings.Fields(lines.Text())
		if len(f) < 10 || f[1] != "00" {
			continue
		}
		flags, err := strconv.ParseUint(f[8], 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%s: flags %q: %w", path, f[8], err)
		}
		if flags&advertised == advertised && !slices.Contains(names, f[9]) {
			names = append(names, f[9])
		}
	}
	return names, nil
}

// settingPath returns where a setting spelled as for sysctl is: a slash in it
// stands for a dot in an interface's name.
func settingPath(setting string) string {
	swap := strings.NewReplacer(".", "/", "/", ".")
	return filepath.Join("/proc/sys", swap.Replace(setting))
}

func readSetting(setting string) (string, error) {
	b, err := os.ReadFile(settingPath(setting))
	return strings.TrimSpace(string(b)), err
}

func writeSetting(setting, value string) error {
	return os.WriteFile(settingPath(setting), []byte(value), 0)
}
