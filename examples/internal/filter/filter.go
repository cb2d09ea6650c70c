package filter

import (
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// ErrUnsupported is returned on systems other than Linux.
var ErrUnsupported = errors.New("packet filter rules need Linux")

// Filter keeps rules in the kernel. Its methods may be called concurrently.
type Filter struct {
	resync time.Duration
	log    *slog.Logger
	wake   chan struct{} // holds a value if the config changed since the last look

	mu     sync.Mutex
	config Config
	status Status
}

// New checks c and returns a Filter that is not running yet. The error names
// the field that breaks a rule.
func New(c Config) (*Filter, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	f := &Filter{
		resync: c.Resync,
		log:    c.Logger,
		wake:   make(chan struct{}, 1),
		config: c,
	}
	if f.resync == 0 {
		f.resync = DefaultResync
	}
	if f.log == nil {
		f.log = slog.Default()
	}
	return f, nil
}

// Update makes the rules those of c. It returns at once; Run does the work. An
// error names the field that breaks a rule, and leaves everything as it was.
func (f *Filter) Update(c Config) error {
	if err := c.check(); err != nil {
		return err
	}
	f.mu.Lock()
	c.Resync, c.Logger = f.config.Resync, f.config.Logger
	changed := f.config != c
	f.config = c
	if changed && f.status.Applied {
		f.status.Applied, f.status.Since = false, time.Now()
	}
	f.mu.Unlock()
	if changed {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	return nil
}

// Status returns what is known now. It does not block, and the caller may keep
// and change what it returns.
func (f *Filter) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Exceptions = slices.Clone(s.Exceptions)
	s.Problems = slices.Clone(s.Problems)
	return s
}
