package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// yieldTime is how long the node that has a session is given to leave it in order. One
// that does not is dead, or cut off, and is fenced.
const yieldTime = time.Second

// yieldPoll is how often is looked whether it has, and yieldAsk how often it is asked: who
// has the session may be another one by now, that has resumed it as well.
const (
	yieldPoll = 20 * time.Millisecond
	yieldAsk  = yieldTime / 5
)

// tryResume goes on with an earlier session of the user (XEP-0198 §5), wherever that
// is, instead of binding a resource. It returns the answer, <resumed/> or <failed/>,
// which has to be written before anything else.
func (s *session) tryResume(ctx context.Context, e xmpp.Element) (reply []byte, resumed bool, err error) {
	id, _ := e.Attr("previd")
	text, _ := e.Attr("h")
	h, parseErr := strconv.ParseUint(text, 10, 32)
	switch {
	case id == "" || parseErr != nil:
		return smFailed(xmpp.BadRequest), false, nil //nolint:nilerr // the client is told
	case s.node.draining.Load():
		return nil, false, &stopError{ReasonShutdown, &xmpp.StreamError{Condition: xmpp.SystemShutdown}, nil}
	}
	// The partition is hosted first, so that nothing is missed.
	partition := s.node.opts.Partition(s.account.User)
	if err := s.node.bus.Host(partition); err != nil {
		return nil, false, &stopError{ReasonBusFailed, &xmpp.StreamError{Condition: xmpp.InternalServerError}, err}
	}
	err = s.takeOver(ctx, id, uint32(h)) //nolint:gosec // It was parsed as one.
	if err == nil {
		handled, _ := s.in.settled()
		s.node.metrics.resumed.WithLabelValues("resumed").Inc()
		return smResumed(id, handled), true, nil
	}
	if s.hub != nil { // it was known for a while, and others may have left something to it
		s.node.unhostLater(partition, s.hub)
	} else {
		s.node.bus.Unhost(partition)
	}
	return s.notResumed(ctx, id, err)
}

func smResumed(id string, h uint32) []byte {
	r := appendAttr([]byte("<resumed xmlns='"+xmpp.NSSM+"'"), "previd", id)
	return append(r, " h='"+strconv.FormatUint(uint64(h), 10)+"'/>"...)
}

// notResumed is the answer to a client whose session is over (with what that had
// handled, if it is known) or is not what the client thinks it is.
func (s *session) notResumed(ctx context.Context, id string, cause error) ([]byte, bool, error) {
	var count errCount
	var stop *stopError
	switch {
	case errors.As(cause, &stop):
		return nil, false, stop
	case errors.Is(cause, errPeerLeft):
		return nil, false, cause
	case errors.As(cause, &count):
		s.node.metrics.resumed.WithLabelValues("count").Inc()
		return smFailedAt(count.handled), false, nil
	case !errors.Is(cause, store.ErrNotFound):
		s.node.metrics.resumed.WithLabelValues("failed").Inc()
		return nil, false, storeFailed(fmt.Errorf("resume session %s: %w", id, cause))
	}
	s.node.metrics.resumed.WithLabelValues("over").Inc()
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	h, err := s.node.store.EndedSession(query, id, s.account.Owner)
	if err != nil {
		return smFailed(xmpp.ItemNotFound), false, nil
	}
	return smFailedAt(h), false, nil
}

// smFailedAt tells the client what the session that is over has handled.
func smFailedAt(h uint32) []byte {
	return []byte("<failed xmlns='" + xmpp.NSSM + "' h='" + strconv.FormatUint(uint64(h), 10) + "'><" +
		xmpp.ItemNotFound + " xmlns='" + xmpp.NSStanzas + "'/></failed>")
}

// takeOver makes the session the one with that id.
func (s *session) takeOver(ctx context.Context, id string, h uint32) error {
	rec, r, err := s.takeRecord(ctx, id, h)
	defer s.node.turnBack(s)
	if err != nil {
		return err
	}
	if r.Parked.IsZero() { // its node was lost, after it had renewed its lease for the last time
		r.Parked = r.Lease.Add(-s.node.opts.Timeouts.Lease)
	}
	// Others may have resumed it at the same time, and have it no more.
	s.node.publishControl(s.account.User, control{Yield: id, Epoch: rec.Epoch})
	st, err := decodeState(r.State)
	if err == nil {
		err = st.addEarly(r.Early)
	}
	if err != nil {
		r.Note = nil // it stays
		s.putBack(ctx, rec, r)
		return err
	}
	a, err := st.reckon(h, store.ResumePoint{Count: r.Count, Pos: r.Pos, Claimed: r.Claimed, Voided: r.Voided, Told: r.Told}, s.readNote(ctx, r.Note))
	if err != nil {
		r.Note = nil // it stays
		s.putBack(ctx, rec, r)
		return errCount{rec.Handled, err}
	}
	return s.goOn(ctx, rec, r, st, a, h)
}

