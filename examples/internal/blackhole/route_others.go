//go:build !linux

package blackhole

import (
	"errors"
	"net/netip"
)

var errUnsupported = errors.New("blackhole routes need Linux")

// Set fails.
func Set([]netip.Prefix) error { return errUnsupported }

// Keep fails.
func Keep([]netip.Prefix) ([]netip.Prefix, error) { return nil, errUnsupported }

// List fails.
func List() ([]netip.Prefix, error) { return nil, errUnsupported }
