package loop_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// wire is what TLS runs over: first a connection that blocks, then one on a loop.
type wire struct{ net.Conn }

func newTLSConfigs(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, &cert, &cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		&tls.Config{InsecureSkipVerify: true} // it is our own
}

// tlsSession is a session with TLS to the client, the node, or both.
type tlsSession struct {
	client, node halfCloser
	raw          [2]*net.TCPConn // below them
	held         *loop.Conn      // the front's, of the client
	relay        *loop.Relay
	ended        chan loop.Ending
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

func newTLSSession(t testing.TB, version uint16, client, node bool) *tlsSession {
	t.Helper()
	return newTLSSessionWith(t, version, client, node, nil)
}

func newTLSSessionWith(t testing.TB, version uint16, client, node bool, limits *loop.Limits) *tlsSession {
	t.Helper()
	g := newGroup(t, loop.Options{})
	l := g.Next()
	s := &tlsSession{ended: make(chan loop.Ending, 1)}
	server, peer := newTLSConfigs(t)
	peer.MaxVersion = version
	var ends [2]loop.End
	var tcps [2]*net.TCPConn
	var wires [2]*wire
	peers := [2]halfCloser{}
	for side, secure := range [2]bool{client, node} {
		outer, inner := tcpPair(t)
		s.raw[side], tcps[side], peers[side] = outer, inner, outer
		if !secure {
			continue
		}
		wires[side] = &wire{inner}
		ours, theirs := tls.Server(wires[side], server), tls.Client(outer, peer)
		if side == int(loop.Node) {
			ours, theirs = tls.Client(wires[side], peer), tls.Server(outer, server)
		}
		together(func() { _ = theirs.Handshake() }, func() { _ = ours.Handshake() })
		if !ours.ConnectionState().HandshakeComplete || !theirs.ConnectionState().HandshakeComplete {
			t.Fatal("no handshake")
		}
		peers[side], ends[side].Stream = theirs, ours
	}
	on(t, l, func() {
		for side := range ends {
			c, err := l.Adopt(tcps[side])
			if err != nil {
				t.Error(err)
				return
			}
			ends[side].Conn = c
			if wires[side] != nil {
				wires[side].Conn = c
			}
		}
		s.held = ends[loop.Client].Conn
		s.relay = loop.NewRelay(loop.RelayConfig{
			Client: ends[0], Node: ends[1], Limits: limits,
			Done: func(_ *loop.Relay, e loop.Ending) { s.ended <- e },
		})
	})
	s.client, s.node = peers[0], peers[1]
	return s
}

func tlsCases(t *testing.T, f func(t *testing.T, s *tlsSession)) {
	for name, c := range map[string]struct {
		version      uint16
		client, node bool
	}{
		"client": {tls.VersionTLS13, true, false},
		"node":   {tls.VersionTLS13, false, true},
		"both":   {tls.VersionTLS13, true, true},
		"1.2":    {tls.VersionTLS12, true, true},
	} {
		t.Run(name, func(t *testing.T) { f(t, newTLSSession(t, c.version, c.client, c.node)) })
	}
}

func TestRelayTLS(t *testing.T) {
	tlsCases(t, func(t *testing.T, s *tlsSession) {
		for _, n := range []int{1, 100, 20 << 10, 3 << 20} {
			up, down := pattern(n), pattern(n+1)
			together(
				func() { mustWrite(t, s.client, up) },
				func() { mustWrite(t, s.node, down) },
				func() { wantRead(t, s.node, up) },
				func() { wantRead(t, s.client, down) },
			)
		}
		// The end goes one way, and an answer comes back after it.
		mustWrite(t, s.client, []byte("bye"))
		s.client.CloseWrite()
		wantRead(t, s.node, []byte("bye"))
		wantEOF(t, s.node)
		answer := pattern(2 << 20)
		together(
			func() { mustWrite(t, s.node, answer); s.node.CloseWrite() },
			func() { wantRead(t, s.client, answer); wantEOF(t, s.client) },
		)
		if e := receive(t, s.ended); e.Cause != loop.EOF || e.Side != loop.Client {
			t.Errorf("ending %+v, want EOF by the client", e)
		}
	})
}

func TestRelayTLSReset(t *testing.T) {
	tlsCases(t, func(t *testing.T, s *tlsSession) {
		mustWrite(t, s.client, []byte("x"))
		wantRead(t, s.node, []byte("x"))
		s.raw[loop.Node].SetLinger(0)
		s.raw[loop.Node].Close()
		if _, err := s.client.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client read %v, want a reset", err)
		}
		if e := receive(t, s.ended); e.Cause != loop.Reset || e.Side != loop.Node {
			t.Errorf("ending %+v, want a reset by the node", e)
		}
	})
}

