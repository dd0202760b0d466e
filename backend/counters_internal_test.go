package backend

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// The counts of XEP-0198 wrap at 2^32: whatever is written and acknowledged around
// that, what has arrived is what a count without end says.
func TestUnackedAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := rapid.Uint64Range(0, 1<<34).Draw(t, "base")
		u := &unacked{on: true, sent: uint32(base), acked: uint32(base)}
		sent, acked := base, base
		type entry struct{ count, seq uint64 }
		var waiting []entry
		seq := uint64(0)
		t.Repeat(map[string]func(*rapid.T){
			"stanza": func(*rapid.T) { u.stanza(); sent++ },
			"entry": func(*rapid.T) {
				seq++
				sent++
				u.entry(seq, seq)
				waiting = append(waiting, entry{sent, seq})
			},
			"ack": func(t *rapid.T) {
				h := rapid.Uint64Range(acked, sent).Draw(t, "h")
				flights, ok := u.ack(uint32(h))
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
				if _, ok := u.ack(uint32(h)); ok {
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
	u.entry(2, 2)
	u.skip(3)
	u.skip(4)
	if got := u.written(); len(got) != 0 {
		t.Errorf("arrived without acknowledgement: %v", got)
	}
	if got, _ := u.ack(1); len(got) != 1 || got[0] != (flight{1, 2, 4}) {
		t.Errorf("arrived: %v", got)
	}
}

// The handled count has no gaps, whatever waits for the store.
func TestInboundAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var in inbound
		in.init()
		in.enable()
		var received, outstanding uint32
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
				in.receive()
				check(in.handle())
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
	in.init()
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
