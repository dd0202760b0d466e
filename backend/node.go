// Package backend is the chat node: it serves XMPP sessions (RFC 6120, RFC 6121)
// that a front brings to it, and delivers what they say to each other.
//
// # The way of a stanza
//
// read → frame → envelope → authorise → append → acknowledge → deliver. What has
// to last is stored first (store.Timelines); a signal on the bus then tells the
// nodes that host the recipient; each of the recipient's sessions is a cursor on
// the timeline. A session that sees a gap in the numbers reads the gap from the
// store, so a lost signal costs time and never a message.
//
// # Goroutines
//
// A logged-in session has two: one reads and decides (session), one writes and
// owns the cursor (outbox, cursor). The node has some more for its lease, for
// delivered numbers, for resume points, for accounts that change or lack keys, for
// lost signals, for retention and for accepting. Serve waits for all of them.
//
// # Locks
//
// Node.mu before hub.mu before outbox.mu and inbound.mu; none is held
// across I/O.
package backend

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// Node is one chat node of a cluster.
type Node struct {
	// Static after New.
	opts    Options
	store   store.Store
	bus     Bus
	metrics *metrics
	domain  xmpp.JID
	caps    capabilities
	started time.Time
	hashing chan struct{} // a place for each password that may be hashed at a time

	answerer uint64 // how signals name this node; see answerer
	partings partings

	sha512   atomic.Bool // every account that has keys has those of SCRAM-SHA-512
	noSHA256 atomic.Bool // an account that has keys has none of SCRAM-SHA-256
	failures *failures   // of logins; nil: not counted

	writer    *store.Writer
	writable  writable
	accounts  *accountCache
	there     thereCache
	blocks    *blockCache
	delivered *deliveredNumbers
	points    resumePoints
	left      leftRecords
	living    []string // nodes that lived when this one last looked; owned by keepLease
	standing  *standing
	missed    *missed
	registrar *registrar

	serving  atomic.Bool // accepts connections
	draining atomic.Bool
	replaced atomic.Bool  // another process has the node's name
	unsent   occasion     // to log that signals were not sent
	parked   atomic.Int64 // sessions that wait for their clients
	conns    sync.WaitGroup
	fenced   sync.WaitGroup // sessions that end because they are not the node's any more
	quiet    *dormitory     // while Serve runs

	mu       sync.RWMutex
	hubs     map[string]*hub                // by user
	sessions map[string]*session            // by session ID
	arriving map[*session]string            // their IDs
	ending   map[string]chan struct{}       // sessions that other nodes are to end, by ID
	replaces map[string]bool                // sessions that are being made, by ID; see replacing
	yields   map[chan struct{}]yieldRequest // sessions that other nodes are asked to leave
	open     map[net.Conn]struct{}
}

// New returns a node that does nothing until Serve. The store and the bus stay
// the caller's.
func New(o Options) (*Node, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	domain, err := xmpp.ParseJID(o.Domain)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	longHeaders() // before anybody reads one
	n := &Node{
		opts:      o,
		store:     o.Store,
		bus:       o.Bus,
		metrics:   m,
		domain:    domain,
		answerer:  answerer(o.Name),
		caps:      newCapabilities(serverInfo(o)),
		started:   time.Now(),
		hashing:   make(chan struct{}, hashersAtATime()),
		failures:  newFailures(o.Backoff),
		accounts:  newAccountCache(o.Store),
		blocks:    newBlockCache(o.Store),
		delivered: newDeliveredNumbers(o.Store),
		standing:  newStanding(),
		missed:    newMissed(),
		registrar: newRegistrar(o.Registration, time.Now()),
		hubs:      make(map[string]*hub),
		sessions:  make(map[string]*session),
		arriving:  make(map[*session]string),
		ending:    make(map[string]chan struct{}),
		replaces:  make(map[string]bool),
		yields:    make(map[chan struct{}]yieldRequest),
		open:      make(map[net.Conn]struct{}),
	}
	unready := func() error { return n.ready(context.Background()) } //nolint:forbidigo // a scrape brings none
	return n, registerStates(o.Registerer, unready, n.busAway)
}

