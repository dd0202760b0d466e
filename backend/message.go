package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// The types of a message (RFC 6121 §5.2.2).
const (
	messageNormal    = "normal"
	messageChat      = "chat"
	messageGroupchat = "groupchat"
	messageHeadline  = "headline"
)

// message routes a message by the rules of RFC 6121 §8.5:
//
//	                    normal, chat        groupchat   headline   error
//	no such user        error               error       error      nothing
//	bare JID            timeline            error       live       nothing
//	full JID, there     timeline, to it     live        live       live
//	full JID, not there as the bare JID     error       nothing    nothing
//	no-store, nobody    error
//	no-store, full JID, not there: a chat message with a body as the bare JID, others error or nothing
//
// Timeline: the message is appended and reaches all available resources with a
// priority that is not negative, now or after the next login. Live: it reaches
// those that are there now. A normal message for a resource that is gone is
// treated like a chat message (as XEP-0409 has it): the user did write to a person.
//
// No-store: a normal or chat message with a body that may not be stored (XEP-0334 §4.2)
// is live. Whoever wrote it is told when there is nobody to take it.
//
// stored is true when the message is on its way into the store.
func (s *session) message(ctx context.Context, raw []byte, header xmpp.Header, number uint32) (stored bool, err error) {
	to, ok := s.recipient(header)
	if !ok {
		s.in.wait(0, s.done)
		return false, s.bounce(raw, header, xmpp.JIDMalformed)
	}
	if refused, err := s.refuseBlocked(ctx, raw, header); refused || err != nil {
		return false, err
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return false, err
	}
	timeline := worthStoring(e, header.Type)
	if !timeline {
		s.in.wait(0, s.done)
		if s.in.cutOff(number) {
			return false, nil
		}
	}
	var condition string
	var account store.Account
	err = s.patiently(ctx, func() error {
		condition, account, err = s.findUser(ctx, to)
		return err
	})
	switch {
	case err != nil:
		return false, s.lookupFailed(ctx, raw, header, err)
	case condition != "":
		s.in.wait(0, s.done)
		return false, s.bounceCopied(raw, header, xmpp.NewStanzaError(condition, ""))
	case timeline:
		return s.store(ctx, raw, header, number, to, account)
	default:
		return false, s.live(ctx, raw, header, to, account)
	}
}

// recipient is whom a message is for: without an address the user itself (RFC 6120
// §10.3.1).
func (s *session) recipient(header xmpp.Header) (to xmpp.JID, ok bool) {
	if !header.Addressed {
		return s.jid.Bare(), true
	}
	to, err := xmpp.ParseJID(header.To)
	return to, err == nil
}

// findUser looks up the account of an address; condition is the stanza error for an
// address that has none. One that has blocked the sender looks the same (XEP-0191 §3.3).
func (s *session) findUser(ctx context.Context, to xmpp.JID) (condition string, a store.Account, err error) {
	switch {
	case to.Domain() != s.node.opts.Domain:
		return xmpp.RemoteServerNotFound, a, nil
	case to.Local() == "":
		return xmpp.ServiceUnavailable, a, nil
	}
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	a, ok, err := s.node.accounts.lookup(query, to.Bare().String())
	if err != nil {
		return "", a, fmt.Errorf("look up %s: %w", to.Bare(), err)
	}
	if !ok {
		return xmpp.ServiceUnavailable, a, nil
	}
	blocked, err := s.blockedBy(query, a)
	if err != nil {
		return "", a, err
	}
	if blocked {
		return xmpp.ServiceUnavailable, a, nil
	}
	return "", a, nil
}

// worthStoring tells whether a message goes to the timeline:
//
//   - only normal and chat messages do;
//   - a hint of XEP-0334 decides: <store/> does, <no-store/> does not;
//     <no-permanent-store/> does, since it allows to keep it until it is delivered;
//   - else one with a body does, and one without does if it has anything that is not
//     of the moment: receipts, markers, reactions, invitations and encrypted content
//     must arrive, chat states (XEP-0085) need not.
func worthStoring(e xmpp.Element, kind string) bool {
	switch kind {
	case messageGroupchat, messageHeadline, typeError:
		return false
	}
	lasting := false
	for child := range e.Children() {
		switch space, name := child.Space(), child.Local(); {
		case space == xmpp.NSHints && name == "no-store":
			return false
		case space == xmpp.NSHints && name == "store":
			lasting = true
		case space == xmpp.NSChatStates, isAside(child):
		default:
			lasting = true
		}
	}
	return lasting
}

