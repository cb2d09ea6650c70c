package subnet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Env is the content of a subnet.env file, which tells a container engine its
// subnet (docker's --bip and --mtu).
type Env struct {
	Network, IPv6Network netip.Prefix
	Subnet, IPv6Subnet   netip.Prefix // the subnet's first usable address with the subnet's length, e.g. 192.168.1.193/26
	MTU                  int
	IPMasq               bool
}

// The file's variables.
const (
	envNetwork     = "FLANNEL_NETWORK"
	envSubnet      = "FLANNEL_SUBNET"
	envMTU         = "FLANNEL_MTU"
	envIPMasq      = "FLANNEL_IPMASQ"
	envIPv6Network = "FLANNEL_IPV6_NETWORK"
	envIPv6Subnet  = "FLANNEL_IPV6_SUBNET"
)

// NewEnv returns the Env of a lease.
func NewEnv(c Config, k Key, mtu int, ipMasq bool) Env {
	e := Env{MTU: mtu, IPMasq: ipMasq}
	if k.IPv4.IsValid() {
		e.Network, e.Subnet = c.IPv4.Network, firstUsable(k.IPv4)
	}
	if k.IPv6.IsValid() {
		e.IPv6Network, e.IPv6Subnet = c.IPv6.Network, firstUsable(k.IPv6)
	}
	return e
}

func firstUsable(p netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(p.Masked().Addr().Next(), p.Bits())
}

// Key returns the subnets the file names, for [Request.Previous].
func (e Env) Key() Key { return Key{IPv4: e.Subnet.Masked(), IPv6: e.IPv6Subnet.Masked()} }

// ParseEnv reads a subnet.env: flannel's variables, one NAME=value a line, order
// and unknown names free, values in double quotes or not. As in a shell, the
// last of several lines with one name counts. There must be an MTU and at least
// one family, with network and subnet.
func ParseEnv(data []byte) (Env, error) {
	var e Env
	number := 0
	for line := range bytes.Lines(data) {
		number++
		if err := e.parseLine(strings.TrimSpace(string(line))); err != nil {
			return Env{}, fmt.Errorf("subnet file, line %d: %w", number, err)
		}
	}
	if err := e.check(); err != nil {
		return Env{}, err
	}
	return e, nil
}

func (e *Env) parseLine(line string) error {
	name, value, assigned := strings.Cut(line, "=")
	var err error
	var set func()
	word, _, _ := strings.Cut(strings.TrimSpace(name), " ")
	switch word {
	case envNetwork:
		set = func() { e.Network, err = netip.ParsePrefix(value) }
	case envIPv6Network:
		set = func() { e.IPv6Network, err = netip.ParsePrefix(value) }
	case envSubnet:
		set = func() { e.Subnet, err = netip.ParsePrefix(value) }
	case envIPv6Subnet:
		set = func() { e.IPv6Subnet, err = netip.ParsePrefix(value) }
	case envMTU:
		set = func() { e.MTU, err = strconv.Atoi(value) }
	case envIPMasq:
		set = func() {
			e.IPMasq = value == "true"
			if value != "true" && value != "false" {
				err = errors.New("must be true or false")
			}
		}
	default:
		return nil
	}
	if !assigned || name != word {
		return fmt.Errorf("%s must be NAME=value, without spaces", shown(strconv.Quote(line)))
	}
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	if set(); err != nil {
		return fmt.Errorf("%s is %s: %w", name, shown(strconv.Quote(value)), err)
	}
	return nil
}

// check reports what a subnet.env must not say, or not leave out.
func (e Env) check() error {
	if e.Subnet == (netip.Prefix{}) && e.IPv6Subnet == (netip.Prefix{}) {
		return fmt.Errorf("subnet file: %s or %s must be set to an address and a prefix length", envSubnet, envIPv6Subnet)
	}
	for _, pair := range []struct {
		family family
		vars   [2]string
		values [2]netip.Prefix
	}{
		{ipv4(), [2]string{envNetwork, envSubnet}, [2]netip.Prefix{e.Network, e.Subnet}},
		{ipv6(), [2]string{envIPv6Network, envIPv6Subnet}, [2]netip.Prefix{e.IPv6Network, e.IPv6Subnet}},
	} {
		for i, p := range pair.values {
			name, other := pair.vars[i], 1-i
			switch {
			case p == netip.Prefix{} && pair.values[other] == netip.Prefix{}:
			case p == netip.Prefix{}:
				return fmt.Errorf("subnet file: %s is missing, but %s is there", name, pair.vars[other])
			case !p.IsValid() || !pair.family.owns(p.Addr()):
				return fmt.Errorf("subnet file: %s is %s, but must be an %s address and a prefix length", name, p, pair.family.name)
			}
		}
	}
	if e.MTU <= 0 {
		return fmt.Errorf("subnet file: %s must be set to a number above zero, not %d", envMTU, e.MTU)
	}
	return nil
}

// MarshalText writes e as flannel does: FLANNEL_NETWORK, FLANNEL_SUBNET,
// FLANNEL_MTU, FLANNEL_IPMASQ, then FLANNEL_IPV6_NETWORK and
// FLANNEL_IPV6_SUBNET if there are any.
func (e Env) MarshalText() ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if e.Subnet.IsValid() {
		fmt.Fprintf(&b, "%s=%s\n%s=%s\n", envNetwork, e.Network, envSubnet, e.Subnet)
	}
	fmt.Fprintf(&b, "%s=%d\n%s=%t\n", envMTU, e.MTU, envIPMasq, e.IPMasq)
	if e.IPv6Subnet.IsValid() {
		fmt.Fprintf(&b, "%s=%s\n%s=%s\n", envIPv6Network, e.IPv6Network, envIPv6Subnet, e.IPv6Subnet)
	}
	return b.Bytes(), nil
}

// envMaxSize is more than any subnet.env has, and little enough to read blindly.
const envMaxSize = 64 << 10

// ReadEnv reads the file at path. A missing file is fs.ErrNotExist.
func ReadEnv(path string) (Env, error) {
	data, err := readEnvFile(path)
	if err != nil {
		return Env{}, err
	}
	e, err := ParseEnv(data)
	if err != nil {
		return Env{}, fmt.Errorf("read %s: %w", path, err)
	}
	return e, nil
}

func readEnvFile(path string) ([]byte, error) {
	info, err := os.Stat(path) // before opening, which blocks on a named pipe
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("read %s: must be a regular file, is %s", path, fileKind(info.Mode()))
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, envMaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(data) > envMaxSize {
		return nil, fmt.Errorf("read %s: must be at most %d bytes", path, envMaxSize)
	}
	return data, nil
}

func fileKind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	}
	return "a device or a socket"
}

// WriteEnv writes the file at path, mode 0644, atomically: a reader sees the
// old file or the new one, whole, also after a power cut. Missing directories
// are made. A file that already says the same is left untouched.
func WriteEnv(path string, e Env) error {
	text, err := e.MarshalText()
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err == nil && info.Mode() == 0o644 { // regular, and readable by all
		if old, err := readEnvFile(path); err == nil && bytes.Equal(old, text) {
			return nil
		}
	}
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// replaceFile writes beside path and renames: the data is on disk before it gets
// its name, and the name is before replaceFile returns.
func replaceFile(path string, data []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close does nothing
			os.Remove(f.Name())
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