// takeRecord has the session left by whoever has it, and takes it. If somebody else has taken it since it was first looked
// at, that one has what was left, and may have written on from there, while this connection, which asked before that, may be dead: it
// is ended, and a client that is there comes back and asks anew.
func (s *session) takeRecord(ctx context.Context, id string, h uint32) (rec store.Session, r store.Resumable, err error) {
	seen, err := s.awaitYield(ctx, id, h)
	if err != nil {
		return rec, r, err
	}
	if s.stream.over() { // it may be back on another connection, and must not lose the session there
		return rec, r, errPeerLeft
	}
	_ = s.conn.SetReadDeadline(s.started.Add(s.node.opts.Timeouts.Handshake))
	s.node.arrive(s, id)
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	rec, r, err = s.node.store.Resume(query, id, s.account.Owner, s.node.opts.Name, seen)
	switch {
	case errors.Is(err, store.ErrFenced):
		err = overtakenError()
	case err != nil && !errors.Is(err, store.ErrNotFound):
		s.abandon(id) // the store may have given it to this node all the same
	}
	return rec, r, err
}

// overtakenError ends the login of a session that another connection has resumed meanwhile. It is no conflict: the client is to come back.
func overtakenError() error {
	return &stopError{ReasonConflict, &xmpp.StreamError{Condition: xmpp.InternalServerError, Text: "the session was resumed on another connection meanwhile; try again"}, nil}
}

// clockDoubt is how far the clock of the database may be from what front and node have measured.
const clockDoubt = 100 * time.Millisecond

// isBefore tells whether the client had connected before a session was resumed, if it was. What it asks for may have waited at its front, or
// for a node that stands still, until the client has come back on another connection, and has the session there. A time that
// is yet to come says that the database's clock was set back, and no more.
func (s *session) isBefore(taken time.Time) bool {
	connected := s.started.Add(-time.Duration(s.client.age) * time.Millisecond)
	return !taken.IsZero() && s.client.age > 0 && taken.After(connected.Add(clockDoubt)) && taken.Before(time.Now().Add(clockDoubt))
}

// awaitYield has the session left by whoever has it, if that can be with the client's count and in time, and returns the
// epoch at which it was first looked at.
func (s *session) awaitYield(ctx context.Context, id string, h uint32) (seen uint64, err error) {
	has, err := s.holding(ctx, id) // first: the time that the store takes for that is not the owner's
	if err != nil {
		return 0, err
	}
	limited, cancel := context.WithTimeout(ctx, yieldTime)
	defer cancel()
	refused, forget := s.node.awaitRefusal(id, h)
	defer forget()
	var asked time.Time
	for {
		switch {
		case seen != 0 && has.Epoch != seen, s.isBefore(has.Taken):
			return 0, overtakenError()
		case has.Parked, has.Lapsed != "" && !s.node.mayAnswer(has.Lapsed):
			return has.Epoch, nil
		}
		if seen = has.Epoch; time.Since(asked) >= yieldAsk {
			asked = time.Now()
			s.node.publishControl(s.account.User, control{Yield: id, Epoch: seen + 1, Count: &h}) // it comes here as well, maybe late
		}
		select {
		case <-refused:
			return 0, s.miscounted(ctx, id)
		case <-time.After(yieldPoll):
		case <-limited.Done():
		}
		has, err = s.node.store.Holding(limited, id, s.account.Owner)
		switch {
		case limited.Err() != nil:
			return seen, ctx.Err() // it had its time
		case err != nil:
			return 0, err
		}
	}
}

// holding tells who has a session of the user.
func (s *session) holding(ctx context.Context, id string) (store.Holding, error) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	return s.node.store.Holding(query, id, s.account.Owner)
}

