package backend

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

const (
	pageEntries   = 100              // read from a timeline at a time
	flushBytes    = 32 << 10         // written at a time, about
	lateAfter     = 10 * time.Second // an entry that was missed and is older is marked as delayed
	catchUpPause  = time.Second      // after the store did not answer
	stampTemplate = "2006-01-02T15:04:05.000Z"
)

// cursor is a session's place on its user's timeline. It is owned by the writing
// goroutine.
//
// Two kinds of entries are for a session: those addressed to the user, if the
// client takes them (it is available with a priority that is not negative), and
// those addressed to its own resource, always. An entry for a resource that is not
// on this node counts as addressed to the user: a session elsewhere may take it too,
// but nobody can tell whether that one still lives.
type cursor struct {
	pos     uint64 // all entries up to this one were considered
	live    bool   // the client takes what is addressed to the user
	here    bool   // the client is available, whatever its priority
	carbons bool   // the client wants copies of what others send and get
	begun   bool   // the client was available
	login   bool   // entries that were there before the client are being read
	behind  bool   // there may be entries after pos of which no signal came
	wait    bool   // the store did not answer: try again a little later
	bound   boundPlace
	had     uint64              // of a resumed session: the client has, or need not get, all entries up to this one but those for other resources …
	own     uint64              // … and all from its origin up to this one that are for its own, but those that are written again …
	lost    map[uint64]struct{} // … and these were written to the client and have not arrived, whoever else has them
	past    uint64              // the client was available when the cursor came to entries up to this one: what copies of them there are, it has or gets
	since   time.Time           // when the client said that it is there
	items   []item              // taken from the outbox and not yet done
	copies  map[uint64]uint32   // of entries that are left to other sessions: the numbers of the stanzas

	quiet   quiet       // what an inactive client is spared
	buf     []byte      // to be written
	waiting []time.Time // when the signals of the entries in buf came
	asked   []written   // requests in buf
	unasked [][]byte    // requests that were not written
}

// startWriting starts the writing goroutine. There is one while there is something to
// write.
func (s *session) startWriting(ctx context.Context) {
	go func() {
		over := true
		defer func() {
			if over {
				close(s.written)
			}
		}()
		defer s.survive(ctx)
		over = s.write(ctx)
	}()
}

// write is the writing goroutine: it takes what is in the outbox and delivers. It returns
// true when all is over, since the outbox is closed or the connection has failed, and
// false when there is nothing to do now.
func (s *session) write(ctx context.Context) (over bool) {
	for {
		if s.idles(ctx) {
			return false
		}
		var t taken
		if len(s.cur.items) == 0 || s.ended() { // else more waits where it is counted
			t = s.out.take()
		}
		s.cur.behind = s.cur.behind || t.missed
		s.cur.items = append(s.cur.items, t.items...)
		s.putItems(ctx)
		if s.cur.behind && !s.cur.wait && !t.closed && !s.crowded() {
			s.catchUp(ctx, math.MaxUint64)
		}
		if !s.flush() {
			return true
		}
		if t.closed {
			s.closeWrite(ctx, t.last)
			return true
		}
	}
}

// putItems does all that the items say, in order. An entry that has to be read
// from the store first, and cannot, holds up those behind it: what one user
// says to another arrives in order (RFC 6120 §10.1).
func (s *session) putItems(ctx context.Context) {
	for i, it := range s.cur.items {
		if !s.put(ctx, it, s.cur.items[i+1:]) {
			s.cur.items = s.cur.items[i:]
			return
		}
	}
	s.cur.items = nil
}

// idles reports that there is nothing to do. When the store did not answer it waits a
// little first.
func (s *session) idles(ctx context.Context) bool {
	switch {
	case s.cur.wait:
		timer := time.NewTimer(catchUpPause)
		defer timer.Stop()
		s.cur.wait = false
		select {
		case <-timer.C:
		case <-s.done:
		}
	case s.cur.behind && !s.crowded():
	default:
		buf := s.cur.buf
		s.cur.buf = nil // an idle session holds no buffer
		if s.out.idle(func() { s.startWriting(ctx) }) {
			return true // somebody else may write already
		}
		s.cur.buf = buf
	}
	return false
}

