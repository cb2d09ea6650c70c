package subnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
)

// Holder is who holds a lease and where its subnet is reached: the value stored
// under a lease's key, in flannel's JSON.
type Holder struct {
	PublicIP   netip.Addr // IPv4 gateway to the IPv4 subnet; zero in an IPv6-only network
	PublicIPv6 netip.Addr // IPv6 gateway to the IPv6 subnet; zero without IPv6

	BackendType                string          // "host-gw" for those we can route to
	BackendData, BackendV6Data json.RawMessage // kept as they are for other backends; nil for host-gw
}

// holderJSON has the fields of flannel's value in flannel's order.
type holderJSON struct {
	PublicIP      *string
	PublicIPv6    *string
	BackendType   string          `json:",omitempty"`
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
}

// ParseHolder reads a lease's value. Unknown fields are ignored. At least one
// address must be there; whether they make good gateways is for the reader of
// the lease to judge.
func ParseHolder(data []byte) (Holder, error) {
	h, err := parseHolder(data)
	if err != nil {
		return Holder{}, fmt.Errorf("lease value %s: %w", shown(string(data)), err)
	}
	return h, nil
}

func parseHolder(data []byte) (Holder, error) {
	var in holderJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return Holder{}, err
	}
	h := Holder{BackendType: in.BackendType, BackendData: in.BackendData, BackendV6Data: in.BackendV6Data}
	for _, f := range []struct {
		text *string
		addr *netip.Addr
	}{{in.PublicIP, &h.PublicIP}, {in.PublicIPv6, &h.PublicIPv6}} {
		if f.text == nil {
			continue
		}
		a, err := netip.ParseAddr(*f.text)
		if err != nil {
			return Holder{}, err
		}
		*f.addr = a
	}
	if err := h.check(); err != nil {
		return Holder{}, err
	}
	// The unspecified address stands for none: flannel has no other way to leave
	// out PublicIP.
	if h.PublicIP.IsUnspecified() {
		h.PublicIP = netip.Addr{}
	}
	if h.PublicIPv6.IsUnspecified() {
		h.PublicIPv6 = netip.Addr{}
	}
	if !h.PublicIP.IsValid() && !h.PublicIPv6.IsValid() {
		return Holder{}, errNoAddress
	}
	return h, nil
}

var errNoAddress = errors.New("PublicIP or PublicIPv6 must be set")

// check reports an address of the wrong family.
func (h Holder) check() error {
	if h.PublicIP.IsValid() && !h.PublicIP.Is4() {
		return fmt.Errorf("PublicIP %s must be IPv4", h.PublicIP)
	}
	if h.PublicIPv6.IsValid() && (!h.PublicIPv6.Is6() || h.PublicIPv6.Is4In6() || h.PublicIPv6.Zone() != "") {
		return fmt.Errorf("PublicIPv6 %s must be IPv6, not IPv4-mapped and without a zone", h.PublicIPv6)
	}
	return nil
}

// MarshalJSON writes h byte for byte as flannel does:
// {"PublicIP":"172.17.42.41","PublicIPv6":null,"BackendType":"host-gw"}.
// Without an IPv4 address PublicIP is "0.0.0.0".
func (h Holder) MarshalJSON() ([]byte, error) {
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("lease value: %w", err)
	}
	if !h.PublicIP.IsValid() && !h.PublicIPv6.IsValid() {
		return nil, fmt.Errorf("lease value: %w", errNoAddress)
	}
	out := holderJSON{BackendType: h.BackendType, BackendData: h.BackendData, BackendV6Data: h.BackendV6Data}
	v4 := netip.IPv4Unspecified().String()
	if h.PublicIP.IsValid() {
		v4 = h.PublicIP.String()
	}
	out.PublicIP = &v4
	if h.PublicIPv6.IsValid() {
		v6 := h.PublicIPv6.String()
		out.PublicIPv6 = &v6
	}
	return json.Marshal(out)
}

// Same reports whether h and o are the same node: an address in common.
func (h Holder) Same(o Holder) bool {
	return h.PublicIP.IsValid() && h.PublicIP == o.PublicIP ||
		h.PublicIPv6.IsValid() && h.PublicIPv6 == o.PublicIPv6
}

// Lease is a subnet and its holder.
type Lease struct {
	Key    Key
	Holder Holder
}