// mayAnswer tells whether a node whose lease is over can still be asked to leave a session: the database was away from all for longer
// than a lease, and the node has not come to renew it yet.
func (n *Node) mayAnswer(name string) bool {
	if name == n.opts.Name {
		return true
	}
	bus, ok := n.bus.(hearer)
	return ok && bus.Hears(name)
}

// miscounted is the error for a client whose count cannot be that of a session which goes on.
func (s *session) miscounted(ctx context.Context, id string) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	rec, err := s.node.store.Session(query, id)
	if err != nil {
		return err
	}
	return errCount{rec.Handled, errMiscounted}
}

// yieldRequest is what a node asks with that wants to resume a session.
type yieldRequest struct {
	id string
	h  uint32 // stanzas that the client has counted
}

// awaitRefusal returns what is poked when the node that has a session does not leave it to a
// client with that count. The caller has to call forget.
func (n *Node) awaitRefusal(id string, h uint32) (refused <-chan struct{}, forget func()) {
	poked := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.yields[poked] = yieldRequest{id, h}
	return poked, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.yields, poked)
	}
}

// yieldRefused takes the word of the node that has a session, which it does not leave.
func (n *Node) yieldRefused(id string, h *uint32) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for poked, asked := range n.yields {
		if h != nil && asked == (yieldRequest{id, *h}) {
			poke(poked)
		}
	}
}

// yieldSession leaves a session to whoever resumes it, or has resumed it, at an epoch. One whose
// client cannot have that count goes on: whoever asks is wrong about it, and gets nothing.
func (n *Node) yieldSession(id string, epoch uint64, h *uint32) {
	n.mu.RLock()
	s := n.sessions[id]
	n.mu.RUnlock()
	switch {
	case s == nil || epoch != 0 && s.epoch >= epoch:
	case h != nil && !s.unacked.admits(*h):
		n.publishControl(s.account.User, control{Kept: id, Count: h})
	case epoch != 0:
		s.move(n.opts.Timeouts.Close) // whoever has it waits for nothing, and this node may be late
	default:
		s.move(farewellTime)
	}
}

func (s *session) readNote(ctx context.Context, data []byte) *frontNote {
	if data == nil {
		return nil
	}
	note, err := parseNote(data)
	if err != nil {
		s.node.opts.Logger.WarnContext(ctx, "resume a session", slog.String("user", s.account.User), slog.Any("error", err))
		return nil
	}
	return &note
}

// putBack leaves a session to the next that resumes it, as it was.
func (s *session) putBack(ctx context.Context, rec store.Session, r store.Resumable) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	p, _ := s.unacked.point(0)
	r.Number = p.Number
	if err := s.node.store.SaveResumable(query, rec.ID, rec.Epoch, r); err != nil {
		s.abandon(rec.ID)
		s.node.opts.Logger.WarnContext(ctx, "put a session back", slog.String("user", s.account.User), slog.Any("error", err))
	}
}

// goOn gives the session the place of the one that it resumes. Nothing of it runs yet
// but the reader, which has called this.
func (s *session) goOn(ctx context.Context, rec store.Session, r store.Resumable, st sessionState, a arrival, h uint32) error {
	jid, err := s.jid.WithResource(rec.Resource)
	if err != nil {
		return fmt.Errorf("resource of session %s: %w", rec.ID, err)
	}
	s.jid, s.id, s.epoch, s.origin = jid, rec.ID, rec.Epoch, a.pos
	if st.Origin != nil {
		s.origin = *st.Origin
	}
	s.since = h
	s.looked = rec.Created
	s.in.goOn(rec.Handled)
	s.unacked.goOn(h, a, r.Told)
	s.holdTime.Store(int64(r.Hold))
	s.cur.pos, s.cur.own, s.cur.behind, s.passed = a.pos, a.pos, true, a.pos
	_ = s.conn.SetDeadline(time.Time{}) // before end may set one
	if !s.node.join(ctx, s) {
		if s.outdated {
			return outdatedError()
		}
		r.Note = nil // it stays
		s.putBack(ctx, rec, r)
		return &stopError{ReasonFull, &xmpp.StreamError{Condition: xmpp.ResourceConstraint, Text: "too many sessions"}, nil}
	}
	if err := s.settleIn(ctx, st, a, h, r.Parked); err != nil {
		s.giveBack(ctx, rec, r, st)
		s.node.metrics.resumed.WithLabelValues("failed").Inc()
		return storeFailed(fmt.Errorf("resume session %s: %w", rec.ID, err))
	}
	s.bound = true
	return nil
}