// put does what an item says, which others follow. It returns false if that is not possible now.
func (s *session) put(ctx context.Context, it item, next []item) bool {
	switch it.kind {
	case itemRaw:
		s.cur.buf = append(s.cur.buf, it.data...)
	case itemTold:
		if s.unacked.tell(it.told) {
			s.node.points.mark(s)
		}
	case itemEnabled:
		s.beginSM(ctx, it.enable)
	case itemStanza:
		if !s.readUpTo(ctx, it.after, it.after) {
			return false
		}
		if it.asks {
			s.putRequest(it.data)
		} else {
			s.putStanza(it.data)
		}
	case itemEntry:
		return s.putEntry(ctx, it, next)
	case itemAvailable:
		s.goLive(ctx, it.at)
	case itemUnavailable:
		s.cur.wasHere()
		s.cur.live, s.cur.login, s.cur.here = false, false, it.on
	case itemCarbons:
		s.cur.carbons = it.on
	case itemQuiet:
		s.setQuiet(it.on)
	case itemAgain:
		return s.putAgain(ctx, it.seqs)
	}
	return true
}

// putStanza writes a stanza that is no entry, unless the client had better not be
// bothered with it now.
func (s *session) putStanza(raw []byte) {
	if !s.hold(raw) {
		s.writeStanza(raw, 0)
	}
}

// writeStanza writes a stanza that is no entry, but may be the copy of the entry seq.
func (s *session) writeStanza(raw []byte, seq uint64) {
	s.unacked.stanza(raw, seq)
	s.out.count.Add(1)
	s.cur.buf = append(s.cur.buf, raw...)
	if len(s.cur.buf) > flushBytes {
		s.flush()
	}
}

// putEntry delivers the next entry, after all that come before it.
func (s *session) putEntry(ctx context.Context, it item, next []item) bool {
	if it.seq == s.cur.pos+1 && !s.cur.behind && !s.lacks(it) {
		s.cur.waiting = append(s.cur.waiting, it.at)
		s.consider(store.Entry{Seq: it.seq, Sent: it.sent, Resource: it.resource, Stanza: it.data}, nil)
		return true
	}
	most := uint64(math.MaxUint64) // those that come later may be read as well, up to the next stanza
	if i := slices.IndexFunc(next, func(it item) bool { return it.kind == itemStanza }); i >= 0 {
		most = max(it.seq, next[i].after)
	}
	return s.readUpTo(ctx, it.seq, most)
}

// readUpTo delivers all entries up to one, and maybe more. It returns false if that is not possible
// now.
func (s *session) readUpTo(ctx context.Context, seq, most uint64) bool {
	for seq > s.cur.pos {
		if s.crowded() {
			s.cur.behind = true
			return s.ended()
		}
		before := s.cur.pos
		if s.catchUp(ctx, most); s.cur.pos == before && !s.cur.wait {
			s.cur.pos = seq // all up to it has been removed since
		} else if s.cur.pos == before {
			s.cur.behind, s.cur.wait = true, true
			return s.ended() // then the store is not asked again
		}
	}
	return true
}

// goLive begins to deliver what is addressed to the user, from the first entry
// that none of its clients has received.
func (s *session) goLive(ctx context.Context, since time.Time) {
	if s.cur.live {
		return
	}
	s.cur.wasHere()
	s.cur.here = true
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	head, delivered, err := s.node.store.Head(query, s.account.Owner)
	if err != nil {
		s.endBy(storeFailed(err))
		return
	}
	received := s.hub.atLeast(delivered)
	pos, since := s.beginning(received, since)
	s.hub.goesOn(s, pos)
	if err := s.rewind(ctx, pos, received); err != nil {
		s.endBy(storeFailed(err))
		return
	}
	waits := head > s.cur.pos // of what comes after the head there are signals
	s.cur.live, s.cur.login, s.cur.behind = true, waits, waits || s.cur.behind
	s.cur.since = since.Truncate(time.Millisecond) // as entries' times are
}

// wasHere notes up to where the client needs no copies any more, if it was available.
func (c *cursor) wasHere() {
	if c.here && c.carbons {
		c.past = max(c.past, c.pos)
	}
}

