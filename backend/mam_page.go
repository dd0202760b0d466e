package backend

import (
	"context"
	"slices"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// archiveResult is a page of the archive, in the order of time.
type archiveResult struct {
	entries     []store.Entry
	first, last uint64 // what the client continues from; 0: nothing
	bytes       int
	full        bool   // there is more than the page takes
	complete    bool   // there is no more in this direction
	skipped     uint64 // messages before the page
	counted     bool   // the following are known, or approximations are
	count       uint64 // messages that match the query, on all pages
	index       uint64 // of the first one on the page among them
	backwards   bool   // the page was asked for from the end
}

// page reads from one end of a range until the page is full.
func (a *archive) page(ctx context.Context, q archiveQuery, in span) (archiveResult, error) {
	r := archiveResult{complete: in.lo > in.hi}
	part := store.Range{After: in.lo - 1, Before: in.hi + 1, Peer: q.peer(), Newest: q.backwards}
	at := uint64(0) // what it has come to
	for read := 0; !r.full && !r.complete && read < archiveScan; read += part.Limit {
		part.Limit = r.wanted(q)
		found, err := a.read(ctx, part)
		if err != nil {
			return r, err
		}
		for _, e := range found {
			r.addIf(q, e)
			at = e.Seq
		}
		r.complete = !r.full && len(found) < part.Limit
		if q.backwards {
			part.Before = at
		} else {
			part.After = at
		}
	}
	r.finish(q)
	if len(r.entries) == 0 && !r.full && !r.complete {
		r.first, r.last = at, at
	}
	return r, nil
}

// pick returns a page of the messages that have the ids that a query names. One that is
// not there makes the query fail (XEP-0313 §4.1.3).
func (a *archive) pick(ctx context.Context, q archiveQuery, all, in span) (archiveResult, error) {
	numbers, err := a.numbers(q.ids)
	if err != nil {
		return archiveResult{}, err
	}
	if q.backwards {
		slices.Reverse(numbers)
	}
	r := archiveResult{counted: true}
	for _, n := range numbers {
		found, err := a.read(ctx, store.Range{After: n - 1, Before: n + 1, Limit: 1})
		if err != nil {
			return r, err
		}
		if len(found) == 0 {
			return r, xmpp.NewStanzaError(xmpp.ItemNotFound, "no message has that id")
		}
		if !all.has(n) || !q.matches(found[0]) {
			continue
		}
		r.count++
		if n < in.lo {
			r.index++
		}
		if in.has(n) {
			r.addIf(q, found[0])
		}
	}
	if r.complete = !r.full; q.backwards {
		r.index = r.count - min(r.count, uint64(len(r.entries)))
	}
	r.finish(q)
	return r, nil
}

// numbers returns the numbers that ids stand for, in order, each once.
func (a *archive) numbers(ids []string) ([]uint64, error) {
	var numbers []uint64
	for _, id := range ids {
		n, err := a.number(id)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// wanted is how many entries to read at a time: if many may be passed over as many as
// may be, else what is missing, and one more to see whether there is more.
func (r *archiveResult) wanted(q archiveQuery) int {
	if !q.with.IsBare() || r.skipped < q.skip {
		return pageEntries
	}
	return min(pageEntries, q.max-len(r.entries)+1)
}

// addIf takes a message that the query asks for into the page if there is room.
func (r *archiveResult) addIf(q archiveQuery, e store.Entry) {
	if r.full || !q.matches(e) {
		return
	}
	if r.skipped < q.skip {
		r.skipped++
		return
	}
	if r.full = len(r.entries) >= q.max || r.bytes > archiveBytes; r.full {
		return
	}
	r.entries = append(r.entries, e)
	r.bytes += len(e.Stanza)
}

// finish brings the page into the order of time and sets its ends.
func (r *archiveResult) finish(q archiveQuery) {
	if r.backwards = q.backwards; q.backwards {
		slices.Reverse(r.entries)
	}
	if n := len(r.entries); n > 0 {
		r.first, r.last = r.entries[0].Seq, r.entries[n-1].Seq
	}
}

// peer is the contact whose messages are asked for, empty for all.
func (q archiveQuery) peer() string {
	if q.with.IsZero() {
		return ""
	}
	return q.with.Bare().String()
}

// matches tells whether a query asks for a message of the contact. A bare address
// means all of the contact's resources (XEP-0313 §4.1.1).
func (q archiveQuery) matches(e store.Entry) bool {
	switch {
	case q.with.IsZero():
		return true
	case e.Peer != q.peer():
		return false
	case q.with.IsBare():
		return true
	}
	header, err := xmpp.ParseHeader(e.Stanza)
	return err == nil && (sameAddress(header.From, q.with) || sameAddress(header.To, q.with))
}

func sameAddress(text string, jid xmpp.JID) bool {
	parsed, err := xmpp.ParseJID(text)
	return err == nil && parsed == jid
}
