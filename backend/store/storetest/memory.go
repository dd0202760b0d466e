package storetest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"imlb/backend/store"
)

// Memory is a store.Store in maps behind one mutex. It is the naive model that
// the SQL implementation is compared with, and what other packages' unit
// tests run on. What it holds is gone when it is dropped.
type Memory struct {
	mu        sync.Mutex
	lastOwner store.OwnerID
	accounts  map[string]*account // by user
	owners    map[store.OwnerID]*account
	sessions  map[string]*session // by ID
	leases    map[holder]*lease
	ended     map[string]endedSession // by ID
	reaped    map[string]reaped       // by ID
	jobs      map[string]time.Time    // when each is due
	changes   []store.AccountChange   // all of them
	owner     store.Owner             // whose it is
}

type account struct {
	store.Account
	creds     map[string]store.Credential // by mechanism
	tokens    accountTokens
	items     map[string]store.RosterItem // by contact
	removals  []store.RosterItem          // by version
	version   uint64
	entries   []store.Entry
	head      uint64
	floor     uint64 // entries up to it have been removed
	delivered uint64
	personal  personal
	last      time.Time // of the last entry
	prefs     store.ArchivePrefs
	ended     time.Time // when a session ended last
}

// session points at the lease that its node held when it was created.
type session struct {
	store.Session
	lease     *lease
	resumable *store.Resumable // nil: it cannot be resumed
	point     store.ResumePoint
	taken     time.Time // when it was resumed for the last time; zero: never
	shown     string    // what was noted by NoteShown
}

// reaped is a session that was reaped, and who is about to announce its end.
type reaped struct {
	store.Session
	node  string
	lease *lease
}

// holder is one run of a node.
type holder struct{ node, incarnation string }

type lease struct {
	until time.Time // zero when it is over
	ended time.Time // when that was
}

// over is when the lease was over, or will be.
func (l *lease) over() time.Time {
	if l.until.IsZero() {
		return l.ended
	}
	return l.until
}

// end ends the lease, if it is not over.
func (l *lease) end() {
	if l.until.IsZero() {
		return
	}
	if l.ended = now(); l.until.Before(l.ended) {
		l.ended = l.until
	}
	l.until = time.Time{}
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		accounts: make(map[string]*account),
		owners:   make(map[store.OwnerID]*account),
		sessions: make(map[string]*session),
		leases:   make(map[holder]*lease),
		ended:    make(map[string]endedSession),
		reaped:   make(map[string]reaped),
		jobs:     make(map[string]time.Time),
	}
}

var _ store.Store = (*Memory)(nil)

// Ping implements store.Store.
func (*Memory) Ping(ctx context.Context) error { return ctx.Err() }

// Close implements store.Store; the store can be used afterwards.
func (*Memory) Close() error { return nil }

// CreateAccount implements store.Accounts.
func (m *Memory) CreateAccount(ctx context.Context, user string, creds []store.Credential) (store.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return store.Account{}, err
	}
	if m.accounts[user] != nil {
		return store.Account{}, fmt.Errorf("create account %s: %w", user, store.ErrExists)
	}
	m.lastOwner++
	a := &account{
		Account: store.Account{Owner: m.lastOwner, User: user, Created: now()},
		creds:   copyCredentials(creds),
		items:   make(map[string]store.RosterItem),
	}
	m.accounts[user] = a
	m.owners[a.Owner] = a
	return a.Account, nil
}

// Account implements store.Accounts.
func (m *Memory) Account(ctx context.Context, user string) (store.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return store.Account{}, err
	}
	return a.Account, nil
}

// Credential implements store.Accounts.
func (m *Memory) Credential(ctx context.Context, user, mechanism string) (store.Credential, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return store.Credential{}, err
	}
	c, ok := a.creds[mechanism]
	if !ok {
		return store.Credential{}, fmt.Errorf("%s keys of %s: %w", mechanism, user, store.ErrNotFound)
	}
	return copyCredential(c), nil
}

// LacksKeys implements store.Accounts.
func (m *Memory) LacksKeys(ctx context.Context, mechanism string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.accounts {
		if _, has := a.creds[mechanism]; !has && len(a.creds) > 0 {
			return true, nil
		}
	}
	return false, ctx.Err()
}

