package backend

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// A session whose connection was lost, and that may be resumed (XEP-0198 §5), is parked:
// nobody is told that it is gone, and what comes for it is kept.
//
//   - Entries of the timeline need not be kept; the cursor goes on where the client is.
//   - Other stanzas wait in the outbox. When that is full the session ends.
//
// It ends when its time is over, and is left to another session object, of this node
// or another, when the client comes back. What is left is stored with the record.

// parks tells whether a session that ends so may be resumed.
func (r Reason) parks() bool {
	switch r {
	case ReasonClientLost, ReasonClientTimeout, ReasonShutdown, ReasonMoved, ReasonStoreFailed:
		return true
	default:
		return false
	}
}

// giveUp has a parked session left to whoever resumes it.
func (s *session) giveUp() { s.yieldOnce.Do(func() { close(s.yield) }) }

// evict ends a session that may be parked, for a reason for which it may not be resumed.
func (s *session) evict(reason Reason) {
	if reason != ReasonConflict { // then somebody has its place, and has told the contacts
		s.evicted.Store(true)
	}
	s.giveUp()
}

// move ends a session that is resumed elsewhere. If its connection is still there, it ends
// in order (XEP-0198 §5), and is not taken for that of a node that was lost. That may
// take so long at most.
func (s *session) move(within time.Duration) {
	s.end(ReasonMoved, &xmpp.StreamError{Condition: xmpp.Conflict, Text: "the session was resumed on another connection"})
	time.AfterFunc(within, func() { _ = s.conn.Close() }) // also if it ended before, and still says why
	s.giveUp()
}

// farewellTime is how long a connection that does not take what is written to it holds up
// whoever resumes its session: the client waits on another connection. It is within yieldTime.
const farewellTime = yieldTime / 4

// park waits for the client. It returns false when it has not come, and the session has
// to end.
func (s *session) park(ctx context.Context) (resumed bool) {
	defer s.survive(ctx)
	_ = s.conn.Close()
	s.record(ctx)
	s.in.wait(0, ctx.Done())
	if s.reason == ReasonShutdown {
		s.giveUp()
	}
	s.savePoint(ctx)
	s.node.metrics.parked.Set(float64(s.node.parked.Add(1)))
	defer func() { s.node.metrics.parked.Set(float64(s.node.parked.Add(-1))) }()
	timer := time.NewTimer(time.Duration(s.holdTime.Load()))
	defer timer.Stop()
	overflow := s.out.overflow()
	for {
		select {
		case <-s.yield:
			if s.evicted.Load() {
				s.refuseMessages(ctx, s.unseen())
				return false
			}
			s.handOver(ctx)
			return true
		case <-timer.C:
			s.refuseMessages(ctx, s.unseen())
			return false
		case <-ctx.Done():
			return false
		case <-overflow:
			if _, all := s.out.rest(); !all {
				s.refuseMessages(ctx, s.unseen())
				return false
			}
		}
	}
}

// savePoint stores where the session stands, in case the node dies: with what was written and may have
// arrived, since only its client knows whether it has, and no front knows the client any more.
func (s *session) savePoint(ctx context.Context) {
	state, err := s.remains(true).encode()
	if err == nil {
		err = s.saveOnce(ctx, state)
	}
	if errors.Is(err, store.ErrFenced) {
		s.giveUp() // somebody has it
	} else if err != nil {
		s.node.opts.Logger.WarnContext(ctx, "park a session", slog.String("user", s.account.User), slog.Any("error", err))
	}
}

// handOver leaves the session to whoever resumes it, with all that is known of it.
func (s *session) handOver(ctx context.Context) {
	n := s.node
	parked := time.Now() // first: whoever asks for it from now on may get no answer
	n.part(s, false)
	s.out.finish()
	defer n.unhostLater(s.hub.partition, s.hub)
	s.flushDelivered(ctx)
	state, err := s.remains(s.reason == ReasonShutdown || n.draining.Load()).encode()
	if err == nil {
		query, cancel := n.storeContext(ctx)
		defer cancel()
		r := s.resumable(state)
		r.Parked = parked
		err = n.store.SaveResumable(query, s.id, s.epoch, r)
	}
	if err != nil { // whoever goes on with it, or has its resource, does not know what waits
		n.refuseRequests(raws(s.queued()))
		s.refuseMessages(ctx, raws(s.queued()))
	}
	if err != nil && !errors.Is(err, store.ErrFenced) {
		s.abandon(s.id)
		n.opts.Logger.WarnContext(ctx, "hand a session over", slog.String("user", s.account.User), slog.Any("error", err))
	}
}

