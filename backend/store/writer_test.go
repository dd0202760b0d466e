package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

// database is a Timelines whose transactions take a second, and fail as told.
type database struct {
	store.Timelines

	batches [][]string // what each transaction held
	fail    func(batch []store.Append) error
}

const transaction = time.Second

// AppendBatch implements store.Timelines.
func (d *database) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	var bodies []string
	for _, a := range batch {
		bodies = append(bodies, body(a))
	}
	d.batches = append(d.batches, bodies)
	select {
	case <-time.After(transaction):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if d.fail != nil {
		if err := d.fail(batch); err != nil {
			return nil, err
		}
	}
	return d.Timelines.AppendBatch(ctx, batch)
}

func body(a store.Append) string { return string(a.Drafts[0].Stanza) }

// bench is a writer on a database with two accounts and their sessions.
type bench struct {
	*testing.T

	db     *database
	memory *storetest.Memory
	writer *store.Writer
	owner  store.OwnerID

	mu      sync.Mutex
	answers []string // the bodies that were answered, in order, with the error if any
}

func newBench(ctx context.Context, t *testing.T, o store.WriterOptions) *bench {
	t.Helper()
	b := &bench{T: t, memory: storetest.NewMemory()}
	b.db = &database{Timelines: b.memory}
	account, err := b.memory.CreateAccount(t.Context(), "alice@example.com", nil)
	b.check(err)
	b.owner = account.Owner
	for _, id := range []string{"phone", "desktop"} {
		_, err := b.memory.CreateSession(t.Context(), store.Session{ID: id, Owner: b.owner, Resource: id, Node: "node-1"})
		b.check(err)
	}
	b.writer = store.NewWriter(ctx, b.db, o)
	return b
}

func (b *bench) check(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// message is one from a session.
func (b *bench) message(session, format string, args ...any) store.Append {
	return store.Append{Session: session, Epoch: 1, Drafts: []store.Draft{{Owner: b.owner, Stanza: fmt.Appendf(nil, format, args...)}}}
}

// submit submits a message that must be taken.
func (b *bench) submit(a store.Append) {
	b.Helper()
	b.check(b.writer.Submit(b.Context(), a, b.note(a)))
}

// note remembers an answer.
func (b *bench) note(a store.Append) func(store.Appended) {
	return func(done store.Appended) {
		answer := body(a)
		if done.Err != nil {
			answer += ": " + done.Err.Error()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.answers = append(b.answers, answer)
	}
}

func (b *bench) wantBatches(want ...[]string) {
	b.Helper()
	if !slices.EqualFunc(b.db.batches, want, slices.Equal) {
		b.Errorf("transactions:\n got %q\nwant %q", b.db.batches, want)
	}
}

func (b *bench) wantAnswers(want ...string) {
	b.Helper()
	if got := b.answered(); !slices.Equal(got, want) {
		b.Errorf("answers:\n got %q\nwant %q", got, want)
	}
}

func (b *bench) answered() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.answers)
}

// writerTest runs a test in a bubble in which time passes by itself.
func writerTest(t *testing.T, o store.WriterOptions, f func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t.Context(), t, o)
		defer b.writer.Close()
		f(b)
	})
}

func TestWriterDoesNotLinger(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		start := time.Now()
		done := make(chan store.Appended, 1)
		b.check(b.writer.Submit(b.Context(), b.message("phone", "1"), func(a store.Appended) { done <- a }))
		answer := <-done
		if took := time.Since(start); took != transaction {
			b.Errorf("a lone message took %v", took)
		}
		if answer.Err != nil || !slices.Equal(answer.Seqs, []uint64{1}) {
			b.Errorf("the answer is %+v", answer)
		}
	})
}

func TestWriterGathersWhatWaits(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{MaxBatch: 3}, func(b *bench) {
		b.submit(b.message("phone", "1"))
		synctest.Wait()
		for i := 2; i <= 6; i++ {
			b.submit(b.message([]string{"phone", "desktop"}[i%2], "%d", i))
		}
		b.check(b.writer.Close())
		b.wantBatches([]string{"1"}, []string{"2", "3", "4"}, []string{"5", "6"})
		b.wantAnswers("1", "2", "3", "4", "5", "6")
		entries, err := b.memory.Read(b.Context(), b.owner, 0, 10)
		b.check(err)
		if len(entries) != 6 {
			b.Errorf("%d entries were stored", len(entries))
		}
	})
}