// SetCredentials implements store.Accounts.
func (m *Memory) SetCredentials(ctx context.Context, user string, creds []store.Credential) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return err
	}
	a.creds = copyCredentials(creds)
	a.tokens = accountTokens{since: now()}
	return nil
}

// ListAccounts implements store.Accounts.
func (m *Memory) ListAccounts(ctx context.Context, after string, limit int) ([]store.Account, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var list []store.Account
	for _, user := range slices.Sorted(maps.Keys(m.accounts)) {
		if user > after && len(list) < limit && !unfinished(user) {
			list = append(list, m.accounts[user].Account)
		}
	}
	return list, nil
}

// DeleteAccount implements store.Accounts.
func (m *Memory) DeleteAccount(ctx context.Context, user string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byUser(ctx, user)
	if err != nil {
		return err
	}
	m.erase(a)
	return nil
}

func (m *Memory) erase(a *account) {
	delete(m.accounts, a.User)
	delete(m.owners, a.Owner)
	m.noteChange(a.User)
	maps.DeleteFunc(m.sessions, func(_ string, s *session) bool { return s.Owner == a.Owner })
	maps.DeleteFunc(m.reaped, func(_ string, s reaped) bool { return s.Owner == a.Owner })
}

// Roster implements store.Rosters.
func (m *Memory) Roster(ctx context.Context, owner store.OwnerID) ([]store.RosterItem, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return nil, 0, err
	}
	var items []store.RosterItem
	for _, contact := range slices.Sorted(maps.Keys(a.items)) {
		items = append(items, copyItem(a.items[contact]))
	}
	return items, a.version, nil
}

// RosterSince implements store.Rosters.
func (m *Memory) RosterSince(ctx context.Context, owner store.OwnerID, since uint64) ([]store.RosterItem, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return nil, 0, err
	}
	var items []store.RosterItem
	for _, item := range slices.Concat(slices.Collect(maps.Values(a.items)), a.removals) {
		if item.Version > since {
			items = append(items, copyItem(item))
		}
	}
	slices.SortStableFunc(items, func(a, b store.RosterItem) int { return cmp.Compare(a.Version, b.Version) })
	return items, a.version, nil
}

// Versions implements store.Rosters.
func (m *Memory) Versions(ctx context.Context, owners []store.OwnerID) (map[store.OwnerID]store.Versions, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	all := make(map[store.OwnerID]store.Versions)
	for _, owner := range owners {
		if a := m.owners[owner]; a != nil {
			all[owner] = store.Versions{Roster: a.version, Blocklist: a.personal.blocks.Version}
		}
	}
	return all, nil
}

// UpdateRoster implements store.Rosters.
func (m *Memory) UpdateRoster(ctx context.Context, owner store.OwnerID, contact string, change func(*store.RosterItem) bool) (store.RosterItem, uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return store.RosterItem{}, 0, err
	}
	old, existed := a.items[contact]
	old.Contact = contact
	item := copyItem(old)
	if !change(&item) {
		return copyItem(old), a.version, nil
	}
	item.Contact, item.Version = contact, old.Version
	item = copyItem(item)
	keep := item.InRoster || item.Approved || len(item.PendingIn) > 0
	if !keep && !existed {
		return item, a.version, nil
	}
	a.version++
	item.Version = a.version
	delete(a.items, contact)
	if old.InRoster && !item.InRoster {
		a.removals = slices.DeleteFunc(a.removals, func(it store.RosterItem) bool { return it.Contact == contact })
		a.removals = append(a.removals, store.RosterItem{Contact: contact, Version: item.Version})
		a.removals = a.removals[max(0, len(a.removals)-store.RemovalsKept):]
	}
	if keep {
		a.items[contact] = item
	}
	return copyItem(item), a.version, nil
}

// AppendBatch implements store.Timelines.
func (m *Memory) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	done := make([]store.Appended, len(batch))
	for i, a := range batch {
		done[i] = m.append(a)
	}
	return done, nil
}

