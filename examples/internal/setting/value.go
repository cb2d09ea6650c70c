package setting

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// An etcd lease lives at least for a few seconds and at most for 9 000 000 000;
// a year is more than anyone means.
const (
	minTTL = 5 * time.Second
	maxTTL = 365 * 24 * time.Hour
)

// repeated is a value that may be set several times. once is how an environment
// variable sets it, which can be there only once.
type repeated interface{ once(string) error }

type text struct{ p *string }

func (t text) String() string { return deref(t.p) }
func (t text) Set(s string) error {
	*t.p = s
	return nil
}

// texts are names or addresses of interfaces. None of them holds a comma, so
// one variable can name several.
type texts struct{ p *[]string }

func (t texts) String() string { return strings.Join(deref(t.p), ",") }
func (t texts) Set(s string) error {
	if s == "" {
		return errors.New("must not be empty")
	}
	*t.p = append(*t.p, s)
	return nil
}
func (t texts) once(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		if err := t.Set(strings.TrimSpace(part)); err != nil {
			return err
		}
	}
	return nil
}

type patterns struct{ p *[]string }

func (t patterns) String() string { return strings.Join(deref(t.p), " ") }
func (t patterns) Set(s string) error {
	if _, err := regexp.Compile(s); err != nil {
		return err
	}
	*t.p = append(*t.p, s)
	return nil
}
func (t patterns) once(s string) error { return t.Set(s) }

type boolean struct{ p *bool }

func (b boolean) String() string   { return strconv.FormatBool(deref(b.p)) }
func (b boolean) IsBoolFlag() bool { return true }
func (b boolean) Set(s string) error {
	v, err := strconv.ParseBool(s)
	if err != nil {
		return errors.New("must be true or false")
	}
	*b.p = v
	return nil
}

// verbosity is a switch that also takes flanneld's levels.
type verbosity struct{ p *bool }

func (b verbosity) String() string   { return strconv.FormatBool(deref(b.p)) }
func (b verbosity) IsBoolFlag() bool { return true }
func (b verbosity) Set(s string) error {
	if n, err := strconv.Atoi(s); err == nil {
		*b.p = n > 0
		return nil
	}
	return boolean(b).Set(s)
}

type integer[T int | uint8 | uint16 | uint32] struct {
	p        *T
	min, max uint64
}

func (i integer[T]) String() string { return strconv.FormatUint(uint64(deref(i.p)), 10) }
func (i integer[T]) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < i.min || n > i.max {
		return fmt.Errorf("must be a number from %d to %d", i.min, i.max)
	}
	*i.p = T(n)
	return nil
}

type duration struct {
	p        *time.Duration
	min, max time.Duration
}

func (d duration) String() string { return deref(d.p).String() }
func (d duration) Set(s string) error {
	v, err := time.ParseDuration(s)
	if err != nil || v < d.min || v > d.max {
		return fmt.Errorf("must be a duration such as 24h, from %v to %v", d.min, d.max)
	}
	*d.p = v
	return nil
}

// seconds takes a plain number, as flanneld does, or a duration.
type seconds struct{ p *time.Duration }

func (d seconds) String() string { return strconv.Itoa(int(deref(d.p) / time.Second)) }
func (d seconds) Set(s string) error {
	v, err := time.ParseDuration(s)
	if n, nerr := strconv.ParseInt(s, 10, 64); nerr == nil && n <= math.MaxInt32 {
		v, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || v < time.Second {
		return errors.New("must be a number of seconds, at least 1")
	}
	*d.p = v
	return nil
}

type address struct {
	p      *netip.Addr
	family int // 4 or 6; zero for either
}

func (a address) String() string {
	if p := deref(a.p); p.IsValid() {
		return p.String()
	}
	return ""
}
func (a address) Set(s string) error {
	v, err := netip.ParseAddr(s)
	switch {
	case err != nil || v.Zone() != "":
		return errors.New("must be an IP address")
	case a.family == 4 && !v.Is4():
		return errors.New("must be an IPv4 address")
	case a.family == 6 && (!v.Is6() || v.Is4In6()):
		return errors.New("must be an IPv6 address")
	}
	*a.p = v
	return nil
}

type network struct {
	p    *netip.Prefix
	ipv6 bool
}

func (n network) String() string {
	if p := deref(n.p); p.IsValid() {
		return p.String()
	}
	return ""
}
func (n network) Set(s string) error {
	v, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return errors.New("must be a network such as 192.168.0.0/16")
	case v.Addr().Is4() == n.ipv6:
		return errors.New("is of the other address family")
	case v != v.Masked():
		return fmt.Errorf("has bits set past its length; the network is %v", v.Masked())
	}
	*n.p = v
	return nil
}

// keyPrefix is written without a slash at its end, as etcd keys are compared byte
// for byte.
type keyPrefix struct{ p *string }

func (k keyPrefix) String() string { return deref(k.p) }
func (k keyPrefix) Set(s string) error {
	s = strings.TrimRight(s, "/")
	if s == "" {
		return errors.New("must name a prefix such as /coreos.com/network")
	}
	if s[0] != '/' {
		s = "/" + s
	}
	*k.p = s
	return nil
}

type endpoints struct{ p *[]string }

func (e endpoints) String() string { return strings.Join(deref(e.p), ",") }
func (e endpoints) Set(s string) error {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if _, err := hostURL(part); err != nil {
			return err
		}
		list = append(list, strings.TrimRight(part, "/"))
	}
	*e.p = list
	return nil
}

type listenURLs struct{ p *[]url.URL }

func (l listenURLs) String() string {
	var parts []string
	for _, u := range deref(l.p) {
		parts = append(parts, u.String())
	}
	return strings.Join(parts, ",")
}
func (l listenURLs) Set(s string) error {
	var list []url.URL
	for part := range strings.SplitSeq(s, ",") {
		u, err := hostURL(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		if _, err := netip.ParseAddr(u.Hostname()); err != nil || u.Port() == "" || u.Scheme != "http" {
			return fmt.Errorf("%q must be an URL of an address of this host and a port, such as http://127.0.0.1:2379", part)
		}
		list = append(list, *u)
	}
	*l.p = list
	return nil
}

func hostURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Path != "" && u.Path != "/" || u.User != nil || u.RawQuery != "" {
		return nil, fmt.Errorf("%q must be an URL such as http://127.0.0.1:2379", s)
	}
	return u, nil
}

// deref lets String work on the zero value, which package flag makes to compare
// defaults.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