// remains is the state of the session with all that it leaves to whoever goes on with it; the writer has ended.
func (s *session) remains(unheard bool) sessionState {
	st := s.state()
	left := s.unacked.leftover()
	left.Cursor, left.Past, left.Unheard = s.cur.pos, s.cur.past, unheard
	left.Passing = st.serves() && !s.cur.live
	left.Told = s.out.tells() // first: what comes now is told of once more
	st.Left = &left
	st.Answers = slices.DeleteFunc(st.Answers, func(a savedAnswer) bool { return !a.Open })
	for _, it := range s.queued() {
		st.Queue, st.QueueAfter = append(st.Queue, string(it.data)), append(st.QueueAfter, it.after)
	}
	return st
}

// queued are the stanzas that were to be written and were not; the writer has ended. What was held
// for a client that was inactive comes after what was written, and before what was not.
func (s *session) queued() []item {
	var all []item
	for _, h := range s.cur.quiet.held {
		all = append(all, item{kind: itemStanza, data: h.raw, after: s.cur.pos})
	}
	for _, it := range s.cur.items {
		if it.kind == itemStanza {
			all = append(all, it)
		}
	}
	rest, _ := s.out.rest()
	return append(all, rest...)
}

func raws(stanzas []item) []string {
	all := make([]string, len(stanzas))
	for i, it := range stanzas {
		all[i] = string(it.data)
	}
	return all
}

// spares tells whether the session does without a stanza because much waits for its client, which is
// slow, or away: else anybody could end it. What the client could not do without is the
// user's own doing, or the presence of those whom the user sees.
func (s *session) spares(header xmpp.Header, size int) (spared bool) {
	if s.out.parked() {
		spared = !s.hub.needs(header) && !s.out.spareRoom(size)
	} else {
		spared = s.out.halfFull() && !s.hub.needs(header)
	}
	if spared {
		s.node.metrics.spared.Inc()
	}
	return spared
}

func (h *hub) needs(header xmpp.Header) bool {
	from, err := xmpp.ParseJID(header.From)
	if err != nil || from.Local() == "" || from.Bare() == h.user {
		return true
	}
	return header.Kind == xmpp.Presence && h.sees(from.Bare().String())
}

// sendBack tells who has sent a stanza that nobody takes it, if it waits for an answer or has
// written to a person.
func (n *Node) sendBack(header xmpp.Header, raw []byte) {
	if isRequest(header) || header.Kind == xmpp.Message && speaks(header.Type, raw) {
		n.refuse(raw)
	}
}

// isRequest tells whether a stanza waits for an answer.
func isRequest(header xmpp.Header) bool {
	return header.Kind == xmpp.IQ && (header.Type == iqGet || header.Type == iqSet)
}

// unseen are the stanzas that have not arrived, as far as is known.
func (s *session) unseen() []string {
	all := raws(s.queued())
	for _, k := range s.unacked.leftover().Kept {
		all = append(all, k.Raw)
	}
	return all
}