func (m *Memory) append(a store.Append) store.Appended {
	if a.Session != "" {
		if _, err := m.fence(a.Session, a.Epoch); err != nil {
			return store.Appended{Err: err}
		}
	}
	at := now()
	for _, d := range a.Drafts {
		o := m.owners[d.Owner]
		if o == nil {
			return store.Appended{Err: fmt.Errorf("timeline of owner %d: %w", d.Owner, store.ErrNotFound)}
		}
		if o.last.After(at) {
			at = o.last
		}
	}
	if m.full(a.Drafts) {
		return store.Appended{Err: fmt.Errorf("timeline: %w", store.ErrFull)}
	}
	if a.Session != "" {
		m.sessions[a.Session].Handled = a.Handled
	}
	done := store.Appended{Time: at, Seqs: make([]uint64, len(a.Drafts))}
	for i, d := range a.Drafts {
		done.Seqs[i] = m.owners[d.Owner].add(d, at)
	}
	return done
}

func (a *account) add(d store.Draft, at time.Time) uint64 {
	a.head++
	a.last = at
	a.entries = append(a.entries, store.Entry{
		Seq: a.head, Time: at, Peer: d.Peer, Sent: d.Sent, Resource: d.Resource, Stanza: bytes.Clone(d.Stanza),
		Hidden: d.Hidden || !a.prefs.Keeps(cmp.Or(d.Address, d.Peer), d.Peer, a.items[d.Peer].InRoster),
	})
	return a.head
}

// Read implements store.Timelines.
func (m *Memory) Read(ctx context.Context, owner store.OwnerID, after uint64, limit int) ([]store.Entry, error) {
	return m.read(ctx, owner, store.Range{After: after, Limit: limit}, func(store.Entry) bool { return true })
}

// Head implements store.Timelines.
func (m *Memory) Head(ctx context.Context, owner store.OwnerID) (head, delivered uint64, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return 0, 0, err
	}
	return a.head, a.delivered, nil
}

// SetDelivered implements store.Timelines.
func (m *Memory) SetDelivered(ctx context.Context, delivered map[store.OwnerID]uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for owner, seq := range delivered {
		if a := m.owners[owner]; a != nil {
			a.delivered = max(a.delivered, min(seq, a.head))
		}
	}
	return nil
}

// CreateSession implements store.Sessions.
func (m *Memory) CreateSession(ctx context.Context, s store.Session) (*store.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, s.Owner)
	if err != nil {
		return nil, err
	}
	replaced := m.resource(s.Owner, s.Resource)
	if m.sessions[s.ID] != nil && (replaced == nil || replaced.ID != s.ID) {
		return nil, fmt.Errorf("create session %s: %w", s.ID, store.ErrExists)
	}
	if replaced != nil {
		*replaced = m.remove(replaced.ID)
	}
	s.User, s.Epoch, s.Created, s.Shown = a.User, 1, now(), ""
	a.LastLogin = s.Created
	m.sessions[s.ID] = &session{Session: s, lease: m.currentLease(s.Node)}
	if replaced != nil && replaced.Shown != "" {
		m.noteReaped(*replaced, s.Node)
	}
	return replaced, nil
}

// currentLease returns the lease that the node holds, or one that is over.
func (m *Memory) currentLease(node string) *lease {
	for h, l := range m.leases {
		if h.node == node && !l.until.IsZero() {
			return l
		}
	}
	return m.lease(holder{node: node})
}

func (m *Memory) lease(h holder) *lease {
	if m.leases[h] == nil {
		m.leases[h] = new(lease)
	}
	return m.leases[h]
}

// resource returns a copy of the owner's session with that resource, or nil.
func (m *Memory) resource(owner store.OwnerID, resource string) *store.Session {
	for _, s := range m.sessions {
		if s.Owner == owner && s.Resource == resource {
			found := s.Session
			return &found
		}
	}
	return nil
}

// Session implements store.Sessions.
func (m *Memory) Session(ctx context.Context, id string) (store.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return store.Session{}, err
	}
	s := m.sessions[id]
	if s == nil {
		return store.Session{}, fmt.Errorf("session %s: %w", id, store.ErrNotFound)
	}
	return s.Session, nil
}

