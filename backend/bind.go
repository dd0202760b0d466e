package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// boundFeatures are offered after login. The session feature is for clients of
// the time of RFC 3921, which ask for it.
const boundFeatures = "<stream:features>" +
	"<bind xmlns='" + xmpp.NSBind + "'/>" +
	"<session xmlns='" + xmpp.NSSession + "'><optional/></session>" +
	smFeature + sessionFeatures

// smFeature is offered as long as XEP-0198 has not begun, sessionFeatures with a resource
// and without one.
const (
	smFeature       = "<sm xmlns='" + xmpp.NSSM + "'/>"
	sessionFeatures = "<csi xmlns='" + xmpp.NSCSI + "'/>" +
		"<ver xmlns='" + xmpp.NSRosterVer + "'/>" +
		"<sub xmlns='" + xmpp.NSSub + "'/>"
)

// bind restarts the stream, unless the client has logged in by SASL2, and gives the
// session its resource if it has none yet (RFC 6120 §7).
func (s *session) bind(ctx context.Context) {
	var err error
	if !s.sasl2 {
		s.stream.restart(s.node.opts.Limits.Stanza)
		err = s.open([]byte(boundFeatures + s.node.aboutServer() + "</stream:features>"))
	}
	for err == nil && !s.bound {
		err = s.bindOnce(ctx)
	}
	if err != nil {
		s.failLogin(err)
	}
}

// failLogin ends a session that was not bound, as failBy does, or in the way that the
// error says.
func (s *session) failLogin(err error) bool {
	if stop, ok := errors.AsType[*stopError](err); ok {
		return s.refuse(stop.reason, stop.farewell)
	}
	return s.failBy(err)
}

// bindOnce handles one element and answers it.
func (s *session) bindOnce(ctx context.Context) error {
	raw, err := s.nextElement()
	if err != nil {
		return err
	}
	reply, err := s.tryBind(ctx, raw)
	if err != nil {
		return err
	}
	if s.bound { // from here the writer writes
		s.first = append([]item{{kind: itemRaw, data: reply}}, s.first...)
		return nil
	}
	_, err = s.conn.Write(reply)
	return err
}

// tryBind handles one element before a resource is bound.
func (s *session) tryBind(ctx context.Context, raw []byte) (reply []byte, err error) {
	header, err := xmpp.ParseHeader(raw)
	if err != nil {
		return nil, err
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return nil, err
	}
	if broken, ok := xmpp.ParseStreamError(raw); ok { // RFC 6120 §4.9.1.1: there is nothing to answer
		return nil, fmt.Errorf("the client sent a %s", broken) //nolint:errorlint // It is not ours, to be sent back.
	}
	if e.Is(xmpp.NSSM, "resume") {
		reply, _, err := s.tryResume(ctx, e)
		return reply, err
	}
	if e.Space() == xmpp.NSSM { // XEP-0198 §3: not before a resource is bound
		return smFailed(xmpp.UnexpectedRequest), nil
	}
	if header.Kind != xmpp.IQ || header.Type != iqSet {
		return nil, &xmpp.StreamError{Condition: xmpp.NotAuthorized} // RFC 6120 §7.1
	}
	request, ok := e.Child(xmpp.NSBind, "bind")
	if !ok {
		return nil, &xmpp.StreamError{Condition: xmpp.NotAuthorized}
	}
	err = s.bindAs(ctx, header, e, request)
	if refusal, ok := asStanzaError(err); ok {
		return refusal.AppendReply(nil, raw), nil
	}
	if err != nil {
		return nil, err
	}
	result := iqHead(iqResult, header.ID, "", "")
	result = append(result, "<bind xmlns='"+xmpp.NSBind+"'><jid>"...)
	result = xmpp.AppendEscaped(result, s.jid.String())
	return append(result, "</jid></bind></iq>"...), nil
}

