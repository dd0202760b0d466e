package secrets_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"imlb/proxy/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what should come at once.
const patience = 20 * time.Second

// shelf is a store in memory, with Consul's rules.
type shelf struct {
	mu      sync.Mutex
	data    []byte
	version uint64
	index   uint64
	changed chan struct{} // closed and replaced with each change
	failing error
	writes  int // that won
	lost    int
	gate    chan struct{} // a CAS waits here, if set
}

func newShelf() *shelf { return &shelf{index: 7, changed: make(chan struct{})} }

func (s *shelf) Get(ctx context.Context, index uint64) (secrets.Entry, error) {
	for {
		s.mu.Lock()
		e, changed, err := secrets.Entry{Data: s.data, Version: s.version, Index: s.index}, s.changed, s.failing
		s.mu.Unlock()
		if err != nil {
			return secrets.Entry{}, err
		}
		if e.Index != index {
			return e, nil
		}
		select {
		case <-changed:
		case <-time.After(time.Minute):
			return e, nil
		case <-ctx.Done():
			return e, ctx.Err()
		}
	}
}

func (s *shelf) CAS(ctx context.Context, data []byte, version uint64) (bool, error) {
	if s.gate != nil {
		select {
		case s.gate <- struct{}{}:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.failing != nil:
		return false, s.failing
	case version != s.version:
		s.lost++
		return false, nil
	}
	s.writes++
	s.change(data, s.index+1)
	return true, nil
}

// change is called with the lock held.
func (s *shelf) change(data []byte, index uint64) {
	s.data, s.index, s.version = data, index, index
	if data == nil {
		s.version = 0
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// put writes without asking.
func (s *shelf) put(data []byte, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change(data, index)
}

func (s *shelf) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = err
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *shelf) counts() (writes, lost int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes, s.lost
}

// front is a keeper that runs, and the keys that it was told of.
type front struct {
	*secrets.Keeper
	log  bytes.Buffer
	mu   sync.Mutex
	used []secrets.Keys
}

func run(t *testing.T, o secrets.Options) *front {
	t.Helper()
	f := &front{}
	o.Use = func(k secrets.Keys) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.used = append(f.used, k)
	}
	o.Logger = slog.New(slog.NewTextHandler(&f.log, nil))
	k, err := secrets.NewKeeper(o)
	if err != nil {
		t.Fatal(err)
	}
	f.Keeper = k
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f
}

// told returns the keys that are in use.
func (f *front) told() secrets.Keys {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used[len(f.used)-1]
}

// shared fails unless all fronts use the same keys, which it returns.
func shared(t *testing.T, fronts ...*front) secrets.Keys {
	t.Helper()
	for _, f := range fronts {
		if !f.told().Equal(fronts[0].told()) || !f.Keys().Equal(f.told()) {
			t.Error("fronts use different keys")
		}
	}
	return fronts[0].told()
}

// later lets time pass in a bubble.
func later(d time.Duration) { <-time.After(d) }

// A front alone rotates what it has, and knows the last for a while.
func TestAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := run(t, secrets.Options{})
		synctest.Wait()
		first := f.told()
		later(12*time.Hour + 9*time.Minute)
		if now := f.told(); now.Tickets[0] != first.Tickets[0] || len(now.Tickets) != 2 {
			t.Error("the new secret is used at once, or not known")
		}
		later(2 * time.Minute)
		if now := f.told(); now.Tickets[0] == first.Tickets[0] || now.Tickets[1] != first.Tickets[0] {
			t.Error("there is no new secret, or it does without the old one")
		}
		later(36 * time.Hour)
		now := f.told()
		for _, k := range now.Tickets {
			if k == first.Tickets[0] {
				t.Error("the first secret is good for ever")
			}
		}
		if s := f.Status(); s.Shared || s.Failing != nil || s.Secrets != 3 || now.Reset != first.Reset {
			t.Errorf("%+v", s)
		}
	})
}

