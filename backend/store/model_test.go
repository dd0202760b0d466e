package store_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

// TestModel does the same random things to a database and to the store in
// memory, and after each compares all that can be seen of a user in both.
func TestModel(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		db := open(t, url, store.Options{})
		defer db.Close()
		m := &model{db: db, memory: storetest.NewMemory()}
		rapid.Check(t, func(r *rapid.T) {
			m.start(t.Context())
			r.Repeat(m.actions())
		})
	})
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"create account":  m.createAccount,
		"set credentials": m.setCredentials,
		"delete account":  m.deleteAccount,
		"set role":        m.setRole,
		"set state":       m.setState,
		"update roster":   m.updateRoster,
		"append":          m.appendBatch,
		"set delivered":   m.setDelivered,
		"set preferences": m.setPrefs,
		"trim":            m.trim,
		"create session":  m.createSession,
		"set handled":     m.setHandled,
		"end session":     m.endSession,
		"renew lease":     m.renewLease,
		"take lease":      m.takeLease,
		"end lease":       m.endLease,
		"reap":            m.reap,
		"":                m.compare,
	}
}

// model holds both stores. They go on from one run to the next, and each run
// has names of its own.
type model struct {
	db, memory store.Store

	ctx      context.Context // of the test
	run      int
	users    []string
	sessions []string
	owners   map[string][2]store.OwnerID // by user, in the database and in memory
}

func (m *model) start(ctx context.Context) {
	m.ctx = ctx
	m.run++
	m.users, m.sessions, m.owners = nil, nil, make(map[string][2]store.OwnerID)
	for i := range 3 {
		m.users = append(m.users, fmt.Sprintf("user-%d-%d", m.run, i))
	}
	for i := range 5 {
		m.sessions = append(m.sessions, fmt.Sprintf("session-%d-%d", m.run, i))
	}
}

// both does something to each store, and compares what comes of it. The function
// gets the place of the store's owners in model.owners.
func (m *model) both(r *rapid.T, f func(s store.Store, i int) (any, error)) {
	r.Helper()
	got, gotErr := f(m.db, 0)
	want, wantErr := f(m.memory, 1)
	if class(gotErr) != class(wantErr) {
		r.Fatalf("the database says %v, the model %v", gotErr, wantErr)
	}
	if !reflect.DeepEqual(got, want) {
		r.Fatalf("the database gives %+v, the model %+v", got, want)
	}
}

// class is what callers see of an error.
func class(err error) string {
	for _, known := range []error{store.ErrNotFound, store.ErrExists, store.ErrFenced, store.ErrFull} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprint(err)
}

func (m *model) user(r *rapid.T) string    { return rapid.SampledFrom(m.users).Draw(r, "user") }
func (m *model) session(r *rapid.T) string { return rapid.SampledFrom(m.sessions).Draw(r, "session") }
func (m *model) epoch(r *rapid.T) uint64   { return rapid.Uint64Range(1, 2).Draw(r, "epoch") }
func (m *model) count(r *rapid.T) uint32   { return rapid.Uint32().Draw(r, "handled") }
func (m *model) incarnation(r *rapid.T) string {
	return rapid.SampledFrom([]string{"i1", "i2"}).Draw(r, "incarnation")
}

func (m *model) node(r *rapid.T) string {
	return fmt.Sprintf("node-%d-%d", m.run, rapid.IntRange(0, 1).Draw(r, "node"))
}

// instant is one of a few, so that they meet.
func (m *model) instant(r *rapid.T, name string) time.Time {
	return time.Date(2030, 1, 1, 0, rapid.IntRange(1, 5).Draw(r, name), 0, 0, time.UTC)
}

// owner returns a user's owner in both stores, or one that is not there.
func (m *model) owner(user string) [2]store.OwnerID {
	if o, ok := m.owners[user]; ok {
		return o
	}
	return [2]store.OwnerID{1 << 40, 1 << 40}
}

