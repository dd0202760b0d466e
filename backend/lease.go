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

// renewals is how many chances there are to renew a lease before it runs out.
const renewals = 3

// forgetAtATime bounds the ended sessions that are forgotten with one query.
const forgetAtATime = 10_000

// reapAtATime bounds the sessions that are ended with one query.
const reapAtATime = 100

// takeLease says for the first time that the node lives. Without it others would
// take its sessions for those of a dead node. It waits for a database that is away, until ctx ends.
func (n *Node) takeLease(ctx context.Context) error {
	err := store.Await(ctx, n.opts.Logger, min(time.Second, n.opts.Timeouts.Lease/renewals), func() error {
		ctx, cancel := n.storeContext(context.WithoutCancel(ctx))
		defer cancel()
		return n.store.TakeLease(ctx, n.opts.Name, n.opts.Incarnation, n.opts.Timeouts.Lease)
	})
	if err != nil {
		return fmt.Errorf("take the node's lease: %w", err)
	}
	return nil
}

func (n *Node) renewLease(ctx context.Context) error {
	return n.store.RenewLease(ctx, n.opts.Name, n.opts.Incarnation, n.opts.Timeouts.Lease)
}

func (n *Node) giveLeaseBack(ctx context.Context) error {
	if err := n.store.EndLease(ctx, n.opts.Name, n.opts.Incarnation); err != nil {
		return fmt.Errorf("end the node's lease: %w", err)
	}
	return nil
}

// keepLease renews the lease and cleans up after nodes that did not renew theirs,
// until ctx ends, or another process takes the lease.
func (n *Node) keepLease(ctx context.Context) {
	ticker := time.NewTicker(n.opts.Timeouts.Lease / renewals)
	defer ticker.Stop()
	held := tenure{lease: n.opts.Timeouts.Lease, since: time.Now()}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		asked := time.Now()
		switch err := n.renewOnce(ctx); {
		case errors.Is(err, store.ErrLeaseLost):
			n.giveWay(ctx)
			return
		case err != nil:
			held.failed = true
			continue
		}
		lapsed, reap := held.renew(asked, time.Now())
		if lapsed {
			n.endLostSessions(ctx)
		}
		n.removeLeft(ctx)
		if reap {
			n.reap(ctx)
		}
		n.forgetEnded(ctx)
		n.lookForUnheard(ctx)
	}
}

// tenure is what a node knows of its lease.
type tenure struct {
	lease    time.Duration
	since    time.Time // when it was asked for with success the last time, which is from when it counts
	failed   bool      // it was asked for without success since
	reapFrom time.Time // until then, other nodes are given time
}

// renew notes that the lease was asked for, and is there now. lapsed tells that it was not
// for a while, so that others may have ended the node's sessions; the store's clock may
// run faster. reap tells whether nodes without a lease are to be taken for dead: when the
// store was away from this node it may have been away from all, and then they only have to
// get to renewing theirs.
func (t *tenure) renew(asked, now time.Time) (lapsed, reap bool) {
	lapsed = now.Sub(t.since) > t.lease-t.lease/(2*renewals)
	if lapsed || t.failed {
		t.reapFrom = now.Add(t.lease)
	}
	t.since, t.failed = asked, false
	return lapsed, !now.Before(t.reapFrom)
}

// hearer is a bus that knows whose signals arrive.
type hearer interface {
	Hears(node string) bool
}

// lookForUnheard has all sessions look into the store when there is a node whose
// signals do not arrive: what its users say is delivered all the same, only later. What a node has stored
// last before it died, without a signal, is delivered when its lease is over if not before.
func (n *Node) lookForUnheard(ctx context.Context) {
	hears, ok := n.bus.(hearer)
	if !ok {
		return
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	living, err := n.store.LiveNodes(query)
	if err != nil {
		if ctx.Err() == nil {
			n.opts.Logger.WarnContext(ctx, "look for unheard nodes", slog.Any("error", err))
		}
		return
	}
	looked := append(n.living, living...)
	n.living = living
	if !slices.ContainsFunc(looked, func(name string) bool { return !hears.Hears(name) }) {
		return
	}
	n.metrics.polls.Inc()
	for _, s := range n.allSessions() {
		s.out.miss()
	}
	n.compareAll()
}

// endedMemory is for how long clients are told what a session that is over has handled.
const endedMemory = time.Hour

// forgetEnded forgets what no client will ask for any more.
func (n *Node) forgetEnded(ctx context.Context) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	if err := n.store.ForgetEnded(query, time.Now().Add(-endedMemory), forgetAtATime); err != nil && ctx.Err() == nil {
		n.opts.Logger.WarnContext(ctx, "forget ended sessions", slog.Any("error", err))
	}
}