// bindAs gives the session the resource that is asked for. After a *xmpp.StanzaError the
// client may ask again (RFC 6120 §7.6.2, §7.7.2).
func (s *session) bindAs(ctx context.Context, header xmpp.Header, iq, request xmpp.Element) error {
	if header.ID == "" { // RFC 6120 §8.1.3: the client could not tell what the answer is to
		return xmpp.NewStanzaError(xmpp.BadRequest, "an IQ has to have an id")
	}
	if len(slices.Collect(iq.Children())) != 1 { // RFC 6120 §8.2.3
		return xmpp.NewStanzaError(xmpp.BadRequest, "an IQ asks for one thing")
	}
	jid, ok := s.chooseResource(request)
	if !ok {
		return xmpp.NewStanzaError(xmpp.BadRequest, "this is no resource")
	}
	return s.establish(ctx, jid)
}

// chooseResource takes the resource that the client wants, or makes one.
func (s *session) chooseResource(request xmpp.Element) (jid xmpp.JID, ok bool) {
	resource := randomResource()
	for child := range request.Children() {
		if child.Local() == "resource" {
			if wanted := child.Text(); wanted != "" {
				resource = wanted
			}
		}
	}
	jid, err := s.jid.WithResource(resource)
	return jid, err == nil
}

// establish makes the session known to the node, the cluster and the store. An older
// session with the same resource ends (RFC 6120 §7.7.2.2). A user who has too many gets
// a *xmpp.StanzaError, before anything is written that would have to be undone.
func (s *session) establish(ctx context.Context, jid xmpp.JID) error {
	n := s.node
	if n.crowded(jid) {
		return xmpp.NewStanzaError(xmpp.ResourceConstraint, "too many sessions") // RFC 6120 §7.6.2.1
	}
	s.jid, s.id, s.epoch = jid, randomID(), 1
	partition := n.opts.Partition(s.account.User)
	if err := n.bus.Host(partition); err != nil {
		return &stopError{ReasonBusFailed, &xmpp.StreamError{Condition: xmpp.InternalServerError}, err}
	}
	n.arrive(s, s.id)
	over := n.replacing(s.id)
	replaced, err := s.create(ctx)
	defer func() { over(replaced != nil && replaced.Shown != "") }()
	if err != nil {
		n.turnBack(s)
		n.bus.Unhost(partition)
		n.left.add(s.id, s.epoch) // the store may have it all the same
		return err
	}
	if replaced != nil {
		s.replaced = replaced.ID
		n.outdate(replaced.ID)
	}
	_ = s.conn.SetDeadline(time.Time{}) // before end may set one
	if !n.join(ctx, s) {
		s.endRecord(ctx)
		n.bus.Unhost(partition)
		if s.outdated {
			if replaced != nil { // it may have come, and whoever replaced us does not know it
				n.replace(ctx, *replaced)
			}
			return outdatedError()
		}
		if n.draining.Load() {
			return &stopError{ReasonShutdown, &xmpp.StreamError{Condition: xmpp.SystemShutdown}, nil}
		}
		return &stopError{ReasonFull, &xmpp.StreamError{Condition: xmpp.ResourceConstraint, Text: "too many sessions"}, nil}
	}
	s.bound = true
	s.recheck()
	if replaced != nil {
		n.replace(ctx, *replaced)
	}
	return s.place(ctx)
}

// create makes the session's record.
func (s *session) create(ctx context.Context) (replaced *store.Session, err error) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	replaced, err = s.node.store.CreateSession(query, store.Session{
		ID: s.id, Owner: s.account.Owner, User: s.account.User, Resource: s.jid.Resource(),
		Node: s.node.opts.Name, Epoch: s.epoch, Created: s.started,
	})
	if err != nil {
		return nil, storeFailed(fmt.Errorf("create the session: %w", err))
	}
	return replaced, nil
}

// place puts the cursor at the end of the timeline. The node hears of everything
// that comes after it already.
func (s *session) place(ctx context.Context) error {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	head, delivered, err := s.node.store.Head(query, s.account.Owner)
	if err != nil {
		s.endBy(storeFailed(err)) // the session is known by now: run ends it
		return nil
	}
	s.cur.pos, s.origin = head, head
	s.out.begin(head)
	s.hub.goesOn(s, head)
	s.hub.atLeast(delivered)
	if _, err := s.blocklist(ctx); err != nil {
		s.endBy(storeFailed(err))
	}
	return nil
}