func (m *model) credentials(r *rapid.T) []store.Credential {
	var creds []store.Credential
	for _, mechanism := range rapid.SliceOfN(rapid.SampledFrom([]string{"A", "B"}), 0, 3).Draw(r, "mechanisms") {
		key := rapid.SliceOfN(rapid.Byte(), 1, 4).Draw(r, "key")
		creds = append(creds, store.Credential{Mechanism: mechanism, Salt: key, Iterations: len(key), StoredKey: key, ServerKey: key})
	}
	return creds
}

func (m *model) createAccount(r *rapid.T) {
	user, creds := m.user(r), m.credentials(r)
	owners := m.owner(user)
	m.both(r, func(s store.Store, i int) (any, error) {
		a, err := s.CreateAccount(m.ctx, user, creds)
		if err == nil {
			owners[i] = a.Owner
		}
		return a.User, err
	})
	m.owners[user] = owners
}

func (m *model) setCredentials(r *rapid.T) {
	user, creds := m.user(r), m.credentials(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.SetCredentials(m.ctx, user, creds) })
}

func (m *model) deleteAccount(r *rapid.T) {
	user := m.user(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.DeleteAccount(m.ctx, user) })
}

func (m *model) setRole(r *rapid.T) {
	user, role := m.user(r), rapid.SampledFrom(store.Roles()).Draw(r, "role")
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.SetRole(m.ctx, user, role) })
}

func (m *model) setState(r *rapid.T) {
	user := m.user(r)
	state := store.AccountState{
		Suspended: rapid.Bool().Draw(r, "suspended"), Reason: rapid.SampledFrom([]string{"", "spam — 'again'"}).Draw(r, "reason"), Until: m.instant(r, "until"),
	}
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.SetState(m.ctx, user, state) })
}

func (m *model) updateRoster(r *rapid.T) {
	owners, contact := m.owner(m.user(r)), m.user(r)
	change := store.RosterItem{
		Contact: "ignored", Version: 99,
		Name:         rapid.StringMatching(`[a-z]{0,3}`).Draw(r, "name"),
		Groups:       rapid.SliceOfN(rapid.StringMatching(`[a-c]{0,1}`), 0, 3).Draw(r, "groups"),
		Subscription: store.Subscription(rapid.IntRange(0, 3).Draw(r, "subscription")),
		Ask:          rapid.Bool().Draw(r, "ask"),
		Approved:     rapid.Bool().Draw(r, "approved"),
		PendingIn:    rapid.SliceOfN(rapid.Byte(), 0, 2).Draw(r, "pending in"),
		InRoster:     rapid.Bool().Draw(r, "in roster"),
	}
	kept := rapid.Bool().Draw(r, "store it")
	m.both(r, func(s store.Store, i int) (any, error) {
		var before store.RosterItem
		item, version, err := s.UpdateRoster(m.ctx, owners[i], contact, func(item *store.RosterItem) bool {
			before = *item
			*item = change
			item.Groups = slices.Clone(change.Groups)
			return kept
		})
		return []any{before, item, version}, err
	})
}

func (m *model) appendBatch(r *rapid.T) {
	var batches [2][]store.Append
	for range rapid.IntRange(0, 5).Draw(r, "messages") {
		a := store.Append{Epoch: m.epoch(r), Handled: m.count(r)}
		if rapid.Bool().Draw(r, "from a session") {
			a.Session = m.session(r)
		}
		var drafts [2][]store.Draft
		for range rapid.IntRange(0, 3).Draw(r, "drafts") {
			owners := m.owner(m.user(r))
			d := store.Draft{
				Peer: m.user(r), Sent: rapid.Bool().Draw(r, "sent"), Resource: "r",
				Stanza: rapid.SliceOfN(rapid.Byte(), 1, 3).Draw(r, "stanza"),
				Hidden: rapid.Bool().Draw(r, "hidden"), Room: rapid.Uint64Range(0, 5).Draw(r, "room"),
			}
			if rapid.Bool().Draw(r, "with a resource") {
				d.Address = d.Peer + "/r"
			}
			for i := range drafts {
				d.Owner = owners[i]
				drafts[i] = append(drafts[i], d)
			}
		}
		for i := range batches {
			a.Drafts = drafts[i]
			batches[i] = append(batches[i], a)
		}
	}
	m.both(r, func(s store.Store, i int) (any, error) {
		done, err := s.AppendBatch(m.ctx, batches[i])
		var outcome []any
		for _, a := range done {
			outcome = append(outcome, len(a.Seqs), fmt.Sprint(a.Seqs), class(a.Err))
		}
		return outcome, err
	})
}

