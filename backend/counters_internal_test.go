package backend

import (
	"math"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The counts of XEP-0198 wrap at 2^32: whatever is written and acknowledged around
// that, what has arrived is what a count without end says.
func TestUnackedAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Drawn from all numbers, a base would hardly ever be near enough to one at which the
		// counts wrap.
		base := rapid.Uint64Range(1<<32-20, 1<<32+5).Draw(t, "base")
		u := &unacked{on: true, sent: uint32(base), acked: uint32(base)}
		sent, acked := base, base
		type entry struct{ count, seq uint64 }
		var waiting []entry
		seq := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"stanza": func(*rapid.T) { u.stanza(nil, 0); sent++ },
			"entry": func(*rapid.T) {
				seq++
				sent++
				u.entry(seq, seq, seq, false)
				waiting = append(waiting, entry{sent, seq})
			},
			"ack": func(t *rapid.T) {
				h := rapid.Uint64Range(acked, sent).Draw(t, "h")
				flights, _, ok := u.ack(uint32(h))
				if !ok {
					t.Fatalf("ack %d of %d refused", h, sent)
				}
				acked = h
				var want []uint64
				for len(waiting) > 0 && waiting[0].count <= h {
					want = append(want, waiting[0].seq)
					waiting = waiting[1:]
				}
				var got []uint64
				for _, f := range flights {
					got = append(got, f.seq)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("ack %d: arrived %v, want %v", h, got, want)
				}
			},
			"too much": func(t *rapid.T) {
				h := sent + rapid.Uint64Range(1, 1000).Draw(t, "more")
				if _, _, ok := u.ack(uint32(h)); ok {
					t.Fatalf("ack %d of %d accepted", h, sent)
				}
			},
		})
	})
}

// What is skipped has arrived when all that was written before it has.
func TestSkippedEntries(t *testing.T) {
	u := &unacked{on: true}
	u.skip(1)
	if got := u.written(); len(got) != 1 || got[0].upTo != 1 {
		t.Errorf("nothing was on its way, but arrived is %v", got)
	}
	u.entry(2, 2, 2, false)
	u.skip(3)
	u.skip(4)
	if got := u.written(); len(got) != 0 {
		t.Errorf("arrived without acknowledgement: %v", got)
	}
	if got, _, _ := u.ack(1); len(got) != 1 || got[0] != (flight{1, 2, 4, 4}) {
		t.Errorf("arrived: %v", got)
	}
}

// What is about to be written when a client speaks for the first time has arrived when it is written, and not before.
func TestHeardBeforeItIsWritten(t *testing.T) {
	u := &unacked{}
	u.entry(1, 0, 1, false)
	if got := u.written(); len(got) != 0 {
		t.Errorf("the client has said nothing, but arrived is %v", got)
	}
	u.entry(2, 0, 2, false)
	if got := u.hear(); len(got) != 1 || got[0].seq != 1 {
		t.Errorf("one is written, but arrived is %v", got)
	}
	if got := u.written(); len(got) != 1 || got[0].seq != 2 {
		t.Errorf("both are written, but then arrived is %v", got)
	}
}

// The handled count has no gaps, whatever waits for the store, around where it wraps too.
func TestInboundAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in inbound
		received := uint32(rapid.Uint64Range(1<<32-20, 1<<32+5).Draw(t, "base"))
		in.goOn(received)
		var outstanding uint32
		asked := false
		check := func(h uint32, ack bool) {
			if want := asked && outstanding == 0; ack != want || ack && h != received {
				t.Fatalf("h=%d, ack=%t with %d received, %d outstanding, asked %t", h, ack, received, outstanding, asked)
			}
			asked = asked && !ack
		}
		t.Repeat(map[string]func(*rapid.T){
			"message": func(t *rapid.T) {
				if asked {
					t.Skip("the model knows one question at a time")
				}
				received++
				outstanding++
				if n := in.receive(); n != received {
					t.Fatalf("number %d, want %d", n, received)
				}
				in.submit()
			},
			"stored": func(t *rapid.T) {
				if outstanding == 0 {
					t.Skip()
				}
				outstanding--
				check(in.complete(true))
			},
			"other": func(t *rapid.T) {
				if outstanding > 0 {
					t.Skip("waits")
				}
				received++
				check(in.handle(in.receive()))
			},
			"ask": func(*rapid.T) {
				asked = true
				check(in.request())
			},
		})
	})
}

// A message that did not become durable ends the count.
func TestInboundStopsAtFailure(t *testing.T) {
	var in inbound
	in.enable()
	for range 3 {
		in.receive()
		in.submit()
	}
	in.complete(true)
	in.complete(false)
	in.complete(true)
	if h, _ := in.current(); h != 1 {
		t.Errorf("h is %d, want 1", h)
	}
}

