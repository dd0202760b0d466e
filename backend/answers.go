package backend

import (
	"context"
	"slices"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Who sends a request gets an answer (RFC 6120 §8.2.3), also when its node dies. A request that the handled count includes
// is not sent again, so what is stored with that count says how it is answered if its answer has not arrived: as it was, or by
// an error, after which the client may ask again.

// owed is a request of the client of which nobody knows whether the client has the answer.
type owed struct {
	again []byte // what answers it if the node dies
	first *byte  // of the answer, which waits to be written
	count uint32 // of the answer, which was written, in XEP-0198's count

	// Of a request to another client that has not answered yet.
	id      string
	to      xmpp.JID
	node    string // that had it; empty: that is not known
	session string // its session and its epoch, once they were looked up
	epoch   uint64
	passed  bool // they are others by now
}

// open tells whether nobody has answered yet.
func (o owed) open() bool { return !o.to.IsZero() }

// owedMost bounds the requests that are remembered, and owedBytes the answers that are stored as they are. When owedAsk answers
// are on their way the client is asked for its count, so that they need not be stored any more.
const (
	owedMost  = 64
	owedBytes = 1 << 10
	owedAsk   = 16
)

// savedAnswer is what is stored of one.
type savedAnswer struct {
	Raw     string `json:"x"`
	Count   uint32 `json:"n,omitempty"`
	Written bool   `json:"w,omitempty"`
	Open    bool   `json:"o,omitempty"`
}

// owe notes an answer to the client that is about to be put into its outbox: the node's own, or one that another client
// was asked for.
func (u *unacked) owe(raw []byte, own bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.owed) == 0 && !(u.keeping && own) {
		return
	}
	header, err := xmpp.ParseHeader(raw)
	if err != nil || isRequest(header) || !u.close(header) && !own || !u.keeping {
		return
	}
	if again := answerAgain(header, raw); again != nil {
		u.add(owed{again: again, first: &raw[0]})
	}
}

// expect notes a request that is about to be sent to another client, which a node has.
func (u *unacked) expect(id string, to xmpp.JID, node string, refusal []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.add(owed{again: refusal, id: id, to: to, node: node})
}

// add forgets the oldest one where there are too many; under unacked.mu.
func (u *unacked) add(o owed) {
	if len(u.owed) >= owedMost {
		u.owed = u.owed[1:]
	}
	u.owed = append(u.owed, o)
}

// close notes that another client has answered, if it has; under unacked.mu.
func (u *unacked) close(answer xmpp.Header) (has bool) {
	before := len(u.owed)
	u.owed = slices.DeleteFunc(u.owed, func(o owed) bool {
		if !o.open() || o.id != answer.ID || answer.Kind != xmpp.IQ {
			return false
		}
		from, err := xmpp.ParseJID(answer.From)
		return err == nil && from == o.to
	})
	return len(u.owed) < before
}

// answerAgain is what is written if an answer was lost; nil: nothing. What the node has told of things that may be others by
// then is not repeated.
func answerAgain(header xmpp.Header, raw []byte) []byte {
	from, _ := xmpp.ParseJID(header.From) // the node does not always say
	switch {
	case len(raw) <= owedBytes && (header.Type == typeError || from.Resource() != "" || isLasting(raw)):
		return raw
	case header.Kind == xmpp.IQ:
		return lostAnswer(header.ID, header.From, header.To, xmpp.NewStanzaError(xmpp.ResourceConstraint, "the answer was lost"))
	default:
		return nil
	}
}

// isLasting tells whether an answer says only that something was done.
func isLasting(raw []byte) bool {
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		return false
	}
	for child := range e.Children() {
		return child.Is(xmpp.NSCommands, "command")
	}
	return true
}

// lostAnswer answers a request in place of somebody.
func lostAnswer(id, from, to string, e *xmpp.StanzaError) []byte {
	return append(e.Append(iqHead(typeError, id, from, to)), "</iq>"...)
}

// putOwed notes the number of an answer that is written; under unacked.mu.
func (u *unacked) putOwed(raw []byte) {
	for i, o := range u.owed {
		if o.first != nil && o.first == &raw[0] {
			u.owed[i].first, u.owed[i].count = nil, u.sent
		}
	}
}

