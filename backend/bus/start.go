package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

const (
	// flushWait bounds a round trip to the node's own server.
	flushWait = 5 * time.Second

	// clientPing finds a server elsewhere that went without a word.
	clientPing     = 2 * time.Second
	clientPingsOut = 2

	reconnectWait   = 100 * time.Millisecond
	reconnectJitter = 200 * time.Millisecond
)

// ErrClosed is returned by what was asked of a bus after Close.
var ErrClosed = errors.New("bus closed")

// ErrTooLarge is returned for a signal that no server would take.
var ErrTooLarge = errors.New("signal too large")

// Bus is a node's place on the bus.
type Bus struct {
	// Static.
	options     Options
	id          nodeID
	server      *embedded // nil: the servers are elsewhere
	conn        *nats.Conn
	dispatchers []*dispatcher
	done        chan struct{} // closed by Close
	running     sync.WaitGroup
	closing     sync.Once
	counts      counts

	// Between callbacks of the connection and the goroutines of the bus.
	waiting chan chan error // whoever waits for a barrier
	answers chan answer     // of other nodes to our barrier
	broken  chan struct{}   // a link was broken or is new: all may have missed something
	greet   chan struct{}   // beat now, somebody does not know us

	mu      sync.RWMutex
	hosted  map[uint16]*hosting
	links   links
	silent  map[string]struct{}          // nodes that were heard and are not any more, by name
	dropped map[*nats.Subscription]drops // subscriptions that found their queue full
	skip    bool                         // the next beat shows that we were away
}

