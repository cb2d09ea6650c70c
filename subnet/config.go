package subnet

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// BackendType is the one flannel backend that hostgw is.
const BackendType = "host-gw"

// Config is the network that all hosts share. Stores keep it as flannel's JSON.
type Config struct {
	IPv4, IPv6 Range // at least one is switched on
}

// ConfigError says which field of a config breaks which rule.
type ConfigError struct {
	Field string // as spelled in the JSON, e.g. "SubnetLen"; "" if the text is not JSON at all
	Value string // what stands there, as in the JSON if it could not be read; "" if nothing does
	Rule  string // what must hold, as a sentence fragment: "must be at most 30"
	Err   error  // the decoder's error, if that is what broke
}

func (e *ConfigError) Error() string {
	var b strings.Builder
	b.WriteString("network config")
	switch {
	case e.Field == "":
	case e.Value == "":
		fmt.Fprintf(&b, ": %s is missing, it", e.Field)
	default:
		fmt.Fprintf(&b, ": %s is %s, it", e.Field, shown(e.Value))
	}
	b.WriteString(" " + e.Rule)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

func (e *ConfigError) Unwrap() error { return e.Err }

// ParseConfig reads flannel's JSON, fills in its defaults and checks its rules.
// Every error is a *ConfigError.
//
// The fields are Network, SubnetLen, SubnetMin, SubnetMax, EnableIPv4 (true
// unless said otherwise), EnableIPv6 (false), IPv6Network, IPv6SubnetLen,
// IPv6SubnetMin, IPv6SubnetMax and Backend.Type, which must be host-gw. Others
// are ignored, and so is what a family says that is switched off, as long as it
// can be read. Host bits in a network are masked off, as in flannel.
func ParseConfig(data []byte) (Config, error) {
	// Raw fields, so that each error can name its own.
	var raw struct {
		EnableIPv4, EnableIPv6       json.RawMessage
		Network, IPv6Network         json.RawMessage
		SubnetLen, IPv6SubnetLen     json.RawMessage
		SubnetMin, SubnetMax         json.RawMessage
		IPv6SubnetMin, IPv6SubnetMax json.RawMessage
		Backend                      json.RawMessage
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return Config{}, &ConfigError{Rule: "must be a JSON object", Err: err}
	}
	if err := checkBackend(raw.Backend); err != nil {
		return Config{}, err
	}
	on4, on6 := true, false
	if err := decode("EnableIPv4", raw.EnableIPv4, &on4, "must be true or false"); err != nil {
		return Config{}, err
	}
	if err := decode("EnableIPv6", raw.EnableIPv6, &on6, "must be true or false"); err != nil {
		return Config{}, err
	}
	var c Config
	var err error
	if c.IPv4, err = ipv4().parse(on4, raw.Network, raw.SubnetLen, raw.SubnetMin, raw.SubnetMax); err != nil {
		return Config{}, err
	}
	if c.IPv6, err = ipv6().parse(on6, raw.IPv6Network, raw.IPv6SubnetLen, raw.IPv6SubnetMin, raw.IPv6SubnetMax); err != nil {
		return Config{}, err
	}
	return c.Complete()
}

// Complete returns c with flannel's defaults filled in for what is zero
// (SubnetLen, Min, Max) and the networks masked, or a *ConfigError if a rule is
// broken.
func (c Config) Complete() (Config, error) {
	var err error
	if c.IPv4, err = ipv4().complete(c.IPv4); err != nil {
		return Config{}, err
	}
	if c.IPv6, err = ipv6().complete(c.IPv6); err != nil {
		return Config{}, err
	}
	if err := c.someFamily(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// someFamily returns an error if c has neither family.
func (c Config) someFamily() error {
	if c.IPv4.IsValid() || c.IPv6.IsValid() {
		return nil
	}
	return &ConfigError{Field: "EnableIPv4", Value: "false", Rule: "must be true if EnableIPv6 is not: a network needs a family"}
}

// MarshalJSON writes c, completed, as flannel's JSON, readable by ParseConfig
// and by flanneld.
func (c Config) MarshalJSON() ([]byte, error) {
	c, err := c.Complete()
	if err != nil {
		return nil, err
	}
	var out struct {
		EnableIPv4    *bool        `json:",omitempty"`
		Network       netip.Prefix `json:",omitzero"`
		SubnetLen     int          `json:",omitzero"`
		SubnetMin     netip.Addr   `json:",omitzero"`
		SubnetMax     netip.Addr   `json:",omitzero"`
		EnableIPv6    bool         `json:",omitzero"`
		IPv6Network   netip.Prefix `json:",omitzero"`
		IPv6SubnetLen int          `json:",omitzero"`
		IPv6SubnetMin netip.Addr   `json:",omitzero"`
		IPv6SubnetMax netip.Addr   `json:",omitzero"`
		Backend       struct{ Type string }
	}
	if !c.IPv4.IsValid() {
		out.EnableIPv4 = new(bool)
	}
	out.Network, out.SubnetLen, out.SubnetMin, out.SubnetMax = c.IPv4.Network, c.IPv4.SubnetLen, c.IPv4.Min, c.IPv4.Max
	out.EnableIPv6 = c.IPv6.IsValid()
	out.IPv6Network, out.IPv6SubnetLen, out.IPv6SubnetMin, out.IPv6SubnetMax = c.IPv6.Network, c.IPv6.SubnetLen, c.IPv6.Min, c.IPv6.Max
	out.Backend.Type = BackendType
	return json.Marshal(out)
}

// Fits reports whether k names exactly one leasable subnet for each family that
// is switched on, and none for one that is not.
func (c Config) Fits(k Key) bool {
	fits := func(r Range, p netip.Prefix) bool {
		if !r.IsValid() {
			return p == netip.Prefix{}
		}
		return r.Fits(p)
	}
	return k != Key{} && fits(c.IPv4, k.IPv4) && fits(c.IPv6, k.IPv6)
}

// Paired reports whether the subnets of k have the same place in the ranges of
// both families, or k is of one family only. Two different keys that are both
// paired have no address in common, so that whoever creates one needs to look at
// no other.
func (c Config) Paired(k Key) bool {
	if !k.IPv4.IsValid() || !k.IPv6.IsValid() {
		return true
	}
	if !c.Fits(k) {
		return false
	}
	s4, _ := c.IPv4.span(k.IPv4)
	s6, _ := c.IPv6.span(k.IPv6)
	return s4 == s6
}

// Networks returns the networks of the families that are switched on, IPv4 first.
func (c Config) Networks() []netip.Prefix {
	var ns []netip.Prefix
	for _, r := range [...]Range{c.IPv4, c.IPv6} {
		if r.IsValid() {
			ns = append(ns, r.Network)
		}
	}
	return ns
}

func checkBackend(raw json.RawMessage) error {
	var backend struct{ Type json.RawMessage }
	if err := decode("Backend", raw, &backend, "must be an object"); err != nil {
		return err
	}
	const rule = `must be "host-gw"`
	var name string
	if err := decode("Backend.Type", backend.Type, &name, rule); err != nil {
		return err
	}
	switch {
	case name == "":
		return &ConfigError{Field: "Backend.Type", Rule: rule + " (flannel's default is udp)"}
	case !strings.EqualFold(name, BackendType): // flannel ignores case too
		return &ConfigError{Field: "Backend.Type", Value: name, Rule: rule}
	}
	return nil
}

// decode reads a field into v, and leaves v alone if the field is absent or null.
func decode(field string, raw json.RawMessage, v any, rule string) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return &ConfigError{Field: field, Value: string(raw), Rule: rule, Err: err}
	}
	return nil
}

// minSplit is how much longer subnets are than their network, at least: so that
// it holds four.
const minSplit = 2

// family is what the rules of a Range depend on.
type family struct {
	name     string // "IPv4"
	prefix   string // of the family's field names
	bits     int    // of an address
	widest   int    // shortest prefix of a network
	usualLen int    // length of a subnet by default, where the network holds four of them
	example  string // of a network
	reserved []reserved
}

// reserved is a block that no network may touch: a route to some of it would
// cut the host off from itself or from its neighbours.
type reserved struct {
	block netip.Prefix
	what  string
}

// The widest networks are the widest that are private: 10.0.0.0/8 and all of
// fc00::/7. Wider ones, up to 0.0.0.0/0, are slips that would let leases
// redirect traffic which is not the containers'.
func ipv4() family {
	return family{name: "IPv4", bits: 32, widest: 8, usualLen: 24, example: "10.5.0.0/16", reserved: []reserved{
		{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"},
		{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
		{netip.MustParsePrefix("169.254.0.0/16"), "link-local"},
		{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
		{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	}}
}

func ipv6() family {
	return family{name: "IPv6", prefix: "IPv6", bits: 128, widest: 7, usualLen: 64, example: "fd99::/48", reserved: []reserved{
		{netip.MustParsePrefix("::/8"), "unspecified, loopback and IPv4-embedding"},
		{netip.MustParsePrefix("fe80::/10"), "link-local"},
		{netip.MustParsePrefix("ff00::/8"), "multicast"},
	}}
}

// owns reports whether a is a plain address of the family.
func (f family) owns(a netip.Addr) bool {
	return a.BitLen() == f.bits && !a.Is4In6() && a.Zone() == ""
}

// broken is the error about one of the family's fields.
func (f family) broken(field, value, rule string, args ...any) error {
	return &ConfigError{Field: f.prefix + field, Value: value, Rule: fmt.Sprintf(rule, args...)}
}

// parse reads a family's fields.
func (f family) parse(on bool, network, subnetLen, subnetMin, subnetMax json.RawMessage) (Range, error) {
	var r Range
	var text string
	if err := decode(f.prefix+"Network", network, &text, "must be a string"); err != nil {
		return Range{}, err
	}
	var err error
	if present(network) {
		if r.Network, err = netip.ParsePrefix(text); err != nil {
			return Range{}, &ConfigError{Field: f.prefix + "Network", Value: string(network), Rule: "must be an " + f.name + " network such as " + f.example, Err: err}
		}
	}
	var length uint64
	if err := decode(f.prefix+"SubnetLen", subnetLen, &length, "must be a whole number"); err != nil {
		return Range{}, err
	}
	if length > uint64(f.bits) {
		return Range{}, f.broken("SubnetLen", strconv.FormatUint(length, 10), "must be at most %d", f.bits-2)
	}
	r.SubnetLen = int(length)
	if r.Min, err = f.parseAddr("SubnetMin", subnetMin); err != nil {
		return Range{}, err
	}
	if r.Max, err = f.parseAddr("SubnetMax", subnetMax); err != nil {
		return Range{}, err
	}
	if !on {
		return Range{}, nil
	}
	if !present(network) {
		return Range{}, f.broken("Network", "", "must be set while Enable%s is true", f.name)
	}
	return r, nil
}

// parseAddr reads an address field. The unspecified address is an absent one, as
// in flannel.
func (f family) parseAddr(field string, raw json.RawMessage) (netip.Addr, error) {
	var text string
	if err := decode(f.prefix+field, raw, &text, "must be a string"); err != nil || !present(raw) {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}, &ConfigError{Field: f.prefix + field, Value: string(raw), Rule: "must be an " + f.name + " address", Err: err}
	}
	if f.owns(a) && a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return a, nil
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// complete fills in the defaults of a Range and checks the rules.
func (f family) complete(r Range) (Range, error) {
	if r == (Range{}) {
		return r, nil
	}
	n, narrowest, longest := r.Network.Masked(), f.bits-4, f.bits-2
	switch {
	case r.Network == netip.Prefix{}:
		return Range{}, f.broken("Network", "", "must be set if another field of %s is", f.name)
	case !n.IsValid() || !f.owns(n.Addr()):
		return Range{}, f.broken("Network", r.Network.String(), "must be an %s network such as %s, and not IPv4-mapped", f.name, f.example)
	case n.Bits() < f.widest:
		return Range{}, f.broken("Network", n.String(), "must be a /%d or narrower: a wider one would redirect traffic that is not the containers'", f.widest)
	case n.Bits() > narrowest:
		return Range{}, f.broken("Network", n.String(), "must be a /%d or wider, so that four subnets fit", narrowest)
	}
	for _, b := range f.reserved {
		if n.Overlaps(b.block) {
			return Range{}, f.broken("Network", n.String(), "must not overlap the %s addresses %s", b.what, b.block)
		}
	}
	r.Network = n

	if r.SubnetLen == 0 {
		r.SubnetLen = max(f.usualLen, n.Bits()+minSplit)
	}
	length := strconv.Itoa(r.SubnetLen)
	switch {
	case r.SubnetLen > longest:
		return Range{}, f.broken("SubnetLen", length, "must be at most %d", longest)
	case r.SubnetLen < n.Bits()+minSplit:
		return Range{}, f.broken("SubnetLen", length, "must be at least %d, so that four subnets fit %sNetwork %s", n.Bits()+minSplit, f.prefix, n)
	}

	// The first subnet is left out unless asked for: its base address is the
	// network's own, which some programs take for a broadcast address.
	one := uint128{lo: 1}
	if r.Min == (netip.Addr{}) {
		r.Min = number(n.Addr()).add(one.shl(r.shift())).addr(f.bits)
	}
	if r.Max == (netip.Addr{}) {
		count := one.shl(uint(r.SubnetLen - n.Bits()))
		r.Max = number(n.Addr()).add(count.sub(one).shl(r.shift())).addr(f.bits)
	}
	for _, end := range []struct {
		field string
		addr  netip.Addr
	}{{"SubnetMin", r.Min}, {"SubnetMax", r.Max}} {
		switch value := end.addr.String(); {
		case !f.owns(end.addr):
			return Range{}, f.broken(end.field, value, "must be an %s address, not IPv4-mapped and without a zone", f.name)
		case !n.Contains(end.addr):
			return Range{}, f.broken(end.field, value, "must lie inside %sNetwork %s", f.prefix, n)
		case netip.PrefixFrom(end.addr, r.SubnetLen).Masked().Addr() != end.addr:
			return Range{}, f.broken(end.field, value, "must be the first address of a /%d", r.SubnetLen)
		}
	}
	if r.Max.Less(r.Min) {
		return Range{}, f.broken("SubnetMax", r.Max.String(), "must not be below %sSubnetMin %s", f.prefix, r.Min)
	}
	return r, nil
}