func TestWriterBlocksWhenTooMuchWaits(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{MaxBytes: 10_000}, func(b *bench) {
		large := string(make([]byte, 4000))
		b.submit(b.message("phone", "%s", large))
		b.submit(b.message("phone", "%s", large))
		ctx, cancel := context.WithTimeout(b.Context(), transaction/2)
		defer cancel()
		err := b.writer.Submit(ctx, b.message("phone", "%s", large), func(store.Appended) { b.Error("an answer for what was not taken") })
		if !errors.Is(err, context.DeadlineExceeded) {
			b.Errorf("a full writer says %v", err)
		}
		start := time.Now()
		b.submit(b.message("phone", "%s", large))
		if waited := time.Since(start); waited != transaction/2 {
			b.Errorf("waited %v for room", waited)
		}
		// Larger than all the room: it passes when nothing else waits.
		b.submit(b.message("phone", "%s", make([]byte, 50_000)))
		b.check(b.writer.Close())
		if len(b.answered()) != 4 {
			b.Errorf("%d answers", len(b.answered()))
		}
	})
}

func TestWriterTriesAgain(t *testing.T) {
	t.Parallel()
	attempts := 0
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		b.db.fail = func([]store.Append) error {
			if attempts++; attempts < 4 {
				return fmt.Errorf("busy: %w", store.ErrUnavailable)
			}
			return nil
		}
		b.submit(b.message("phone", "1"))
		synctest.Wait()
		b.submit(b.message("phone", "2")) // arrives meanwhile, goes after
		b.check(b.writer.Close())
		b.wantBatches([]string{"1"}, []string{"1"}, []string{"1"}, []string{"1"}, []string{"2"})
		b.wantAnswers("1", "2")
	})
}

func TestWriterLosesPatience(t *testing.T) {
	t.Parallel()
	var observed []error
	options := store.WriterOptions{
		Patience: 10 * transaction,
		Observe:  func(_ int, _ time.Duration, err error) { observed = append(observed, err) },
	}
	writerTest(t, options, func(b *bench) {
		b.db.fail = func([]store.Append) error { return store.ErrUnavailable }
		start := time.Now()
		b.submit(b.message("phone", "1"))
		b.check(b.writer.Close())
		b.wantAnswers("1: " + store.ErrUnavailable.Error())
		if took := time.Since(start); took < 9*transaction || took > 11*transaction {
			b.Errorf("it took %v", took)
		}
		if len(observed) < 5 || !errors.Is(observed[0], store.ErrUnavailable) {
			b.Errorf("observed %v", observed)
		}
	})
}

// A message that the database refuses must not take others along, but what
// follows it on its session must not be stored: the handled count would cover it.
func TestWriterIsolatesWhatFails(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		b.db.fail = func(batch []store.Append) error {
			if slices.ContainsFunc(batch, func(a store.Append) bool { return body(a) == "bad" }) {
				return errors.New("refused")
			}
			return nil
		}
		b.submit(b.message("phone", "0"))
		synctest.Wait()
		b.submit(b.message("phone", "1"))
		b.submit(b.message("phone", "bad"))
		b.submit(b.message("desktop", "2"))
		b.submit(b.message("phone", "3"))
		b.submit(b.message("", "system"))
		b.check(waitFor(b.Context(), func() bool { return len(b.answered()) == 6 }))
		b.submit(b.message("phone", "4"))
		other := b.message("phone", "5")
		other.Epoch = 2 // a later life of the session is not meant
		b.submit(other)
		b.check(b.writer.Close())
		b.wantAnswers("0", "1", "bad: refused", "3: refused", "2", "system", "4: refused",
			"5: session phone at epoch 2: "+store.ErrFenced.Error())
		entries, err := b.memory.Read(b.Context(), b.owner, 0, 10)
		b.check(err)
		var stored []string
		for _, e := range entries {
			stored = append(stored, string(e.Stanza))
		}
		if want := []string{"0", "1", "2", "system"}; !slices.Equal(stored, want) {
			b.Errorf("stored %q, want %q", stored, want)
		}
	})
}

// waitFor lets time pass in a bubble until a condition holds.
func waitFor(ctx context.Context, condition func() bool) error {
	tick := time.NewTicker(transaction)
	defer tick.Stop()
	for range 100 {
		synctest.Wait()
		if condition() {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("the condition never held")
}

func TestWriterForgetsFailures(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		refuse := true
		b.db.fail = func([]store.Append) error {
			if refuse {
				return errors.New("refused")
			}
			return nil
		}
		b.submit(b.message("phone", "1"))
		b.check(waitFor(b.Context(), func() bool { return len(b.answered()) == 1 }))
		refuse = false
		b.submit(b.message("phone", "2"))
		<-time.After(2 * time.Minute)
		b.submit(b.message("phone", "3"))
		b.check(b.writer.Close())
		b.wantAnswers("1: refused", "2: refused", "3")
	})
}