// rewind puts the cursor at an entry. When that is before the one where the client would go
// on after a crash of the node, the store learns of it before anything is delivered. The user has received all entries up to received.
func (s *session) rewind(ctx context.Context, pos, received uint64) error {
	s.cur.pos = pos
	if !s.unacked.rewind(pos, received) {
		return nil
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	return s.node.store.SetResumePoints(query, []store.ResumePoint{s.point()})
}

// crowded tells whether what waits for the user has to wait on, until the client has acknowledged more
// of what was written: more may wait than any client may leave without that. What comes after it
// waits as well, unless that becomes so much that the client is soon not read any more.
func (s *session) crowded() bool {
	return s.unacked.crowded(s.node.opts.Limits.Unacked/2) && s.out.airy()
}

// catchUp reads and delivers one page after the cursor, of entries up to one.
func (s *session) catchUp(ctx context.Context, most uint64) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	limit := min(pageEntries, max(s.node.opts.Limits.Unacked/2, 1))
	if left := most - s.cur.pos; left < uint64(limit) {
		limit = int(left) //nolint:gosec // Less than a page.
	}
	page, err := s.node.store.Read(query, s.account.Owner, s.cur.pos, limit)
	if err != nil {
		s.cur.wait = true
		s.node.opts.Logger.WarnContext(ctx, "read a timeline", slog.String("user", s.account.User), slog.Any("error", err))
		return
	}
	why := "gap"
	if s.cur.login {
		why = "login"
	}
	all := len(page) < limit
	if i := slices.IndexFunc(page, func(e store.Entry) bool { return e.Seq > most }); i >= 0 {
		page, all = page[:i], false
	}
	s.node.metrics.caughtUp.WithLabelValues(why).Add(float64(len(page)))
	for _, e := range page {
		s.consider(e, s.delay(e))
	}
	if all {
		s.cur.behind, s.cur.login = false, false
	}
}

// delay returns the mark of an entry that was sent before the client was there, or
// that was missed for long (XEP-0203), else nil.
func (s *session) delay(e store.Entry) []byte {
	if !e.Time.Before(s.cur.since) && time.Since(e.Time) < lateAfter {
		return nil
	}
	return []byte("<delay xmlns='" + xmpp.NSDelay + "' from='" + s.node.opts.Domain +
		"' stamp='" + e.Time.UTC().Format(stampTemplate) + "'/>")
}

// consider delivers an entry, or leaves it out if it is not for this session, and
// moves the cursor behind it.
func (s *session) consider(e store.Entry, delay []byte) {
	s.cur.pos = e.Seq
	mine, lost := s.isFor(e), s.cur.isLost(e.Seq)
	had := !lost && s.has(e)
	switch {
	case s.cur.bound.isRead(e) && !s.cur.live:
		s.unacked.pass(e.Seq)
	case s.cur.bound.isRead(e):
		s.skip(e)
	case e.Sent:
		s.copyEntry(e, delay)
		s.skip(e)
	case s.unwelcome(e):
	case !mine && !s.cur.live:
		s.copyEntry(e, delay)
		s.unacked.pass(e.Seq)
	case had && mine:
		s.passOwn(e)
	case had:
		s.skip(e)
	case !mine && e.Resource != "" && s.hub.hold(e.Resource, e.Seq):
		s.copyHeld(e, delay)
		s.skip(e)
	case s.waited(e.Seq) && (s.unacked.has(e.Seq) || s.hub.isDone(e.Seq) && !lost):
		s.copyEntry(e, delay)
		s.skip(e)
	default:
		s.deliver(e, delay, s.cur.live && !s.cur.bound.leaves(e.Seq), e.Seq)
	}
}

// has tells whether the client has an entry to which the cursor comes once more, or it is on its way.
func (s *session) has(e store.Entry) bool {
	switch {
	case s.unacked.wasEarly(e.Seq):
		return true
	case e.Resource == s.jid.Resource():
		return (e.Seq <= s.cur.had || e.Seq <= s.cur.own && e.Seq > s.origin) && !slices.ContainsFunc(s.again, func(f savedFlight) bool { return f.Seq == e.Seq })
	default:
		return e.Seq <= s.cur.had && e.Resource == ""
	}
}

// passOwn passes over an entry for this resource that the client has, or that is on its way.
func (s *session) passOwn(e store.Entry) {
	if !s.unacked.has(e.Seq) {
		s.hub.arrived(flight{seq: e.Seq}) // others may have left it to this session
	}
	if s.cur.live {
		s.skip(e)
	} else {
		s.unacked.pass(e.Seq)
	}
}

// waited tells whether an entry was there before the client: it need not get what another one of the user has received.
func (s *session) waited(seq uint64) bool { return s.cur.login || seq <= s.cur.past }

// isFor tells whether an entry is for this client whether or not it takes what is for the user: it is for its resource, or was
// on its way to it.
func (s *session) isFor(e store.Entry) bool {
	return e.Resource == s.jid.Resource() || e.Resource == "" && s.cur.isLost(e.Seq)
}

func (c *cursor) isLost(seq uint64) bool {
	_, lost := c.lost[seq]
	return lost
}

