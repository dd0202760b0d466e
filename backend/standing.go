package backend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// standing follows what administrators do to accounts. An account that is suspended
// or deleted, through this node, another one or the command line, loses its sessions on
// all nodes: each asks the store every second for the changes that it does not know
// yet, and at once when another node says that there is one.
type standing struct {
	seen    atomic.Uint64 // the last change that is known
	hint    chan struct{} // there may be more
	failing bool          // the last attempt failed; owned by follow

	mu      sync.Mutex
	pending map[string]struct{} // users with sessions that have to be looked at
	stale   map[string]struct{} // users whose rosters have to be read again
}

// changesAtATime bounds the changes that one query reads.
const changesAtATime = 100

func newStanding() *standing {
	return &standing{hint: make(chan struct{}, 1), pending: make(map[string]struct{}), stale: make(map[string]struct{})}
}

// beginFollowing learns where the changes are, before there is any session.
func (n *Node) beginFollowing(ctx context.Context) error {
	ctx, cancel := n.storeContext(ctx)
	defer cancel()
	last, err := n.store.LastAccountChange(ctx)
	if err != nil {
		return fmt.Errorf("follow the changes of accounts: %w", err)
	}
	n.standing.seen.Store(last)
	return nil
}

// follow ends the sessions of accounts that may not have any, until ctx ends.
func (n *Node) follow(ctx context.Context) {
	ticker := time.NewTicker(n.opts.Timeouts.Accounts)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-n.standing.hint:
		case <-ctx.Done():
			return
		}
		err := n.readChanges(ctx)
		if err == nil {
			err = n.checkPending(ctx)
		}
		if err == nil {
			err = n.readStaleRosters(ctx)
		}
		if err != nil && ctx.Err() == nil && !n.standing.failing {
			n.opts.Logger.WarnContext(ctx, "follow the changes of accounts", slog.Any("error", err))
		}
		n.standing.failing = err != nil
	}
}

// readChanges reads all changes that are new.
func (n *Node) readChanges(ctx context.Context) error {
	for {
		query, cancel := n.storeContext(ctx)
		changes, err := n.store.AccountChanges(query, n.standing.seen.Load(), changesAtATime)
		cancel()
		if err != nil || len(changes) == 0 {
			return err
		}
		n.takeChanges(changes)
	}
}

// takeChanges notes whose sessions have to be looked at. The number goes first: a
// session that does not see it yet is here already, and one that comes later looks
// at its account again (see join).
func (n *Node) takeChanges(changes []store.AccountChange) {
	before := n.standing.seen.Swap(changes[len(changes)-1].Number)
	if changes[0].Number != before+1 { // some are forgotten
		n.accounts.clear()
		for _, s := range n.allSessions() {
			n.standing.suspect(s.account.User)
		}
		n.contactsChanged(nil)
		return
	}
	n.contactsChanged(changes)
	for _, c := range changes {
		n.accounts.forget(c.User)
		if n.hub(c.User) != nil {
			n.standing.suspect(c.User)
		}
	}
}

func (st *standing) suspect(user string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.pending[user] = struct{}{}
}

// contactsChanged notes whose rosters have to be read again because contacts of theirs may
// have been deleted, of whom some process has taken leave in the store alone. Without
// changes it may have been anybody.
func (n *Node) contactsChanged(changes []store.AccountChange) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for user, h := range n.hubs {
		if changes == nil || slices.ContainsFunc(changes, func(c store.AccountChange) bool { return h.knows(c.User) }) {
			n.standing.outlive(user)
		}
	}
}

// outlive notes that a roster may be older than the accounts in it.
func (st *standing) outlive(user string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.stale[user] = struct{}{}
}

// outlived are those of which that was noted.
func (st *standing) outlived() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	users := slices.Collect(maps.Keys(st.stale))
	clear(st.stale)
	return users
}

// readStaleRosters reads them. Those that could not be read are tried again.
func (n *Node) readStaleRosters(ctx context.Context) error {
	var failed error
	for _, user := range n.standing.outlived() {
		h := n.hub(user)
		if h == nil {
			continue
		}
		if err := h.rereadRoster(ctx); err != nil {
			n.standing.outlive(user)
			failed = err
		}
	}
	return failed
}

