package backend

import "testing"

// Entries, which can be had again, never take the room of what cannot.
func TestEntriesLeaveRoom(t *testing.T) {
	t.Parallel()
	o := newOutbox(1000)
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
