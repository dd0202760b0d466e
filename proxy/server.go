package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"imlb/proxy/limit"
	"imlb/proxy/loop"
)

// Server is a front. Its methods are safe for concurrent use.
type Server struct {
	log     *slog.Logger
	metrics *metrics
	settles *settles
	offers  *offers
	bosh    *boshTable
	tickets *tls.Config  // its keys are those of all TLS session tickets
	http    http.Handler // of what HTTPS listeners serve
	udp     *udpSockets
	guard   *limit.Guard
	ids     ids
	suspect occasions[nodeOf] // of nodes that may expect another PROXY header
	journal *journal          // nil unless serving
	loops   *loop.Group       // of sessions that go on by themselves; nil unless serving

	opts     atomic.Pointer[Options] // normalized; of what comes from now on
	changing chan struct{}           // holds one while opts and listeners are being changed

	stop      chan struct{} // closed when Shutdown is called
	stopOnce  sync.Once
	done      chan struct{} // closed when Serve has returned
	hurry     chan struct{} // closed when all that is still open is cut off
	hurryOnce sync.Once

	mu        sync.Mutex
	state     serverState
	start     func(*listener) // starts a listener; nil unless serving
	listeners []*listener     // in the order of opts; changed by who holds changing
	sessions  map[*session]struct{}
}

// serverState is how far a Server has come.
type serverState uint8

const (
	stateNew serverState = iota
	stateListening
	stateServing
	stateStopping
)

// New checks the options and returns a front that does not listen yet.
func New(opts Options) (*Server, error) {
	opts, err := opts.normalize()
	if err != nil {
		return nil, err
	}
	guard, err := limit.New(time.Now(), opts.Rules)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		log:      opts.Logger,
		metrics:  m,
		settles:  newSettles(),
		offers:   newOffers(),
		bosh:     newBOSHTable(),
		guard:    guard,
		tickets:  new(tls.Config),
		http:     httpHandler(),
		udp:      newUDPSockets(),
		changing: make(chan struct{}, 1),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		hurry:    make(chan struct{}),
		sessions: make(map[*session]struct{}),
	}
	s.opts.Store(&opts)
	return s, nil
}

// Listen opens all listeners, or none. Connections wait in the kernel's queues
// until Serve.
func (s *Server) Listen(ctx context.Context) error {
	if err := s.beginChange(ctx); err != nil {
		return err
	}
	defer s.endChange()
	if s.now() != stateNew {
		return errors.New("proxy: Listen was called before")
	}
	_, err := s.change(ctx, s.opts.Load())
	return err
}

// Addrs returns the addresses that are listened on, by listener name.
func (s *Server) Addrs() map[string]net.Addr {
	addrs := make(map[string]net.Addr)
	for _, l := range s.open() {
		addrs[l.name()] = l.addr()
	}
	return addrs
}

// open returns the listeners.
func (s *Server) open() []*listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listeners
}

// Serve runs the front until ctx ends or Shutdown is called, and returns when
// all sessions have ended. Each client is told that the system shuts down, that of an
// opaque session at its next pause; who has not left after Timeouts.Shutdown is cut off.
func (s *Server) Serve(ctx context.Context) error {
	loops, err := loop.New(loop.Options{KeepAlive: keepAlive(), Panic: s.panicked})
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	s.journal = newJournal(s.log, func(n int) { s.metrics.unlogged.Add(float64(n)) })
	defer s.journal.close()
	defer loops.Close()
	s.loops = loops
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, s.drain)()
	var running sync.WaitGroup
	start := func(l *listener) {
		l.beginLog()
		running.Go(func() { l.serve(ctx) })
	}
	if !s.begin(start) {
		return errors.New("proxy: Serve needs a Listen before it, and runs once")
	}
	defer close(s.done)
	running.Go(func() { s.tallyOften(ctx) })
	select {
	case <-ctx.Done():
	case <-s.stop:
	}
	s.advance(stateServing, stateStopping) // no listener is started after this
	cancel()
	patience := time.AfterFunc(s.opts.Load().Timeouts.Shutdown, s.abort)
	defer patience.Stop()
	running.Wait()
	return nil
}

