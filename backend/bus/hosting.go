package bus

import (
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
)

// hosting is the interest in one partition.
type hosting struct {
	refs int // of those who asked for it; guarded by Bus.mu

	// sub and err are set before ready is closed.
	ready chan struct{}
	sub   *nats.Subscription
	err   error
}

// Host makes the node hear the signals of a partition, until Unhost was called as
// often as Host. It returns when the servers of all nodes that are heard know of
// the interest: of what is published from then on nothing is missed, so the
// caller reads from the database after it. While the bus is away nothing is heard: then it
// returns at once, and Lost is called for the partition when the connection is back.
func (b *Bus) Host(partition uint16) error {
	h, first := b.acquire(partition)
	if first {
		b.establish(partition, h)
	}
	<-h.ready
	if h.err != nil {
		return fmt.Errorf("host partition %d: %w", partition, h.err)
	}
	return nil
}

// acquire returns the partition's hosting with one reference more. The one who
// comes first has to establish it.
func (b *Bus) acquire(partition uint16) (h *hosting, first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.hosted[partition]
	if !ok {
		h = &hosting{ready: make(chan struct{})}
		b.hosted[partition] = h
	}
	h.refs++
	return h, !ok
}

// establish subscribes and waits until that is known everywhere.
func (b *Bus) establish(partition uint16, h *hosting) {
	defer close(h.ready)
	sub, err := b.conn.ChanSubscribe(partitionSubject(partition), b.dispatcher(partition).queue)
	if err == nil {
		b.adopt(h, sub)
		err = b.barrier()
		if err != nil && !errors.Is(err, ErrClosed) && !b.conn.IsClosed() {
			err = nil
			if b.conn.IsConnected() { // by now, or still; else reconnected will do it
				b.noteBroken()
			}
		}
	}
	if err != nil {
		h.err = err
		b.abandon(partition, h)
	}
}

// adopt lets the dispatcher take what comes by sub.
func (b *Bus) adopt(h *hosting, sub *nats.Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h.sub = sub
}

// abandon ends a hosting for all who asked for it.
func (b *Bus) abandon(partition uint16, h *hosting) {
	b.mu.Lock()
	if b.hosted[partition] == h {
		delete(b.hosted, partition)
	}
	b.mu.Unlock()
	unsubscribe(h)
}

// Unhost takes back one successful Host. A signal that is on its way may still
// be handled after it.
func (b *Bus) Unhost(partition uint16) {
	if h, last := b.release(partition); last {
		unsubscribe(h)
	}
}

// release takes one reference back, and the hosting with the last.
func (b *Bus) release(partition uint16) (h *hosting, last bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, ok := b.hosted[partition]
	if !ok {
		return nil, false
	}
	if h.refs--; h.refs > 0 {
		return h, false
	}
	delete(b.hosted, partition)
	return h, true
}

// unsubscribe is called once nobody finds h any more.
func unsubscribe(h *hosting) {
	if h.sub != nil {
		// It fails only when the connection is closed, and the interest with it.
		_ = h.sub.Unsubscribe()
	}
}

// current says whether sub is what the partition is heard by now. Another one,
// just replaced, would bring signals twice.
func (b *Bus) current(partition uint16, sub *nats.Subscription) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	h, ok := b.hosted[partition]
	return ok && h.sub == sub
}

func (b *Bus) hosts(partition uint16) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.hosted[partition]
	return ok
}
