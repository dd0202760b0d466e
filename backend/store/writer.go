package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"golang.org/x/sync/semaphore"
)

// ErrClosed is returned by Writer.Submit once the writer is being closed.
var ErrClosed = errors.New("writer is closed")

// WriterOptions adjusts a Writer. The zero value is ready for use.
type WriterOptions struct {
	// MaxBatch is how many messages go into one transaction at most; 0 means 500.
	MaxBatch int
	// MaxBytes is how much memory the messages that wait may take before Submit
	// blocks; 0 means 16 MiB. A message larger than that passes alone.
	MaxBytes int64
	// Patience is how long messages are tried again while the store
	// answers ErrUnavailable; 0 means DefaultPatience.
	Patience time.Duration
	// Observe is told of each transaction: how many messages were in it, how
	// long it took, and how it ended. It must not block, and is called from
	// several goroutines with a store that has several writers; nil means
	// nobody is told.
	Observe func(messages int, took time.Duration, err error)
	// Logger hears of transactions that failed; nil means nobody does.
	Logger *slog.Logger
}

// DefaultPatience is for how long messages wait for a store that is away.
const DefaultPatience = 15 * time.Second

func (o WriterOptions) withDefaults() WriterOptions {
	if o.MaxBatch <= 0 {
		o.MaxBatch = 500
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = 16 << 20
	}
	if o.Patience <= 0 {
		o.Patience = DefaultPatience
	}
	if o.Observe == nil {
		o.Observe = func(int, time.Duration, error) {}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Writer appends the messages of many sessions in few, full transactions. It
// never lingers: while one transaction is on its way, what is submitted gathers,
// and then goes into the next. So a lone message is not delayed, and the
// busier the node, the less a message costs.
//
// A store with a method Writers() int says how many transactions are best on
// their way at the same time; the sessions are then divided among so many lines.
// The messages of a session, and those without one, are stored in the order in
// which they were submitted, and answered in it; with one line, so are all.
// When one of a session's messages fails otherwise than by ErrFenced, ErrNotFound
// or ErrFull, those that follow it on this session fail with the same error:
// were they stored, the session's handled count would cover the one that is
// missing. The session has to be ended.
type Writer struct {
	opts  WriterOptions
	room  *semaphore.Weighted // bytes that may still wait
	lines []*line
}

// line is a queue and the goroutine that stores what is in it.
type line struct {
	// Static.
	timelines Timelines
	opts      WriterOptions
	room      *semaphore.Weighted
	arrived   chan struct{} // has an item when the queue may be non-empty or closed
	done      chan struct{}

	// Owned by run.
	failed   map[fencing]error
	failures []failure // the keys of failed, oldest first
	err      error     // read after done

	mu     sync.Mutex
	queue  []submission // guarded by mu
	closed bool         // guarded by mu
}

type submission struct {
	Append

	size int64
	done func(Appended)
}

// failure says since when a session's messages are refused.
type failure struct {
	session fencing
	at      time.Time
}

// NewWriter returns a running writer. The end of ctx aborts it: what waits is
// answered with the context's error. The caller has to Close it.
func NewWriter(ctx context.Context, t Timelines, o WriterOptions) *Writer {
	o = o.withDefaults()
	w := &Writer{opts: o, room: semaphore.NewWeighted(o.MaxBytes)}
	for range linesFor(t) {
		l := &line{
			timelines: t,
			opts:      o,
			room:      w.room,
			arrived:   make(chan struct{}, 1),
			done:      make(chan struct{}),
			failed:    make(map[fencing]error),
		}
		w.lines = append(w.lines, l)
		go l.run(ctx)
	}
	return w
}

func linesFor(t Timelines) int {
	if s, ok := t.(interface{ Writers() int }); ok {
		return max(s.Writers(), 1)
	}
	return 1
}

// Submit hands a message over. It blocks while too much waits, until ctx ends;
// an error means that the message was not taken, and done is not called.
// Otherwise done is called once, from a goroutine of the writer's: it must not
// block. The drafts belong to the writer until then. What follows on the
// same session must be submitted after Submit has returned.
func (w *Writer) Submit(ctx context.Context, a Append, done func(Appended)) error {
	size := min(sizeOf(a), w.opts.MaxBytes)
	if err := w.room.Acquire(ctx, size); err != nil {
		return fmt.Errorf("wait for the writer: %w", err)
	}
	if err := w.line(a.Session).push(submission{Append: a, size: size, done: done}); err != nil {
		w.room.Release(size)
		return err
	}
	return nil
}

// line returns the line that a session's messages go through.
func (w *Writer) line(session string) *line {
	return w.lines[xxhash.Sum64String(session)%uint64(len(w.lines))]
}

// Close lets what was submitted be stored and answered, and waits for it. The
// error says that the writer's context ended before.
func (w *Writer) Close() error {
	for _, l := range w.lines {
		l.close()
	}
	var errs []error
	for _, l := range w.lines {
		<-l.done
		errs = append(errs, l.err)
	}
	return errors.Join(errs...)
}

// sizeOf estimates the memory that a message takes while it waits.
func sizeOf(a Append) int64 {
	const fixed = 256 // structs, names and the like
	size := fixed
	for _, d := range a.Drafts {
		size += fixed + len(d.Stanza)
	}
	return int64(size)
}

// close has run end once the queue is empty.
func (l *line) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.signal()
}

func (l *line) push(s submission) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	l.queue = append(l.queue, s)
	l.signal()
	return nil
}