// forgetOwed drops the answers that have arrived; under unacked.mu.
func (u *unacked) forgetOwed() {
	u.owed = slices.DeleteFunc(u.owed, func(o owed) bool { return o.first == nil && !o.open() && !after(o.count, u.acked) })
	if len(u.owed) == 0 {
		u.owed = nil
	}
}

// owesMuch tells whether many answers are on their way; under unacked.mu.
func (u *unacked) owesMuch() bool {
	n := 0
	for _, o := range u.owed {
		if !o.open() {
			n++
		}
	}
	return n >= owedAsk
}

// owing returns what is stored of all that.
func (u *unacked) owing() []savedAnswer {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []savedAnswer
	for _, o := range u.owed {
		all = append(all, savedAnswer{string(o.again), o.count, o.first == nil && !o.open(), o.open()})
	}
	return all
}

// answerLost returns what a client that has counted h stanzas may still have to be told. Those that another client may
// yet answer are waited for, unless its answer can have been missed.
func (s *session) answerLost(answers []savedAnswer, h uint32, unheard bool) (again []item) {
	for _, a := range answers {
		header, err := xmpp.ParseHeader([]byte(a.Raw))
		switch from, _ := xmpp.ParseJID(header.From); {
		case err != nil, a.Written && !after(a.Count, h):
		case a.Open && !unheard && !from.IsZero():
			s.unacked.expect(header.ID, from, "", []byte(a.Raw))
		default:
			again = append(again, leftItem(a.Raw, 0))
		}
	}
	return again
}

// asking returns the requests that another client has not answered.
func (u *unacked) asking() []owed {
	u.mu.Lock()
	defer u.mu.Unlock()
	var all []owed
	for _, o := range u.owed {
		if o.open() {
			all = append(all, o)
		}
	}
	return all
}

// saw notes what was seen of the session that a request is for.
func (u *unacked) saw(seen owed) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i, o := range u.owed {
		if o.open() && o.id == seen.id && o.to == seen.to {
			u.owed[i] = seen
		}
	}
}

// answering bounds the users of whom is looked in one round whether their clients are there.
const answering = 1000

// keepAnswering looks, as often as the lease is renewed, which requests nobody will answer, until ctx ends.
func (n *Node) keepAnswering(ctx context.Context) {
	ticker := time.NewTicker(n.opts.Timeouts.Lease / renewals)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			n.answerForDead(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// answerForDead answers those requests to clients that nobody will, since their sessions have ended, or were resumed elsewhere:
// the node that had one answers for it, unless it has died.
func (n *Node) answerForDead(ctx context.Context) {
	there := make(map[string][]store.Session)
	for _, s := range n.allSessions() {
		for _, o := range s.unacked.asking() {
			user := o.to.Bare().String()
			if _, known := there[user]; !known && len(there) < answering {
				sessions, err := n.sessionsOf(ctx, user)
				if err != nil {
					return
				}
				there[user] = sessions
			}
			sessions, known := there[user]
			switch {
			case !known: // another time
			case o.look(sessions):
				s.send(xmpp.IQ, o.again)
			default:
				s.unacked.saw(o)
			}
		}
	}
}

func (n *Node) sessionsOf(ctx context.Context, user string) ([]store.Session, error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	account, ok, err := n.accounts.lookup(query, user)
	if err != nil || !ok {
		return nil, err
	}
	return n.store.SessionsOf(query, account.Owner)
}

// look looks at the sessions of the user whose client was asked. It returns true if that is not there, and was not the last time
// either: what its node has left to another may be answered by that meanwhile.
func (o *owed) look(sessions []store.Session) (over bool) {
	i := slices.IndexFunc(sessions, func(r store.Session) bool { return r.Resource == o.to.Resource() })
	switch {
	case i >= 0 && o.session == "" && (o.node == "" || o.node == sessions[i].Node):
		o.session, o.epoch = sessions[i].ID, sessions[i].Epoch
	case i < 0 || o.session != sessions[i].ID || o.epoch != sessions[i].Epoch:
		over = o.passed
		o.passed = true
	}
	return over
}