// isAside tells whether a child of a message is about the message, and nothing by itself: a hint
// (XEP-0334, XEP-0280), an id (XEP-0359), when it was sent (XEP-0203) or its thread.
func isAside(child xmpp.Element) bool {
	switch child.Space() {
	case xmpp.NSHints, xmpp.NSStanzaID:
		return true
	case xmpp.NSCarbons:
		return isPrivate(child)
	case xmpp.NSDelay:
		return child.Local() == "delay"
	case "", xmpp.NSClient:
		return child.Local() == "thread"
	default:
		return false
	}
}

// store appends a message to the timelines of its recipient and its sender. A message
// to oneself is in the archive once, as received. The session goes on to read while the
// store works.
func (s *session) store(ctx context.Context, raw []byte, header xmpp.Header, number uint32, to xmpp.JID, account store.Account) (bool, error) {
	resource, err := s.presentResource(ctx, to, account)
	if err != nil {
		return false, s.lookupFailed(ctx, raw, header, err)
	}
	stanza := s.withoutOurs(s.stamp(raw, header))
	sender := s.account.User
	passing := hasHint(stanza, "no-permanent-store") // XEP-0334 §4.1: until it is delivered
	a := store.Append{
		Session: s.id, Epoch: s.epoch, Handled: number,
		Drafts: []store.Draft{
			{
				Owner: account.Owner, Peer: sender, Address: s.jid.String(), Resource: resource, Stanza: stanza,
				Hidden: passing, Room: uint64(s.node.opts.Limits.Waiting), //nolint:gosec // It is positive.
			},
			{
				Owner: s.account.Owner, Peer: account.User, Address: to.String(), Resource: s.jid.Resource(), Stanza: stanza,
				Sent: true, Hidden: passing || account.User == sender,
			},
		},
	}
	s.in.wait(s.node.opts.Limits.Outstanding-1, s.done)
	s.in.submit()
	begun := time.Now()
	err = s.node.writer.Submit(ctx, a, func(done store.Appended) { s.appended(ctx, account.User, a, done, begun) })
	if err != nil {
		s.in.complete(false)
		return true, storeFailed(fmt.Errorf("append a message: %w", err))
	}
	return true, nil
}

// presentResource is the resource that a message is for, or "" when it is for the
// user.
func (s *session) presentResource(ctx context.Context, to xmpp.JID, account store.Account) (string, error) {
	if to.Resource() == "" {
		return "", nil
	}
	var there bool
	err := s.patiently(ctx, func() (err error) {
		there, err = s.node.isThere(ctx, to, account)
		return err
	})
	if !there || err != nil {
		return "", err
	}
	return to.Resource(), nil
}

// servedResource is the resource that a message is for which is not stored, or "" when no node has it: a
// session may also wait in the store for whoever resumes it.
func (s *session) servedResource(ctx context.Context, to xmpp.JID, account store.Account) (string, error) {
	if to.Resource() == "" {
		return "", nil
	}
	var node string
	err := s.patiently(ctx, func() (err error) {
		node, err = s.node.nodeOf(ctx, to, account)
		return err
	})
	if node == "" || err != nil {
		return "", err
	}
	return to.Resource(), nil
}

// appended tells the world of a message that is durable. The store's writer calls
// it.
func (s *session) appended(ctx context.Context, recipient string, a store.Append, done store.Appended, begun time.Time) {
	missing := errors.Is(done.Err, store.ErrNotFound) // deleted since it was looked up
	if missing || errors.Is(done.Err, store.ErrFull) {
		s.node.metrics.appends.WithLabelValues("refused").Inc()
		if missing {
			s.node.accounts.forget(recipient)
		}
		s.in.refusing()
		s.bounceStored(a.Drafts[0].Stanza)
		if s.holdTime.Load() == 0 {
			s.acknowledge(s.in.complete(true))
		} else if s.in.refuse() {
			s.nudge()
		}
		return
	}
	if done.Err != nil {
		s.node.metrics.appends.WithLabelValues("failed").Inc()
		if errors.Is(done.Err, store.ErrOutcomeUnknown) {
			s.in.doubt()
			s.node.publishControl(recipient, control{Look: true})
			s.node.publishControl(s.account.User, control{Look: true})
		}
		s.in.complete(false)
		s.appendFailed(ctx, done.Err)
		return
	}
	s.node.metrics.appends.WithLabelValues("stored").Inc()
	s.node.metrics.appending.Observe(time.Since(begun).Seconds())
	s.node.publish(bus.Signal{
		Kind: bus.Entry, User: recipient, Target: a.Drafts[0].Resource, Seq: done.Seqs[0], Data: a.Drafts[0].Stanza,
	})
	// The sender's own entry needs no delivery; its number must not look like a gap.
	s.node.publish(bus.Signal{
		Kind: bus.Entry, User: s.account.User, Target: a.Drafts[1].Resource, Seq: done.Seqs[1],
		Data: s.sentData(recipient, a.Drafts[1].Stanza),
	})
	s.acknowledge(s.in.complete(true))
}