// Start connects a node to the bus, and starts the node's own server if it is to have
// one. Servers elsewhere need not be there: the connection is made once one is, and
// Away tells until then. ctx bounds the start alone; Close ends the bus.
func Start(ctx context.Context, options Options) (*Bus, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	b := newBus(options)
	if err := b.startServer(ctx); err != nil {
		return nil, fmt.Errorf("start NATS server: %w", err)
	}
	if err := b.connect(ctx); err != nil {
		b.stopServer()
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	b.startLoops()
	if err := b.join(); err != nil {
		b.Close()
		return nil, fmt.Errorf("join the bus: %w", err)
	}
	return b, nil
}

func newBus(options Options) *Bus {
	b := &Bus{
		options: options,
		id:      nodeID(rand.Uint64()), //nolint:gosec // told apart, not kept secret
		done:    make(chan struct{}),
		waiting: make(chan chan error),
		answers: make(chan answer, 64),
		broken:  make(chan struct{}, 1),
		greet:   make(chan struct{}, 1),
		hosted:  make(map[uint16]*hosting),
		links:   make(links),
		silent:  make(map[string]struct{}),
		dropped: make(map[*nats.Subscription]drops),
	}
	for range runtime.GOMAXPROCS(0) {
		b.dispatchers = append(b.dispatchers, newDispatcher(b, options.Queue))
	}
	return b
}

func (b *Bus) startServer(ctx context.Context) (err error) {
	if b.options.Embedded != nil {
		b.server, err = startServer(ctx, b.options.Name, *b.options.Embedded, b.options.Logger)
	}
	return err
}

func (b *Bus) stopServer() {
	if b.server != nil {
		b.server.stop()
	}
}

// connect opens the node's connection. It comes back by itself after a loss.
func (b *Bus) connect(ctx context.Context) (err error) {
	options := nats.GetDefaultOptions()
	options.Name = b.options.Name
	options.Timeout = timeLeft(ctx, flushWait)
	options.MaxReconnect = -1
	options.ReconnectWait = reconnectWait
	options.ReconnectJitter, options.ReconnectJitterTLS = reconnectJitter, reconnectJitter
	options.PingInterval, options.MaxPingsOut = clientPing, clientPingsOut
	options.ReconnectBufSize = -1 // a late signal is worth nothing
	options.NoEcho = true         // what is for this node itself does not leave it
	options.DisconnectedErrCB = b.disconnected
	options.ReconnectedCB = b.reconnected
	options.AsyncErrorCB = b.asyncError
	if b.server == nil {
		options.Servers = b.options.URLs
		options.IgnoreAuthErrorAbort = true // servers that start may not know yet whom to let in
	} else {
		options.InProcessServer = b.server
		options.IgnoreDiscoveredServers = true
		options.User, options.Password = b.server.config.credentials()
	}
	b.conn, err = options.Connect()
	if err == nil || b.server != nil || errors.Is(err, nats.ErrAuthorization) {
		return err
	}
	b.options.Logger.WarnContext(ctx, "no NATS server answers: the node starts without, and connects when one does", slog.Any("err", err))
	options.RetryOnFailedConnect = true
	options.ConnectedCB = b.reconnected
	b.conn, err = options.Connect()
	return err
}

// timeLeft returns how long ctx lasts, and limit at most.
func timeLeft(ctx context.Context, limit time.Duration) time.Duration {
	if end, ok := ctx.Deadline(); ok {
		return max(min(time.Until(end), limit), time.Millisecond)
	}
	return limit
}

func (b *Bus) startLoops() {
	for _, d := range b.dispatchers {
		b.running.Go(d.run)
	}
	b.running.Go(b.watch)
	b.running.Go(b.keepBarriers)
}

// join subscribes to what nodes tell each other.
func (b *Bus) join() error {
	for subject, take := range map[string]nats.MsgHandler{
		beatSubject:       b.takeBeat,
		barrierSubject:    b.takeBarrier,
		b.answerSubject(): b.takeAnswer,
	} {
		if _, err := b.conn.Subscribe(subject, take); err != nil {
			return err
		}
	}
	if !b.conn.IsConnected() {
		return nil // the interest is made known with the connection
	}
	if err := b.conn.FlushTimeout(flushWait); err != nil {
		return err
	}
	b.wantBeat()
	return nil
}

// Close leaves the bus: what was published before has reached the other nodes
// that are heard. No handler is called after it; it must not be called by one.
func (b *Bus) Close() {
	b.closing.Do(func() {
		if b.conn.IsConnected() {
			// Whoever does not answer does without: the node ends now.
			_ = b.barrier()
		}
		close(b.done)
		b.running.Wait()
		b.conn.Close()
		b.stopServer()
	})
}

// Publish sends a signal to whoever hosts its partition, this node included. It
// does not wait. An error means that the signal is lost, to other nodes at least; the
// caller's Data may be used again at once.
func (b *Bus) Publish(s Signal) error {
	if s.User == "" || !s.Kind.known() {
		return fmt.Errorf("publish signal: %w", errMalformed)
	}
	payload := appendSignal(make([]byte, 0, signalRoom+len(s.User)+len(s.Target)+len(s.Data)), s)
	switch most := int(b.conn.MaxPayload()); {
	case most > 0 && len(payload) > most: // it is unknown before the first connection
		return fmt.Errorf("publish signal for %s: %w", s.User, ErrTooLarge)
	case b.conn.IsClosed():
		return fmt.Errorf("publish signal for %s: %w", s.User, ErrClosed)
	}
	subject := signalSubject(s.Partition, s.User)
	if b.hosts(s.Partition) {
		b.dispatcher(s.Partition).loop(s.Partition, &nats.Msg{Subject: subject, Data: payload})
	}
	if b.listenedTo() {
		if err := b.conn.Publish(subject, payload); err != nil {
			return fmt.Errorf("publish signal for %s: %w", s.User, err)
		}
	}
	b.counts.published.Add(1)
	return nil
}

// listenedTo tells whether anybody but this node may hear what is published.
func (b *Bus) listenedTo() bool {
	return b.server == nil || b.options.Embedded.Listen != "" || b.server.NumRoutes() > 0
}

// Err says why the bus does not work, and will not by itself; nil if it does.
func (b *Bus) Err() error {
	if b.server != nil {
		if err := b.server.log.fatal(); err != nil {
			return fmt.Errorf("NATS server: %w", err)
		}
	}
	if b.conn.IsClosed() {
		return ErrClosed
	}
	return nil
}

// Away says why no signals come or go at the moment, nil if they do. When the connection
// is back, Lost is called for all that is hosted.
func (b *Bus) Away() error {
	if b.conn.IsConnected() {
		return nil
	}
	return fmt.Errorf("NATS connection: %s", b.conn.Status())
}

// Healthy says whether the bus works at the moment.
func (b *Bus) Healthy() bool { return errors.Join(b.Err(), b.Away()) == nil }

// Nodes returns how many other nodes are heard.
func (b *Bus) Nodes() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.links)
}

