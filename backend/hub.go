package backend

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// hub joins the sessions of one user on this node. It exists while there is one.
type hub struct {
	// Static.
	node      *Node
	user      xmpp.JID
	owner     store.OwnerID
	partition uint16
	pacer     *pacer

	mu       sync.Mutex
	sessions map[string]*session // by resource

	// What the user's clients have received. delivered goes to the store: all
	// entries up to it have been received, or are for nobody. claim is the
	// highest entry of which a session says so for all that were for it; it is
	// held back by pending. got are entries beyond delivered.
	delivered uint64
	claim     uint64
	pending   map[uint64]string   // entries left to the session of a resource
	got       map[uint64]struct{} // entries received out of turn
	away      map[string]absence  // by resource, sessions that go on elsewhere, or are about to

	roster      map[string]rosterState // by contact
	loaded      bool                   // roster is complete
	rosterTold  uint64                 // the roster's version up to which all changes were told
	rosterAhead map[uint64]string      // contacts of changes after that which were told, by version
	rosterSeen  uint64                 // the last version of which it is known

	blocks *blocklist // as far as it is known here

	hidden map[xmpp.JID]time.Time // who could see the user; see hideAgain
}

// rosterState is what a hub remembers of a contact.
type rosterState struct {
	subscription store.Subscription
	told         store.Subscription // the one of which everybody concerned has heard
	listed       bool               // clients have the contact in their rosters
	version      uint64
}

// absence is what a hub remembers of a session that goes on elsewhere.
type absence struct {
	since time.Time
	took  uint64 // entries up to this one that were for its resource, it has taken along
}

// pendingMax bounds how many entries are left to resources that do not read them. Those
// above it go to the user's other clients as well.
const pendingMax = 1024

// gotMax bounds what is remembered of entries received out of turn. What is
// forgotten may be delivered twice.
const gotMax = 1024

// hub returns the hub of a user, or nil.
func (n *Node) hub(user string) *hub {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.hubs[user]
}

// join makes a session known. It returns false when the node takes none, or the session is
// outdated.
func (n *Node) join(ctx context.Context, s *session) bool {
	var older *session
	before, rival, gone, ok := n.enter(s, older)
	for rival != nil && rival != older && !ok { // whoever has the place may be older, or newer
		if !s.hasRecord(ctx) {
			n.turnBack(s)
			s.outdated = true
			return false
		}
		older = rival
		before, rival, gone, ok = n.enter(s, older)
	}
	if ok && rival != nil {
		n.endSession(rival.id)
	}
	if before != nil {
		before.move(farewellTime)
	}
	if gone != nil {
		gone.endAll(ReasonAccountGone, &xmpp.StreamError{Condition: xmpp.NotAuthorized, Text: accountGone})
	}
	return ok
}

// enter is join. It returns what has to end: the session object, if there is one here, that
// had the same session before, and does not know that it was resumed once more; and
// the hub of an account that had the name before and was deleted. A rival that has the
// resource, and is not known to be older, keeps the session from being known.
func (n *Node) enter(s, older *session) (before, rival *session, gone *hub, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h := n.hubs[s.account.User]; h != nil && h.owner == s.account.Owner {
		rival = h.session(s.jid.Resource())
	}
	switch {
	case rival == nil:
	case rival.id == s.id, rival.id == s.replaced:
		rival = nil // it is ended by itself
	case rival != older:
		return nil, rival, nil, false
	}
	delete(n.arriving, s)
	switch h := n.hubs[s.account.User]; {
	case h == nil:
	case h.owner < s.account.Owner: // owners are counted, and never reused
		gone = h
		delete(n.hubs, s.account.User)
	case h.owner > s.account.Owner:
		s.outdated = true
	}
	if before = n.sessions[s.id]; before != nil && before.epoch > s.epoch {
		s.outdated, before = true, nil
	}
	return before, rival, gone, !s.outdated && n.admits(s)
}