// acknowledge tells the client a count, if it is to be told one.
func (s *session) acknowledge(h uint32, ack bool) {
	if ack {
		s.nonza(smAnswer(h))
	}
}

// bounceStored answers a message that the store has refused.
func (s *session) bounceStored(stanza []byte) {
	s.node.metrics.bounced.WithLabelValues(xmpp.ServiceUnavailable).Inc()
	bounce := xmpp.NewStanzaError(xmpp.ServiceUnavailable, "").AppendReply(nil, stanza)
	s.unacked.owe(bounce, true)
	s.send(xmpp.Message, bounce)
	s.node.shareBounce(s.jid, stanza, bounce, false)
}

func (s *session) appendFailed(ctx context.Context, err error) {
	if errors.Is(err, store.ErrFenced) {
		if s.lost.Swap(true) { // all that is on its way fails so
			return
		}
		s.node.fenced.Go(func() { s.endFenced(ctx) }) // it asks the store, whose writer calls this
		return
	}
	s.endBy(storeFailed(fmt.Errorf("append a message: %w", err)))
}

// live sends a message that is not stored to those who are there.
func (s *session) live(ctx context.Context, raw []byte, header xmpp.Header, to xmpp.JID, account store.Account) error {
	resource, err := s.servedResource(ctx, to, account)
	if err != nil {
		return s.lookupFailed(ctx, raw, header, err)
	}
	if resource == "" && header.Type == messageChat && hasBody(raw) { // RFC 6121 §8.5.3.2.1
		to = to.Bare()
	}
	full := to.Resource() != ""
	stanza := s.withoutOurs(s.stamp(raw, header))
	var doubtful []string
	if speaks(header.Type, raw) && !full {
		var here bool
		if here, doubtful, err = s.node.reach(ctx, stanza, account); err != nil {
			return s.lookupFailed(ctx, raw, header, err)
		} else if !here && len(doubtful) == 0 {
			return s.bounceCopied(raw, header, xmpp.NewStanzaError(xmpp.ServiceUnavailable, ""))
		}
	}
	switch {
	case resource == "" && (header.Type == messageGroupchat || full && speaks(header.Type, raw)):
		return s.bounceCopied(raw, header, xmpp.NewStanzaError(xmpp.ServiceUnavailable, ""))
	case full && resource == "", header.Type == typeError && !full:
		return nil
	}
	s.node.publish(bus.Signal{Kind: bus.Stanza, User: account.User, Target: resource, Data: stanza})
	s.shareSent(header, to, stanza)
	if len(doubtful) > 0 { // after the copies, which its answer refers to
		s.node.publishControl(account.User, control{Lost: &lostMessage{stanza, doubtful}})
	}
	return nil
}

// speaks tells whether a message is one that a person has written to another (RFC 6121
// §8.5.2.2): the sender has to learn if it goes nowhere. Chat states may.
func speaks(kind string, stanza []byte) bool {
	switch kind {
	case messageGroupchat, messageHeadline, typeError:
		return false
	}
	return hasBody(stanza)
}