func (l *line) signal() {
	select {
	case l.arrived <- struct{}{}:
	default:
	}
}

// take returns what waits, as far as it fits into a batch, and whether the
// writer is closed.
func (l *line) take() (batch []submission, closed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), l.opts.MaxBatch)
	batch, l.queue = l.queue[:n:n], l.queue[n:]
	if len(l.queue) == 0 {
		l.queue = nil // the batch keeps the array, and with it the stanzas
	}
	return batch, l.closed
}

// run stores batch after batch until the writer is closed and nothing waits.
func (l *line) run(ctx context.Context) {
	defer close(l.done)
	for {
		batch, closed := l.take()
		switch {
		case len(batch) > 0:
			l.forget(time.Now())
			l.store(ctx, batch)
		case closed:
			return
		default:
			<-l.arrived
		}
	}
}

// store stores a batch and answers it. When the store refuses it as a whole, it
// is halved until what is at fault stands alone.
func (l *line) store(ctx context.Context, batch []submission) {
	batch = l.refuse(batch)
	if len(batch) == 0 {
		return
	}
	answers, err := l.persist(ctx, batch)
	switch {
	case err == nil:
		for i, s := range batch {
			l.answer(s, answers[i])
		}
	case len(batch) == 1 || errors.Is(err, ErrUnavailable) || errors.Is(err, ErrOutcomeUnknown) || ctx.Err() != nil:
		l.fail(ctx, batch, err)
	default:
		half := len(batch) / 2
		l.store(ctx, batch[:half])
		l.store(ctx, batch[half:])
	}
}

// refuse answers the messages of sessions that have lost one before, and
// returns the others.
func (l *line) refuse(batch []submission) []submission {
	if len(l.failed) == 0 {
		return batch
	}
	var rest []submission
	for _, s := range batch {
		if err := l.failed[fencing{s.Session, s.Epoch}]; err != nil {
			l.answer(s, Appended{Err: err})
		} else {
			rest = append(rest, s)
		}
	}
	return rest
}

// fail answers a batch of which nothing was stored, as far as is known.
func (l *line) fail(ctx context.Context, batch []submission, err error) {
	l.opts.Logger.ErrorContext(ctx, "messages were not stored", "messages", len(batch), "error", err)
	if ctx.Err() != nil {
		l.err = fmt.Errorf("messages were not stored: %w", err)
	}
	for _, s := range batch {
		l.remember(fencing{s.Session, s.Epoch}, err)
		l.answer(s, Appended{Err: err})
	}
}

// remember makes a session's further messages fail with err.
func (l *line) remember(session fencing, err error) {
	if session.session != "" && l.failed[session] == nil {
		l.failed[session] = err
		l.failures = append(l.failures, failure{session: session, at: time.Now()})
	}
}

func (l *line) answer(s submission, a Appended) {
	l.room.Release(s.size)
	s.done(a)
}

// failureMemory is how long a session that has lost a message is remembered. It
// is ended by whoever gets the error; only what is on its way into Submit at
// that moment can still come.
const failureMemory = time.Minute

// forget drops the failures of sessions that must have ended.
func (l *line) forget(now time.Time) {
	for len(l.failures) > 0 && now.Sub(l.failures[0].at) > failureMemory {
		delete(l.failed, l.failures[0].session)
		l.failures = l.failures[1:]
	}
}

// The pauses between attempts, doubled each time.
const (
	firstPause = 10 * time.Millisecond
	lastPause  = time.Second
)

// persist runs the transaction, again and again while the store is not
// available and there is patience left.
func (l *line) persist(ctx context.Context, batch []submission) ([]Appended, error) {
	appends := make([]Append, len(batch))
	for i, s := range batch {
		appends[i] = s.Append
	}
	deadline := time.Now().Add(l.opts.Patience)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		start := time.Now()
		answers, err := l.timelines.AppendBatch(ctx, appends)
		l.opts.Observe(len(batch), time.Since(start), err)
		if !errors.Is(err, ErrUnavailable) || time.Now().Add(pause).After(deadline) {
			return answers, err
		}
		jitter := rand.N(pause / 2) //nolint:gosec // it spreads attempts and guards nothing
		if err := wait(ctx, pause/2+jitter); err != nil {
			return nil, err
		}
	}
}

// wait waits for a duration or the end of ctx.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
