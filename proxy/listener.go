package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// listener accepts sessions on one address.
type listener struct {
	srv     *Server
	cfg     Listener
	pool    Pool
	tls     *tls.Config
	limiter *rate.Limiter // nil: no limit
	tcp     *net.TCPListener
	quic    *quicListener // of a QUIC listener, which has no tcp
	http    *httpFront    // of an HTTPS listener
}

// alpn returns the protocol that a listener's TLS agrees on. With STARTTLS there
// is none: the port says it all.
func (p Protocol) alpn() []string {
	switch p {
	case XMPPS, QUIC:
		return []string{"xmpp-client"}
	case HTTPS:
		return []string{"http/1.1"}
	case XMPP:
		return nil
	}
	return nil
}

// listen opens a listener.
func (s *Server) listen(ctx context.Context, cfg Listener) (*listener, error) {
	l := &listener{srv: s, cfg: cfg, pool: s.opts.Pools[cfg.Pool], tls: s.opts.TLS.Clone()}
	l.tls.NextProtos = cfg.Protocol.alpn()
	if cfg.Rate.PerSecond > 0 {
		l.limiter = rate.NewLimiter(rate.Limit(cfg.Rate.PerSecond), cfg.Rate.Burst)
	}
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
	if cfg.Protocol == HTTPS {
		l.http = newHTTPFront(l)
	}
	return l, nil
}

// keepAlive finds a client that vanished within two minutes, and keeps idle
// sessions known to the NATs between.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}
}

func (l *listener) addr() net.Addr {
	if l.quic != nil {
		return l.quic.addr()
	}
	return l.tcp.Addr()
}

func (l *listener) close() error {
	if l.quic != nil {
		return l.quic.close()
	}
	return l.tcp.Close()
}

// serve accepts sessions until ctx ends, and returns when all have ended.
func (l *listener) serve(ctx context.Context) {
	if l.quic != nil {
		l.quic.serve(ctx)
		return
	}
	stop := context.AfterFunc(ctx, func() { _ = l.tcp.Close() })
	defer stop()
	if l.http != nil {
		l.http.start()
		defer l.http.stop()
	}
	var sessions sync.WaitGroup
	defer sessions.Wait()
	for {
		conn, err := l.accept(ctx)
		if err != nil {
			return
		}
		sessions.Go(func() { l.srv.session(ctx, l, conn) })
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
		l.srv.log.LogAttrs(ctx, slog.LevelWarn, "accept failed",
			slog.String("listener", l.cfg.Name), slog.Any("error", err), slog.Duration("retry_in", wait))
		if err := pause(ctx, wait); err != nil {
			return nil, err
		}
		wait = min(2*wait, time.Second)
	}
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

// admit waits for the session's turn under the listener's rate, and tells
// whether it came in time. Those that wait are never more than the rate admits
// in MaxWait.
func (l *listener) admit(ctx context.Context) (bool, error) {
	if l.limiter == nil {
		return true, nil
	}
	turn := l.limiter.Reserve()
	wait := turn.Delay()
	if wait > l.cfg.Rate.MaxWait {
		turn.Cancel()
		return false, nil
	}
	if wait == 0 {
		return true, nil
	}
	return true, pause(ctx, wait)
}