func TestWriterFencedIsNoFailure(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		lost := b.message("phone", "lost")
		lost.Drafts = append(lost.Drafts, store.Draft{Owner: 99})
		b.submit(lost)
		b.submit(b.message("gone", "fenced"))
		b.submit(b.message("phone", "1"))
		b.check(b.writer.Close())
		b.wantAnswers("lost: timeline of owner 99: not found", "fenced: session gone at epoch 1: session is owned elsewhere", "1")
	})
}

func TestWriterClose(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		for i := range 5 {
			b.submit(b.message("phone", "%d", i))
		}
		b.check(b.writer.Close())
		b.wantAnswers("0", "1", "2", "3", "4")
		err := b.writer.Submit(b.Context(), b.message("phone", "5"), func(store.Appended) { b.Error("an answer after Close") })
		if !errors.Is(err, store.ErrClosed) {
			b.Errorf("a closed writer says %v", err)
		}
		b.check(b.writer.Close())
	})
}

func TestWriterCloseReleasesWhoWaits(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{MaxBytes: 10}, func(b *bench) {
		b.submit(b.message("phone", "1"))
		result := make(chan error)
		go func() { result <- b.writer.Submit(b.Context(), b.message("phone", "2"), func(store.Appended) {}) }()
		synctest.Wait()
		b.check(b.writer.Close())
		if err := <-result; !errors.Is(err, store.ErrClosed) {
			b.Errorf("who waited for room got %v", err)
		}
	})
}

func TestWriterAborted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		b := newBench(ctx, t, store.WriterOptions{})
		b.submit(b.message("phone", "1"))
		synctest.Wait()
		b.submit(b.message("phone", "2"))
		cancel()
		if err := b.writer.Close(); !errors.Is(err, context.Canceled) {
			t.Errorf("Close says %v", err)
		}
		b.wantAnswers("1: context canceled", "2: context canceled")
	})
}

// What may have been stored must not be stored again.
func TestWriterLeavesTheUnknownAlone(t *testing.T) {
	t.Parallel()
	writerTest(t, store.WriterOptions{}, func(b *bench) {
		b.db.fail = func(batch []store.Append) error {
			if body(batch[0]) == "2" {
				return fmt.Errorf("lost: %w", store.ErrOutcomeUnknown)
			}
			return nil
		}
		b.submit(b.message("phone", "1"))
		synctest.Wait()
		b.submit(b.message("phone", "2"))
		b.submit(b.message("desktop", "3"))
		<-time.After(3 * transaction)
		synctest.Wait()
		b.submit(b.message("phone", "4"))
		<-time.After(2 * transaction)
		synctest.Wait()
		b.wantBatches([]string{"1"}, []string{"2", "3"})
		const lost = ": lost: it is not known whether it was stored"
		b.wantAnswers("1", "2"+lost, "3"+lost, "4"+lost)
	})
}

// manyWriters is a database that wants several batches at the same time.
type manyWriters struct {
	store.Timelines

	running, most atomic.Int64
}

// Writers says how many.
func (*manyWriters) Writers() int { return 4 }

// AppendBatch implements store.Timelines.
func (m *manyWriters) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	m.most.Store(max(m.most.Load(), m.running.Add(1)))
	defer m.running.Add(-1)
	<-time.After(transaction)
	return m.Timelines.AppendBatch(ctx, batch)
}

// Sessions share the lines; each session's messages keep their order.
func TestWriterLines(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const sessions, messages = 40, 20
		memory := storetest.NewMemory()
		account, err := memory.CreateAccount(t.Context(), "alice@example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		db := &manyWriters{Timelines: memory}
		writer := store.NewWriter(t.Context(), db, store.WriterOptions{MaxBatch: 3})
		var group sync.WaitGroup
		for i := range sessions {
			id := fmt.Sprint(i)
			if _, err := memory.CreateSession(t.Context(), store.Session{ID: id, Owner: account.Owner, Resource: id, Node: "n"}); err != nil {
				t.Fatal(err)
			}
			group.Go(func() { sendAll(t.Context(), t, writer, account.Owner, id, messages) })
		}
		group.Wait()
		if err := writer.Close(); err != nil {
			t.Error(err)
		}
		if n := db.most.Load(); n != 4 {
			t.Errorf("%d transactions at the same time", n)
		}
		head, _, err := memory.Head(t.Context(), account.Owner)
		if err != nil || head != sessions*messages {
			t.Errorf("%d entries, %v", head, err)
		}
	})
}
