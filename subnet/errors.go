package subnet

import (
	"errors"
	"strconv"
	"strings"
)

var (
	// ErrHostBits is wrapped by errors about a prefix with bits set past its length.
	ErrHostBits = errors.New("host bits are set")

	// ErrNoConfig says that the store holds no network config yet.
	ErrNoConfig = errors.New("no network config in the store")

	// ErrConflict is what a store answers to a claim that something stored since
	// has overtaken: the key exists, or is not as last seen, or the config was
	// written. Look at a fresh snapshot and choose again.
	ErrConflict = errors.New("the store has changed since it was read")

	// ErrLeaseLost says that a lease that was held is no longer in the store, or
	// no longer this node's.
	ErrLeaseLost = errors.New("lease is gone from the store")

	// ErrNoFreeSubnet is wrapped by [FullError].
	ErrNoFreeSubnet = errors.New("no free subnet")
)

// shown returns s as an error may show it: what came from outside is cut short,
// and quoted unless it is plain.
func shown(s string) string {
	const enough = 200
	if len(s) > enough {
		s = s[:enough] + "..."
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	for _, r := range s {
		if !strconv.IsPrint(r) {
			return strconv.Quote(s)
		}
	}
	return s
}
