package secrets

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Options are the settings of a Keeper.
type Options struct {
	// Store is where the ring lies; nil: in this process only.
	Store Store
	// ReadOnly leaves rotating to whoever writes the store.
	ReadOnly bool
	Policy   Policy
	// Use is called with the keys of the start, and with those that follow whenever
	// they change, from the goroutine of Run. It may be nil.
	Use func(Keys)
	// MaxBackoff is the longest wait after a failure of the store; a minute when 0.
	MaxBackoff time.Duration
	Logger     *slog.Logger
}

// Keeper knows a cluster's ring, and rotates it.
//
// It has keys from the start: those of a ring of its own, until the store has been
// read. A store that has no ring gets this one. A ring that cannot be read is
// reported, never overwritten, and the last good one stays in use.
type Keeper struct {
	options Options // with defaults

	// owned by Load and Run, of which only one runs at a time
	known   bool   // the store was read, and version is right
	version uint64 // of the ring in the store
	told    Keys   // by Use

	mu     sync.Mutex
	ring   Ring
	status Status
}

// Status is what a Keeper tells of itself.
type Status struct {
	Secrets int       // that do rotate
	Newest  time.Time // when the newest was made
	Shared  bool      // the ring is the store's
	Failing error     // what is wrong with the store; nil when all is well
}

// NewKeeper returns a keeper with a ring of its own.
func NewKeeper(o Options) (*Keeper, error) {
	var err error
	if o.Policy, err = o.Policy.WithDefaults(); err != nil {
		return nil, err
	}
	o.MaxBackoff = cmp.Or(o.MaxBackoff, time.Minute)
	o.Logger = discard(o.Logger)
	k := &Keeper{options: o}
	k.ring, _ = Ring{}.Next(time.Now(), o.Policy)
	return k, nil
}

// Keys returns the keys to use now.
func (k *Keeper) Keys() Keys { return k.current().Keys(time.Now(), k.options.Policy) }

// Status returns what is known of the ring.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.status
	s.Secrets, s.Newest = k.ring.Len(), k.ring.Newest()
	return s
}

// Load reads the store before Run, so that a front begins with the keys of the
// others. Without it, or after an error, the front begins with keys of its own.
func (k *Keeper) Load(ctx context.Context) error {
	if k.options.Store == nil {
		return nil
	}
	e, err := k.options.Store.Get(ctx, 0)
	return k.take(ctx, news{e, err})
}

// Run keeps the ring until ctx is done, and then returns nil.
func (k *Keeper) Run(ctx context.Context) error {
	entries := make(chan news)
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if k.options.Store != nil {
		following.Go(func() { follow(ctx, k.options.Store, k.pace(), entries) })
	}
	pause := backoff{first: time.Second, most: k.options.MaxBackoff}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		k.tell()
		timer.Reset(k.wait(k.rotate(ctx), &pause))
		k.tell()
		select {
		case n := <-entries:
			_ = k.take(ctx, n) // which reports it
		case <-timer.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (k *Keeper) pace() pace {
	return pace{least: min(time.Second, k.options.MaxBackoff), most: k.options.MaxBackoff}
}

// wait returns how long nothing is to be done, if the store does not change.
func (k *Keeper) wait(err error, pause *backoff) time.Duration {
	if err != nil {
		return pause.delay()
	}
	pause.next = 0
	now := time.Now()
	return k.current().Change(now, k.options.Policy).Sub(now)
}

// tell makes the keys known if they are others than the last.
func (k *Keeper) tell() {
	if now := k.Keys(); !now.Equal(k.told) {
		k.told = now
		if k.options.Use != nil {
			k.options.Use(now)
		}
	}
}

func (k *Keeper) current() Ring {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ring
}

func (k *Keeper) adopt(r Ring, shared bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring, k.status.Shared = r, shared
}

// take makes the store's ring ours.
func (k *Keeper) take(ctx context.Context, n news) error {
	if n.err != nil {
		return k.report(ctx, fmt.Errorf("read the shared secrets: %w", n.err))
	}
	k.known, k.version = true, n.entry.Version
	if n.entry.Version == 0 { // our own will go there
		return k.report(ctx, nil)
	}
	ring, err := Parse(n.entry.Data)
	if err != nil {
		k.known = false // so that nobody writes over it
		return k.report(ctx, fmt.Errorf("the shared secrets cannot be read: %w", err))
	}
	k.adopt(ring, true)
	return k.report(ctx, nil)
}

// errNoRing says that an operator has not put a ring where there should be one.
var errNoRing = errors.New("there are no shared secrets, and this front may not write them")

// rotate brings the ring up to date, in the store first. Who loses a race learns
// what there is from the store.
func (k *Keeper) rotate(ctx context.Context) error {
	ring := k.current()
	next, changed := ring.Next(time.Now(), k.options.Policy)
	switch {
	case k.options.Store == nil:
		k.adopt(next, false)
		return nil
	case !k.known || k.version > 0 && (!changed || k.options.ReadOnly):
		return nil
	case k.options.ReadOnly:
		return k.report(ctx, errNoRing)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	won, err := k.options.Store.CAS(ctx, next.Marshal(), k.version)
	if err != nil {
		return k.report(ctx, fmt.Errorf("write the shared secrets: %w", err))
	}
	k.known = false // until the store says what is there now
	if won {
		k.adopt(next, true)
		k.options.Logger.LogAttrs(ctx, slog.LevelInfo, "the shared secrets have a new one",
			slog.Int("secrets", next.Len()), slog.Time("since", next.Newest()))
	}
	return nil
}

// report keeps what is wrong with the store, logs when that begins or ends, and
// returns it.
func (k *Keeper) report(ctx context.Context, err error) error {
	k.mu.Lock()
	before := k.status.Failing
	k.status.Failing = err
	k.mu.Unlock()
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		k.options.Logger.LogAttrs(ctx, slog.LevelWarn, "shared secrets: going on with those at hand", slog.Any("error", err))
	case err == nil && before != nil:
		k.options.Logger.LogAttrs(ctx, slog.LevelInfo, "the shared secrets are in order again")
	}
	return err
}
