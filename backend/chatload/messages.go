package chatload

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	"imlb/backend/xmpp"
)

// exchange is users who write to each other.
type exchange struct {
	o     Options
	run   string // that tells this run's messages from others'
	epoch time.Time
	fleet *fleet
	flows []flow
	turns []turns // by session

	latency              Histogram
	late                 Histogram
	begin, end           atomic.Int64 // of what counts; of latency, what was due then
	left                 atomic.Int64 // messages that may follow others
	untaken              int          // messages at the end that the server did not take
	unanswered           int64        // stanzas at the end that it did not acknowledge
	sent, delivered      atomic.Int64
	doubled, reordered   atomic.Int64
	refused, misled, old atomic.Int64
}

// turns are a session's flows, which take turns.
type turns struct {
	flows []int
	next  int // the writer's
}

func newExchange(o Options) *exchange {
	var run [4]byte
	_, _ = rand.Read(run[:]) // which never fails
	e := &exchange{o: o, run: hex.EncodeToString(run[:]), epoch: time.Now()}
	e.begin.Store(1 << 62)
	e.end.Store(1 << 62)
	e.left.Store(1 << 62)
	return e
}

// now returns the time since the run began.
func (e *exchange) now() int64 { return int64(time.Since(e.epoch)) }

// acquaint makes the flows between sessions.
func (e *exchange) acquaint(n int) {
	e.turns = make([]turns, n)
	for from := range n {
		for _, to := range e.peersOf(from, n) {
			e.turns[from].flows = append(e.turns[from].flows, len(e.flows))
			e.flows = append(e.flows, flow{from: from, to: to})
		}
	}
}

// peersOf returns to whom a session writes.
func (e *exchange) peersOf(from, n int) []int {
	switch {
	case e.o.Workload == Archive: // all to the first, whose archive it is
		if from == 0 {
			return nil
		}
		return []int{0}
	case e.o.Peers == Pairs:
		return []int{from ^ 1}
	}
	var peers []int
	for range min(randomPeers, n-1) {
		peers = append(peers, (from+1+mathrand.IntN(n-1))%n) //nolint:gosec // no secret
	}
	return peers
}

// start logs everybody in and lets them know each other.
func (e *exchange) start(ctx context.Context, g *gate, n int) (err error) {
	e.acquaint(n)
	if e.fleet, err = launch(ctx, g, n, e); err != nil {
		e.fleet.abandon()
		return err
	}
	for i := range e.flows {
		f := &e.flows[i]
		f.head = messageHead(e.run, i, e.fleet.sessions[f.to].jid)
	}
	return nil
}

func (e *exchange) compose(s *session, batch []byte, due int64) []byte {
	t := &e.turns[s.number]
	i := t.flows[t.next]
	t.next = (t.next + 1) % len(t.flows)
	s.out.Add(1)
	e.sent.Add(1)
	return e.flows[i].appendMessage(batch, e.run, i, due, e.o.Size)
}

func (e *exchange) message(s *session, raw []byte) {
	stamp, ok := readStamp(raw, e.run)
	if !ok || int(stamp.flow) >= len(e.flows) {
		e.stranger(raw)
		return
	}
	f := &e.flows[stamp.flow]
	switch s.number {
	case f.to:
	case f.from: // it came back, which only an error does
		e.refused.Add(1)
		e.follow(f)
		return
	default:
		e.misled.Add(1)
		return
	}
	switch f.received(stamp.n) {
	case doubled:
		e.doubled.Add(1)
		return
	case reordered:
		e.reordered.Add(1)
	case inOrder:
	}
	e.delivered.Add(1)
	if stamp.due >= e.begin.Load() && stamp.due < e.end.Load() {
		e.latency.Record(time.Duration(e.now() - stamp.due))
	}
	e.follow(f)
}

// follow has the sender of a message that has arrived send the next, unless there is
// a rate.
func (e *exchange) follow(f *flow) {
	if e.o.Rate == 0 && e.left.Add(-1) >= 0 {
		e.fleet.sessions[f.from].due(e.now())
	}
}

// stranger counts a message that says nothing of this run: an error without the body that
// it is about, or one that another run has left behind.
func (e *exchange) stranger(raw []byte) {
	h, err := xmpp.ParseHeader(raw)
	if err == nil && h.Type == "error" && bytes.HasPrefix([]byte(h.ID), []byte(e.run+"-")) {
		e.refused.Add(1)
		return
	}
	e.old.Add(1)
}

func (e *exchange) result(*session, []byte) {}

// fill gives every sender its window.
func (e *exchange) fill() {
	for i, s := range e.fleet.sessions {
		for range e.o.Window {
			if len(e.turns[i].flows) > 0 && e.left.Add(-1) >= 0 {
				s.due(e.now())
			}
		}
	}
}

// drive has messages sent at the rate until ctx ends. A message is due at a tick, whether
// or not the ones before have arrived, and its latency counts from then.
func (e *exchange) drive(ctx context.Context) error {
	next := 0
	first := e.now()
	return ticks(ctx, func() {
		now := e.now()
		for tick := due(next, e.o.Rate); first+tick <= now; tick = due(next, e.o.Rate) {
			e.fleet.sessions[next%len(e.fleet.sessions)].due(first + tick)
			if first+tick >= e.begin.Load() {
				e.late.Record(time.Duration(now - first - tick))
			}
			next++
		}
	})
}

// tickLength is between two looks at what is due.
const tickLength = time.Millisecond

// due returns the tick at which the n-th of so many a second is due.
func due(n, rate int) int64 {
	at := time.Duration(n) * time.Second / time.Duration(rate)
	return int64(at.Truncate(tickLength))
}
