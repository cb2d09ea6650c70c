package netlinkx

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Uplink is the interface through which this host and its peers reach each other.
type Uplink struct {
	Name    string
	Index   int  // zero while there is no interface of that name
	MTU     int  // bytes
	Up      bool // administratively up
	Running bool // has carrier

	// Addrs are the interface's addresses with their prefix lengths: what is on-link.
	Addrs []netip.Prefix

	// IPv4 and IPv6 are the addresses under which peers reach this host; zero if
	// there is none. They stay what they were when the uplink was found.
	IPv4, IPv6 netip.Addr
}

// ErrNoUplink is wrapped by [NoUplinkError].
var ErrNoUplink = errors.New("no uplink")

// NoUplinkError says why [FindUplink] found no interface, or one without an
// address that it needs. It wraps [ErrNoUplink].
type NoUplinkError struct {
	By    string // the field of UplinkOptions that decided; "" if the default route did
	Value string // of that field

	Interface string // that was found but lacks an address; "" if none was found
	Family    string // of the address it lacks: "IPv4", "IPv6", "IPv4 or IPv6"

	Have []string // the interfaces that are there, each with its addresses: "eth0 (192.0.2.1/24)"
	Err  error    // the kernel's own words, for By "Reach"; else nil
}

func (e *NoUplinkError) Error() string {
	var why string
	switch {
	case e.Interface != "":
		why = fmt.Sprintf("interface %s has no %s address that peers could reach", e.Interface, e.Family)
	case e.By == "Name":
		why = fmt.Sprintf("there is no interface named %q", e.Value)
	case e.By == "Address":
		why = fmt.Sprintf("no interface has the address %s", e.Value)
	case e.By == "Pattern":
		why = fmt.Sprintf("no interface has an address or a name that matches %q", e.Value)
	case e.By == "Reach":
		why = fmt.Sprintf("no interface reaches %s", e.Value)
	default:
		why = "there is no default route to tell which interface it is"
	}
	s := fmt.Sprintf("%v: %s", ErrNoUplink, why)
	if e.Err != nil {
		s += fmt.Sprintf(": %v", e.Err)
	}
	if len(e.Have) > 0 {
		s += "; there are " + strings.Join(e.Have, ", ")
	}
	return s
}

// Unwrap returns ErrNoUplink and Err.
func (e *NoUplinkError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrNoUplink}
	}
	return []error{ErrNoUplink, e.Err}
}

// complete returns o with its addresses in the plain form, and its compiled
// pattern, or an error that names the field that breaks a rule.
func (o UplinkOptions) complete() (UplinkOptions, *regexp.Regexp, error) {
	fail := func(field string, value any, rule string) (UplinkOptions, *regexp.Regexp, error) {
		return UplinkOptions{}, nil, fmt.Errorf("netlinkx: uplink option %s %v: %s", field, value, rule)
	}
	plain := func(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }
	o.Address, o.Reach, o.PublicIPv4, o.PublicIPv6 = plain(o.Address), plain(o.Reach), plain(o.PublicIPv4), plain(o.PublicIPv6)
	for _, f := range []struct {
		name string
		addr netip.Addr
	}{{"Address", o.Address}, {"Reach", o.Reach}, {"PublicIPv4", o.PublicIPv4}, {"PublicIPv6", o.PublicIPv6}} {
		if f.addr.IsValid() && !unicast(f.addr) {
			return fail(f.name, f.addr, "must be a unicast address")
		}
	}
	if o.PublicIPv4.Is6() {
		return fail("PublicIPv4", o.PublicIPv4, "must be an IPv4 address")
	}
	if o.PublicIPv6.Is4() {
		return fail("PublicIPv6", o.PublicIPv6, "must be an IPv6 address")
	}
	if o.Dial == nil {
		o.Dial = dialKernel
	}
	if o.Pattern == "" {
		return o, nil, nil
	}
	pattern, err := regexp.Compile(o.Pattern)
	if err != nil {
		return fail("Pattern", fmt.Sprintf("%q", o.Pattern), err.Error())
	}
	return o, pattern, nil
}