// refuseMessages answers the live messages among stanzas that the client will not see, if they are to
// it, and those to the user that came while there was nobody else to take them (XEP-0198 §4). Of these,
// what was written to the connection may have arrived.
func (s *session) refuseMessages(ctx context.Context, unseen []string) {
	s.node.refuseMessagesTo(s.jid, unseen)
	rest, _ := s.out.rest()
	alone := slices.DeleteFunc(slices.Concat(s.cur.items, rest), func(it item) bool {
		header, to, ok := liveMessage(it.data)
		return !it.alone || !ok || to == s.jid || !speaks(header.Type, it.data)
	})
	if len(alone) == 0 {
		return
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	if others, err := s.node.othersServing(query, s.account); err != nil || len(others) > 0 {
		return // they may have taken them
	}
	for _, it := range alone {
		s.node.refuse(it.data)
	}
}

// refuseMessagesTo answers those among stanzas that are live messages to a client.
func (n *Node) refuseMessagesTo(client xmpp.JID, stanzas []string) {
	for _, raw := range stanzas {
		header, to, ok := liveMessage([]byte(raw))
		if ok && to == client && (header.Type == messageGroupchat || speaks(header.Type, []byte(raw))) {
			n.refuse([]byte(raw))
		}
	}
}

// liveMessage reads whom a stanza is for; ok is false if it is no message.
func liveMessage(stanza []byte) (header xmpp.Header, to xmpp.JID, ok bool) {
	header, err := xmpp.ParseHeader(stanza)
	if err != nil || header.Kind != xmpp.Message {
		return header, to, false
	}
	to, err = xmpp.ParseJID(header.To)
	return header, to, err == nil
}

// promise makes durable what is about to be acknowledged, if the client may resume
// with that. It returns false when the session has ended.
func (s *session) promise(ctx context.Context) bool {
	if _, durable := s.in.settled(); durable || s.holdTime.Load() == 0 {
		return true
	}
	state, err := s.state().encode()
	return err == nil && s.save(ctx, state)
}

// remember stores what the session is now, before something that comes later counts as
// handled.
func (s *session) remember(ctx context.Context) bool {
	if refused := s.in.takeRefused(); !s.touched && !refused || s.holdTime.Load() == 0 {
		return true
	}
	s.in.wait(0, s.done)
	s.touched = false
	state, err := s.state().encode()
	if err == nil && bytes.Equal(state, s.saved) {
		return true
	}
	return err == nil && s.save(ctx, state)
}

// save stores the state and the handled count. As long as the store is away the client
// has to wait.
func (s *session) save(ctx context.Context, state []byte) bool {
	for !s.ended() {
		err := s.saveOnce(ctx, state)
		switch {
		case err == nil:
			s.saved, s.touched = state, false
			return true
		case errors.Is(err, store.ErrFenced):
			s.endFenced(ctx)
			return false
		}
		s.node.opts.Logger.WarnContext(ctx, "save a session", slog.String("user", s.account.User), slog.Any("error", err))
		s.pause(catchUpPause)
	}
	return false
}

// pause waits, at most until the session ends.
func (s *session) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.done:
	}
}

func (s *session) saveOnce(ctx context.Context, state []byte) error {
	return s.saveAs(ctx, s.resumable(state))
}

func (s *session) saveAs(ctx context.Context, r store.Resumable) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	err := s.node.store.SaveResumable(query, s.id, s.epoch, r)
	if err == nil {
		s.in.saved(r.Handled)
	}
	return err
}

// resumable is what is stored of the session. No message is on its way into the store.
func (s *session) resumable(state []byte) store.Resumable {
	handled, _ := s.in.settled()
	p := s.point()
	return store.Resumable{
		Hold: time.Duration(s.holdTime.Load()), Handled: handled, Unsure: !s.in.sure(),
		Count: p.Count, Pos: p.Pos, Claimed: p.Claimed, Voided: p.Voided, Early: p.Early, Number: p.Number, Told: p.Told, State: state,
	}
}

// point is where the session stands.
func (s *session) point() store.ResumePoint {
	p, early := s.unacked.point(s.hub.received())
	p.ID, p.Epoch, p.Early = s.id, s.epoch, encodeEarly(early)
	return p
}

// resumePoints gathers where sessions stand, and stores many of them at a time. What was
// not stored when the node dies is delivered again, unless a front knows better.
type resumePoints struct {
	mu    sync.Mutex
	dirty map[*session]struct{}
}

// mark notes that the client of a session has acknowledged something.
func (p *resumePoints) mark(s *session) {
	if s.holdTime.Load() == 0 {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.dirty == nil {
		p.dirty = make(map[*session]struct{})
	}
	p.dirty[s] = struct{}{}
}

func (p *resumePoints) take() map[*session]struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := p.dirty
	p.dirty = nil
	return dirty
}

// pointInterval is how long resume points are gathered, and pointsAtATime how many are
// stored at once.
const (
	pointInterval = time.Second
	pointsAtATime = 500
)

// keepPoints stores them until ctx ends.
func (n *Node) keepPoints(ctx context.Context) {
	ticker := time.NewTicker(pointInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			n.storePoints(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) storePoints(ctx context.Context) {
	var batch []store.ResumePoint
	for s := range n.points.take() {
		batch = append(batch, s.point())
		if len(batch) == pointsAtATime {
			n.storeBatch(ctx, batch)
			batch = batch[:0]
		}
	}
	n.storeBatch(ctx, batch)
}

func (n *Node) storeBatch(ctx context.Context, batch []store.ResumePoint) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	if err := n.store.SetResumePoints(query, batch); err != nil && ctx.Err() == nil {
		n.opts.Logger.WarnContext(ctx, "store resume points", slog.Int("sessions", len(batch)), slog.Any("error", err))
	}
}