// errReplaced is why a node takes no sessions any more whose lease another process has.
var errReplaced = errors.New("another process with this node's name has taken its lease: " +
	"stop one of the two, or give each a name of its own, and restart this one")

// giveWay leaves the node's name to the process that was started later and has its
// lease now: this one was cut off or stood still for so long that it was replaced, or both
// were given one name. Sessions that it still has can be resumed, or made anew, elsewhere.
// It goes on to say why it is not ready: if it ended and was started again it would
// replace the other in its turn.
func (n *Node) giveWay(ctx context.Context) {
	n.replaced.Store(true)
	n.opts.Logger.ErrorContext(ctx, "the node's lease is lost: it ends its sessions and takes no more", slog.Any("error", errReplaced))
	n.draining.Store(true)
	n.endLostSessions(ctx)
	polite, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Shutdown)
	defer cancel()
	if err := n.Drain(polite); err != nil && ctx.Err() == nil {
		n.opts.Logger.WarnContext(ctx, "sessions did not end in time", slog.Any("error", err))
	}
}

func (n *Node) renewOnce(ctx context.Context) error {
	query, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Lease/renewals)
	defer cancel()
	err := n.renewLease(query)
	n.writable.leased(err)
	if err != nil && ctx.Err() == nil {
		n.opts.Logger.WarnContext(ctx, "renew the node's lease", slog.Any("error", err))
	}
	return err
}

// endLostSessions ends those sessions that others have ended in the meantime:
// for a while this node's lease had run out.
func (n *Node) endLostSessions(ctx context.Context) {
	for _, s := range n.allSessions() {
		lookup, cancel := n.storeContext(ctx)
		now, err := n.store.Session(lookup, s.id)
		cancel()
		if gone := errors.Is(err, store.ErrNotFound); gone || err == nil && now.Epoch != s.epoch {
			s.endLost(ctx, gone)
		}
	}
}

// endFenced ends a session that turned out to be not this node's any more.
func (s *session) endFenced(ctx context.Context) {
	query, cancel := s.node.storeContext(ctx)
	defer cancel()
	_, err := s.node.store.Session(query, s.id)
	s.endLost(ctx, errors.Is(err, store.ErrNotFound))
}

// endLost ends a session that another node has taken over, or whose record is gone. Then
// either a newer session has its place, or it was ended while the node's lease had lapsed:
// its client should come back, which many do not after a conflict.
func (s *session) endLost(ctx context.Context, gone bool) {
	if gone {
		query, cancel := s.node.storeContext(ctx)
		defer cancel()
		others, err := s.node.store.SessionsOf(query, s.account.Owner)
		taken := slices.ContainsFunc(others, func(o store.Session) bool { return o.Resource == s.jid.Resource() })
		if err == nil && !taken {
			s.end(ReasonLapsed, &xmpp.StreamError{Condition: xmpp.InternalServerError})
			return
		}
	}
	s.end(ReasonConflict, &xmpp.StreamError{Condition: xmpp.Conflict})
}

// reap ends the sessions of nodes whose lease has run out, and tells the users'
// contacts on their behalf. What it has not told when it dies, or when the store does not say whom, the
// store names again: to this node, or to another one once the lease of this one is over.
func (n *Node) reap(ctx context.Context) {
	for ctx.Err() == nil {
		n.forgetReplacing()
		query, cancel := n.storeContext(ctx)
		dead, err := n.store.ReapSessions(query, n.opts.Name, reapAtATime)
		cancel()
		if err != nil {
			n.opts.Logger.WarnContext(ctx, "reap sessions", slog.Any("error", err))
			return
		}
		var told []string
		for _, s := range dead {
			if n.announceReaped(ctx, s) {
				told = append(told, s.ID)
			}
		}
		if err := n.forgetReaped(ctx, told); err != nil {
			return
		}
		n.metrics.reaped.Add(float64(len(told)))
		if len(told) < reapAtATime {
			return
		}
	}
}

