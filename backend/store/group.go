package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// groupMax is how many changes one transaction takes.
const groupMax = 64

// group commits changes that come at the same time in one transaction, for a database that
// has one writer and syncs at each commit: when everybody comes back at once, their logins
// cost a sync for many and not two each. Each change is as if it had a transaction of its
// own; one that fails leaves no trace and keeps nobody else from being committed.
//
// One goroutine makes them all: what SQLite needs of a stack is far more than a new one has.
type group struct {
	begin func(context.Context) (*sql.Tx, error)
	woken chan struct{} // there may be something in the queue, or it is over
	done  chan struct{} // closed when it is over

	mu     sync.Mutex
	queue  []*change
	closed bool
}

// newGroup returns a group, which is to be closed.
func newGroup(begin func(context.Context) (*sql.Tx, error)) *group {
	g := &group{begin: begin, woken: make(chan struct{}, 1), done: make(chan struct{})}
	go g.run()
	return g
}

// close waits for the changes that are under way. Later ones fail.
func (g *group) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.wake()
	<-g.done
}

func (g *group) wake() {
	select {
	case g.woken <- struct{}{}:
	default:
	}
}

// change is what somebody waits for.
type change struct {
	f    func(*sql.Tx) error
	done chan struct{} // closed when the rest is set

	waited      bool  // since before a transaction was asked for
	after       bool  // f has seen what another change has made, which was not committed yet
	failed      error // what f returned, or why it was not called
	panicked    any   // what it panicked with
	uncommitted error // why the transaction was not committed
}

// do makes a change. err is what f returned, and commitErr why it was not committed although
// that was nothing. What panics does so here. When ctx ends before the change has begun, it
// is not made; after that its end is waited for.
func (g *group) do(ctx context.Context, f func(*sql.Tx) error) (err, commitErr error) {
	c := &change{f: f, done: make(chan struct{})}
	if !g.push(c) {
		return sql.ErrConnDone, nil
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if g.withdraw(c) {
			return ctx.Err(), nil
		}
		<-c.done
	}
	if c.panicked != nil {
		panic(c.panicked)
	}
	return c.failed, c.uncommitted
}

// push queues a change, unless it is over.
func (g *group) push(c *change) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.queue = append(g.queue, c)
	g.wake()
	return true
}

// withdraw takes a change back, unless it has begun.
func (g *group) withdraw(c *change) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.queue {
		if other == c {
			g.queue = append(g.queue[:i:i], g.queue[i+1:]...)
			return true
		}
	}
	return false
}

// run makes changes until it is over and there are none.
func (g *group) run() {
	defer close(g.done)
	ctx := context.Background() //nolint:forbidigo // the changes of many are nobody's in particular
	for {
		waiting, closed := g.look()
		if !waiting {
			if closed {
				return
			}
			<-g.woken
			continue
		}
		tx, err := g.begin(ctx) // which may wait, while more come
		some := g.take(err != nil)
		if err == nil {
			g.make(ctx, tx, some)
		} else {
			for _, c := range some {
				c.failed = err
			}
		}
		for _, c := range some {
			close(c.done)
		}
	}
}

// look tells whether there is anything to do, and whether that is all that there will be.
func (g *group) look() (waiting, closed bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.queue {
		c.waited = true
	}
	return len(g.queue) > 0, g.closed
}

// take returns the changes of the next transaction, or only those that have waited for it
// all the time. All may have been withdrawn.
func (g *group) take(waited bool) []*change {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := min(len(g.queue), groupMax)
	if waited {
		n = 0
		for n < len(g.queue) && g.queue[n].waited {
			n++
		}
	}
	some := g.queue[:n:n]
	g.queue = slices.Clone(g.queue[n:])
	return some
}

// errTorn: the database has given up the whole transaction because of one of the changes.
var errTorn = errors.New("the transaction was given up")

// make makes changes in one transaction, or each in one of its own when the database does
// not let the others go on.
func (g *group) make(ctx context.Context, tx *sql.Tx, some []*change) {
	if together(ctx, tx, some) == nil {
		return
	}
	for _, c := range some {
		c.after, c.failed, c.panicked, c.uncommitted = false, nil, nil, nil
		tx, err := g.begin(ctx)
		if err != nil {
			c.failed = err
			continue
		}
		_ = together(ctx, tx, []*change{c}) // alone it is not torn
	}
}

// together makes changes in a transaction and commits it, if any of them is to be. The error
// is errTorn.
func together(ctx context.Context, tx *sql.Tx, some []*change) error {
	defer tx.Rollback() //nolint:errcheck // after a commit there is nothing to roll back
	made := 0
	for _, c := range some {
		c.after = made > 0
		if len(some) == 1 {
			c.call(tx)
		} else if err := c.within(ctx, tx); err != nil {
			return err
		}
		if c.good() {
			made++
		}
	}
	if made == 0 {
		return nil
	}
	err := tx.Commit()
	for _, c := range some {
		switch {
		case err == nil || c.panicked != nil:
		case c.good() || c.after: // and may have failed because of what there is not
			c.failed, c.uncommitted = nil, err
		}
	}
	return nil
}

// within makes the change in a transaction of several, so that it is undone alone when it
// fails. The error is errTorn.
func (c *change) within(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SAVEPOINT change`)
	if err == nil {
		if c.call(tx); !c.good() {
			_, err = tx.ExecContext(ctx, `ROLLBACK TO change`)
		}
	}
	if err == nil {
		_, err = tx.ExecContext(ctx, `RELEASE change`)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errTorn, err)
	}
	return nil
}

// call calls f, whose panic is its caller's.
func (c *change) call(tx *sql.Tx) {
	defer func() { c.panicked = recover() }()
	c.failed = c.f(tx)
}

// good tells whether the change was made.
func (c *change) good() bool { return c.failed == nil && c.panicked == nil }