// LastEnd implements store.Sessions.
func (m *Memory) LastEnd(ctx context.Context, owner store.OwnerID) (time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return time.Time{}, err
	}
	return a.ended, nil
}

// ConnectedContacts implements store.Sessions.
func (m *Memory) ConnectedContacts(ctx context.Context, owner store.OwnerID) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.owners[owner]
	if a == nil || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	connected := make(map[string]struct{})
	for _, s := range m.sessions {
		if _, ok := a.items[s.User]; ok {
			connected[s.User] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(connected)), nil
}

// RecentContacts implements store.Sessions.
func (m *Memory) RecentContacts(ctx context.Context, owner store.OwnerID, since time.Time) ([]store.RecentContact, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.owners[owner]
	if a == nil || ctx.Err() != nil {
		return nil, ctx.Err()
	}
	nodes := make(map[string]map[string]struct{}) // by user
	for _, s := range m.sessions {
		if nodes[s.User] == nil {
			nodes[s.User] = make(map[string]struct{})
		}
		nodes[s.User][s.Node] = struct{}{}
	}
	var recent []store.RecentContact
	for _, contact := range m.owners {
		_, listed := a.items[contact.User]
		left := !contact.ended.IsZero() && !contact.ended.Before(since)
		if listed && (len(nodes[contact.User]) > 0 || left) {
			recent = append(recent, store.RecentContact{User: contact.User, Nodes: len(nodes[contact.User])})
		}
	}
	slices.SortFunc(recent, func(a, b store.RecentContact) int { return strings.Compare(a.User, b.User) })
	return recent, nil
}

// SessionsOf implements store.Sessions.
func (m *Memory) SessionsOf(ctx context.Context, owner store.OwnerID) ([]store.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var list []store.Session
	for _, s := range m.sessions {
		if s.Owner == owner {
			list = append(list, s.Session)
		}
	}
	slices.SortFunc(list, func(a, b store.Session) int { return cmp.Compare(a.Resource, b.Resource) })
	return list, nil
}

// NoteShown implements store.Sessions.
func (m *Memory) NoteShown(ctx context.Context, id string, epoch uint64, shown string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := m.fence(id, epoch)
	if err == nil {
		s.shown = shown
	}
	return err
}

// StatesOf implements store.Sessions.
func (m *Memory) StatesOf(ctx context.Context, owner store.OwnerID) ([]store.Session, error) {
	list, err := m.SessionsOf(ctx, owner)
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range list {
		s := m.sessions[list[i].ID]
		if s != nil && s.resumable != nil {
			list[i].State = string(s.resumable.State)
		}
		if s != nil {
			list[i].Shown = s.shown
		}
		if s == nil || !s.lease.until.After(now()) {
			list[i].Node = ""
		}
	}
	return list, err
}

// NodeOf implements store.Sessions.
func (m *Memory) NodeOf(ctx context.Context, owner store.OwnerID, resource string) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.sessions {
		if s.Owner == owner && s.Resource == resource && s.served() {
			return s.Node, ctx.Err()
		}
	}
	return "", ctx.Err()
}

