package main

import (
	"bytes"
	"strings"
	"sync"
)

// waiter is a buffer that tells when a text has been written to it.
type waiter struct {
	text string
	seen chan struct{}

	mu  sync.Mutex
	buf bytes.Buffer
}

func newWaiter(text string) *waiter {
	return &waiter{text: text, seen: make(chan struct{})}
}

func (w *waiter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.buf.String(), w.text)
	w.buf.Write(b)
	if !before && strings.Contains(w.buf.String(), w.text) {
		close(w.seen)
	}
	return len(b), nil
}

func (w *waiter) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}
