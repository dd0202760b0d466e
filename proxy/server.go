package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Server is a front. Its methods are safe for concurrent use.
type Server struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	settles *settles

	listeners []*listener // set by Listen

	stop     chan struct{} // closed when Shutdown is called
	stopOnce sync.Once
	done     chan struct{} // closed when Serve has returned

	mu       sync.Mutex
	state    serverState
	sessions map[*session]struct{}
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
	return &Server{
		opts:     opts,
		log:      opts.Logger,
		metrics:  m,
		settles:  newSettles(),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		sessions: make(map[*session]struct{}),
	}, nil
}

// Listen opens all listeners, or none. Connections wait in the kernel's queues
// until Serve.
func (s *Server) Listen(ctx context.Context) error {
	if !s.advance(stateNew, stateListening) {
		return errors.New("proxy: Listen was called before")
	}
	for _, l := range s.opts.Listeners {
		opened, err := s.listen(ctx, l)
		if err != nil {
			return errors.Join(fmt.Errorf("listener %s: %w", l.Name, err), s.closeListeners())
		}
		s.listeners = append(s.listeners, opened)
	}
	return nil
}

// Addrs returns the addresses that Listen opened, by listener name.
func (s *Server) Addrs() map[string]net.Addr {
	addrs := make(map[string]net.Addr, len(s.listeners))
	for _, l := range s.listeners {
		addrs[l.cfg.Name] = l.addr()
	}
	return addrs
}

// Serve runs the front until ctx ends or Shutdown is called, and returns when
// all sessions have ended. Each client is told that the system shuts down; who
// has not left after Timeouts.Shutdown is cut off.
func (s *Server) Serve(ctx context.Context) error {
	if !s.advance(stateListening, stateServing) {
		return errors.New("proxy: Serve needs a Listen before it, and runs once")
	}
	defer close(s.done)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var running sync.WaitGroup
	for _, l := range s.listeners {
		running.Go(func() { l.serve(ctx) })
	}
	select {
	case <-ctx.Done():
	case <-s.stop:
	}
	s.advance(stateServing, stateStopping)
	cancel()
	patience := time.AfterFunc(s.opts.Timeouts.Shutdown, s.abort)
	defer patience.Stop()
	running.Wait()
	return nil
}

// Shutdown makes Serve stop and waits for it. When ctx ends first all that is
// still open is cut off and the error is that of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopOnce.Do(func() { close(s.stop) })
	if s.advance(stateListening, stateStopping) || s.advance(stateNew, stateStopping) {
		return s.closeListeners() // Serve never ran
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

// advance moves the server from one state to another, if it is in the first.
func (s *Server) advance(from, to serverState) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != from {
		return false
	}
	s.state = to
	return true
}

// closeListeners closes what Listen opened, of a server that does not serve.
func (s *Server) closeListeners() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.close())
	}
	s.listeners = nil
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
	s.mu.Lock()
	open := make([]*session, 0, len(s.sessions))
	for ss := range s.sessions {
		open = append(open, ss)
	}
	s.mu.Unlock()
	for _, ss := range open {
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

// Status returns the state of the front. It must not be called while Listen runs.
func (s *Server) Status() Status {
	s.mu.Lock()
	st := Status{State: s.state.String(), Sessions: len(s.sessions)}
	s.mu.Unlock()
	for _, l := range s.listeners {
		st.Listeners = append(st.Listeners, ListenerStatus{
			Name:     l.cfg.Name,
			Protocol: l.cfg.Protocol.String(),
			Address:  l.addr().String(),
			Pool:     l.cfg.Pool,
		})
	}
	return st
}

// Serving returns an error unless clients are accepted now.
func (s *Server) Serving() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != stateServing {
		return fmt.Errorf("the front is %s", s.state)
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
