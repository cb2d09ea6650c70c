package netlinkx

import "time"

// bucket is a token bucket that starts full.
type bucket struct {
	rate  float64 // tokens a second
	burst float64 // how many it holds

	used float64   // tokens missing
	at   time.Time // when used was right
}

func (b *bucket) refill(now time.Time) {
	b.used = max(0, b.used-now.Sub(b.at).Seconds()*b.rate)
	b.at = now
}

// take takes a token if there is one.
func (b *bucket) take(now time.Time) bool {
	b.refill(now)
	if b.used+1 > b.burst {
		return false
	}
	b.used++
	return true
}

// next returns when there will be a token.
func (b *bucket) next(now time.Time) time.Time {
	b.refill(now)
	missing := max(0, b.used+1-b.burst)
	return now.Add(time.Duration(missing/b.rate*float64(time.Second)) + time.Microsecond)
}

func (b *bucket) full(now time.Time) bool {
	b.refill(now)
	return b.used == 0
}
