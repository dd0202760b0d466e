package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/proxy/loop"
)

// listener accepts sessions on one socket. What is configured of it may change
// while it serves, all but the socket.
type listener struct {
	srv     *Server
	socket  string // Listener.socket
	terms   atomic.Pointer[terms]
	tcp     *net.TCPListener
	retired chan struct{}  // closed by retire
	quic    *quicListener  // of a QUIC listener, which has no tcp
	bosh    sync.WaitGroup // sessions that began on a connection, but do not end with it
}

// terms are what a session is served by: the configuration at the time when it
// was accepted. They never change; a new configuration makes new ones.
type terms struct {
	*Options             // normalized
	listener Listener    // one of Options.Listeners
	tls      *tls.Config // nil when no client's TLS ends here
	relay    *loop.Limits
	in, out  flow // of all sessions of the listener
	open     prometheus.Gauge
	ended    *endCounts
}

// newTerms returns the terms of new sessions on a listener.
func (s *Server) newTerms(opts *Options, cfg Listener) *terms {
	t := &terms{
		Options: opts, listener: cfg,
		relay: &loop.Limits{
			Idle: opts.Timeouts.Idle, Linger: opts.Timeouts.HalfOpen,
			ClientStall: opts.Timeouts.Write, NodeStall: opts.Timeouts.Write, Pause: opts.Timeouts.pause(),
		},
		in: s.metrics.flow(cfg.Name, "in"), out: s.metrics.flow(cfg.Name, "out"),
		open: s.metrics.open.WithLabelValues(cfg.Name), ended: &endCounts{vec: s.metrics.ended, listener: cfg.Name},
	}
	s.metrics.expect(cfg.Name, t.ended)
	if cfg.endsTLS() {
		t.tls = s.listenerTLS(opts.TLS, cfg)
	}
	return t
}

// socket names what a listener needs open: listeners with the same name can do
// with the same socket. A port that the system chooses belongs to the listener
// that it was chosen for.
func (l Listener) socket() string {
	network := "tcp"
	if l.Protocol == QUIC {
		network = "udp"
	}
	if _, port, err := net.SplitHostPort(l.Address); err == nil && port == "0" {
		return network + " " + l.Address + " of " + l.Name
	}
	return network + " " + l.Address
}

// listen opens a listener.
func (s *Server) listen(ctx context.Context, terms *terms) (*listener, error) {
	cfg := terms.listener
	l := &listener{srv: s, socket: cfg.socket(), retired: make(chan struct{})}
	l.terms.Store(terms)
	if cfg.Protocol == QUIC {
		q, err := l.listenQUIC(ctx)
		l.quic = q
		return l, err
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive()}
	inner, err := lc.Listen(ctx, "tcp", cfg.Address)
	if err != nil {
		return nil, err
	}
	tcp, ok := inner.(*net.TCPListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s is not a TCP address", cfg.Address), inner.Close())
	}
	l.tcp = tcp
	return l, nil
}

// ListenError says that an address cannot be listened on, and what can be done about it.
type ListenError struct {
	Name string // of what was to be there, for people
	Err  error
}

// Error is one line.
func (e *ListenError) Error() string { return e.Name + ": " + e.Err.Error() + e.cure() }

// Unwrap returns the cause.
func (e *ListenError) Unwrap() error { return e.Err }

func (e *ListenError) cure() string {
	var unknown *net.DNSError
	switch {
	case errors.Is(e.Err, syscall.EADDRINUSE):
		return "; end what listens there, or choose another port, 0 for any that is free"
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL), errors.As(e.Err, &unknown):
		return "; choose an address of this machine, or none, like :7000, for all of them"
	case errors.Is(e.Err, syscall.EACCES):
		return "; choose a port from 1024 on, or let the program have lower ones (CAP_NET_BIND_SERVICE)"
	}
	return ""
}

// keepAlive finds a client that vanished within two minutes, and keeps idle
// sessions known to the NATs between.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
}

// name is what the listener is called now.
func (l *listener) name() string { return l.terms.Load().listener.Name }

func (l *listener) addr() net.Addr {
	if l.quic != nil {
		return l.quic.addr()
	}
	return l.tcp.Addr()
}

// close closes a listener that does not serve.
func (l *listener) close() error {
	if l.quic != nil {
		return l.quic.close()
	}
	return l.tcp.Close()
}

// retire makes a listener that serves accept no more. Its sessions go on.
func (l *listener) retire() error {
	if l.quic != nil {
		return l.quic.retire()
	}
	close(l.retired)
	if err := l.tcp.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil // the loops have it
}

// beginLog is called when there is a journal. QUIC has connections before anybody accepts them.
func (l *listener) beginLog() {
	if l.quic != nil {
		l.quic.arrivals.serving.Store(true)
	}
}

// serve accepts sessions until ctx ends or the listener is retired, and returns
// when all have ended. The end of ctx ends the sessions, too.
func (l *listener) serve(ctx context.Context) {
	if l.quic != nil {
		l.quic.serve(ctx)
		return
	}
	defer l.bosh.Wait() // none begins without a connection
	if l.terms.Load().listener.acceptsOnLoops() {
		l.serveLooped(ctx)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = l.tcp.Close() })
	defer stop()
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.accept(ctx)
		if err != nil {
			return
		}
		sessions.Add(1)
		go l.srv.session(ctx, l, conn, sessions.Done)
	}
}

// accept returns the next connection. An error is final: others, like a want of
// file descriptors, are waited out, longer each time.
func (l *listener) accept(ctx context.Context) (*net.TCPConn, error) {
	wait := 5 * time.Millisecond
	for {
		conn, err := l.tcp.AcceptTCP()
		if err == nil || ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return conn, err
		}
		l.warnAccept(ctx, err, wait)
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
		wait = min(2*wait, time.Second)
	}
}

func (l *listener) warnAccept(ctx context.Context, err error, wait time.Duration) {
	l.srv.log.LogAttrs(ctx, slog.LevelWarn, "accept failed",
		slog.String("listener", l.name()), slog.Any("error", err), slog.Duration("retry_in", wait))
}

// pause waits, or returns the error of ctx if that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