// Hears tells whether signals of a node, by its name, can be relied on to arrive: it
// is heard, and so is this node's own server.
func (b *Bus) Hears(node string) bool {
	if !b.conn.IsConnected() {
		return false
	}
	if node == b.options.Name {
		return true
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, p := range b.links {
		if p.name == node {
			return true
		}
	}
	return false
}

// Silent tells whether a node, by its name, was heard and is not any more, or nobody is, since this
// node's own server is away. Of one that was never heard nothing is known: it may have begun just now.
func (b *Bus) Silent(node string) bool {
	if !b.conn.IsConnected() {
		return true
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, silent := b.silent[node]
	return silent
}

// fellSilent notes it, unless the node has begun anew; under Bus.mu.
func (b *Bus) fellSilent(names []string) {
	if len(b.silent) > silentMost {
		clear(b.silent)
	}
	for _, name := range names {
		b.silent[name] = struct{}{}
	}
	for _, p := range b.links {
		delete(b.silent, p.name)
	}
}

// silentMost bounds how many silent nodes are remembered, where each that starts has another name.
const silentMost = 1000

// ClusterAddr returns where other nodes' servers connect to this node's, empty if
// nowhere.
func (b *Bus) ClusterAddr() string {
	if b.server == nil || b.options.Embedded.Cluster == "" {
		return ""
	}
	return b.server.ClusterAddr().String()
}

// ClientAddr returns where other NATS clients connect to this node's server, empty
// if nowhere.
func (b *Bus) ClientAddr() string {
	if b.server == nil || b.options.Embedded.Listen == "" {
		return ""
	}
	return b.server.Addr().String()
}

// Alone tells whether the node's own server is connected to no other.
func (b *Bus) Alone() bool { return b.server != nil && b.server.NumRoutes() == 0 }

// SetRoutes replaces Embedded.Routes. The server's settings are read anew for that, at
// which the node may lose its connection to it for a moment.
func (b *Bus) SetRoutes(addrs []string) error {
	if b.server == nil {
		return errors.New("set routes: the servers are elsewhere")
	}
	if err := b.server.setRoutes(addrs); err != nil {
		return fmt.Errorf("set routes: %w", err)
	}
	return nil
}

// Stats are counts since the start.
type Stats struct {
	Published uint64 // signals sent
	Received  uint64 // signals given to Handler
	Refused   uint64 // messages that could not be understood
	Lost      uint64 // calls of Lost
}

type counts struct{ published, received, refused, lost atomic.Uint64 }

// Stats returns the counts.
func (b *Bus) Stats() Stats {
	return Stats{
		Published: b.counts.published.Load(),
		Received:  b.counts.received.Load(),
		Refused:   b.counts.refused.Load(),
		Lost:      b.counts.lost.Load(),
	}
}

func (b *Bus) dispatcher(partition uint16) *dispatcher {
	return b.dispatchers[int(partition)%len(b.dispatchers)]
}

func (b *Bus) disconnected(c *nats.Conn, err error) {
	if c.IsClosed() || err == nil {
		return // we have closed it
	}
	b.options.Logger.Warn("bus connection lost", slog.Any("err", err))
}

// reconnected: signals were lost both ways, here and at all who listen to this node.
func (b *Bus) reconnected(*nats.Conn) {
	b.options.Logger.Info("bus connection is back")
	b.mu.Lock()
	b.skip = true
	b.mu.Unlock()
	b.wantBeat()
	b.noteBroken()
}