// Fronts that begin at the same moment, and rotate at the same moment, agree; each
// time one of them wins.
func TestRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShelf()
		store.gate = make(chan struct{})
		var fronts []*front
		for range 3 {
			fronts = append(fronts, run(t, secrets.Options{Store: store}))
		}
		round := func(writers int) {
			t.Helper()
			synctest.Wait() // all of them are about to write
			for range writers {
				<-store.gate
			}
			synctest.Wait()
			later(5 * time.Second) // a question a second
		}
		round(3)
		first := shared(t, fronts...)
		if won, lost := store.counts(); won != 1 || lost != 2 {
			t.Fatalf("%d won and %d lost", won, lost)
		}
		later(12 * time.Hour)
		round(3)
		if won, lost := store.counts(); won != 2 || lost != 4 {
			t.Fatalf("%d won and %d lost", won, lost)
		}
		if second := shared(t, fronts...); second.Tickets[0] != first.Tickets[0] || len(second.Tickets) != 2 {
			t.Error("the new secret is used before its grace, or not known")
		}
		later(10 * time.Minute)
		if second := shared(t, fronts...); second.Tickets[1] != first.Tickets[0] || second.Reset != first.Reset {
			t.Error("the new secret is not used after its grace")
		}
		for _, f := range fronts {
			if s := f.Status(); !s.Shared || s.Failing != nil || s.Secrets != 2 {
				t.Errorf("%+v", s)
			}
		}
	})
}

// A store that fails, comes back, loses everything and is broken by hand takes
// nothing away from the fronts.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShelf()
		store.fail(errors.New("no leader"))
		a, b := run(t, secrets.Options{Store: store}), run(t, secrets.Options{Store: store})
		later(time.Hour)
		if s := a.Status(); s.Shared || s.Failing == nil || len(a.told().Tickets) != 1 || a.told().Equal(b.told()) {
			t.Fatalf("without a store: %+v", s)
		}
		store.fail(nil)
		later(2 * time.Minute)
		first := shared(t, a, b)
		if s := a.Status(); !s.Shared || s.Failing != nil {
			t.Fatalf("with the store: %+v", s)
		}

		store.fail(errors.New("no leader"))
		later(40 * time.Hour) // nobody can rotate
		if now := shared(t, a, b); now.Tickets[0] != first.Tickets[0] || now.Token != first.Token {
			t.Error("a front without its store uses something else")
		}
		store.fail(nil)
		later(2 * time.Minute)
		if now := shared(t, a, b); len(now.Tickets) != 2 || now.Tickets[0] != first.Tickets[0] {
			t.Errorf("%d keys after the store came back", len(now.Tickets))
		}

		store.put(nil, 2) // the index went backwards
		later(2 * time.Minute)
		if now := shared(t, a, b); now.Tickets[0] != first.Tickets[0] || now.Reset != first.Reset {
			t.Error("the fronts do not put back what the store lost")
		}
		writes, _ := store.counts()
		const secret = "aHVudGVyMmh1bnRlcjI="
		store.put([]byte("0 "+secret), 100)
		later(13 * time.Hour)
		if now, _ := store.counts(); now != writes {
			t.Error("a front wrote over what it cannot read")
		}
		shared(t, a, b)
		var bad *secrets.LineError
		if s := a.Status(); !errors.As(s.Failing, &bad) || bad.Line != 1 {
			t.Errorf("%+v", s)
		}
		if text := a.log.String(); strings.Contains(text, secret) || !strings.Contains(text, "line 1: the secret has 14 bytes") ||
			!strings.Contains(text, "in order again") {
			t.Errorf("the log says\n%s", text)
		}
	})
}

// Who may only read waits for the operator, and follows.
func TestReadOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newShelf()
		f := run(t, secrets.Options{Store: store, ReadOnly: true})
		later(time.Minute)
		if s := f.Status(); s.Failing == nil || s.Shared {
			t.Errorf("%+v", s)
		}
		p := policy(t)
		ring, _ := secrets.Ring{}.Next(time.Now(), p)
		store.put(ring.Marshal(), 50)
		later(2 * time.Second)
		if !f.told().Equal(ring.Keys(time.Now(), p)) {
			t.Error("the operator's ring is not used")
		}
		later(30 * time.Hour)
		if n, _ := store.counts(); n > 0 || f.Status().Failing != nil {
			t.Errorf("%d writes, %+v", n, f.Status())
		}
	})
}