// NodesOf implements store.Sessions.
func (m *Memory) NodesOf(ctx context.Context, owner store.OwnerID) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var names []string
	for _, s := range m.sessions {
		if s.Owner == owner && s.served() {
			names = append(names, s.Node)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// served tells whether a node has the session now.
func (s *session) served() bool {
	return s.lease.until.After(now()) && (s.resumable == nil || s.resumable.Parked.IsZero())
}

// SetHandled implements store.Sessions.
func (m *Memory) SetHandled(ctx context.Context, id string, epoch uint64, handled uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := m.fence(id, epoch)
	if err != nil {
		return err
	}
	s.Handled = handled
	return nil
}

// EndSession implements store.Sessions.
func (m *Memory) EndSession(ctx context.Context, id string, epoch uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := m.fence(id, epoch); err != nil {
		return err
	}
	m.remove(id)
	return nil
}

// TakeLease implements store.Sessions.
func (m *Memory) TakeLease(ctx context.Context, node, incarnation string, lasts time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for h, l := range m.leases {
		if h.node == node && h.incarnation != incarnation {
			l.end()
		}
	}
	m.lease(holder{node, incarnation}).until = now().Add(lasts.Truncate(time.Millisecond))
	return nil
}

// RenewLease implements store.Sessions.
func (m *Memory) RenewLease(ctx context.Context, node, incarnation string, lasts time.Duration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	l := m.leases[holder{node, incarnation}]
	if l == nil || l.until.IsZero() {
		return fmt.Errorf("renew lease of %s: %w", node, store.ErrLeaseLost)
	}
	l.until = now().Add(lasts.Truncate(time.Millisecond))
	return nil
}

// EndLease implements store.Sessions.
func (m *Memory) EndLease(ctx context.Context, node, incarnation string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if l := m.leases[holder{node, incarnation}]; l != nil {
		l.end()
	}
	return nil
}

// LiveNodes implements store.Sessions.
func (m *Memory) LiveNodes(ctx context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return m.liveNodes(), nil
}

// liveNodes is LiveNodes; under Memory.mu.
func (m *Memory) liveNodes() []string {
	var names []string
	for h, l := range m.leases {
		if l.until.After(now()) {
			names = append(names, h.node)
		}
	}
	slices.Sort(names)
	return names
}

// ReapSessions implements store.Sessions.
func (m *Memory) ReapSessions(ctx context.Context, node string, limit int) ([]store.Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ended := 0
	for id, s := range m.sessions {
		if ended < limit && s.overdue(now()) {
			m.noteReaped(m.remove(id), node)
			ended++
		}
	}
	var owed []store.Session
	for id, s := range m.reaped {
		if len(owed) < limit && (s.node == node || !s.lease.until.After(now())) {
			m.reaped[id] = reaped{s.Session, node, m.currentLease(node)}
			owed = append(owed, s.Session)
		}
	}
	return owed, nil
}

// noteReaped notes that a node is to announce the end of a session.
func (m *Memory) noteReaped(was store.Session, node string) {
	m.reaped[was.ID] = reaped{
		Session: store.Session{ID: was.ID, Owner: was.Owner, User: was.User, Resource: was.Resource, State: was.State, Shown: was.Shown},
		node:    node, lease: m.currentLease(node),
	}
}

// ForgetReaped implements store.Sessions.
func (m *Memory) ForgetReaped(ctx context.Context, ids []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.reaped, id)
	}
	return ctx.Err()
}

// fence returns the session if it has that epoch.
func (m *Memory) fence(id string, epoch uint64) (*session, error) {
	s := m.sessions[id]
	if s == nil || s.Epoch != epoch {
		return nil, fmt.Errorf("session %s at epoch %d: %w", id, epoch, store.ErrFenced)
	}
	return s, nil
}

func (m *Memory) byUser(ctx context.Context, user string) (*account, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if a := m.accounts[user]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("account %s: %w", user, store.ErrNotFound)
}

func (m *Memory) byOwner(ctx context.Context, owner store.OwnerID) (*account, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if a := m.owners[owner]; a != nil {
		return a, nil
	}
	return nil, fmt.Errorf("owner %d: %w", owner, store.ErrNotFound)
}

// now has the resolution that every store keeps.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func copyCredentials(creds []store.Credential) map[string]store.Credential {
	byMechanism := make(map[string]store.Credential, len(creds))
	for _, c := range creds {
		byMechanism[c.Mechanism] = copyCredential(c)
	}
	return byMechanism
}

func copyCredential(c store.Credential) store.Credential {
	c.Salt, c.StoredKey, c.ServerKey = bytes.Clone(c.Salt), bytes.Clone(c.StoredKey), bytes.Clone(c.ServerKey)
	return c
}

// copyItem also brings Groups into their canonical form.
func copyItem(item store.RosterItem) store.RosterItem {
	item.Groups = slices.Compact(slices.Sorted(slices.Values(item.Groups)))
	item.PendingIn = bytes.Clone(item.PendingIn)
	if len(item.PendingIn) == 0 {
		item.PendingIn = nil
	}
	return item
}