// unwelcome passes over an entry for good if its sender is blocked by now (XEP-0191 §3.3), or if
// it can never be delivered: it stays in the archive.
func (s *session) unwelcome(e store.Entry) bool {
	if !s.hub.ignoresSenderOf(e.Stanza) && !s.tooLong(xmpp.Message, e.Stanza, entryMost) {
		return false
	}
	s.hub.arrived(flight{seq: e.Seq})
	if s.cur.live {
		s.skip(e)
	} else {
		s.unacked.pass(e.Seq)
	}
	return true
}

// copyHeld is copyEntry for an entry that is left to another session. Should that go without
// it, a client that has received the copy need not get the entry as well.
func (s *session) copyHeld(e store.Entry, delay []byte) {
	before := s.out.total()
	if s.writeCopy(e, delay); s.out.total() == before {
		if e.Seq > s.cur.past && copyable(e.Stanza) {
			s.uncopied.Store(max(s.uncopied.Load(), e.Seq))
		}
		return
	}
	if s.cur.copies == nil || len(s.cur.copies) >= pendingMax { // what is forgotten may come twice
		s.cur.copies = make(map[uint64]uint32)
	}
	s.cur.copies[e.Seq], _ = s.unacked.counts()
}

// hasCopy tells whether the client has received a copy of an entry.
func (s *session) hasCopy(seq uint64) bool {
	count, copied := s.cur.copies[seq]
	_, acked := s.unacked.counts()
	return copied && (!s.unacked.counting() || !after(count, acked))
}

// skip passes over an entry that needs no delivery here.
func (s *session) skip(e store.Entry) {
	switch {
	case s.cur.bound.leaves(e.Seq):
		s.unacked.pass(e.Seq)
	case s.cur.live:
		s.checkUnacked(s.unacked.skip(e.Seq))
	case e.Sent:
		s.hub.done(e.Seq)
		s.unacked.pass(e.Seq)
	}
}

// deliver writes an entry with its number (XEP-0359), by which the client finds it in
// its archive. One that is delivered in turn ends with it, by which a front knows how
// far the user has come. The number is not the last child where that would say
// more than is true: when the client takes only what is addressed to its resource,
// when another session did not take the entry, or while an earlier one is on its
// way to another session; then the message ends with the session's place instead.
// pos is where the cursor is then, 0 for an entry out of turn: that ends with its number
// once more, from which the front learns nothing but which entry it is.
func (s *session) deliver(e store.Entry, delay []byte, inTurn bool, pos uint64) {
	s.releaseFrom(e.Stanza)
	delete(s.cur.lost, e.Seq)
	stanza := withoutPrivate(e.Stanza)
	claims := inTurn && s.hub.allBefore(e.Seq)
	if !claims {
		stanza = withFirstChild(stanza, s.stanzaID(e.Seq))
	}
	if delay != nil {
		stanza = xmpp.AppendWithChild(nil, stanza, delay)
	}
	var upTo uint64
	if inTurn {
		upTo = e.Seq
	}
	switch {
	case claims:
		s.cur.buf = xmpp.AppendWithChild(s.cur.buf, stanza, s.stanzaID(e.Seq))
	case pos != 0 && s.tellsPlace():
		s.cur.buf = xmpp.AppendWithChild(s.cur.buf, stanza, place(pos, inTurn, false))
	case s.tellsPlace():
		s.cur.buf = xmpp.AppendWithChild(s.cur.buf, stanza, forFront("apart", e.Seq))
	default:
		s.cur.buf = append(s.cur.buf, stanza...)
	}
	s.out.count.Add(1)
	s.node.metrics.stanzas.WithLabelValues("out", kindText(xmpp.Message)).Inc()
	s.checkUnacked(s.unacked.entry(e.Seq, upTo, pos, e.Resource != "" && e.Resource != s.jid.Resource()))
	if len(s.cur.buf) > flushBytes {
		s.flush()
	}
}

// checkUnacked ends a session that leaves too much without acknowledgement.
func (s *session) checkUnacked(n int) {
	if n > s.node.opts.Limits.Unacked {
		s.end(ReasonSlowClient, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "too many unacknowledged messages"})
	}
}

