package backend

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// The archive (XEP-0313 1.1) is the user's timeline read back: an entry's number is its
// id. Nothing else is kept for it.

const (
	archivePage = 50  // messages in a page whose size the client leaves to us
	archiveMost = 250 // messages in any page
	// archiveScan bounds the entries that are read to fill one page. A page that
	// would need more ends there: the client goes on from its first or last id.
	archiveScan = 20_000
	// archiveBytes bounds a page: none has another message after so many.
	archiveBytes = 1 << 20
)

// archive answers a request to the user's archive.
func (s *session) archive(ctx context.Context, q request) error {
	name, get := q.payload.Local(), q.header.Type == iqGet
	switch {
	case name == "query" && get:
		q.reply([]byte(archiveForm))
		return nil
	case name == "query":
		return s.queryArchive(ctx, q)
	case name == "metadata" && get:
		return s.archiveMetadata(ctx, q)
	default: // <prefs/> (XEP-0441): every message is archived
		return xmpp.NewStanzaError(xmpp.FeatureNotImplemented, "")
	}
}

// archiveForm says which fields a query may have (XEP-0313 §4.1).
const archiveForm = "<query xmlns='" + xmpp.NSMAM + "'><x xmlns='" + xmpp.NSDataForm + "' type='form'>" +
	"<field type='hidden' var='FORM_TYPE'><value>" + xmpp.NSMAM + "</value></field>" +
	"<field type='jid-single' var='with'/>" +
	"<field type='text-single' var='start'/>" +
	"<field type='text-single' var='end'/>" +
	"<field type='text-single' var='before-id'/>" +
	"<field type='text-single' var='after-id'/>" +
	"<field type='list-multi' var='ids'>" +
	"<validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'><open/></validate></field>" +
	"</x></query>"

// queryArchive sends a page of the archive and then says where it begins and ends.
func (s *session) queryArchive(ctx context.Context, q request) error {
	query, err := readArchiveQuery(q.payload)
	if err != nil {
		return err
	}
	a, err := s.openArchive(ctx)
	if err != nil {
		return err
	}
	page, err := a.find(ctx, query)
	if err != nil {
		return err
	}
	shown := page.entries
	if query.flip {
		slices.Reverse(shown)
	}
	for _, e := range shown {
		s.out.room(s.done) // a page may be more than an outbox takes
		s.send(xmpp.Message, s.archived(query, e))
	}
	s.out.room(s.done)
	q.reply(page.fin())
	return nil
}

// archived is an entry as a result of a query (XEP-0313 §4.2).
func (s *session) archived(query archiveQuery, e store.Entry) []byte {
	m := appendAttr([]byte("<message"), "from", s.account.User)
	m = appendAttr(m, "to", s.jid.String())
	m = append(m, "><result xmlns='"+xmpp.NSMAM+"'"...)
	if query.id != "" {
		m = appendAttr(m, "queryid", query.id)
	}
	m = appendAttr(m, "id", archiveID(e.Seq))
	m = append(m, '>')
	m = appendForwarded(m, e.Stanza, e.Time)
	return append(m, "</result></message>"...)
}

// appendForwarded appends a stanza inside <forwarded/> (XEP-0297), with its time
// unless that is zero.
func appendForwarded(dst, stanza []byte, at time.Time) []byte {
	dst = append(dst, "<forwarded xmlns='"+xmpp.NSForward+"'>"...)
	if !at.IsZero() {
		dst = append(dst, "<delay xmlns='"+xmpp.NSDelay+"' stamp='"...)
		dst = at.UTC().AppendFormat(dst, stampTemplate)
		dst = append(dst, "'/>"...)
	}
	dst = xmpp.AppendSelfContained(dst, stanza)
	return append(dst, "</forwarded>"...)
}

// archiveMetadata says where the archive begins and ends (XEP-0313 §5).
func (s *session) archiveMetadata(ctx context.Context, q request) error {
	a, err := s.openArchive(ctx)
	if err != nil {
		return err
	}
	first, err := a.find(ctx, archiveQuery{max: 1})
	if err != nil {
		return err
	}
	last, err := a.find(ctx, archiveQuery{max: 1, backwards: true})
	if err != nil {
		return err
	}
	result := []byte("<metadata xmlns='" + xmpp.NSMAM + "'")
	if len(first.entries) == 0 || len(last.entries) == 0 {
		q.reply(append(result, "/>"...))
		return nil
	}
	result = append(result, '>')
	result = appendArchiveEnd(result, "start", first.entries[0])
	result = appendArchiveEnd(result, "end", last.entries[0])
	q.reply(append(result, "</metadata>"...))
	return nil
}

func appendArchiveEnd(dst []byte, name string, e store.Entry) []byte {
	dst = appendAttr(append(append(dst, '<'), name...), "id", archiveID(e.Seq))
	dst = appendAttr(dst, "timestamp", e.Time.UTC().Format(stampTemplate))
	return append(dst, "/>"...)
}