// reach tells whether a live message that is addressed to a user reaches a session on this
// node, and if not, which nodes have sessions that it may reach.
func (n *Node) reach(ctx context.Context, stanza []byte, account store.Account) (here bool, elsewhere []string, err error) {
	if h := n.hub(account.User); h != nil && h.reaches(stanza) {
		return true, nil, nil
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	elsewhere, err = n.othersServing(query, account)
	return false, elsewhere, err
}

// othersWith returns the other nodes that have sessions of a user, sorted.
func (n *Node) othersWith(ctx context.Context, account store.Account) ([]string, error) {
	sessions, err := n.store.SessionsOf(ctx, account.Owner)
	if err != nil {
		return nil, fmt.Errorf("look up the sessions of %s: %w", account.User, err)
	}
	var others []string
	for _, s := range sessions {
		if s.Node != n.opts.Name {
			others = append(others, s.Node)
		}
	}
	slices.Sort(others)
	return slices.Compact(others), nil
}

// othersServing is othersWith without the nodes of which all sessions of the user wait in the store for
// whoever resumes them.
func (n *Node) othersServing(ctx context.Context, account store.Account) ([]string, error) {
	nodes, err := n.store.NodesOf(ctx, account.Owner)
	if err != nil {
		return nil, fmt.Errorf("look up the nodes of %s: %w", account.User, err)
	}
	return slices.DeleteFunc(nodes, func(node string) bool { return node == n.opts.Name || n.silent(node) }), nil
}

// lostMessage is a live message that may have reached nobody. Only the node of a session
// knows whether it takes messages, so that the nodes that have some look one after the
// other; the last one tells the sender.
type lostMessage struct {
	Stanza []byte   `json:"stanza"`
	Nodes  []string `json:"nodes"` // that have yet to look
}

// lost looks whether a message has reached a session on this node, if it is its turn. The
// message itself came just before.
func (h *hub) lost(m lostMessage) {
	if len(m.Nodes) == 0 || m.Nodes[0] != h.node.opts.Name || h.reaches(m.Stanza) {
		return
	}
	if rest := m.Nodes[1:]; len(rest) > 0 {
		h.node.publishControl(h.user.String(), control{Lost: &lostMessage{m.Stanza, rest}})
		return
	}
	h.node.refuse(m.Stanza)
}

// refuse tells the client that has sent a stanza that nobody was there to take it.
func (n *Node) refuse(stanza []byte) {
	header, err := xmpp.ParseHeader(stanza)
	if err != nil {
		return
	}
	from, err := xmpp.ParseJID(header.From)
	if err != nil || from.Local() == "" {
		return
	}
	n.metrics.bounced.WithLabelValues(xmpp.ServiceUnavailable).Inc()
	bounce := xmpp.NewStanzaError(xmpp.ServiceUnavailable, "").AppendReply(nil, stanza)
	n.sendTo(from, bounce)
	n.shareBounce(from, stanza, bounce, true)
}

// withoutOurs removes what only we may say of a timeline: stanza ids that claim to be ours (XEP-0359 §4),
// that we were late (XEP-0203 §5), and what is for the front.
func (s *session) withoutOurs(raw []byte) []byte {
	if !bytes.Contains(raw, []byte("stanza-id")) && !bytes.Contains(raw, []byte("delay")) && !bytes.Contains(raw, []byte(xmpp.NSFront)) {
		return raw
	}
	return xmpp.AppendWithout(nil, raw, func(e xmpp.Element) bool {
		switch {
		case e.Local() == "stanza-id":
			by, _ := e.Attr("by")
			jid, err := xmpp.ParseJID(by)
			return err != nil || jid.Domain() == s.node.opts.Domain
		case e.Is(xmpp.NSDelay, "delay"): // an address of the domain is its user's word
			from, _ := e.Attr("from")
			jid, err := xmpp.ParseJID(from)
			return err == nil && jid.String() == s.node.opts.Domain
		default:
			return e.Space() == xmpp.NSFront
		}
	})
}

// appendStanzaID appends the number of a user's entry (XEP-0359).
func appendStanzaID(dst []byte, user string, seq uint64) []byte {
	dst = append(dst, "<stanza-id xmlns='"+xmpp.NSStanzaID+"' by='"...)
	dst = xmpp.AppendEscaped(dst, user)
	dst = append(dst, "' id='"...)
	dst = strconv.AppendUint(dst, seq, 10)
	return append(dst, "'/>"...)
}

// publish sends a signal to the nodes that host its user. One that is lost costs
// time if it is an entry, and is lost like a packet if it is not.
// It returns false for one that no other node gets.
func (n *Node) publish(sig bus.Signal) bool {
	sig.Partition = n.opts.Partition(sig.User)
	err := n.bus.Publish(sig)
	if err == nil {
		return true
	}
	if sig.Kind == bus.Entry && errors.Is(err, bus.ErrTooLarge) { // the user's nodes read it from the store
		n.publishControl(sig.User, control{Look: true})
		return true
	}
	n.metrics.dropped.WithLabelValues("publish").Inc()
	if before, ok := n.unsent.arises(time.Now()); ok {
		n.opts.Logger.Warn("publish a signal", slog.String("user", sig.User), slog.Any("error", err), slog.Int("unsaid", before))
	}
	return false
}
