package backend

import (
	"errors"
	"sync"
	"time"

	"imlb/backend/store"
)

// writable knows from what the node writes anyway whether its store can be written to: the
// lease, which it renews all the time, and messages. A store that can only be read answers
// a ping.
type writable struct {
	mu      sync.Mutex
	lease   error     // of the last attempt to renew it
	message error     // of the last attempt to store messages …
	tried   time.Time // … and when that was
}

// leased notes an attempt to renew the lease.
func (w *writable) leased(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lease = err
}

// stored notes an attempt to store messages. What else than the store's absence makes one
// fail may be the fault of one message.
func (w *writable) stored(err error, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.message, w.tried = nil, now
	if errors.Is(err, store.ErrUnavailable) {
		w.message = err
	}
}

// err tells why the store cannot be written to. Messages are tried again all the time while
// there are any to be stored, so that an attempt of which nothing came for a while, which
// memory is, says nothing any more.
func (w *writable) err(now time.Time, memory time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.message != nil && now.Sub(w.tried) < memory {
		return w.message
	}
	return w.lease
}