// archive is a user's timeline, seen as an archive.
type archive struct {
	node        *Node
	owner       store.OwnerID
	user        xmpp.JID
	first, head uint64 // numbers of the entries that are there; first > head: none
}

func (s *session) openArchive(ctx context.Context) (*archive, error) {
	a := &archive{node: s.node, owner: s.account.Owner, user: s.hub.user}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	head, _, err := s.node.store.Head(query, a.owner)
	if err != nil {
		return nil, fmt.Errorf("open the archive of %s: %w", a.user, err)
	}
	a.head = head
	oldest, err := a.read(ctx, 0, 1)
	if err != nil {
		return nil, err
	}
	a.first = head + 1
	if len(oldest) > 0 {
		a.first = oldest[0].Seq
	}
	return a, nil
}

func (a *archive) read(ctx context.Context, after uint64, limit int) ([]store.Entry, error) {
	query, cancel := a.node.storeContext(ctx)
	defer cancel()
	page, err := a.node.store.Read(query, a.owner, after, limit)
	if err != nil {
		return nil, fmt.Errorf("read the archive of %s: %w", a.user, err)
	}
	return page, nil
}

// archiveResult is a page of the archive, in the order of time.
type archiveResult struct {
	entries     []store.Entry
	first, last uint64 // what the client continues from; 0: nothing
	bytes       int
	full        bool   // there is more than the page takes
	complete    bool   // there is no more in this direction
	count       uint64 // entries in the range, if counted
	counted     bool
}

// find returns the page that a query asks for.
func (a *archive) find(ctx context.Context, q archiveQuery) (archiveResult, error) {
	if len(q.ids) > 0 {
		return a.pick(ctx, q)
	}
	lo, hi, err := a.bounds(ctx, q)
	if err != nil {
		return archiveResult{}, err
	}
	var r archiveResult
	switch {
	case lo > hi:
		r = archiveResult{complete: true}
	case q.max == 0: // only the count is asked for (XEP-0059 §2.7)
	case q.backwards:
		r, err = a.backwards(ctx, q, lo, hi)
	default:
		r, err = a.forwards(ctx, q, lo, hi)
	}
	if q.with.IsZero() {
		r.counted = true
		if lo <= hi {
			r.count = hi - lo + 1
		}
	}
	return r, err
}

// bounds returns the numbers of the first and the last entry that a query may
// return.
func (a *archive) bounds(ctx context.Context, q archiveQuery) (lo, hi uint64, err error) {
	lo, hi = a.first, a.head
	for _, id := range []string{q.afterID, q.after} {
		if id == "" {
			continue
		}
		n, err := a.number(id)
		if err != nil {
			return 0, 0, err
		}
		lo = max(lo, n+1)
	}
	for _, id := range []string{q.beforeID, q.before} {
		if id == "" {
			continue
		}
		n, err := a.number(id)
		if err != nil {
			return 0, 0, err
		}
		hi = min(hi, n-1)
	}
	if !q.start.IsZero() {
		n, err := a.search(ctx, func(t time.Time) bool { return !t.Before(q.start) })
		if err != nil {
			return 0, 0, err
		}
		lo = max(lo, n)
	}
	if !q.end.IsZero() {
		n, err := a.search(ctx, func(t time.Time) bool { return t.After(q.end) })
		if err != nil {
			return 0, 0, err
		}
		hi = min(hi, n-1)
	}
	return lo, hi, nil
}

// search returns the number of the first entry whose time is late, one more than the
// last if there is none. Time does not go backwards on a timeline.
func (a *archive) search(ctx context.Context, late func(time.Time) bool) (uint64, error) {
	lo, hi := a.first, a.head+1
	for lo < hi {
		mid := lo + (hi-lo)/2
		page, err := a.read(ctx, mid-1, 1)
		if err != nil {
			return 0, err
		}
		if len(page) == 0 || late(page[0].Time) {
			hi = mid
		} else {
			lo = mid + 1
		}
	}
	return lo, nil
}

// number returns the entry that an id stands for.
func (a *archive) number(id string) (uint64, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil || archiveID(n) != id || n < a.first || n > a.head {
		return 0, xmpp.NewStanzaError(xmpp.ItemNotFound, "no message has that id")
	}
	return n, nil
}

// archiveID is the id of an entry, that of its <stanza-id/> too.
func archiveID(seq uint64) string { return strconv.FormatUint(seq, 10) }

// forwards returns the first messages from lo to hi that a query asks for.
func (a *archive) forwards(ctx context.Context, q archiveQuery, lo, hi uint64) (archiveResult, error) {
	var r archiveResult
	stop := min(hi, lo+archiveScan-1)
	for pos := lo - 1; pos < stop && !r.full; {
		page, err := a.read(ctx, pos, r.wanted(q))
		if err != nil {
			return r, err
		}
		for _, e := range page {
			if e.Seq <= stop && a.matches(q, e) {
				r.add(q, e)
			}
		}
		if len(page) == 0 {
			break
		}
		pos = page[len(page)-1].Seq
	}
	r.complete = !r.full && stop == hi
	r.ends()
	if !r.full && !r.complete {
		r.first, r.last = max(r.first, lo), stop
	}
	return r, nil
}