// giveBack is putBack for a session that is known by now, and has not said anything. What has come for it
// is left with the rest.
func (s *session) giveBack(ctx context.Context, rec store.Session, r store.Resumable, st sessionState) {
	s.node.part(s, false)
	s.out.close(nil, true)
	s.out.finish()
	for len(st.QueueAfter) < len(st.Queue) { // an earlier version says nothing
		st.QueueAfter = append(st.QueueAfter, 0)
	}
	for _, it := range s.queued() {
		st.Queue, st.QueueAfter = append(st.Queue, string(it.data)), append(st.QueueAfter, it.after)
	}
	if st.Left != nil {
		st.Left.Unheard = true
	}
	if state, err := st.encode(); err == nil {
		r.State = state
	}
	s.first = nil
	s.putBack(ctx, rec, r)
}

// inherit stores that the session is here. What the one before has left is of no use any more:
// what is written from now on has other numbers. Nothing has been written yet, so that until
// this is stored the next that resumes the session finds it as it was.
func (s *session) inherit(ctx context.Context, st sessionState) error {
	st.Left, st.Queue, st.QueueAfter = nil, nil, nil
	st.Conn, st.Since, st.Again, st.Early = s.client.id, s.since, s.again, nil
	st.Answers = s.unacked.owing()
	state, err := st.encode()
	if err != nil {
		return err
	}
	r := s.resumable(state)
	r.Note = []byte{}
	err = s.saveAs(ctx, r)
	if errors.Is(err, store.ErrFenced) { // it was resumed once more before it was known here
		s.end(ReasonConflict, &xmpp.StreamError{Condition: xmpp.Conflict})
		return nil
	}
	if err == nil {
		s.saved = state
	}
	return err
}

// settleIn makes the session's hub know what the one before had. parked is since when nobody has had the
// session.
func (s *session) settleIn(ctx context.Context, st sessionState, a arrival, h uint32, parked time.Time) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	head, delivered, err := s.node.store.Head(query, s.account.Owner)
	if err != nil {
		return err
	}
	s.out.begin(head)
	s.node.delivered.raise(s.account.Owner, a.claimed) // what the client has, its user has
	received := s.hub.atLeast(max(delivered, a.claimed))
	claim, passed := s.startAfter(st, a, received, parked)
	left, known, err := s.leftToOthers(query, st, received, passed)
	if err != nil {
		return err
	}
	claim, left = min(claim, known), slices.DeleteFunc(left, a.has)
	a.stanzas = append(a.stanzas, s.answerLost(st.Answers, h, st.unheard(parked))...)
	a.again = union(a.again, left)
	s.resend(st, a, h)
	if err := s.inherit(ctx, st); err != nil {
		return err
	}
	for _, seq := range a.again { // which the user has not received, wherever the cursor is
		if !s.hub.expect(s, seq) {
			claim = min(claim, seq-1)
		}
	}
	for _, f := range a.flights {
		s.hub.arrived(f)
	}
	s.hub.settles(s, a.again)
	if _, err := s.blocklist(ctx); err != nil {
		return err
	}
	if st.Presence != "" || st.Interested {
		if err := s.hub.loadRoster(ctx); err != nil {
			return err
		}
	}
	s.apply(st)
	if err := s.tellMissed(query, a.told); err != nil {
		return err
	}
	s.recheck()
	s.hub.raise(claim)
	if st.Presence != "" && st.unheard(parked) {
		return s.lookAgain(query, st, parked)
	}
	return nil
}

// startAfter places the cursor, when the user has received all entries up to a number, and returns up to where the client has all before
// the cursor that is for the user, or has left it to others, and up to where it may have left something to others. A client that takes
// such entries, and of which it is not known that it has been given all up to its place, has just become available: it starts like any that does.
func (s *session) startAfter(st sessionState, a arrival, received uint64, parked time.Time) (claim, passed uint64) {
	s.cur.had = a.claim
	if len(a.lost) > 0 {
		s.cur.lost = make(map[uint64]struct{}, len(a.lost))
	}
	for _, seq := range a.lost {
		s.cur.lost[seq] = struct{}{}
	}
	if s.cur.past = a.past; st.Left != nil {
		s.cur.past = st.Left.Past
	}
	if !st.serves() {
		return a.claim, a.claim
	}
	start := max(received, a.claim, st.BoundFrom)
	switch {
	case st.Left != nil && !st.Left.Passing:
		s.cur.had = max(a.claim, a.pos)
	case start < a.pos:
		s.cur.pos, s.cur.past, s.cur.since = start, max(s.cur.past, a.pos), parked.Truncate(time.Millisecond)
	}
	return min(a.claim, s.cur.pos), s.cur.pos
}

