package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"imlb/backend/store"
)

// sharedTests are about one database that several processes use, and that
// outlives them.
func sharedTests() []test {
	return []test{
		{"Reopen", reopen},
		{"OpenTogether", openTogether},
		{"AppendsAreGapFree", sharedAppends},
		{"OneAccountOfAName", sharedAccounts},
		{"RosterVersions", sharedRoster},
		{"OneSessionPerResource", sharedResource},
		{"ReapedOnce", sharedReap},
		{"CanceledContext", on(canceled)},
	}
}

func reopen(t suite) {
	first := t.open(t.T)
	a, err := first.CreateAccount(t.Context(), "alice@example.com", []store.Credential{keys("SCRAM-SHA-1", 1)})
	t.check(err)
	t.take(first, "node-1", "run-1")
	session := t.newSession(first, a.Owner, "s1", "phone", "node-1")
	t.appendOne(first, store.Append{Session: "s1", Epoch: 1, Handled: 1, Drafts: []store.Draft{text(a.Owner, "1"), text(a.Owner, "2")}})
	t.check(first.SetDelivered(t.Context(), map[store.OwnerID]uint64{a.Owner: 1}))
	_, _, err = first.UpdateRoster(t.Context(), a.Owner, "bob@example.com", add)
	t.check(err)
	entries := t.readAll(first, a.Owner)
	a = t.account(first, a.User) // a login is noted since
	t.check(first.Close())

	second := t.open(t.T)
	defer func() { t.check(second.Close()) }()
	found, err := second.Account(t.Context(), a.User)
	t.check(err)
	t.equal("account", found, a)
	c, err := second.Credential(t.Context(), a.User, "SCRAM-SHA-1")
	t.check(err)
	t.equal("keys", c, keys("SCRAM-SHA-1", 1))
	t.equal("entries", t.readAll(second, a.Owner), entries)
	head, seen, err := second.Head(t.Context(), a.Owner)
	t.check(err)
	t.equal("head and delivered", [2]uint64{head, seen}, [2]uint64{2, 1})
	items, version, err := second.Roster(t.Context(), a.Owner)
	t.check(err)
	t.equal("items and version", [2]int{len(items), int(min(version, 9))}, [2]int{1, 1})
	session.Handled = 1
	got, err := second.Session(t.Context(), "s1")
	t.check(err)
	t.equal("session", got, session)
	t.reap(second)
	t.equal("numbers", t.appendOne(second, store.Append{Drafts: []store.Draft{text(a.Owner, "3")}}).Seqs, []uint64{3})
}