// TestRelayTLSBackPressure has the client not read: the bytes wait with the node.
func TestRelayTLSBackPressure(t *testing.T) {
	tlsCases(t, func(t *testing.T, s *tlsSession) {
		p := pattern(64 << 10)
		var sum atomic.Int64
		full := make(chan struct{})
		go func() {
			defer close(full)
			for sum.Load() < 64<<20 {
				n, err := s.node.Write(p)
				sum.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
		var last, since int64 = -1, 0
		eventually(t, "back-pressure", func() bool {
			now, was := sum.Load(), last
			if last = now; now != was {
				since = 0
			}
			since++
			return since > 20 && now > 0 && now < 64<<20
		})
		on(t, s.held.Loop(), func() {
			if n := s.held.Pending(); n > 128<<10 {
				t.Errorf("%d bytes are held, more than one read takes", n)
			}
		})
		got := make(chan int64, 1)
		go func() {
			n, _ := io.Copy(io.Discard, s.client)
			got <- n
		}()
		receive(t, full)
		s.node.CloseWrite()
		if n := receive(t, got); n != sum.Load() {
			t.Errorf("%d bytes came, want %d", n, sum.Load())
		}
	})
}

// TestRelayTLSBroken sends what is no record.
func TestRelayTLSBroken(t *testing.T) {
	s := newTLSSession(t, tls.VersionTLS13, true, false)
	mustWrite(t, s.raw[loop.Client], []byte("\x17\x03\x03\x00\x20this is no record of any key...."))
	if e := receive(t, s.ended); e.Cause != loop.Broken || e.Side != loop.Client || e.Err == nil {
		t.Errorf("ending %+v, want the client broken", e)
	}
	if _, err := s.node.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the node read %v, want a reset", err)
	}
}

// TestRelayTLSBrokenIsTold: who has sent a bad record, and sends more, reads what was wrong, and
// then the end.
func TestRelayTLSBrokenIsTold(t *testing.T) {
	s := newTLSSession(t, tls.VersionTLS13, true, false)
	client := s.raw[loop.Client]
	mustWrite(t, client, slices.Concat([]byte("\x17\x03\x03\x00\x20this is no record of any key...."), make([]byte, 100<<10)))
	receive(t, s.ended)
	mustWrite(t, client, []byte("more"))
	if told, err := io.ReadAll(client); err != nil || len(told) == 0 {
		t.Errorf("the client read %d bytes, %v", len(told), err)
	}
}

// TestRelayTLSTruncated ends a connection inside a record.
func TestRelayTLSTruncated(t *testing.T) {
	s := newTLSSession(t, tls.VersionTLS13, true, false)
	mustWrite(t, s.raw[loop.Client], []byte("\x17\x03\x03\x00\x20th"))
	s.raw[loop.Client].CloseWrite()
	if e := receive(t, s.ended); e.Cause != loop.Broken || !errors.Is(e.Err, io.ErrUnexpectedEOF) {
		t.Errorf("ending %+v, want the client broken", e)
	}
}
