package store

import "slices"

// claim is a range of numbers on one timeline.
type claim struct {
	count uint64 // how many are needed
	next  uint64 // the number that is given out next
	time  int64  // of the entry before, at least the present
	was   timelineHead
}

// timelineHead is what the row of a head says after a claim.
type timelineHead struct {
	head, delivered uint64
	time            int64
	choosy          bool   // the owner has archive preferences
	indexed         uint64 // in SQLite: number of the last entry that is in peer_index
}

// take fills in a claim with what the head's row says after it.
func (c *claim) take(h timelineHead) {
	c.next, c.time, c.was = h.head-c.count+1, h.time, h
}

// number gives the messages that are stored their numbers, in their order.
func (b *appending) number(claims map[OwnerID]*claim) {
	for i, a := range b.batch {
		if b.done[i].Err == nil {
			b.done[i] = number(a.Drafts, claims, b.now)
		}
	}
}

// number takes a message's numbers from the claims. Its time is at, the present,
// or the last time on one of its timelines if a clock was ahead there.
func number(drafts []Draft, claims map[OwnerID]*claim, at int64) Appended {
	for _, d := range drafts {
		at = max(at, claims[d.Owner].time)
	}
	done := Appended{Seqs: make([]uint64, len(drafts)), Time: fromMillis(at)}
	for i, d := range drafts {
		c := claims[d.Owner]
		done.Seqs[i], c.time = c.next, at
		c.next++
	}
	return done
}

// crowd marks the messages for which there is no room, and tells whether there are
// any that were not known before.
func (b *appending) crowd(claims map[OwnerID]*claim) bool {
	if !b.crowded(claims) {
		return false
	}
	taken := make(map[OwnerID]uint64)
	found := false
	for i, a := range b.batch {
		switch {
		case b.done[i].Err != nil:
		case slices.ContainsFunc(a.Drafts, func(d Draft) bool { return !claims[d.Owner].takes(d, taken[d.Owner]) }):
			if b.full == nil {
				b.full = make(map[int]bool)
			}
			b.full[i], found = true, true
		default:
			for _, d := range a.Drafts {
				taken[d.Owner]++
			}
		}
	}
	return found
}

// crowded tells whether there may be messages for which there is no room.
func (b *appending) crowded(claims map[OwnerID]*claim) bool {
	for i, a := range b.batch {
		for _, d := range a.Drafts {
			if d.Room > 0 && b.done[i].Err == nil && claims[d.Owner].was.head-claims[d.Owner].was.delivered > d.Room {
				return true
			}
		}
	}
	return false
}

// takes tells whether a draft finds room after so many others of its batch.
func (c *claim) takes(d Draft, others uint64) bool {
	return d.Room == 0 || c.next-1+others-c.was.delivered < d.Room
}