// Serve takes the node's lease and accepts connections from fronts on ln, which it
// closes, until ctx ends. Then it drains the node and returns once all that
// it started has ended. It may be called once.
func (n *Node) Serve(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	// What has been begun is finished although ctx has ended, within
	// Timeouts.Shutdown.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()

	var err error
	if n.quiet, err = newDormitory(n.metrics.asleep); err != nil {
		return err
	}
	defer n.quiet.close()
	if err := n.takeLease(ctx); err != nil {
		return err
	}
	if err := n.beginFollowing(work); err != nil {
		return err
	}
	n.writer = store.NewWriter(work, n.store, store.WriterOptions{
		Logger: n.opts.Logger,
		Observe: func(messages int, took time.Duration, err error) {
			n.writable.stored(err, time.Now())
			n.metrics.batch.Observe(float64(messages))
			n.metrics.commit.Observe(took.Seconds())
		},
	})
	var background sync.WaitGroup
	n.lookForKeys(work)
	background.Go(func() { n.watchKeys(work) })
	background.Go(func() { n.keepLease(work) })
	background.Go(func() { n.keepPoints(work) })
	background.Go(func() { n.keepPartings(work) })
	background.Go(func() { n.keepAnswering(work) })
	background.Go(func() { n.hearOfBlocks(work) })
	background.Go(func() { n.keepRetention(work) })
	background.Go(func() { n.follow(work) })
	background.Go(func() { n.makeUp(work) })
	background.Go(func() { n.delivered.run(work, n.opts.Timeouts.Flush, n.opts.Logger) })

	n.serving.Store(true)
	err = n.accept(ctx, work, ln)
	n.serving.Store(false)

	n.shutdown(work)
	err = errors.Join(err, n.writer.Close())
	stopWork()
	background.Wait()
	n.fenced.Wait() // the writer has begun the last of them
	// The context that lives on is not used up: the end is short.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), n.opts.Timeouts.Store)
	defer cancel()
	n.delivered.flush(last, n.opts.Logger)
	return errors.Join(err, n.giveLeaseBack(last))
}

// shutdown ends all sessions, politely first, and waits for them.
func (n *Node) shutdown(ctx context.Context) {
	polite, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Shutdown)
	defer cancel()
	if err := n.Drain(polite); err != nil {
		n.opts.Logger.WarnContext(ctx, "sessions did not end in time", slog.Any("error", err))
	}
	n.abort() // what has not logged in yet, and what does not go by itself
	n.conns.Wait()
}

// Drain makes the node refuse new sessions and ends those that it has with the
// stream error system-shutdown. It returns when none is left or ctx ends.
func (n *Node) Drain(ctx context.Context) error {
	n.draining.Store(true)
	sessions := n.allSessions()
	n.dismiss(ctx, sessions)
	for _, s := range sessions {
		select {
		case <-s.gone:
		case <-ctx.Done():
			return fmt.Errorf("drain the node: %w", ctx.Err())
		}
	}
	return nil
}

// dismiss ends sessions. Those whose messages are on their way into the store have half of
// the time that there is for that.
func (n *Node) dismiss(ctx context.Context, sessions []*session) {
	patient, cancel := context.WithTimeout(ctx, n.opts.Timeouts.Shutdown/2)
	defer cancel()
	var busy []*session
	for _, s := range sessions {
		if s.dismiss() {
			s.giveUp() // if it waits for its client
		} else {
			busy = append(busy, s)
		}
	}
	for _, s := range busy {
		select {
		case <-s.done:
		case <-patient.Done():
			s.shutDown()
		}
		s.giveUp()
	}
}

// abort closes all connections at once.
func (n *Node) abort() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for conn := range n.open {
		_ = conn.Close()
	}
}

func (n *Node) allSessions() []*session {
	n.mu.RLock()
	defer n.mu.RUnlock()
	all := make([]*session, 0, len(n.sessions))
	for _, s := range n.sessions {
		all = append(all, s)
	}
	return all
}

// Status is what the node tells whoever places users.
type Status struct {
	Node     string  `json:"node"`
	Sessions int     `json:"sessions"`
	Draining bool    `json:"draining"`
	Ready    bool    `json:"ready"`
	Capacity int     `json:"capacity"` // 0: no limit
	Weight   float64 `json:"weight"`
}

// Status returns the state of the node. It asks the store whether it answers.
func (n *Node) Status(ctx context.Context) Status {
	count, draining := n.Load()
	return Status{
		Node: n.opts.Name, Sessions: count, Draining: draining,
		Ready: n.ready(ctx) == nil, Capacity: n.opts.Capacity, Weight: n.opts.Weight,
	}
}

// Load returns what of the status changes and costs nothing to know.
func (n *Node) Load() (sessions int, draining bool) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return len(n.sessions), n.draining.Load()
}

// readyTimeout is how long the store may take to say that it is there.
const readyTimeout = 2 * time.Second

// ready reports why the node cannot take sessions.
func (n *Node) ready(ctx context.Context) error {
	switch {
	case !n.serving.Load():
		return errors.New("not serving")
	case n.replaced.Load():
		return errReplaced
	case n.draining.Load():
		return errors.New("draining")
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := n.store.Ping(ctx); err != nil {
		return fmt.Errorf("ask the store: %w", err)
	}
	if err := n.writable.err(time.Now(), n.opts.Timeouts.Lease); err != nil {
		return fmt.Errorf("write to the store: %w", err)
	}
	if b, ok := n.bus.(interface{ Err() error }); ok && b.Err() != nil {
		return fmt.Errorf("ask the bus: %w", b.Err())
	}
	return nil
}

// busAway says why the bus carries nothing at the moment. The node can do without: its
// sessions look into the store then (lookForUnheard), which takes longer.
func (n *Node) busAway() error {
	if b, ok := n.bus.(interface{ Away() error }); ok {
		return b.Away()
	}
	return nil
}

// randomID returns 128 random bits as text.
func randomID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}
