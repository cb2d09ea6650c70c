package netns

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Hop is one step of a path.
type Hop struct {
	TTL  int
	Addr netip.Addr // who answered; zero if nobody did
	RTT  time.Duration
}

// String writes the hop as traceroute does.
func (h Hop) String() string {
	if !h.Addr.IsValid() {
		return fmt.Sprintf("%2d  *", h.TTL)
	}
	return fmt.Sprintf("%2d  %v  %.3f ms", h.TTL, h.Addr, ms(h.RTT))
}

// Trace finds the path to dst by echo requests with a growing time to live, up
// to 16 hops. The last hop is dst if it was reached.
func (n *Namespace) Trace(ctx context.Context, dst netip.Addr) ([]Hop, error) {
	c, err := n.dialEcho(netip.Addr{}, dst)
	if err != nil {
		return nil, err
	}
	defer c.close()
	var hops []Hop
	for ttl := 1; ttl <= 16 && ctx.Err() == nil; ttl++ {
		hop, last, err := c.hop(ttl)
		if err != nil {
			return hops, fmt.Errorf("tracing the path to %v, hop %d: %w", dst, ttl, err)
		}
		if hops = append(hops, hop); last {
			break
		}
	}
	return hops, ctx.Err()
}

// hop asks who is ttl hops away; last says that it is the end of the path.
func (c *echoConn) hop(ttl int) (hop Hop, last bool, err error) {
	if err := c.setTTL(ttl); err != nil {
		return Hop{}, false, err
	}
	hop.TTL = ttl
	for range 3 { // hosts limit how many errors they send
		sent := time.Now()
		seq, err := c.send()
		if err != nil {
			return hop, false, err
		}
		for {
			a, err := c.read(sent.Add(500 * time.Millisecond))
			if isTimeout(err) {
				break
			}
			if err != nil {
				return hop, false, err
			}
			if a.seq == seq {
				hop.Addr, hop.RTT = a.from, a.at.Sub(sent)
				return hop, !a.expired, nil
			}
		}
	}
	return hop, false, nil
}
