package backend

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"imlb/backend/bus"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// A request to a client (RFC 6120 §8.2.3) is on its way while its session may end. So that one
// node answers for it, and no more than one, the signal names the node that had the session when
// the sender's looked. The others leave it alone, even if the resource is with them by now.

// answerer is how a signal names the node that answers; 0 is nobody, as in signals of stanzas
// that are not answered, and in those of earlier versions.
func answerer(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // never fails
	return max(h.Sum64(), 1)
}

// silencer is a bus that knows whose signals do not arrive any more.
type silencer interface {
	Silent(node string) bool
}

// nodeOf is the node that has a resource, and hears what it is sent; empty: none has.
func (n *Node) nodeOf(ctx context.Context, to xmpp.JID, account store.Account) (string, error) {
	if h := n.hub(account.User); h != nil && h.session(to.Resource()) != nil {
		return n.opts.Name, nil
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	node, err := n.otherNodeOf(query, account, to.Resource())
	if err != nil {
		return "", fmt.Errorf("look up the session of %s: %w", to, err)
	}
	return node, nil
}

// otherNodeOf is nodeOf for a resource that is not on this node.
func (n *Node) otherNodeOf(ctx context.Context, account store.Account, resource string) (string, error) {
	node, err := n.store.NodeOf(ctx, account.Owner, resource)
	if err != nil {
		return "", err
	}
	if n.silent(node) {
		return "", nil
	}
	return node, nil
}

// silent tells whether a node is dead, or cut off, as far as is known here.
func (n *Node) silent(node string) bool {
	bus, ok := n.bus.(silencer)
	return ok && bus.Silent(node)
}

// ask sends the signal of a request to a client that a node has. It returns false if the signal does not get there.
func (n *Node) ask(node string, sig bus.Signal) bool {
	sig.Seq = answerer(node)
	return n.publish(sig) || node == n.opts.Name // what is for this node itself does not leave it
}

// request takes the signal of a request, of which a node has to say if nobody took it.
func (n *Node) request(sig bus.Signal, h *hub) {
	if sig.Seq == n.answerer && (h == nil || !h.ask(sig.Target, sig.Data)) {
		n.refuse(sig.Data)
	}
}

// ask hands a request to a client. It returns false if that does not get it.
func (h *hub) ask(resource string, raw []byte) bool {
	header, err := xmpp.ParseHeader(raw)
	if err != nil {
		h.node.metrics.dropped.WithLabelValues("decode").Inc()
		return true // there is nobody to be told
	}
	s := h.session(resource)
	if s == nil || h.ignores(header) || s.spares(header, len(raw)) {
		return false
	}
	return s.pushStanza(xmpp.IQ, item{kind: itemStanza, data: raw, asks: true})
}

// putRequest writes a request. Once the session has ended, and cannot be resumed, no
// answer of the client is taken any more, so that it is not asked.
func (s *session) putRequest(raw []byte) {
	if s.ended() && !s.kept {
		s.cur.unasked = append(s.cur.unasked, raw)
		return
	}
	s.releaseFrom(raw)
	s.cur.asked = append(s.cur.asked, written{len(s.cur.buf) + len(raw), raw})
	s.writeStanza(raw, 0)
}

// written is a request in the buffer of the cursor, and where that ends.
type written struct {
	end int
	raw []byte
}

// sent notes that the first n bytes of the buffer were written, and no more will be.
func (c *cursor) sent(n int) {
	for _, w := range c.asked {
		if w.end > n {
			c.unasked = append(c.unasked, w.raw)
		}
	}
	c.asked = c.asked[:0]
}

// refuseUnasked answers the requests that came for the client and that it will not see: those
// that were not written, and of a session that could have been resumed also those that
// may not have arrived (XEP-0198 §8). Nobody finds the session any more, and who has found it
// before answers from here on.
func (s *session) refuseUnasked() {
	s.out.finish()
	unseen := raws(s.queued())
	if s.kept {
		unseen = append(unseen, s.unacked.unanswered()...)
	} else {
		for _, raw := range s.cur.unasked {
			unseen = append(unseen, string(raw))
		}
	}
	s.node.refuseRequests(unseen)
}

// refuseRequests answers those among stanzas that wait for an answer.
func (n *Node) refuseRequests(stanzas []string) {
	for _, raw := range stanzas {
		if header, err := xmpp.ParseHeader([]byte(raw)); err == nil && isRequest(header) {
			n.refuse([]byte(raw))
		}
	}
}

// answered notes that the client has answered a request, which may not be acknowledged yet.
func (u *unacked) answered(answer xmpp.Header) {
	u.mu.Lock()
	defer u.mu.Unlock()
	i := slices.IndexFunc(u.kept, func(k kept) bool {
		if k.answered {
			return false
		}
		asked, err := xmpp.ParseHeader(k.raw)
		return err == nil && isRequest(asked) && asked.ID == answer.ID && asked.From == answer.To
	})
	if i >= 0 {
		u.kept[i].answered = true
	}
}

// unanswered are the stanzas that may not have arrived, but for requests that were answered.
func (u *unacked) unanswered() []string { return unanswered(u.leftover().Kept) }

func unanswered(all []savedStanza) []string {
	var raws []string
	for _, k := range all {
		if !k.Answered {
			raws = append(raws, k.Raw)
		}
	}
	return raws
}

// refuseLeft answers the requests that a session has left to whoever resumes it, and the live messages
// to its client, now that nobody does.
func (n *Node) refuseLeft(client xmpp.JID, st sessionState) {
	left := st.Queue
	if st.Left != nil {
		left = slices.Concat(unanswered(st.Left.Kept), left)
	}
	n.refuseRequests(left)
	n.refuseMessagesTo(client, left)
}

// partings are the partitions that sessions have left, in order. Each is let go when no request is on its
// way any more to the session: whoever has seen that in the store has taken no longer for it.
type partings struct {
	mu    sync.Mutex
	queue []parting
}

type parting struct {
	partition uint16
	due       time.Time
	hub       *hub // of a session that others may go on with; else nil
}

// partingInterval is how often is looked which are due.
const partingInterval = time.Second

// unhostLater lets a partition go later, and passes on what is left in the hub of a session that others may
// go on with, which is nil for another one.
func (n *Node) unhostLater(partition uint16, h *hub) {
	n.partings.mu.Lock()
	defer n.partings.mu.Unlock()
	n.partings.queue = append(n.partings.queue, parting{partition, time.Now().Add(n.opts.Timeouts.Store), h})
}

// take removes and returns those that are due.
func (p *partings) take(now time.Time) []parting {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.IndexFunc(p.queue, func(one parting) bool { return one.due.After(now) })
	if i < 0 {
		i = len(p.queue)
	}
	due := p.queue[:i:i]
	if p.queue = p.queue[i:]; len(p.queue) == 0 {
		p.queue = nil
	}
	return due
}

// keepPartings lets partitions go until ctx ends.
func (n *Node) keepPartings(ctx context.Context) {
	ticker := time.NewTicker(partingInterval)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			for _, one := range n.partings.take(now) {
				if one.hub != nil {
					n.passOnLeft(ctx, one.hub)
				}
				n.bus.Unhost(one.partition)
			}
		case <-ctx.Done():
			return
		}
	}
}
