package balancer

import (
	"container/list"
	"context"
	"errors"
)

// waiter is a session that waits for room.
type waiter struct {
	request
	placed chan *Lease // takes one without blocking
}

// AcquireWait does what [Balancer.Acquire] does, and waits when no node can take
// the session now but one may later. Sessions wait in the order in which they came,
// and are placed as soon as a session ends or nodes change: nobody who comes later
// is given room that somebody who waits could use. It waits until the end of ctx;
// the refusal is then [ParkDeadline] or, when ctx was canceled, [Abandoned], and
// wraps the context's cause. Only [Options.Queue] sessions may wait at a time;
// others are refused at once.
//
// While it waits, tried is called from other goroutines, one at a time.
func (b *Balancer) AcquireWait(ctx context.Context, user string, tried func(node string) bool) (*Lease, error) {
	w := &waiter{request: newRequest(user, tried), placed: make(chan *Lease, 1)}
	place, err := b.placeOrPark(w)
	if err != nil {
		return nil, err
	}
	select {
	case lease := <-w.placed:
		return lease, nil
	case <-ctx.Done():
		return b.giveUp(ctx, w, place)
	}
}

// placeOrPark places the session, or gives it a place in the queue, or refuses it.
func (b *Balancer) placeOrPark(w *waiter) (*list.Element, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if lease := b.acquire(w.request); lease != nil {
		w.placed <- lease
		return nil, nil //nolint:nilnil // placed: there is no place in the queue
	}
	lack := b.refusal(w.tried)
	switch {
	case !lack.Waits():
		return nil, &Refusal{User: w.user, Reason: lack, Lack: lack}
	case b.waiting.Len() >= b.options.Queue:
		return nil, &Refusal{User: w.user, Reason: QueueFull, Lack: lack}
	}
	return b.waiting.PushBack(w), nil
}

// giveUp takes a session out of the queue, unless it was placed meanwhile.
func (b *Balancer) giveUp(ctx context.Context, w *waiter, place *list.Element) (*Lease, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case lease := <-w.placed:
		return lease, nil
	default:
	}
	b.waiting.Remove(place)
	reason := Abandoned
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		reason = ParkDeadline
	}
	return nil, &Refusal{User: w.user, Reason: reason, Lack: b.refusal(w.tried), cause: context.Cause(ctx)}
}

// serve places those who wait, first come first, where they can be placed.
func (b *Balancer) serve() {
	b.serveWhile(func() bool { return true })
}

// serveRoom does so as long as there is room at all. It is enough when nothing
// but counts has changed.
func (b *Balancer) serveRoom() {
	if b.waiting.Len() > 0 {
		b.serveWhile(b.hasRoom)
	}
}

func (b *Balancer) serveWhile(goOn func() bool) {
	for e := b.waiting.Front(); e != nil && goOn(); {
		next := e.Next()
		w := e.Value.(*waiter) //nolint:errcheck // nothing else is in the list
		if lease := b.acquire(w.request); lease != nil {
			b.waiting.Remove(e)
			w.placed <- lease
		}
		e = next
	}
}

// hasRoom says whether some node can take a session.
func (b *Balancer) hasRoom() bool {
	for _, t := range b.tiers {
		if t.open.weight > 0 {
			return true
		}
	}
	return false
}