// A stanza that is done with while messages before it are on their way does not count, and
// nothing that came after it; those messages do.
func TestInboundIsCut(t *testing.T) {
	t.Parallel()
	for _, start := range []uint32{0, math.MaxUint32 - 2} {
		var in inbound
		in.goOn(start)
		for range 2 {
			in.receive()
			in.submit()
		}
		in.handle(in.receive())
		in.handle(in.receive())
		in.complete(true)
		in.complete(true)
		if h, _ := in.current(); h != start+2 {
			t.Errorf("from %d: h is %d, want %d", start, h, start+2)
		}
	}
}

// A message that the store has refused counts, but that is not durable.
func TestInboundRefused(t *testing.T) {
	t.Parallel()
	var in inbound
	in.enable()
	in.receive()
	in.submit()
	in.request()
	if owed := in.refuse(); !owed || !in.owes() {
		t.Error("nothing is owed")
	}
	if h, durable := in.settled(); h != 1 || durable {
		t.Errorf("h is %d, durable: %t", h, durable)
	}
	if h, ack := in.pay(); h != 1 || !ack || in.owes() {
		t.Errorf("paid %d, %t", h, ack)
	}
}

// A lease counts from when it was asked for; who could not renew it lets others renew
// theirs before it takes them for dead.
func TestTenure(t *testing.T) {
	t.Parallel()
	const lease = 12 * time.Second // a margin of two
	start := time.Unix(1000, 0)
	type step struct {
		asked, now   time.Duration
		failed       bool
		lapsed, reap bool
	}
	for name, steps := range map[string][]step{
		"in time": {{asked: 4, now: 4, reap: true}, {asked: 8, now: 9, reap: true}},
		"lapsed": {
			{asked: 4, now: 4, reap: true}, {asked: 15, now: 15, lapsed: true},
			{asked: 19, now: 19}, {asked: 27, now: 27, reap: true},
		},
		"an answer that took long":       {{asked: 4, now: 11, lapsed: true}},
		"asked early, answered late":     {{asked: 1, now: 8, reap: true}, {asked: 12, now: 12, lapsed: true}},
		"failed, but renewed in time":    {{asked: 4, now: 4, reap: true}, {asked: 8, now: 8, failed: true}, {asked: 14, now: 14}, {asked: 20, now: 20, reap: true}},
		"failed again while it may not":  {{asked: 4, failed: true, now: 4}, {asked: 8, failed: true, now: 8}, {asked: 17, now: 17}},
		"within the margin of its lease": {{asked: 10, now: 11, lapsed: true}},
	} {
		held := tenure{lease: lease, since: start}
		for i, s := range steps {
			held.failed = s.failed
			asked, now := start.Add(s.asked*time.Second), start.Add(s.now*time.Second)
			if lapsed, reap := held.renew(asked, now); lapsed != s.lapsed || reap != s.reap {
				t.Errorf("%s, step %d: lapsed %t, reap %t", name, i, lapsed, reap)
			}
		}
	}
}

func TestReasonsHaveTexts(t *testing.T) {
	seen := map[string]bool{}
	for r := range reasonCount {
		text := r.String()
		if text == "" || seen[text] {
			t.Errorf("reason %d has the text %q", r, text)
		}
		seen[text] = true
	}
}

// After the count that a client is told for the last time comes no higher one, which would stand before it.
func TestInboundLastCount(t *testing.T) {
	t.Parallel()
	var in inbound
	in.enable()
	in.receive()
	in.submit()
	in.request()
	if h, durable, on := in.final(); h != 0 || !durable || !on {
		t.Errorf("h is %d, durable: %t, on: %t", h, durable, on)
	}
	if h, ack := in.complete(true); ack {
		t.Errorf("%d is told afterwards", h)
	}
}

// A client that does not count what it was asked about is not asked and does not answer without end.
func TestStalledClientIsAskedLessAndLess(t *testing.T) {
	t.Parallel()
	u := &unacked{on: true}
	asks := func(want bool) {
		t.Helper()
		if got := u.request(); got != want {
			t.Fatalf("asks: %t, want %t", got, want)
		}
	}
	answer := func(h uint32, want time.Duration) {
		t.Helper()
		if _, pause, ok := u.ack(h); pause != want || !ok {
			t.Fatalf("an answer of %d: asks again after %v, %t; want %v", h, pause, ok, want)
		}
	}
	stanza := func(seq uint64) { u.entry(seq, seq, seq, false) }
	stanza(1)
	stanza(2)
	stanza(3)
	asks(true)
	answer(1, 0) // it goes on, so it is asked for the rest at once
	asks(true)
	for pause := firstStall; pause <= 32*time.Second; pause *= 2 {
		answer(1, pause)
		asks(false)
		u.askAgain()
		asks(true)
	}
	answer(1, 0)
	asks(false)
	stanza(4) // which is new
	asks(true)
	answer(2, 0)
	asks(true)
	answer(2, firstStall)
	answer(4, 0)
	asks(false)
	answer(4, 0) // nobody has asked
}