func (m *model) setDelivered(r *rapid.T) {
	var delivered [2]map[store.OwnerID]uint64
	for i := range delivered {
		delivered[i] = make(map[store.OwnerID]uint64)
	}
	for range rapid.IntRange(0, 2).Draw(r, "owners") {
		owners, seq := m.owner(m.user(r)), rapid.Uint64Range(0, 10).Draw(r, "number")
		for i := range delivered {
			delivered[i][owners[i]] = seq
		}
	}
	m.both(r, func(s store.Store, i int) (any, error) { return nil, s.SetDelivered(m.ctx, delivered[i]) })
}

func (m *model) setPrefs(r *rapid.T) {
	owners := m.owner(m.user(r))
	draw := func(name string) []string {
		return rapid.SliceOfN(rapid.SampledFrom([]string{m.users[0], m.users[1], m.users[0] + "/r"}), 0, 2).Draw(r, name)
	}
	p := store.ArchivePrefs{Default: store.ArchiveRule(rapid.IntRange(0, 2).Draw(r, "default")), Always: draw("always"), Never: draw("never")}
	m.both(r, func(s store.Store, i int) (any, error) { return nil, s.SetArchivePrefs(m.ctx, owners[i], p) })
}

// trim removes all that goes. In the database other runs' timelines are there too.
func (m *model) trim(r *rapid.T) {
	age := func(name string) time.Time {
		return time.Now().Add(time.Hour * time.Duration(rapid.SampledFrom([]int{-1, 1}).Draw(r, name)))
	}
	what := store.Retention{Keep: rapid.Uint64Range(0, 6).Draw(r, "keep"), Hidden: age("hidden"), Lost: age("lost")}
	m.both(r, func(s store.Store, _ int) (any, error) {
		for from := store.OwnerID(0); ; {
			next, _, err := s.Trim(m.ctx, what, from, 1000)
			if err != nil || next == 0 {
				return nil, err
			}
			from = next
		}
	})
}

func (m *model) createSession(r *rapid.T) {
	owners := m.owner(m.user(r))
	session := store.Session{
		ID: m.session(r), Resource: rapid.SampledFrom([]string{"phone", "desktop"}).Draw(r, "resource"),
		Node: m.node(r), Handled: m.count(r),
	}
	m.both(r, func(s store.Store, i int) (any, error) {
		given := session
		given.Owner = owners[i]
		replaced, err := s.CreateSession(m.ctx, given)
		if replaced == nil {
			return nil, err
		}
		return timeless(*replaced), err
	})
}

// timeless is a session without what differs between the stores.
func timeless(s store.Session) store.Session {
	s.Owner, s.Created = 0, time.Time{}
	return s
}

func (m *model) setHandled(r *rapid.T) {
	id, epoch, handled := m.session(r), m.epoch(r), m.count(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.SetHandled(m.ctx, id, epoch, handled) })
}

func (m *model) endSession(r *rapid.T) {
	id, epoch := m.session(r), m.epoch(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.EndSession(m.ctx, id, epoch) })
}

func (m *model) renewLease(r *rapid.T) {
	node, incarnation, lasts := m.node(r), m.incarnation(r), m.lasts(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.RenewLease(m.ctx, node, incarnation, lasts) })
}

func (m *model) takeLease(r *rapid.T) {
	node, incarnation, lasts := m.node(r), m.incarnation(r), m.lasts(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.TakeLease(m.ctx, node, incarnation, lasts) })
}