// admits makes a session known if there is room for it; under Node.mu.
func (n *Node) admits(s *session) bool {
	user := s.account.User
	h := n.hubs[user]
	if n.draining.Load() || n.full() || h.full(s.jid.Resource()) {
		return false
	}
	if h == nil {
		h = &hub{
			node: n, user: s.jid.Bare(), owner: s.account.Owner, partition: n.opts.Partition(user),
			sessions: make(map[string]*session),
			pacer:    newPacer(n.opts.Limits.Rates.UserStanzas, n.opts.Limits.Rates.UserBytes, n.opts.Limits.Rates.Burst),
		}
		n.hubs[user] = h
	}
	s.hub = h
	s.pacer = newPacer(n.opts.Limits.Rates.Stanzas, n.opts.Limits.Rates.Bytes, n.opts.Limits.Rates.Burst)
	h.mu.Lock()
	h.sessions[s.jid.Resource()] = s
	delete(h.away, s.jid.Resource())
	h.mu.Unlock()
	n.sessions[s.id] = s
	n.metrics.sessions.Set(float64(len(n.sessions)))
	return true
}

// full tells whether the node has all the sessions that it may have, not counting those
// that wait for their clients; under Node.mu.
func (n *Node) full() bool {
	most := n.opts.Limits.MaxSessions
	return most > 0 && len(n.sessions)-int(n.parked.Load()) >= most
}

// crowded tells whether a user has no room for one more session.
func (n *Node) crowded(jid xmpp.JID) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.hubs[jid.Bare().String()].full(jid.Resource())
}

// full tells whether the user has all the sessions that it may have, not counting
// one that is replaced; under Node.mu. Sessions that wait for their clients make room, the
// oldest first.
func (h *hub) full(resource string) bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	most, living := h.node.opts.Limits.PerUser, 0
	var oldest *session
	for _, s := range h.sessions {
		switch {
		case !s.ended():
			living++
		case oldest == nil || s.started.Before(oldest.started):
			oldest = s
		}
	}
	if h.sessions[resource] != nil {
		return false
	}
	if living < most && len(h.sessions) >= most && oldest != nil {
		oldest.evict(ReasonFull)
	}
	return living >= most
}

// part removes a session. Entries that were left to it go to the user's others if it is
// over, and wait for it for a while if somebody goes on with it (see passOnLeft).
func (n *Node) part(s *session, over bool) {
	n.mu.Lock()
	if n.sessions[s.id] == s {
		delete(n.sessions, s.id)
	}
	n.metrics.sessions.Set(float64(len(n.sessions)))
	h := s.hub
	h.mu.Lock()
	if h.sessions[s.jid.Resource()] == s {
		delete(h.sessions, s.jid.Resource())
		h.goesAway(s, over)
	}
	last := len(h.sessions) == 0
	h.mu.Unlock()
	if last && n.hubs[s.account.User] == h {
		delete(n.hubs, s.account.User)
	}
	n.mu.Unlock()
	if over {
		h.leaveOrphans()
	}
}

// goesAway notes whether what was left to a session has to wait for it; under hub.mu. Its writer has ended, or was never started.
func (h *hub) goesAway(s *session, over bool) {
	delete(h.away, s.jid.Resource())
	if over {
		return
	}
	if h.away == nil {
		h.away = make(map[string]absence)
	}
	h.away[s.jid.Resource()] = absence{time.Now(), s.cur.pos}
}

// leaveOrphans has the user's sessions take what was left to those that are gone.
func (h *hub) leaveOrphans() {
	h.mu.Lock()
	defer h.mu.Unlock()
	orphans := h.orphans()
	if len(orphans) == 0 {
		return
	}
	for _, s := range h.sessions {
		s.out.push(item{kind: itemAgain, seqs: orphans})
	}
}