// replace ends an older session, wherever it is. It has told whoever saw it that it is
// gone before the new one can say that it is there.
func (n *Node) replace(ctx context.Context, old store.Session) {
	ended := false
	if old.Node == n.opts.Name {
		ended = n.endSession(old.ID)
	} else {
		ended = n.endElsewhere(ctx, old)
	}
	announced := ended || n.announceEnd(ctx, old)
	switch {
	case announced && old.Shown != "":
		_ = n.forgetReaped(ctx, []string{old.ID})
	case !announced && old.Shown == "": // else it is announced with those that were reaped
		n.refuseLeftBy(old) // the contacts know the newer one
	}
}

// replacing notes that a session is about to be made, which may replace another one and will announce that. The returned func says
// that this is over, and whether it was to be announced by reap if the node had died.
func (n *Node) replacing(id string) (over func(noted bool)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.replaces[id] = false
	return func(noted bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.replaces[id] = true; !noted {
			delete(n.replaces, id)
		}
	}
}

// forgetReplacing forgets what is over. What is over later stays until the next time: reap may have been told of it before.
func (n *Node) forgetReplacing() {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.replaces, func(_ string, over bool) bool { return over })
}

// isReplacing tells whether a session announces, or has announced since forgetReplacing, the one that it has replaced.
func (n *Node) isReplacing(id string) bool {
	n.mu.RLock()
	defer n.mu.RUnlock()
	_, is := n.replaces[id]
	return is
}

// endSession ends a session of this node because of a newer one. It returns false if there is
// none: then somebody else has to tell that it is gone.
func (n *Node) endSession(id string) bool {
	if n.outdate(id) {
		return true // it has not said anything yet
	}
	n.mu.RLock()
	s := n.sessions[id]
	n.mu.RUnlock()
	if s == nil {
		return false
	}
	s.end(ReasonConflict, &xmpp.StreamError{Condition: xmpp.Conflict})
	s.goUnavailable(unavailablePresence(s.jid))
	return true
}

// endsTime is how long another node is given to end a session. One that does not is dead, or
// cut off.
const endsTime = time.Second / 2

// endElsewhere has another node end a session. It returns false if that has not said that it did.
func (n *Node) endElsewhere(ctx context.Context, old store.Session) bool {
	ended := make(chan struct{}, 1)
	n.mu.Lock()
	n.ending[old.ID] = ended
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.ending, old.ID)
	}()
	n.publishControl(old.User, control{Conflict: old.ID})
	timer := time.NewTimer(endsTime)
	defer timer.Stop()
	select {
	case <-ended:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// endFor does what endElsewhere of another node has asked for.
func (n *Node) endFor(user, id string) {
	if n.endSession(id) {
		n.publishControl(user, control{Ended: id})
	}
}

// hasEnded takes the word of another node that it has ended a session.
func (n *Node) hasEnded(id string) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if ended, ok := n.ending[id]; ok {
		poke(ended)
	}
}

// leave undoes what establish and the client have done, in an order in which nobody
// sends to a session that is not there.
func (s *session) leave(ctx context.Context) {
	n := s.node
	ctx, cancel := context.WithTimeout(ctx, n.leaveTimeout())
	defer cancel()
	s.in.wait(0, ctx.Done()) // the fence would refuse what is on its way
	n.part(s, true)
	s.refuseUnasked()
	s.sayGoodbye(ctx)
	s.flushDelivered(ctx) // the client may have acknowledged more
	s.endRecord(ctx)
	n.unhostLater(s.hub.partition, nil)
}

// leaveTimeout is how long a session may take to leave. While the node serves, whoever stops it in
// a hurry has nothing to say to that: what is not undone lasts for as long as the node lives.
func (n *Node) leaveTimeout() time.Duration {
	if n.draining.Load() {
		return n.opts.Timeouts.Shutdown
	}
	return max(n.opts.Timeouts.Shutdown, n.opts.Timeouts.Store)
}

// endRecord removes the session's record, now or when the store is back.
func (s *session) endRecord(ctx context.Context) {
	if err := s.node.removeRecord(ctx, s.id, s.epoch); err != nil {
		s.node.left.add(s.id, s.epoch)
		s.node.opts.Logger.WarnContext(ctx, "end a session's record; this is tried again",
			slog.String("session", s.id), slog.Any("error", err))
	}
}