// lasts is how long a lease does: longer than the test, or it is over.
func (m *model) lasts(r *rapid.T) time.Duration {
	return rapid.SampledFrom([]time.Duration{-time.Hour, 0, time.Hour}).Draw(r, "lasts")
}

func (m *model) endLease(r *rapid.T) {
	node, incarnation := m.node(r), m.incarnation(r)
	m.both(r, func(s store.Store, _ int) (any, error) { return nil, s.EndLease(m.ctx, node, incarnation) })
}

func (m *model) reap(r *rapid.T) {
	node := m.node(r)
	m.both(r, func(s store.Store, _ int) (any, error) {
		reaped, err := s.ReapSessions(m.ctx, node, 1000)
		var ids []string
		for _, session := range reaped {
			ids = append(ids, session.ID)
		}
		return sorted(reaped), errors.Join(err, s.ForgetReaped(m.ctx, ids))
	})
}

func sorted(list []store.Session) []store.Session {
	var all []store.Session
	for _, s := range list {
		all = append(all, timeless(s))
	}
	slices.SortFunc(all, func(a, b store.Session) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

func withoutTimes(entries []store.Entry) []store.Entry {
	for i := range entries {
		entries[i].Time = time.Time{}
	}
	return entries
}

func (m *model) compareArchive(r *rapid.T, owners [2]store.OwnerID) {
	part := store.Range{
		After: rapid.Uint64Range(0, 3).Draw(r, "after"), Before: rapid.Uint64Range(0, 9).Draw(r, "before"),
		Newest: rapid.Bool().Draw(r, "newest"), Limit: rapid.IntRange(0, 4).Draw(r, "limit"),
	}
	if rapid.Bool().Draw(r, "of one peer") {
		part.Peer = m.user(r)
	}
	m.both(r, func(s store.Store, i int) (any, error) {
		entries, err := s.Find(m.ctx, owners[i], part)
		return withoutTimes(entries), err
	})
	m.both(r, func(s store.Store, i int) (any, error) {
		first, head, err := s.Span(m.ctx, owners[i])
		return [2]uint64{first, head}, err
	})
	m.both(r, func(s store.Store, i int) (any, error) { return s.ArchivePrefs(m.ctx, owners[i]) })
}

// compare looks at all that a user has.
func (m *model) compare(r *rapid.T) {
	user := m.user(r)
	owners := m.owner(user)
	m.both(r, func(s store.Store, _ int) (any, error) {
		a, err := s.Account(m.ctx, user)
		return []any{a.User, a.Role, a.State, a.LastLogin.IsZero()}, err
	})
	for _, mechanism := range []string{"A", "B"} {
		m.both(r, func(s store.Store, _ int) (any, error) { return s.Credential(m.ctx, user, mechanism) })
	}
	m.both(r, func(s store.Store, i int) (any, error) {
		items, version, err := s.Roster(m.ctx, owners[i])
		return []any{items, version}, err
	})
	m.both(r, func(s store.Store, i int) (any, error) {
		items, version, err := s.RosterSince(m.ctx, owners[i], 2)
		return []any{items, version}, err
	})
	m.both(r, func(s store.Store, i int) (any, error) {
		head, delivered, err := s.Head(m.ctx, owners[i])
		return [2]uint64{head, delivered}, err
	})
	m.both(r, func(s store.Store, i int) (any, error) {
		entries, err := s.Read(m.ctx, owners[i], 0, 1000)
		return withoutTimes(entries), err
	})
	m.compareArchive(r, owners)
	m.both(r, func(s store.Store, i int) (any, error) {
		list, err := s.SessionsOf(m.ctx, owners[i])
		return sorted(list), err
	})
	m.both(r, func(s store.Store, _ int) (any, error) {
		list, err := s.ListAccounts(m.ctx, user, 3)
		var users []string
		for _, a := range list {
			users = append(users, a.User)
		}
		return users, err
	})
}