// backwards returns the last messages from lo to hi that a query asks for.
func (a *archive) backwards(ctx context.Context, q archiveQuery, lo, hi uint64) (archiveResult, error) {
	var r archiveResult
	stop := lo
	if hi-lo >= archiveScan {
		stop = hi - archiveScan + 1
	}
	for to := hi; to >= stop && !r.full; { // all after to is read
		from := to - min(to-stop, uint64(r.wanted(q)-1)) //nolint:gosec // It is positive.
		page, err := a.read(ctx, from-1, int(to-from+1)) //nolint:gosec // At most pageEntries.
		if err != nil {
			return r, err
		}
		for _, e := range slices.Backward(page) {
			if e.Seq <= to && a.matches(q, e) {
				r.add(q, e)
			}
		}
		to = from - 1
	}
	slices.Reverse(r.entries)
	r.complete = !r.full && stop == lo
	r.ends()
	if !r.full && !r.complete {
		r.first, r.last = stop, max(r.last, stop)
	}
	return r, nil
}

// wanted is how many entries to read at a time: with a filter a whole page, without
// one what is missing, and one more to see whether there is more.
func (r *archiveResult) wanted(q archiveQuery) int {
	if !q.with.IsZero() {
		return pageEntries
	}
	return min(pageEntries, q.max-len(r.entries)+1)
}

// add takes a message into the page if it has room.
func (r *archiveResult) add(q archiveQuery, e store.Entry) {
	if r.full = r.full || len(r.entries) >= q.max || r.bytes > archiveBytes; r.full {
		return
	}
	r.entries = append(r.entries, e)
	r.bytes += len(e.Stanza)
}

// pick returns the messages that have the ids that a query names, all or none.
func (a *archive) pick(ctx context.Context, q archiveQuery) (archiveResult, error) {
	r := archiveResult{complete: true, counted: true, count: uint64(len(q.ids))}
	var numbers []uint64
	for _, id := range q.ids {
		n, err := a.number(id)
		if err != nil {
			return r, err
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range slices.Compact(numbers) {
		page, err := a.read(ctx, n-1, 1)
		if err != nil {
			return r, err
		}
		if len(page) == 0 || page[0].Seq != n || !a.keeps(page[0]) {
			return r, xmpp.NewStanzaError(xmpp.ItemNotFound, "no message has that id")
		}
		r.entries = append(r.entries, page[0])
	}
	r.ends()
	return r, nil
}

// ends sets the ids of the first and the last message.
func (r *archiveResult) ends() {
	if n := len(r.entries); n > 0 {
		r.first, r.last = r.entries[0].Seq, r.entries[n-1].Seq
	}
}

// fin ends the answer to a query (XEP-0313 §4.2, XEP-0059 §2). Messages that are on
// the timeline but not in the archive make the count an approximation, as XEP-0059
// allows.
func (r archiveResult) fin() []byte {
	fin := []byte("<fin xmlns='" + xmpp.NSMAM + "'")
	if r.complete {
		fin = append(fin, " complete='true'"...)
	}
	fin = append(fin, "><set xmlns='"+xmpp.NSRSM+"'>"...)
	if r.first != 0 {
		fin = append(fin, "<first>"+archiveID(r.first)+"</first><last>"+archiveID(r.last)+"</last>"...)
	}
	if r.counted {
		fin = append(fin, "<count>"+strconv.FormatUint(r.count, 10)+"</count>"...)
	}
	return append(fin, "</set></fin>"...)
}

// keeps tells whether an entry is part of the archive. A message to oneself is once, and
// one that may be stored only until it is delivered (XEP-0334 §4.1) is not.
func (a *archive) keeps(e store.Entry) bool {
	if e.Sent && e.Peer == a.user.String() {
		return false
	}
	return !hasHint(e.Stanza, "no-permanent-store")
}

// hasHint tells whether a stanza has a hint of XEP-0334.
func hasHint(stanza []byte, name string) bool {
	if !bytes.Contains(stanza, []byte(name)) {
		return false
	}
	e, err := xmpp.ParseElement(stanza)
	if err != nil {
		return false
	}
	_, ok := e.Child(xmpp.NSHints, name)
	return ok
}

// matches tells whether a query asks for an entry. A bare address means all of the
// contact's resources (XEP-0313 §4.1.1).
func (a *archive) matches(q archiveQuery, e store.Entry) bool {
	switch {
	case !a.keeps(e):
		return false
	case q.with.IsZero():
		return true
	case e.Peer != q.with.Bare().String():
		return false
	case q.with.IsBare():
		return true
	}
	header, err := xmpp.ParseHeader(e.Stanza)
	if err != nil {
		return false
	}
	other := header.From
	if e.Sent {
		other = header.To
	}
	jid, err := xmpp.ParseJID(other)
	return err == nil && jid == q.with
}
