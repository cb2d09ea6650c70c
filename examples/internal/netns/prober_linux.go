package netns

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// Prober sends an echo request at a steady pace and remembers which were not
// answered: what a person would call a gap.
type Prober struct {
	conn     *echoConn
	interval time.Duration
	stop     chan struct{}
	sending  sync.WaitGroup
	reading  sync.WaitGroup

	mu       sync.Mutex
	probes   []probe // of sequence number i+1
	answered int
	news     chan struct{} // closed and replaced at each answer
}

type probe struct {
	sent     time.Time
	answered bool
	err      error // that it could not be sent, or an ICMP error that came back
}

// ProbeLoss is a probe that was not answered.
type ProbeLoss struct {
	Seq int // counts from 1
	At  time.Time
	Err error // what the kernel or a router said, if anything
}

// ProbeReport is what a Prober found out.
type ProbeReport struct {
	Sent  int
	Lost  []ProbeLoss
	Pause time.Duration // the longest time between two probes: no shorter gap would surely be seen
}

func (r ProbeReport) String() string {
	s := fmt.Sprintf("%d probes, %d lost, at most %v apart", r.Sent, len(r.Lost), r.Pause.Round(time.Microsecond))
	if len(r.Lost) > 0 {
		first, last := r.Lost[0], r.Lost[len(r.Lost)-1]
		s += fmt.Sprintf("; first lost no. %d at %s, last no. %d at %s", first.Seq, first.At.Format("15:04:05.000"), last.Seq, last.At.Format("15:04:05.000"))
		if first.Err != nil {
			s += fmt.Sprintf(" (%v)", first.Err)
		}
	}
	return s
}

// Probe starts a prober in the namespace: an echo request to dst every interval,
// until it is stopped.
func (n *Namespace) Probe(dst netip.Addr, interval time.Duration) (*Prober, error) {
	c, err := n.dialEcho(netip.Addr{}, dst)
	if err != nil {
		return nil, err
	}
	p := &Prober{conn: c, interval: interval, stop: make(chan struct{}), news: make(chan struct{})}
	p.sending.Go(p.send)
	p.reading.Go(p.receive)
	return p, nil
}

func (p *Prober) send() {
	ticker := time.NewTicker(p.interval)
	defer ticker.Stop()
	for {
		// The lock is held over the sending so that the answer finds its probe.
		p.mu.Lock()
		sent := time.Now()
		_, err := p.conn.send()
		p.probes = append(p.probes, probe{sent: sent, err: err})
		p.mu.Unlock()
		select {
		case <-ticker.C:
		case <-p.stop:
			return
		}
	}
}

func (p *Prober) receive() {
	for {
		a, err := p.conn.read(time.Time{})
		if err != nil {
			return // closed by Stop
		}
		p.mu.Lock()
		if i := int(a.seq) - 1; i >= 0 && i < len(p.probes) {
			switch probe := &p.probes[i]; {
			case !a.reply:
				probe.err = fmt.Errorf("refused: %s", a.problem)
			case !probe.answered:
				probe.answered = true
				p.answered++
				close(p.news)
				p.news = make(chan struct{})
			}
		}
		p.mu.Unlock()
	}
}

// WaitAnswered waits until more probes than now have been answered: count more.
func (p *Prober) WaitAnswered(ctx context.Context, count int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for goal := p.answered + count; p.answered < goal; {
		news := p.news
		p.mu.Unlock()
		var err error
		select {
		case <-news:
		case <-ctx.Done():
			err = fmt.Errorf("waiting for %d answers from %v: %w", count, p.conn.dst, ctx.Err())
		}
		p.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop stops sending, waits up to a second for the answers that are due and
// returns what was found. Call it once.
func (p *Prober) Stop() ProbeReport {
	close(p.stop)
	p.sending.Wait()
	deadline := time.After(time.Second)
	for due := true; due; {
		p.mu.Lock()
		news, missing := p.news, len(p.probes)-p.answered
		p.mu.Unlock()
		if missing == 0 {
			break
		}
		select {
		case <-news:
		case <-deadline:
			due = false
		}
	}
	p.conn.close()
	p.reading.Wait()

	report := ProbeReport{Sent: len(p.probes)}
	for i, probe := range p.probes {
		if !probe.answered {
			report.Lost = append(report.Lost, ProbeLoss{Seq: i + 1, At: probe.sent, Err: probe.err})
		}
		if i > 0 {
			report.Pause = max(report.Pause, probe.sent.Sub(p.probes[i-1].sent))
		}
	}
	return report
}
