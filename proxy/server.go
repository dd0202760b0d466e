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
)

// Server is a front. Its methods are safe for concurrent use.
type Server struct {
	log     *slog.Logger
	metrics *metrics
	settles *settles
	tickets *tls.Config  // its keys are those of all TLS session tickets
	http    http.Handler // of what HTTPS listeners serve
	udp     *udpSockets

	opts     atomic.Pointer[Options] // normalized; of what comes from now on
	changing chan struct{}           // holds one while opts and listeners are being changed

	stop     chan struct{} // closed when Shutdown is called
	stopOnce sync.Once
	done     chan struct{} // closed when Serve has returned

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
	m, err := newMetrics(opts.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		log:      opts.Logger,
		metrics:  m,
		settles:  newSettles(),
		tickets:  new(tls.Config),
		http:     httpHandler(),
		udp:      newUDPSockets(),
		changing: make(chan struct{}, 1),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
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
// all sessions have ended. Each client is told that the system shuts down; who
// has not left after Timeouts.Shutdown is cut off.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	if !s.begin(func(l *listener) { running.Go(func() { l.serve(ctx) }) }) {
		return errors.New("proxy: Serve needs a Listen before it, and runs once")
	}
	defer close(s.done)
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

// enter registers a session, and returns the func that removes it.
func (s *Server) enter(ss *session) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[ss] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.sessions, ss)
	}
}

// abort cuts off all sessions.
func (s *Server) abort() {
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