func (n *Node) forgetReaped(ctx context.Context, ids []string) error {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	err := n.store.ForgetReaped(query, ids)
	if err != nil {
		n.opts.Logger.WarnContext(ctx, "forget reaped sessions", slog.Any("error", err))
	}
	return err
}

// announceReaped is announceEnd for a session that was reaped or replaced, maybe a while ago. Where another one has the place by
// now, the contacts know that one.
func (n *Node) announceReaped(ctx context.Context, dead store.Session) bool {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	others, err := n.store.StatesOf(query, dead.Owner)
	if err != nil {
		n.notAnnounced(ctx, dead, err)
		return false
	}
	at := slices.IndexFunc(others, func(o store.Session) bool { return o.Resource == dead.Resource })
	switch {
	case at < 0:
		return n.announceEnd(ctx, dead)
	case n.isReplacing(others[at].ID):
		return false // it is announced by who replaces it
	}
	return n.announceReplaced(ctx, dead, others[at])
}

// announceReplaced tells those who were shown directed presence by a session that it is gone, unless they see the one that has
// its place.
func (n *Node) announceReplaced(ctx context.Context, dead, now store.Session) bool {
	from, st, err := endOf(dead)
	if err != nil {
		return true
	}
	directed := st.directed()
	if _, later, err := endOf(now); err == nil {
		maps.DeleteFunc(directed, func(to xmpp.JID, _ struct{}) bool { return slices.Contains(later.Directed, to.String()) })
	}
	var told []string
	var blocks *blocklist
	if len(directed) > 0 {
		if told, blocks, err = n.contactsOf(ctx, dead); err != nil {
			n.notAnnounced(ctx, dead, err)
			return false
		}
	}
	n.refuseLeft(from, st)
	slices.Sort(told)
	n.withdraw(directed, unavailablePresence(from), told, blocks)
	return true
}

// endOf returns the address of a session that is over, and what it has left.
func endOf(dead store.Session) (from xmpp.JID, st sessionState, err error) {
	user, err := xmpp.ParseJID(dead.User)
	if err != nil {
		return from, st, err
	}
	st, _ = decodeState([]byte(dead.State)) // that of a session that could not be resumed is empty
	st.Directed = append(st.Directed, readShown(dead.Shown)...)
	from, err = user.WithResource(dead.Resource)
	return from, st, err
}

// announceEnd tells a session's contacts that it is unavailable, and those who were shown
// directed presence, on behalf of a session that cannot do so itself. Whether one was
// available that was not left in order nobody knows. It returns false if the store does not say who they are.
func (n *Node) announceEnd(ctx context.Context, dead store.Session) bool {
	from, st, err := endOf(dead)
	if err != nil {
		return true
	}
	told, blocks, err := n.contactsOf(ctx, dead)
	if err != nil {
		n.notAnnounced(ctx, dead, err)
		return false
	}
	n.refuseLeft(from, st)
	if st.Left == nil || st.Presence != "" {
		n.broadcast(from.Bare(), told, unavailablePresence(from), blocks)
	} else {
		told = nil
	}
	slices.Sort(told)
	n.withdraw(st.directed(), unavailablePresence(from), told, blocks)
	return true
}

// contactsOf returns the contacts who may see the user of a session, and its blocklist. There are none
// if the account was deleted.
func (n *Node) contactsOf(ctx context.Context, dead store.Session) ([]string, *blocklist, error) {
	query, cancel := n.storeContext(ctx)
	defer cancel()
	items, _, err := n.store.Roster(query, dead.Owner)
	var blocks *blocklist
	if err == nil {
		blocks, err = n.blocksOf(query, dead.Owner)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, nil, err
	}
	return n.subscribers(items, blocks), blocks, nil
}

func (n *Node) notAnnounced(ctx context.Context, dead store.Session, err error) {
	n.opts.Logger.WarnContext(ctx, "announce the end of a session", slog.String("user", dead.User), slog.Any("error", err))
}

// refuseLeftBy answers what a session that is over has left.
func (n *Node) refuseLeftBy(dead store.Session) {
	if from, st, err := endOf(dead); err == nil {
		n.refuseLeft(from, st)
	}
}

// storeContext bounds one query.
func (n *Node) storeContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, n.opts.Timeouts.Store)
}