// union returns what is in one or the other, in order.
func union(a, b []uint64) []uint64 {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// leftToOthers returns the entries between two that the session has passed over since they were
// for another one of the user, of which nobody knows whether it has them. If that one is here, they are
// left to it. If not, the session takes them, if it is available, like any that are for a resource which is not here, but
// those of which its client got a copy. Who has had all up to known has left the rest to others, or takes it.
func (s *session) leftToOthers(ctx context.Context, st sessionState, from, upTo uint64) (seqs []uint64, known uint64, err error) {
	bound := st.bound()
	for from < upTo {
		page, err := s.node.store.Read(ctx, s.account.Owner, from, pageEntries)
		if err != nil || len(page) == 0 {
			return seqs, upTo, err
		}
		for _, e := range page {
			if e.Seq > upTo {
				return seqs, upTo, nil
			}
			from = e.Seq
			switch {
			case e.Sent, e.Resource == "", e.Resource == s.jid.Resource(), bound.isRead(e):
			case s.hub.isDone(e.Seq), s.hub.hold(e.Resource, e.Seq), st.Carbons && e.Seq > st.Uncopied && copyable(e.Stanza):
			case st.serves():
				seqs = append(seqs, e.Seq)
			case !s.hub.strand(e.Resource, e.Seq):
				return seqs, e.Seq - 1, nil
			}
		}
	}
	return seqs, upTo, nil
}

// lookAgain tells the client which of its contacts are there: the client may have missed
// that some have come, or gone. Those who have asked for it since nobody has had the session ask once more, and all if
// some may have been unblocked since then.
func (s *session) lookAgain(ctx context.Context, st sessionState, parked time.Time) error {
	connected, err := s.node.store.ConnectedContacts(ctx, s.account.Owner)
	if err != nil {
		return err
	}
	for _, contact := range s.hub.contacts(store.SubscriptionTo) {
		if _, ok := slices.BinarySearch(connected, contact); ok {
			continue
		}
		if from, err := xmpp.ParseJID(contact); err == nil { // first: they may be more than an outbox takes
			gone := addressed(unavailablePresence(from), s.jid.String())
			s.first = append(s.first, item{kind: itemStanza, data: gone})
		}
	}
	away := time.Since(parked)
	if s.hub.blocklist().number() != st.ShownBy {
		away = everAway
	}
	s.probeAll(store.SubscriptionBoth, awayFor(away))
	return nil
}

// leftItem is a stanza that the session before has left, and that comes after an entry.
func leftItem(raw string, after uint64) item {
	header, err := xmpp.ParseHeader([]byte(raw))
	return item{kind: itemStanza, data: []byte(raw), after: after, asks: err == nil && isRequest(header)}
}

// resend puts what has not arrived before everything that comes now: first the entries that the cursor
// does not meet, then each stanza after those that it does meet.
func (s *session) resend(st sessionState, a arrival, h uint32) {
	if len(a.again) > 0 {
		for i, seq := range a.again {
			s.again = append(s.again, savedFlight{Count: h + uint32(i+1), Seq: seq}) //nolint:gosec // Modulo 2^32 on purpose.
		}
		s.first = append(s.first, item{kind: itemAgain, seqs: a.again})
	}
	s.first = append(s.first, a.stanzas...)
	for i, raw := range st.Queue {
		var after uint64
		if i < len(st.QueueAfter) { // an earlier version says nothing
			after = st.QueueAfter[i]
		}
		s.first = append(s.first, leftItem(raw, after))
	}
	for _, it := range s.first {
		if header, err := xmpp.ParseHeader(it.data); err == nil && (header.Kind == xmpp.IQ || header.Type == typeError) {
			s.unacked.owe(it.data, true)
		}
	}
}