// Shutdown makes Serve stop and waits for it. When ctx ends first all that is
// still open is cut off and the error is that of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stop) })
	if s.advance(stateListening, stateStopping) || s.advance(stateNew, stateStopping) {
		defer close(s.done) // Serve never ran, and will not
		return closeAll(s.open())
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		s.abort()
		<-s.done
		return fmt.Errorf("shut the front down: %w", ctx.Err())
	}
}

// begin makes a listening server one that serves: its listeners are started, and
// so are those that come later.
func (s *Server) begin(start func(*listener)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateListening {
		return false
	}
	s.state, s.start = stateServing, start
	for _, l := range s.listeners {
		start(l)
	}
	return true
}

// advance moves the server from one state to another, if it is in the first.
func (s *Server) advance(from, to serverState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != from {
		return false
	}
	s.state, s.start = to, nil
	return true
}

// now returns the state.
func (s *Server) now() serverState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// closeAll closes listeners that do not serve.
func closeAll(listeners []*listener) error {
	var errs []error
	for _, l := range listeners {
		errs = append(errs, l.close())
	}
	return errors.Join(errs...)
}

// enter registers a session.
func (s *Server) enter(ss *session) {
	ss.terms.open.Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[ss] = struct{}{}
}

// leave removes a session.
func (s *Server) leave(ss *session) {
	ss.terms.open.Dec()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, ss)
}

// drain ends the sessions that have a carrier.
func (s *Server) drain() {
	for _, ss := range s.all() {
		ss.drain()
	}
}

// tallyTime is how often the bytes of opaque sessions that go on come into the metrics.
const tallyTime = 10 * time.Second

// tallyOften does that until ctx ends. Sessions of stanzas do it themselves.
func (s *Server) tallyOften(ctx context.Context) {
	for pause(ctx, tallyTime) == nil {
		s.tally()
	}
}

func (s *Server) tally() {
	for _, ss := range s.all() {
		ss.tallyMoving()
	}
}

// panicked reports what was recovered from on a loop.
func (s *Server) panicked(err error) {
	var p *loop.PanicError
	if errors.As(err, &p) {
		err = fmt.Errorf("%w\n%s", err, p.Stack)
	}
	s.log.LogAttrs(context.Background(), slog.LevelError, "panic on a loop", slog.Any("error", err)) //nolint:forbidigo // nobody's in particular
}

// abort cuts off all sessions.
func (s *Server) abort() {
	s.hurryOnce.Do(func() { close(s.hurry) })
	for _, ss := range s.all() {
		ss.abort()
	}
}

// Status is what a front tells of itself.
type Status struct {
	State     string           `json:"state"` // new, listening, serving or stopping
	Sessions  int              `json:"sessions"`
	Listeners []ListenerStatus `json:"listeners"`
}

// ListenerStatus is what a front tells of one of its listeners.
type ListenerStatus struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Address  string `json:"address"`
	Pool     string `json:"pool"`
}

// Status returns the state of the front.
func (s *Server) Status() Status {
	s.mu.Lock()
	st := Status{State: s.state.String(), Sessions: len(s.sessions)}
	s.mu.Unlock()
	for _, l := range s.open() {
		cfg := l.terms.Load().listener
		st.Listeners = append(st.Listeners, ListenerStatus{
			Name:     cfg.Name,
			Protocol: cfg.Protocol.String(),
			Address:  l.addr().String(),
			Pool:     cfg.Pool,
		})
	}
	return st
}

// Limits tells what is counted for the limits, and the sources with the most
// connections; see [limit.Guard.Snapshot] for what that costs.
func (s *Server) Limits(now time.Time, top int) limit.Snapshot { return s.guard.Snapshot(now, top) }

// Serving returns an error unless clients are accepted now.
func (s *Server) Serving() error {
	if st := s.now(); st != stateServing {
		return fmt.Errorf("the front is %s", st)
	}
	return nil
}

func (st serverState) String() string {
	switch st {
	case stateNew:
		return "new"
	case stateListening:
		return "listening"
	case stateServing:
		return "serving"
	case stateStopping:
		return "stopping"
	}
	return "unknown"
}
