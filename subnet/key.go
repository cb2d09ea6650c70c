package subnet

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Key is what a lease leases: a subnet of each family, one of which may be
// absent (the zero Prefix). Keys are comparable.
type Key struct {
	IPv4, IPv6 netip.Prefix
}

// ParseKey reads the last element of a lease's key in flannel's etcd layout:
// "10.5.1.0-24", dual-stack "10.5.1.0-24&fd99:0:0:4b::-64", and for IPv6 alone
// (which flannel cannot lease) "fd99:0:0:4b::-64". It accepts only what String
// writes, so that one subnet has one name. Host bits set are an error that
// wraps [ErrHostBits].
func ParseKey(s string) (Key, error) {
	k, err := parseKey(s)
	if err != nil {
		return Key{}, fmt.Errorf("lease key %s: %w", shown(strconv.Quote(s)), err)
	}
	return k, nil
}

func parseKey(s string) (Key, error) {
	var k Key
	first, second, dual := strings.Cut(s, "&")
	p, err := parseKeyPrefix(first)
	switch {
	case err != nil:
		return Key{}, err
	case p.Addr().Is4():
		k.IPv4 = p
	case dual:
		return Key{}, errors.New("IPv4 must come before &, and IPv6 after it")
	default:
		k.IPv6 = p
	}
	if dual {
		if k.IPv6, err = parseKeyPrefix(second); err != nil {
			return Key{}, err
		}
		if k.IPv6.Addr().Is4() {
			return Key{}, errors.New("IPv4 must come before &, and IPv6 after it")
		}
	}
	if want := k.String(); want != s {
		return Key{}, fmt.Errorf("must be written %q", want)
	}
	return k, nil
}

// parseKeyPrefix reads one subnet of a key, "10.5.1.0-24".
func parseKeyPrefix(s string) (netip.Prefix, error) {
	text, length, ok := strings.Cut(s, "-")
	if !ok {
		return netip.Prefix{}, errors.New("must be an address, a hyphen and a prefix length")
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, errors.New("must start with an IP address")
	}
	if a.Is4In6() || a.Zone() != "" {
		return netip.Prefix{}, errors.New("address must not be IPv4-mapped or have a zone")
	}
	n, err := strconv.ParseUint(length, 10, 8)
	if err != nil || int(n) > a.BitLen() {
		return netip.Prefix{}, fmt.Errorf("prefix length must be a number from 0 to %d", a.BitLen())
	}
	p := netip.PrefixFrom(a, int(n))
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%w past /%d of %s", ErrHostBits, n, a)
	}
	return p, nil
}

// String writes k as ParseKey reads it; the zero Key as "".
func (k Key) String() string {
	var b []byte
	for _, p := range [...]netip.Prefix{k.IPv4, k.IPv6} {
		if !p.IsValid() {
			continue
		}
		if len(b) > 0 {
			b = append(b, '&')
		}
		b = p.Addr().AppendTo(b)
		b = append(b, '-')
		b = strconv.AppendInt(b, int64(p.Bits()), 10)
	}
	return string(b)
}

// Overlaps reports whether k and o have an address in common in either family.
func (k Key) Overlaps(o Key) bool {
	return k.IPv4.Overlaps(o.IPv4) || k.IPv6.Overlaps(o.IPv6)
}