// passOnLeft has the user's other sessions take what was left to one that goes on elsewhere, or does not go on
// at all, unless it is known by now that the user has received it. Nobody would tell this node.
func (n *Node) passOnLeft(ctx context.Context, h *hub) {
	h.mu.Lock()
	none := len(h.sessions) == 0 || len(h.orphans()) == 0
	h.mu.Unlock()
	if none {
		return
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	if _, delivered, err := n.store.Head(query, h.owner); err == nil {
		h.atLeast(delivered)
	}
	h.leaveOrphans()
}

// orphans are the entries that were left to sessions that are gone, in order, whatever has their
// resources by now; under hub.mu. Those that have gone to go on elsewhere have some time for it.
func (h *hub) orphans() []uint64 {
	maps.DeleteFunc(h.away, func(_ string, a absence) bool { return h.isOver(a) })
	var seqs []uint64
	for seq, resource := range h.pending {
		if _, goesOn := h.away[resource]; goesOn {
			continue
		}
		if s := h.sessions[resource]; s == nil || s.epoch == 1 && seq <= s.passed { // one that was resumed writes what was left to it
			seqs = append(seqs, seq)
		}
	}
	slices.Sort(seqs)
	return seqs
}

// isOver tells whether a session that goes on elsewhere has had its time to receive what it has taken along.
func (h *hub) isOver(a absence) bool { return time.Since(a.since) >= h.node.opts.Timeouts.Store }

// session returns the session that has a resource, or nil.
func (h *hub) session(resource string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions[resource]
}

// hold leaves an entry to the session of another resource, unless the user has received it. It returns
// false if there is none on this node that comes to it, or has just taken it along.
func (h *hub) hold(resource string, seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, left := h.pending[seq]
	switch s := h.sessions[resource]; {
	case s == nil:
		gone, goesOn := h.away[resource]
		return goesOn && !h.isOver(gone) && (left || seq <= gone.took && (h.has(seq) || h.leave(seq, resource)))
	case h.has(seq):
		return true
	case seq > s.passed:
		return left || h.leave(seq, resource)
	case s.settled && !left && seq > s.origin: // all up to there that is for it has arrived, but for what is left to it
		h.note(seq)
		h.advance()
		return true
	default:
		return left && s.epoch > 1
	}
}

// strand leaves an entry to a resource that does not come to it: it is for the next session of the user that takes it. It returns
// false if too many are left.
func (h *hub) strand(resource string, seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.leave(seq, resource)
}

// settles notes that of all that is for a session which was resumed, from its origin up to where it had come, only again has not arrived. Who was here
// before may have left it more.
func (h *hub) settles(s *session, again []uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.settled = true
	for seq, resource := range h.pending {
		if resource == s.jid.Resource() && seq > s.origin && seq <= s.passed && !slices.Contains(again, seq) {
			delete(h.pending, seq)
			h.note(seq)
		}
	}
	h.advance()
}

// expect leaves an entry to a session that is about to write it. It returns false if too many are left: then
// nobody may say that it was received before it has.
func (h *hub) expect(s *session, seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, got := h.got[seq]
	return got || seq <= h.delivered || h.leave(seq, s.jid.Resource())
}

// leave returns false if too many are left; under hub.mu.
func (h *hub) leave(seq uint64, resource string) bool {
	if len(h.pending) >= pendingMax {
		return false
	}
	if h.pending == nil {
		h.pending = make(map[uint64]string)
	}
	h.pending[seq] = resource
	return true
}

// goesOn notes after which entry the cursor of a session goes on.
func (h *hub) goesOn(s *session, after uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.passed = after
}

// arrived notes what a client has received.
func (h *hub) arrived(f flight) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f.seq != 0 {
		delete(h.pending, f.seq)
	}
	if f.upTo == 0 {
		h.note(f.seq)
	}
	h.claim = max(h.claim, f.upTo)
	h.advance()
}

// allBefore tells whether no entry before seq is left to another session: then
// whoever has received seq has received all that is for the user.
func (h *hub) allBefore(seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for left := range h.pending {
		if left < seq {
			return false
		}
	}
	return true
}

// done notes that an entry needs no delivery.
func (h *hub) done(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.note(seq)
	h.advance()
}

// raise notes that everything up to seq was received.
func (h *hub) raise(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.claim = max(h.claim, seq)
	h.advance()
}

