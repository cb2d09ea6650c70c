package netlinkx

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// answerSize is more than what one refusal takes of the receive buffer: the
// request again, a sentence, and the kernel's own overhead. Measured, it is
// 1 280 bytes for an IPv6 route.
const answerSize = 2048

// requestConn is the socket for requests. One goroutine uses it.
type requestConn struct {
	*netlink.Conn
	batch    int           // requests at a time, so few that their answers cannot overrun the socket
	patience time.Duration // how long answers are waited for
	seq      uint32        // of the last message

	msgs    []netlink.Message
	errs    []error
	buf     []byte
	answers []answer
}

// answer is what the kernel answered to a request.
type answer struct {
	outcome outcome
	why     error // if it was refused
}

// ask sends at most c.batch requests about routes in table, and returns the
// answers in the same order, which are valid until the next call. An error
// returned means that the socket is of no more use.
func (c *requestConn) ask(qs []request, table uint32) ([]answer, error) {
	c.msgs, c.buf = c.msgs[:0], c.buf[:0]
	for _, q := range qs {
		var m netlink.Message
		m, c.buf = q.message(c.buf, table)
		c.msgs = append(c.msgs, m)
	}
	c.errs = slices.Grow(c.errs[:0], len(qs))[:len(qs)]
	if err := c.exchange(c.msgs, c.errs); err != nil {
		return nil, err
	}
	c.answers = c.answers[:0]
	for i, q := range qs {
		c.answers = append(c.answers, q.answer(c.errs[i]))
	}
	return c.answers, nil
}

// patience is how long an answer that should be there already is waited for.
const patience = time.Second

// errNoAnswer is the answer to a request whose answer got lost.
var errNoAnswer = errors.New("the kernel's answer got lost")

// exchange sends the messages in one system call and sets errs[i] to the
// kernel's answer to msgs[i], of which there must be at most c.batch. Only the
// last is acknowledged: acknowledgements cost more than the routes. The kernel
// answers a message that fails all the same. An error returned means that the
// socket is of no more use.
func (c *requestConn) exchange(msgs []netlink.Message, errs []error) error {
	if len(msgs) == 0 {
		return nil
	}
	clear(errs)
	if c.seq > math.MaxUint32-uint32(len(msgs)) {
		c.seq = 0 // which itself is never used: it stands for no number
	}
	first := c.seq + 1
	for i := range msgs {
		c.seq++
		msgs[i].Header.Sequence = c.seq
	}
	last := &msgs[len(msgs)-1]
	last.Header.Flags |= netlink.Acknowledge
	if _, err := c.SendMessages(msgs); err != nil {
		return fmt.Errorf("netlinkx: send %d route requests: %w", len(msgs), err)
	}

	// The kernel has dealt with all messages when the system call that sends them
	// returns, so that the answers are there already: what does not come within
	// the patience got lost, unless it was this process that got no time to read.
	_ = c.SetReadDeadline(time.Now().Add(c.patience))
	overrun, draining, empty, acknowledged := false, false, false, false
	for !acknowledged && !empty {
		var answers []netlink.Message
		var err error
		if draining {
			answers, empty, err = receiveDraining(c.Conn)
		} else {
			answers, err = c.Receive()
		}
		var refused *netlink.OpError
		switch {
		case errors.As(err, &refused) && refused.Sequence != 0:
			if i := refused.Sequence - first; i < uint32(len(msgs)) {
				errs[i] = refused
			}
			acknowledged = acknowledged || refused.Sequence == c.seq
		case errors.Is(err, unix.ENOBUFS):
			overrun, draining = true, true // maybe the last answer is lost too
			_ = c.SetReadDeadline(time.Time{})
		case errors.Is(err, os.ErrDeadlineExceeded):
			draining = true
			_ = c.SetReadDeadline(time.Time{})
		case err != nil:
			return fmt.Errorf("netlinkx: receive answers to route requests: %w", err)
		}
		for _, m := range answers {
			acknowledged = acknowledged || m.Header.Type == netlink.Error && m.Header.Sequence == c.seq
		}
	}
	_ = c.SetReadDeadline(time.Time{}) // dumps take what they take
	if overrun || !acknowledged {
		for i, err := range errs {
			if err == nil {
				errs[i] = errNoAnswer
			}
		}
	}
	return nil
}

// answer tells the answers apart that matter, and puts a refusal into words.
func (q request) answer(err error) answer {
	if err == nil {
		return answer{}
	}
	why := &RefusedError{Route: Route{q.route.subnet, q.route.gateway}, Err: err}
	var op *netlink.OpError
	if errors.As(err, &op) {
		why.Err, why.Reason = op.Err, op.Message
	}
	switch {
	case errors.Is(err, errNoAnswer):
		return answer{outcomeUnknown, why}
	case q.op != opRemove && errors.Is(err, unix.EEXIST):
		return answer{outcomeExists, why}
	case q.op == opRemove && (errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV)):
		return answer{outcomeAbsent, why}
	}
	return answer{outcomeRefused, why}
}
