package netns

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// PingOptions are the options of [Namespace.Ping]. Zero values mean defaults.
type PingOptions struct {
	Source   netip.Addr    // the kernel chooses
	Count    int           // 3
	Interval time.Duration // 200 ms
	Timeout  time.Duration // how long to wait for each answer; 1 s
}

// PingReply is what became of one echo request.
type PingReply struct {
	Seq int           // counts from 1
	TTL int           // hop limit of the answer as it arrived; zero if there was none
	RTT time.Duration // how long the answer took
	Err error         // why there was none; nil if it was answered
}

// PingResult is what became of all of them.
type PingResult struct {
	Destination netip.Addr
	Replies     []PingReply // one for each request, in order
}

// Received counts the requests that were answered.
func (r PingResult) Received() int {
	count := 0
	for _, reply := range r.Replies {
		if reply.Err == nil {
			count++
		}
	}
	return count
}

// TTL returns the hop limit that all answers arrived with, or -1 if there were
// no answers or they differ.
func (r PingResult) TTL() int {
	ttl := -1
	for _, reply := range r.Replies {
		switch {
		case reply.Err != nil:
		case ttl == -1:
			ttl = reply.TTL
		case ttl != reply.TTL:
			return -1
		}
	}
	return ttl
}

// String writes the result as ping does.
func (r PingResult) String() string {
	var b strings.Builder
	for _, reply := range r.Replies {
		if reply.Err != nil {
			fmt.Fprintf(&b, "icmp_seq=%d: %v\n", reply.Seq, reply.Err)
			continue
		}
		fmt.Fprintf(&b, "from %v: icmp_seq=%d ttl=%d time=%.3f ms\n", r.Destination, reply.Seq, reply.TTL, ms(reply.RTT))
	}
	fmt.Fprintf(&b, "%d packets transmitted, %d received", len(r.Replies), r.Received())
	return b.String()
}

// Ping sends echo requests to dst from the namespace, one after the other. The
// error is for what stops it from sending any; an unanswered request is in the result.
func (n *Namespace) Ping(ctx context.Context, dst netip.Addr, o PingOptions) (PingResult, error) {
	if o.Count == 0 {
		o.Count = 3
	}
	if o.Interval == 0 {
		o.Interval = 200 * time.Millisecond
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	c, err := n.dialEcho(o.Source, dst)
	if err != nil {
		return PingResult{}, err
	}
	defer c.close()
	result := PingResult{Destination: dst}
	ticker := time.NewTicker(o.Interval)
	defer ticker.Stop()
	for i := range o.Count {
		if i > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return result, ctx.Err()
			}
		}
		result.Replies = append(result.Replies, c.ping(o.Timeout))
	}
	return result, ctx.Err()
}

// ping sends one request and waits for its answer.
func (c *echoConn) ping(timeout time.Duration) PingReply {
	sent := time.Now()
	seq, err := c.send()
	reply := PingReply{Seq: int(seq), Err: err}
	for reply.Err == nil {
		a, err := c.read(sent.Add(timeout))
		switch {
		case err != nil && isTimeout(err):
			reply.Err = fmt.Errorf("no answer in %v", timeout)
		case err != nil:
			reply.Err = err
		case a.seq != seq: // late, for an earlier one
		case !a.reply:
			reply.Err = fmt.Errorf("refused: %s", a.problem)
		default:
			reply.TTL, reply.RTT = a.ttl, a.at.Sub(sent)
			return reply
		}
	}
	return reply
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
