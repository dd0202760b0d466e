//go:build linux

package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/sync/errgroup"
)

// RunClient makes one measurement. Its error says, too, when a byte was wrong.
func RunClient(ctx context.Context, spec Spec) (Result, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	switch spec.Workload {
	case "round-trips":
		return measureTCP(ctx, spec, (*tcpClient).roundTrips)
	case "paced":
		return measureTCP(ctx, spec, (*tcpClient).paced)
	case "connect":
		return measureTCP(ctx, spec, (*tcpClient).connects)
	case "bulk-down":
		return measureTCP(ctx, spec, (*tcpClient).bulkDown)
	case "bulk-up":
		return measureTCP(ctx, spec, (*tcpClient).bulkUp)
	case "idle", "tls-idle", "ws-idle":
		c, err := newStreamClient(spec, newWindow(spec.PIDs, 1), spec.Workload == "tls-idle")
		if err != nil {
			return Result{}, err
		}
		c.webSocket = spec.Workload == "ws-idle"
		return c.idle(ctx)
	case "ws-round-trips":
		return measureTCP(ctx, spec, (*tcpClient).webSocketRoundTrips)
	case "tls-round-trips":
		return measureStreams(ctx, spec, (*streamClient).roundTrips)
	case "tls-handshakes":
		return measureStreams(ctx, spec, (*streamClient).handshakes)
	case "tls-resumptions":
		return measureStreams(ctx, spec, (*streamClient).resumptions)
	case "tls-bulk":
		return measureStreams(ctx, spec, (*streamClient).bulkDown)
	case "xmpp":
		return measureStreams(ctx, spec, (*streamClient).stanzas)
	case "quic-round-trips":
		return measureStreams(ctx, spec, (*streamClient).quicStanzas)
	}
	return Result{}, fmt.Errorf("no workload %q", spec.Workload)
}

func measureTCP(ctx context.Context, spec Spec, workload func(*tcpClient, context.Context) error) (Result, error) {
	w := newWindow(spec.PIDs, 1)
	c, err := newTCPClient(spec, w)
	if err != nil {
		return Result{}, err
	}
	defer c.close()
	if err := measure(ctx, spec, w, func() error { return workload(c, ctx) }); err != nil {
		return Result{}, err
	}
	return w.result(&c.tally)
}

func measureStreams(ctx context.Context, spec Spec, client func(*streamClient, context.Context, *tally) error) (Result, error) {
	w := newWindow(spec.PIDs, spec.Conns)
	c, err := newStreamClient(spec, w, true)
	if err != nil {
		return Result{}, err
	}
	err = measure(ctx, spec, w, func() error {
		return c.workers(ctx, spec.Conns, func(ctx context.Context, t *tally) error { return client(c, ctx, t) })
	})
	if err != nil {
		return Result{}, err
	}
	return w.result(&c.tally)
}

// measure lets a workload run through the window.
func measure(ctx context.Context, spec Spec, w *window, workload func() error) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var group errgroup.Group
	group.Go(func() error {
		err := w.run(ctx, spec.Warmup, spec.Window)
		if errors.Is(err, context.Canceled) {
			return nil // the workload says why
		}
		return err
	})
	group.Go(func() error {
		defer stop()
		err := workload()
		if err == nil && !w.over() {
			err = errors.New("the workload ended before its time")
		}
		return err
	})
	return group.Wait()
}

// Addresses are where a backend serves.
type Addresses struct {
	TCP, TLS         netip.AddrPort // echo, sink and source
	WebSocket        netip.AddrPort // echo
	XMPP, SecureXMPP netip.AddrPort // the node
	QUIC             netip.AddrPort // the node
}

// RunBackend serves until ctx ends, on free ports of 127.0.0.1 which it tells when
// it is ready. What is wrong with bytes that come goes to log.
func RunBackend(ctx context.Context, certFile, keyFile string, log io.Writer, ready func(Addresses) error) error {
	config, err := serverTLS(certFile, keyFile)
	if err != nil {
		return err
	}
	plain, err := newTCPBackend(log, false)
	if err != nil {
		return err
	}
	framed, err := newTCPBackend(log, true)
	if err != nil {
		return err
	}
	q, err := listenQUIC(config)
	if err != nil {
		return err
	}
	defer q.Close()
	streams := &streamBackend{pattern: NewPattern(), log: log}
	group, ctx := errgroup.WithContext(ctx)
	addrs := Addresses{TCP: plain.addr, WebSocket: framed.addr, QUIC: addrPort(q.Addr())}
	listeners := []struct {
		addr  *netip.AddrPort
		tls   *tls.Config
		serve func(net.Conn)
	}{
		{&addrs.TLS, config, streams.serve},
		{&addrs.XMPP, nil, node{}.serve},
		{&addrs.SecureXMPP, config, node{}.serve},
	}
	for _, l := range listeners {
		inner, err := listenStreams(ctx, l.tls)
		if err != nil {
			return err
		}
		*l.addr = addrPort(inner.Addr())
		group.Go(func() error { return serveListener(ctx, inner, l.serve) })
	}
	group.Go(func() error { return plain.run(ctx) })
	group.Go(func() error { return framed.run(ctx) })
	group.Go(func() error { return node{}.serveQUIC(ctx, q) })
	group.Go(func() error { return ready(addrs) })
	return group.Wait()
}

func serverTLS(certFile, keyFile string) (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}, nil
}

func listenStreams(ctx context.Context, config *tls.Config) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil || config == nil {
		return l, err
	}
	return tls.NewListener(l, config), nil
}

// serveListener serves connections by a goroutine each until ctx ends.
func serveListener(ctx context.Context, l net.Listener, serve func(net.Conn)) error {
	defer context.AfterFunc(ctx, func() { _ = l.Close() })()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		conns.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
			serve(conn)
		})
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}