// atLeast takes the stored number of received entries and returns the one that
// counts.
func (h *hub) atLeast(stored uint64) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.delivered = max(h.delivered, stored, h.node.delivered.waiting(h.owner))
	h.forget() // another node may know more
	h.advance()
	return h.delivered
}

// received is the number up to which the user has received all entries.
func (h *hub) received() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.delivered
}

// isDone tells whether the user has received an entry.
func (h *hub) isDone(seq uint64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.has(seq)
}

// has is isDone under hub.mu.
func (h *hub) has(seq uint64) bool {
	_, got := h.got[seq]
	_, left := h.pending[seq]
	return got || seq <= h.delivered || seq <= h.claim && !left
}

// note remembers a received entry; under hub.mu.
func (h *hub) note(seq uint64) {
	if seq <= h.delivered || len(h.got) >= gotMax {
		return
	}
	if h.got == nil {
		h.got = make(map[uint64]struct{})
	}
	h.got[seq] = struct{}{}
}

// advance raises delivered as far as it goes; under hub.mu.
func (h *hub) advance() {
	before := h.delivered
	upTo := h.claim
	for seq := range h.pending {
		upTo = min(upTo, seq-1)
	}
	h.delivered = max(h.delivered, upTo)
	for len(h.got) > 0 {
		if _, ok := h.got[h.delivered+1]; !ok {
			break
		}
		h.delivered++
	}
	if h.delivered == before {
		return
	}
	h.forget()
	h.node.delivered.raise(h.owner, h.delivered)
}

// forget drops what is known of entries up to delivered; under hub.mu.
func (h *hub) forget() {
	maps.DeleteFunc(h.got, func(seq uint64, _ struct{}) bool { return seq <= h.delivered })
	maps.DeleteFunc(h.pending, func(seq uint64, _ string) bool { return seq <= h.delivered })
}

// Signal takes a signal of a hosted partition from the bus. It does not wait for
// anything.
func (n *Node) Signal(sig bus.Signal) {
	h := n.hub(sig.User)
	if h == nil && sig.Kind == bus.Control && sig.User != n.opts.Domain {
		n.controlArriving(sig)
		return
	}
	if sig.Kind == bus.Stanza && sig.Seq != 0 {
		n.request(sig, h)
		return
	}
	if h == nil {
		n.controlNode(sig)
		return
	}
	switch sig.Kind {
	case bus.Entry:
		h.entry(sig)
	case bus.Stanza:
		h.stanza(sig)
	case bus.Control:
		h.control(sig)
	default:
		n.metrics.dropped.WithLabelValues("decode").Inc()
	}
}

// SignalsLost makes the sessions of a partition look into the store, and their hubs make
// up for the rest, because signals may have been lost.
func (n *Node) SignalsLost(partition uint16) {
	if partition == n.opts.Partition(n.opts.Domain) {
		n.blocks.forget()
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, s := range n.sessions {
		if s.hub.partition == partition {
			s.out.miss()
		}
	}
	for _, h := range n.hubs {
		if h.partition == partition {
			n.missed.all(h)
		}
	}
}

// entry tells all sessions of a new entry. One that the user itself has sent has its
// stanza only for those that want a copy, and perhaps not for them either.
func (h *hub) entry(sig bus.Signal) {
	it := item{kind: itemEntry, seq: sig.Seq, resource: sig.Target, data: sig.Data, at: time.Now()}
	if it.sent = len(sig.Data) == 0 || sig.Data[0] == sentMark; it.sent {
		it.data = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		copied := it
		if it.sent && s.carbons && len(sig.Data) > 0 {
			copied.data = sig.Data[1:]
		}
		s.out.push(copied)
	}
}

// stanza hands a stanza that is not stored to the sessions that it is for (RFC 6121
// §8.5).
func (h *hub) stanza(sig bus.Signal) { h.receive(sig.Target, sig.Data, nil) }

// receive is stanza for all but the hidden resources.
func (h *hub) receive(resource string, raw []byte, hidden []string) {
	header, err := xmpp.ParseHeader(raw)
	if err != nil {
		h.node.metrics.dropped.WithLabelValues("decode").Inc()
		return
	}
	if h.ignores(header) {
		return
	}
	if header.Kind == xmpp.Presence && header.Type == presenceProbe {
		h.answerProbe(resource, header)
		return
	}
	recipients := slices.DeleteFunc(h.recipients(resource, header), func(s *session) bool {
		return slices.Contains(hidden, s.jid.Resource())
	})
	copies := h.copyLive(carbonReceived, header, raw, func(s *session) bool {
		return slices.Contains(recipients, s) || header.From == s.jid.String()
	})
	takers := slices.DeleteFunc(slices.Clone(recipients), func(s *session) bool { return s.spares(header, len(raw)) })
	if len(recipients) > 0 && len(takers)+copies == 0 {
		h.node.sendBack(header, raw)
	}
	if header.Kind == xmpp.Message {
		raw = withoutPrivate(raw)
	}
	for _, s := range takers {
		s.deliverLive(header, raw, len(takers)+copies == 1)
	}
}

// recipients are the sessions that a stanza is for.
func (h *hub) recipients(resource string, header xmpp.Header) []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	var to []*session
	for _, s := range h.sessions {
		if resource != "" && s.jid.Resource() != resource {
			continue
		}
		if resource != "" || s.takes(header) {
			to = append(to, s)
		}
	}
	return to
}