// together runs f for 0 to n-1 at the same time, and waits.
func (t suite) together(n int, f func(i int) error) {
	t.Helper()
	var group sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		group.Go(func() {
			<-start
			if err := f(i); err != nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	close(start)
	group.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// two opens the database twice.
func (t suite) two() []store.Store {
	t.Helper()
	stores := []store.Store{t.open(t.T), t.open(t.T)}
	t.Cleanup(func() { t.check(errors.Join(stores[0].Close(), stores[1].Close())) })
	return stores
}

func openTogether(t suite) {
	stores := make([]store.Store, 6)
	t.together(len(stores), func(i int) error {
		stores[i] = t.open(t.T)
		_, err := stores[i].CreateAccount(t.Context(), fmt.Sprintf("user%d@example.com", i), nil)
		return err
	})
	list, err := stores[0].ListAccounts(t.Context(), "", 100)
	t.check(err)
	t.equal("accounts", len(list), len(stores))
	for _, s := range stores {
		t.check(s.Close())
	}
}

// sharedAppends lets the sessions of two processes write to the same
// timelines, in batches of several sizes, and reads along.
func sharedAppends(t suite) {
	const writers, batches = 8, 25
	stores := t.two()
	owners := []store.OwnerID{
		t.newAccount(stores[0], "alice@example.com").Owner,
		t.newAccount(stores[0], "bob@example.com").Owner,
		t.newAccount(stores[0], "carol@example.com").Owner,
	}
	for i := range writers {
		t.newSession(stores[0], owners[0], sessionID(i), sessionID(i), "node-1")
	}
	counts := make([]uint32, writers)
	answers := make([][]store.Appended, writers)
	t.together(writers, func(i int) error {
		for b := range batches {
			done, err := stores[i%2].AppendBatch(t.Context(), sharedBatch(owners, i, &counts[i], 1+(b+i)%4))
			if err != nil {
				return err
			}
			answers[i] = append(answers[i], done...)
			if err := readAlong(t.Context(), stores[i%2], owners[b%len(owners)]); err != nil {
				return err
			}
		}
		return nil
	})
	timelines := make(map[store.OwnerID][]store.Entry)
	total := 0
	for _, owner := range owners {
		timelines[owner] = t.readAll(stores[1], owner)
		total += len(timelines[owner])
	}
	for i, done := range answers {
		for n, a := range done {
			t.check(a.Err)
			for j, owner := range sharedOwners(owners, i, n) {
				entry := timelines[owner][a.Seqs[j]-1]
				t.equal("body", string(entry.Stanza), sharedBody(i, n, j))
				t.equal("time", entry.Time, a.Time)
				total--
			}
		}
		t.equal("answers", len(done), int(counts[i]))
		t.handled(stores[0], sessionID(i), counts[i])
	}
	t.equal("entries that nobody wrote", total, 0)
	t.perSenderInOrder(timelines)
}

func sessionID(i int) string { return fmt.Sprintf("session-%d", i) }

// sharedBatch is writer i's next messages; count is how many it has made so far.
func sharedBatch(owners []store.OwnerID, i int, count *uint32, size int) []store.Append {
	batch := make([]store.Append, size)
	for k := range batch {
		a := store.Append{Session: sessionID(i), Epoch: 1, Handled: *count + 1}
		for j, owner := range sharedOwners(owners, i, int(*count)) {
			a.Drafts = append(a.Drafts, text(owner, "%s", sharedBody(i, int(*count), j)))
		}
		batch[k] = a
		*count++
	}
	return batch
}

// sharedOwners are the two timelines that writer i's message n goes to.
func sharedOwners(owners []store.OwnerID, i, n int) []store.OwnerID {
	return []store.OwnerID{owners[(i+n)%len(owners)], owners[(i+2*n+1)%len(owners)]}
}

func sharedBody(i, n, j int) string { return fmt.Sprintf("%d %06d %d", i, n, j) }

// perSenderInOrder checks that on each timeline each writer's messages are in
// the order in which it wrote them.
func (t suite) perSenderInOrder(timelines map[store.OwnerID][]store.Entry) {
	t.Helper()
	for owner, entries := range timelines {
		last := make(map[string]string)
		for _, e := range entries {
			writer, message, _ := strings.Cut(string(e.Stanza), " ")
			if message <= last[writer] {
				t.Fatalf("owner %d: writer %s: %q follows %q", owner, writer, message, last[writer])
			}
			last[writer] = message
		}
	}
}

// readAlong checks that what can be seen of a timeline has no gap, up to its head.
func readAlong(ctx context.Context, s store.Store, owner store.OwnerID) error {
	head, _, err := s.Head(ctx, owner)
	if err != nil {
		return err
	}
	after := max(head, 10) - 10
	page, err := s.Read(ctx, owner, after, 10)
	if err != nil {
		return err
	}
	for i, e := range page {
		if e.Seq != after+uint64(i)+1 {
			return fmt.Errorf("owner %d: entry %d has number %d", owner, i+1, e.Seq)
		}
	}
	if after+uint64(len(page)) < head {
		return fmt.Errorf("owner %d: %d entries after %d, but the head was %d", owner, len(page), after, head)
	}
	return nil
}

func sharedAccounts(t suite) {
	stores := t.two()
	var mu sync.Mutex
	created := 0
	t.together(8, func(i int) error {
		_, err := stores[i%2].CreateAccount(t.Context(), "alice@example.com", nil)
		if errors.Is(err, store.ErrExists) {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		created++
		return err
	})
	t.equal("accounts created", created, 1)
}

func sharedRoster(t suite) {
	const writers, changes = 4, 10
	stores := t.two()
	a := t.newAccount(stores[0], "alice@example.com")
	var mu sync.Mutex
	versions := make(map[uint64]bool)
	t.together(writers, func(i int) error {
		for range changes {
			_, version, err := stores[i%2].UpdateRoster(t.Context(), a.Owner, "bob@example.com", func(item *store.RosterItem) bool {
				item.Name += "x"
				return add(item)
			})
			if err != nil {
				return err
			}
			mu.Lock()
			versions[version] = true
			mu.Unlock()
		}
		return nil
	})
	items, version, err := stores[0].Roster(t.Context(), a.Owner)
	t.check(err)
	t.equal("version", version, uint64(writers*changes))
	t.equal("distinct versions", len(versions), writers*changes)
	t.equal("name", items[0].Name, strings.Repeat("x", writers*changes))
}

func sharedResource(t suite) {
	stores := t.two()
	a := t.newAccount(stores[0], "alice@example.com")
	var mu sync.Mutex
	replaced := make(map[string]bool)
	const sessions = 8
	t.together(sessions, func(i int) error {
		old, err := stores[i%2].CreateSession(t.Context(), store.Session{
			ID: sessionID(i), Owner: a.Owner, Resource: "phone", Node: fmt.Sprintf("node-%d", i%2),
		})
		if old != nil {
			mu.Lock()
			defer mu.Unlock()
			replaced[old.ID] = true
		}
		return err
	})
	list, err := stores[0].SessionsOf(t.Context(), a.Owner)
	t.check(err)
	t.equal("sessions left", len(list), 1)
	t.equal("sessions replaced", len(replaced), sessions-1)
	t.equal("the last was replaced", replaced[list[0].ID], false)
}

func sharedReap(t suite) {
	stores := t.two()
	a := t.newAccount(stores[0], "alice@example.com")
	const sessions = 40
	for i := range sessions {
		t.newSession(stores[0], a.Owner, sessionID(i), sessionID(i), "node-1")
	}
	const reapers = 4
	for i := range reapers {
		t.take(stores[0], fmt.Sprintf("reaper-%d", i), "run")
	}
	var mu sync.Mutex
	times := make(map[string]int)
	t.together(reapers, func(i int) error {
		for {
			got, err := stores[i%2].ReapSessions(t.Context(), fmt.Sprintf("reaper-%d", i), 3)
			if err != nil || len(got) == 0 {
				return err
			}
			var ids []string
			mu.Lock()
			for _, session := range got {
				times[session.ID]++
				ids = append(ids, session.ID)
			}
			mu.Unlock()
			if err := stores[i%2].ForgetReaped(t.Context(), ids); err != nil {
				return err
			}
		}
	})
	t.equal("sessions reaped", len(times), sessions)
	for id, n := range times {
		t.equal("times that "+id+" was reaped", n, 1)
	}
}

func canceled(t suite, s store.Store) {
	a := t.newAccount(s, "alice@example.com")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.AppendBatch(ctx, []store.Append{{Drafts: []store.Draft{text(a.Owner, "x")}}})
	t.wantErr(err, context.Canceled)
	_, err = s.Read(ctx, a.Owner, 0, 1)
	t.wantErr(err, context.Canceled)
	_, _, err = s.UpdateRoster(ctx, a.Owner, "bob@example.com", add)
	t.wantErr(err, context.Canceled)
	t.wantErr(s.RenewLease(ctx, "node-1", "run-1", time.Hour), context.Canceled)
	t.equal("entries", len(t.readAll(s, a.Owner)), 0)
}
