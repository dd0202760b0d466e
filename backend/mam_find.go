package backend

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// archive is a user's timeline, seen as an archive.
type archive struct {
	node        *Node
	owner       store.OwnerID
	user        xmpp.JID
	first, head uint64 // numbers of the entries that may be there; first > head: none
}

func (s *session) openArchive(ctx context.Context) (*archive, error) {
	a := &archive{node: s.node, owner: s.account.Owner, user: s.hub.user}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	var err error
	if a.first, a.head, err = s.node.store.Span(query, a.owner); err != nil {
		return nil, fmt.Errorf("open the archive of %s: %w", a.user, err)
	}
	return a, nil
}

// read returns what is in a part of the archive.
func (a *archive) read(ctx context.Context, r store.Range) ([]store.Entry, error) {
	query, cancel := a.node.storeContext(ctx)
	defer cancel()
	found, err := a.node.store.Find(query, a.owner, r)
	if err != nil {
		return nil, fmt.Errorf("read the archive of %s: %w", a.user, err)
	}
	return found, nil
}

// span is a range of numbers, both ends included.
type span struct{ lo, hi uint64 }

// size is how many numbers there are.
func (s span) size() uint64 { return max(s.hi+1, s.lo) - s.lo }

func (s span) has(n uint64) bool { return s.lo <= n && n <= s.hi }

// find returns the page that a query asks for.
func (a *archive) find(ctx context.Context, q archiveQuery) (archiveResult, error) {
	all, err := a.bounds(ctx, q)
	if err != nil {
		return archiveResult{}, err
	}
	part, err := a.pageBounds(&q, all)
	if err != nil {
		return archiveResult{}, err
	}
	if len(q.ids) > 0 {
		return a.pick(ctx, q, all, part)
	}
	r, err := a.page(ctx, q, part)
	if err != nil {
		return r, err
	}
	switch {
	case part == all && q.skip == 0 && r.complete: // it is all there is
		r.counted, r.count = true, uint64(len(r.entries))
	case q.with.IsZero():
		err = a.locate(ctx, q, all, &r)
	case q.max == 0 && q.with.IsBare(): // it is all that is asked for (XEP-0059 §2.7)
		r = archiveResult{complete: r.complete}
		if r.count, err = a.count(ctx, q, all, archiveScan); r.count < archiveScan { // of very many nothing is said
			r.counted = true
		}
	}
	return r, err
}

// locate says how many messages match a query that is not for a contact, and where among them
// the page is. Of many that is how many numbers there are (XEP-0059 §2.2): those of entries that
// are hidden or gone are among these.
func (a *archive) locate(ctx context.Context, q archiveQuery, all span, r *archiveResult) (err error) {
	before := span{all.lo, max(r.first, all.lo) - 1}
	r.counted, r.count, r.index = true, all.size(), before.size()
	if all.size() <= archiveCounted || q.max == 0 && all.size() <= archiveScan {
		if r.count, err = a.count(ctx, q, all, archiveScan); err == nil {
			r.index, err = a.count(ctx, q, before, archiveScan)
		}
	}
	if q.byIndex {
		r.index = q.index // XEP-0059 §2.6: as it was asked for
	}
	return err
}

// count counts the messages in a part of the archive, with the contact that a query names, up to a limit.
func (a *archive) count(ctx context.Context, q archiveQuery, in span, limit int) (uint64, error) {
	if in.size() == 0 {
		return 0, nil
	}
	query, cancel := a.node.storeContext(ctx)
	defer cancel()
	n, err := a.node.store.Count(query, a.owner, store.Range{After: in.lo - 1, Before: in.hi + 1, Peer: q.peer(), Limit: limit})
	if err != nil {
		return 0, fmt.Errorf("count messages in the archive of %s: %w", a.user, err)
	}
	return uint64(n), nil //nolint:gosec // It is positive.
}

// bounds returns the numbers between which a query looks (XEP-0313 §4.1).
func (a *archive) bounds(ctx context.Context, q archiveQuery) (span, error) {
	all, err := a.between(span{a.first, a.head}, q.afterID, q.beforeID)
	if err != nil {
		return all, err
	}
	if !q.start.IsZero() {
		n, err := a.search(ctx, func(t time.Time) bool { return !t.Before(q.start) })
		if err != nil {
			return all, err
		}
		all.lo = max(all.lo, n)
	}
	if !q.end.IsZero() {
		n, err := a.search(ctx, func(t time.Time) bool { return t.After(q.end) })
		if err != nil {
			return all, err
		}
		all.hi = min(all.hi, n-1)
	}
	return all, nil
}

// pageBounds returns the numbers between which a page is (XEP-0059 §2). One that is asked for by an
// index begins there, or after so many messages if there are few.
func (a *archive) pageBounds(q *archiveQuery, all span) (span, error) {
	if !q.byIndex {
		return a.between(all, q.after, q.before)
	}
	if !q.with.IsZero() || len(q.ids) > 0 { // what is before would have to be counted
		return all, xmpp.NewStanzaError(xmpp.FeatureNotImplemented, "pages by index")
	}
	if q.backwards = false; all.size() <= archiveCounted {
		q.skip = q.index
	} else {
		all.lo += min(q.index, all.size())
	}
	return all, nil
}

// between is what a range has after and before the entries with some ids. These need
// not be in the archive themselves: a client may continue from a message that was
// delivered to it but not archived.
func (a *archive) between(s span, after, before string) (span, error) {
	if after != "" {
		n, err := a.number(after)
		if err != nil {
			return s, err
		}
		s.lo = max(s.lo, n+1)
	}
	if before != "" {
		n, err := a.number(before)
		if err != nil {
			return s, err
		}
		s.hi = min(s.hi, n-1)
	}
	return s, nil
}

// search returns the number of the first entry whose time is late, one more than the
// last if there is none. Time does not go backwards on a timeline.
func (a *archive) search(ctx context.Context, late func(time.Time) bool) (uint64, error) {
	lo, hi := a.first, a.head+1
	for lo < hi {
		mid := lo + (hi-lo)/2
		at, ok, err := a.timeFrom(ctx, mid)
		if err != nil {
			return 0, err
		}
		if !ok || late(at) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo, nil
}

// timeFrom returns the time of the first entry from a number on.
func (a *archive) timeFrom(ctx context.Context, seq uint64) (at time.Time, ok bool, err error) {
	query, cancel := a.node.storeContext(ctx)
	defer cancel()
	page, err := a.node.store.Read(query, a.owner, seq-1, 1)
	if err != nil {
		return at, false, fmt.Errorf("search the archive of %s: %w", a.user, err)
	}
	if len(page) == 0 {
		return at, false, nil
	}
	return page[0].Time, true, nil
}

// number returns the entry that an id stands for. Ids of entries that retention has
// removed stand for nothing.
func (a *archive) number(id string) (uint64, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil || archiveID(n) != id || n < a.first || n > a.head {
		return 0, xmpp.NewStanzaError(xmpp.ItemNotFound, "no message has that id")
	}
	return n, nil
}

// archiveID is the id of an entry, that of its <stanza-id/> too.
func archiveID(seq uint64) string { return strconv.FormatUint(seq, 10) }