// takes tells whether a session takes a stanza that is addressed to the user; under
// hub.mu.
func (s *session) takes(header xmpp.Header) bool {
	available := s.presence != nil
	switch header.Kind {
	case xmpp.Message:
		return available && s.priority >= 0
	case xmpp.Presence:
		switch header.Type {
		case presenceSubscribed, presenceUnsubscribe, presenceUnsubscribed:
			return s.interested // RFC 6121 §3.1.6, §3.2.3, §3.3.3
		case presenceUnavailable: // its own is that of a session which it has replaced
			return available && header.From != s.jid.String()
		default:
			return available
		}
	default:
		return false
	}
}

// reaches tells whether a message to the user that is not stored is for a session on this
// node, as itself or as a copy.
func (h *hub) reaches(stanza []byte) bool {
	header, err := xmpp.ParseHeader(stanza)
	if err != nil {
		return false
	}
	copied := eligible(header.Type, stanza) && copyable(stanza)
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.sessions {
		if s.takes(header) || copied && s.carbons && s.presence != nil && s.jid.String() != header.From {
			return true
		}
	}
	return false
}

// send puts a stanza into the outbox. A client that is too slow for it is ended.
func (s *session) send(kind xmpp.StanzaKind, raw []byte) {
	if kind == xmpp.IQ {
		s.unacked.owe(raw, true)
	}
	s.pushStanza(kind, item{kind: itemStanza, data: raw})
}

// deliverLive is send for a stanza of somebody else, of which is known whether other sessions here get it.
func (s *session) deliverLive(header xmpp.Header, raw []byte, alone bool) {
	if header.Kind == xmpp.IQ {
		s.unacked.owe(raw, false)
	}
	s.pushStanza(header.Kind, item{
		kind: itemStanza, data: raw, alone: alone, said: header.Kind == xmpp.Message, status: isStatus(header),
	})
}

// pushStanza returns false if the stanza is lost, which the session does not survive.
func (s *session) pushStanza(kind xmpp.StanzaKind, it item) bool {
	if s.tooLong(kind, it.data, xmpp.SentMost) {
		return true // an answer is an error instead: see request.reply
	}
	s.node.metrics.stanzas.WithLabelValues("out", kindText(kind)).Inc()
	if s.out.push(it) {
		return true
	}
	s.end(ReasonSlowClient, &xmpp.StreamError{Condition: xmpp.ResourceConstraint, Text: "too much waits to be read"})
	return false
}

// nonza puts an element that is no stanza into the outbox.
func (s *session) nonza(raw []byte) {
	if !s.out.push(item{kind: itemRaw, data: raw}) {
		s.end(ReasonSlowClient, &xmpp.StreamError{Condition: xmpp.ResourceConstraint, Text: "too much waits to be read"})
	}
}