func TestLoad(t *testing.T) {
	store := newShelf()
	ring, _ := secrets.Ring{}.Next(time.Now(), policy(t))
	store.put(ring.Marshal(), 9)
	k, err := secrets.NewKeeper(secrets.Options{Store: store})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Load(t.Context()); err != nil || !k.Keys().Equal(ring.Keys(time.Now(), policy(t))) {
		t.Errorf("load: %v", err)
	}
	store.put([]byte("nonsense"), 10)
	var bad *secrets.LineError
	if err := k.Load(t.Context()); !errors.As(err, &bad) {
		t.Errorf("load nonsense: %v", err)
	}
	if _, err := secrets.NewKeeper(secrets.Options{Policy: secrets.Policy{Kept: 1}}); err == nil {
		t.Error("a policy that cannot be")
	}
	alone, err := secrets.NewKeeper(secrets.Options{})
	if err != nil || alone.Load(t.Context()) != nil || len(alone.Keys().Tickets) != 1 {
		t.Error("a keeper without a store")
	}
}

// A file keeps the ring over a restart, for its owner only, and takes over what
// others put there.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	open := func() *secrets.Keeper {
		k, err := secrets.NewKeeper(secrets.Options{Store: secrets.NewFile(path, 10*time.Millisecond), MaxBackoff: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		return k
	}
	runUntil := func(k *secrets.Keeper, cond func() bool) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = k.Run(ctx) })
		defer running.Wait()
		defer cancel()
		eventually(t, cond)
	}
	first := open()
	runUntil(first, func() bool { return first.Status().Shared })
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	second := open()
	if !second.Keys().Equal(first.Keys()) {
		t.Error("the next start has other keys")
	}
	ring, _ := secrets.Ring{}.Next(time.Now(), policy(t))
	if err := os.WriteFile(path, ring.Marshal(), 0o600); err != nil {
		t.Fatal(err)
	}
	runUntil(second, func() bool { return second.Keys().Equal(ring.Keys(time.Now(), policy(t))) })
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestFileCAS(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	a, b := secrets.NewFile(path, 0), secrets.NewFile(path, 0)
	get := func(f *secrets.File) secrets.Entry {
		t.Helper()
		e, err := f.Get(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	cas := func(f *secrets.File, data string, version uint64, want bool) {
		t.Helper()
		if won, err := f.CAS(t.Context(), []byte(data), version); won != want || err != nil {
			t.Errorf("write %q: %t, %v; want %t", data, won, err, want)
		}
	}
	if e := get(a); e.Version != 0 || e.Data != nil {
		t.Errorf("%+v", e)
	}
	get(b)
	cas(a, "one", 0, true)
	cas(b, "two", 0, false)
	atA, atB := get(a), get(b)
	cas(b, "three", atB.Version, true)
	cas(a, "four", atA.Version, false)
	if e := get(a); string(e.Data) != "three" {
		t.Errorf("%q", e.Data)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Get(ctx, get(a).Index); !errors.Is(err, context.Canceled) {
		t.Errorf("wait for a change: %v", err)
	}
	broken := secrets.NewFile(filepath.Join(path, "below a file"), 0)
	if _, err := broken.Get(t.Context(), 0); err == nil {
		t.Error("a file below a file")
	}
	gone := secrets.NewFile(filepath.Join(filepath.Dir(path), "no", "such", "place"), 0)
	if e, err := gone.Get(t.Context(), 0); err != nil || e.Version != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	if won, err := gone.CAS(t.Context(), nil, 0); won || err == nil {
		t.Error("written into a directory that is not there")
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !cond() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatal("it never came true")
		}
	}
}