// look makes follow work now.
func (st *standing) look() { poke(st.hint) }

// suspects are those that have to be looked at.
func (st *standing) suspects() []string {
	st.mu.Lock()
	defer st.mu.Unlock()
	users := make([]string, 0, len(st.pending))
	for user := range st.pending {
		users = append(users, user)
	}
	clear(st.pending)
	return users
}

// checkPending ends the sessions of those that may not have any. Who could not be
// looked up is tried again.
func (n *Node) checkPending(ctx context.Context) error {
	var failed error
	for _, user := range n.standing.suspects() {
		if err := n.checkAccount(ctx, user); err != nil {
			n.standing.suspect(user)
			failed = err
		}
	}
	return failed
}

func (n *Node) checkAccount(ctx context.Context, user string) error {
	h := n.hub(user)
	if h == nil {
		return nil
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	account, err := n.store.Account(query, user)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && account.Owner != h.owner:
		h.endAll(ReasonAccountGone, &xmpp.StreamError{Condition: xmpp.NotAuthorized, Text: accountGone})
	case err != nil:
		return err
	case account.State.SuspendedAt(time.Now()):
		h.endAll(ReasonSuspended, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: suspendedText(account.State)})
	}
	return nil
}

// endAll ends all sessions of the user on this node.
func (h *hub) endAll(reason Reason, farewell *xmpp.StreamError) {
	for _, s := range h.all() {
		s.end(reason, farewell)
	}
}

func (h *hub) all() []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*session, 0, len(h.sessions))
	for _, s := range h.sessions {
		all = append(all, s)
	}
	return all
}

// accountGone is what the user of a deleted account is told.
const accountGone = "the account was deleted"

// suspendedText is what the user of a suspended account is told.
func suspendedText(state store.AccountState) string {
	text := "the account is suspended"
	if !state.Until.IsZero() {
		text += " until " + state.Until.UTC().Format("2006-01-02 15:04 MST")
	}
	if state.Reason != "" {
		text += ": " + state.Reason
	}
	return text
}

// admit looks up the account of a user who has proven who it is. It asks the store,
// since what the node remembers may be older than a suspension. The error is a
// *xmpp.SASLError.
func (s *session) admit(ctx context.Context, user xmpp.JID) (store.Account, error) {
	s.seen = s.node.standing.seen.Load() // before the account is read
	ctx, cancel := s.node.storeContext(ctx)
	defer cancel()
	account, err := s.node.store.Account(ctx, user.String())
	switch {
	case errors.Is(err, store.ErrNotFound): // deleted since its keys were read
		return account, &xmpp.SASLError{Condition: xmpp.NotAuthorized}
	case err != nil:
		s.node.opts.Logger.WarnContext(ctx, "look up an account", slog.Any("error", err))
		return account, &xmpp.SASLError{Condition: xmpp.TemporaryAuthFailure}
	case account.State.SuspendedAt(time.Now()):
		return account, &xmpp.SASLError{Condition: xmpp.AccountDisabled, Text: suspendedText(account.State)}
	}
	return account, nil
}

// recheck has the account of a session looked at again that has become known to
// the node after a change that it may not have seen. Of a name that was free a moment ago other
// nodes may have sessions of another account, and what comes for the name would reach them.
func (s *session) recheck() {
	st := s.node.standing
	if time.Since(s.account.Created) < 2*s.node.opts.Timeouts.Accounts {
		s.node.publishControl(s.account.User, control{Account: true})
	}
	if st.seen.Load() == s.seen {
		return
	}
	st.suspect(s.account.User)
	st.look()
}

// accountChanged tells all nodes of a change that was just made.
func (n *Node) accountChanged(user string) {
	n.accounts.forget(user)
	n.standing.look()
	n.publishControl(user, control{Account: true})
}

// kick asks for the end of a session, or of all of a user.
type kick struct {
	Resource string `json:"resource,omitempty"` // empty: all
}

// kick ends sessions because an administrator wants it so.
func (h *hub) kick(k kick) {
	for _, s := range h.all() {
		if k.Resource == "" || s.jid.Resource() == k.Resource {
			s.end(ReasonKicked, &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "an administrator has ended the session"})
		}
	}
}
