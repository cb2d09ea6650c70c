//go:build !linux

package simulation

import (
	"log/slog"
	"net/netip"
)

// newReal returns a model: the fake kernel exists on Linux only.
func newReal(addrs []netip.Prefix, _ *slog.Logger, observe observer) kernel {
	return newModel(addrs, observe)
}