// putAgain delivers entries that were held for another session, which is gone, or that the
// client had not received when the session was resumed. It returns false if that is not possible now;
// what was written of them then is not written twice.
func (s *session) putAgain(ctx context.Context, seqs []uint64) bool {
	for _, seq := range seqs {
		if seq > s.cur.pos { // its turn will come
			continue
		}
		if s.cur.live && s.hasCopy(seq) {
			s.hub.arrived(flight{seq: seq})
			continue
		}
		query, cancel := s.node.storeContext(ctx)
		page, err := s.node.store.Read(query, s.account.Owner, seq-1, 1)
		cancel()
		if err != nil {
			s.node.opts.Logger.WarnContext(ctx, "read a timeline", slog.String("user", s.account.User), slog.Any("error", err))
			s.cur.wait = true
			return s.ended() // then it stays undelivered, and comes with the next login
		}
		switch {
		case len(page) == 0 || page[0].Seq != seq: // it has been removed since
			s.hub.arrived(flight{seq: seq})
		case !s.cur.live && !s.isFor(page[0]):
		case s.unacked.has(seq), s.hub.isDone(seq) && !s.cur.isLost(seq):
		case s.hub.ignoresSenderOf(page[0].Stanza), s.tooLong(xmpp.Message, page[0].Stanza, entryMost):
			s.hub.arrived(flight{seq: seq})
		default:
			s.deliver(page[0], s.delay(page[0]), false, 0)
		}
	}
	return true
}

// flush writes the buffer. It returns false when the connection has failed.
func (s *session) flush() bool {
	if s.unacked.request() {
		s.cur.buf = append(s.cur.buf, smRequest...)
	}
	if len(s.cur.buf) > 0 {
		_ = s.conn.SetWriteDeadline(time.Now().Add(s.node.opts.Timeouts.Write))
		n, err := s.conn.Write(s.cur.buf)
		s.cur.sent(n)
		if err != nil {
			s.writeFailed(err)
			return false
		}
		s.cur.buf = s.cur.buf[:0]
	}
	s.arrived(s.unacked.written())
	now := time.Now()
	for _, at := range s.cur.waiting {
		s.node.metrics.delivery.Observe(now.Sub(at).Seconds())
	}
	s.cur.waiting = s.cur.waiting[:0]
	return true
}

func (s *session) writeFailed(err error) {
	reason := ReasonClientLost
	if errors.Is(err, os.ErrDeadlineExceeded) {
		reason = ReasonSlowClient
	}
	s.finish(reason, err, nil)
	_ = s.conn.Close() // the reader has nothing to wait for
}

// arrived notes what the user has received.
func (s *session) arrived(flights []flight) {
	for _, f := range flights {
		s.hub.arrived(f)
	}
}

// closeWrite ends our half of the connection with last. Whoever sees the end may
// log in again elsewhere at once, so what was delivered is stored before.
func (s *session) closeWrite(ctx context.Context, last []byte) {
	s.flushDelivered(ctx)
	if s.cur.buf = append(s.cur.buf, last...); !s.flush() {
		return
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the peer may be gone
		return
	}
	_ = s.conn.Close()
}

func (s *session) flushDelivered(ctx context.Context) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	s.node.delivered.flushOwner(query, s.account.Owner, s.node.opts.Logger)
}

// withFirstChild returns a copy of an element that has children, with one more before
// them.
func withFirstChild(raw, child []byte) []byte {
	end, quote := 0, byte(0) // of the start tag
	for ; end < len(raw) && (raw[end] != '>' || quote != 0); end++ {
		switch c := raw[end]; {
		case c == quote:
			quote = 0
		case quote == 0 && (c == '\'' || c == '"'):
			quote = c
		}
	}
	return slices.Concat(raw[:end+1], child, raw[end+1:])
}

// tellsPlace tells whether the front can do something with the places of the session.
func (s *session) tellsPlace() bool { return s.holdTime.Load() > 0 }

// place is what a message ends with that is on the timeline in turn, and claims nothing: where its
// session is then. Who resumes the session after its node was killed goes on from there, if the client
// has counted the message. had tells whether the client has then had all before that was for the user, but for what was left to others,
// and copied whether the message is a copy.
func place(pos uint64, had, copied bool) []byte {
	kind := "entry"
	switch {
	case had && copied:
		kind = "copied"
	case had:
		kind = "had"
	case copied:
		kind = "copy"
	}
	return forFront(kind, pos)
}

// forFront is what a message ends with to tell the front of a number on the timeline.
func forFront(kind string, number uint64) []byte {
	return append(strconv.AppendUint([]byte("<at xmlns='"+xmpp.NSFront+"' "+kind+"='"), number, 10), "'/>"...)
}

// stanzaID is the number of an entry as a child of a message.
func (s *session) stanzaID(seq uint64) []byte {
	return appendStanzaID(nil, s.account.User, seq)
}
