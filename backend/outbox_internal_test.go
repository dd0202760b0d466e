package backend

import (
	"slices"
	"testing"
)

// Entries, which can be had again, never take the room of what cannot.
func TestEntriesLeaveRoom(t *testing.T) {
	t.Parallel()
	o := newOutbox(1000, new(tally))
	for range 100 {
		if !o.push(item{kind: itemEntry, data: make([]byte, 300)}) {
			t.Fatal("an entry is said to be lost")
		}
	}
	if !o.push(item{kind: itemStanza, data: make([]byte, 300)}) {
		t.Error("no room for a stanza beside entries")
	}
	switch got := o.take(); {
	case !got.missed:
		t.Error("the cursor is not told of what was left out")
	case len(got.items) < 2 || len(got.items) > 4:
		t.Errorf("%d items", len(got.items))
	}
	for range 100 {
		if !o.push(item{kind: itemStanza, data: make([]byte, 300)}) {
			return
		}
	}
	t.Error("stanzas are not bounded")
}

// An answer that is longer than what may wait leaves room for what others send meanwhile, and
// there is an end to that.
func TestLongAnswersLeaveRoom(t *testing.T) {
	t.Parallel()
	o := newOutbox(1000, new(tally))
	for i, size := range []int{100_000, 100, 100} {
		if !o.push(item{kind: itemStanza, data: make([]byte, size)}) {
			t.Errorf("no room for stanza %d", i)
		}
	}
	o.push(item{kind: itemStanza, data: make([]byte, 100_000)})
	if o.push(item{kind: itemStanza, data: make([]byte, 100)}) {
		t.Error("long stanzas are not bounded")
	}
}

// What a session begins with, as one does that was resumed, takes no room of what comes.
func TestFirstItemsLeaveRoom(t *testing.T) {
	t.Parallel()
	o := newOutbox(1000, new(tally))
	o.prepend([]item{{kind: itemStanza, data: make([]byte, 1000)}})
	if !o.push(item{kind: itemStanza, data: make([]byte, 100)}) {
		t.Error("no room beside what the session begins with")
	}
}

// What asks is written, or kept for whoever answers instead, or said to be lost.
func TestRequestsAreNotLost(t *testing.T) {
	t.Parallel()
	for name, keeps := range map[string]bool{"for good": false, "kept": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOutbox(1000, new(tally))
			ask := func() bool { return o.push(item{kind: itemStanza, asks: true, data: make([]byte, 200)}) }
			left := 0
			for range 2 {
				left += count(ask())
			}
			o.close(nil, keeps)
			for range 5 {
				left += count(ask())
			}
			o.push(item{kind: itemStanza, data: make([]byte, 900)}) // too much, if it is kept
			if stanzas, _ := o.rest(); len(stanzas) != left || left != 3 {
				t.Errorf("%d of %d are kept, want 3", len(stanzas), left)
			}
			o.finish()
			if ask() {
				t.Error("what comes when nobody looks any more is not said to be lost")
			}
			if stanzas, _ := o.rest(); len(stanzas) != left {
				t.Errorf("%d are kept in the end, want %d", len(stanzas), left)
			}
		})
	}
}

func count(taken bool) int {
	if taken {
		return 1
	}
	return 0
}

// What has been said before the session knows where the timeline was comes after what was there, and before the
// entries that have come since.
func TestWhatWasSaidMeanwhile(t *testing.T) {
	t.Parallel()
	o := newOutbox(10_000, new(tally))
	o.push(item{kind: itemStanza, said: true})
	o.push(item{kind: itemEntry, seq: 6})
	o.push(item{kind: itemStanza})
	o.push(item{kind: itemStanza, said: true})
	o.begin(7)
	o.push(item{kind: itemStanza, said: true})
	o.push(item{kind: itemEntry, seq: 8})
	o.push(item{kind: itemStanza, said: true})
	var got []uint64
	for _, it := range o.take().items {
		if it.kind == itemStanza {
			got = append(got, it.after)
		}
	}
	if want := []uint64{5, 6, 7, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("they come after %d, want %d", got, want)
	}
}
