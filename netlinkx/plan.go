package netlinkx

import (
	"fmt"
	"net/netip"
)

// ChangeKind says what a [Change] does.
type ChangeKind int

const (
	ChangeAdd     ChangeKind = iota // a route that is not there
	ChangeReplace                   // a route of ours, or a leftover of flanneld's, that is not as it should be
	ChangeRemove                    // a route of ours, or a hidden leftover of flanneld's, that should not be
	ChangeNothing                   // nothing can be done about a wanted route; Err says why
)

// String returns one word: add, replace, remove or nothing.
func (k ChangeKind) String() string {
	switch k {
	case ChangeAdd:
		return "add"
	case ChangeReplace:
		return "replace"
	case ChangeRemove:
		return "remove"
	case ChangeNothing:
		return "nothing"
	}
	return fmt.Sprintf("ChangeKind(%d)", int(k))
}

// Change is one thing that a Programmer would do.
type Change struct {
	Kind     ChangeKind
	Route    Route      // that is added, put in place of another, or removed
	Metric   uint32     // its metric
	Before   netip.Addr // gateway of the route that is replaced
	TakeOver bool       // the route that is replaced or removed is a leftover of flanneld's
	Err      error      // of ChangeNothing
}

func (q request) change(t *table) Change {
	c := Change{Route: Route{q.route.subnet, q.route.gateway}, Metric: q.route.metric}
	switch q.op {
	case opAdd:
		c.Kind = ChangeAdd
	case opReplace:
		c.Kind, c.Before, c.TakeOver = ChangeReplace, q.old.gateway, !t.ours(q.old)
	case opRemove:
		c.Kind, c.TakeOver = ChangeRemove, !t.ours(q.route)
	}
	return c
}
