package loop_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/proxy/loop"
)

// TestRelayAgainstModel has both sides do things in any order. What one wrote comes
// to the other, all of it and the end if nobody broke off, else the beginning of it.
func TestRelayAgainstModel(t *testing.T) {
	g := newGroup(t, loop.Options{})
	ln := listenTCP(t)
	f := newFront(t, g, ln.Addr(), func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: time.Minute} })
	stream := pattern(4 << 20)
	rapid.Check(t, func(rt *rapid.T) {
		client := dialTCP(t, f.Addr())
		node, err := ln.AcceptTCP()
		if err != nil {
			rt.Fatal(err)
		}
		defer client.Close()
		defer node.Close()
		node.SetDeadline(time.Now().Add(patience))
		relay := receive(t, f.relays)
		m := &model{conns: [2]*net.TCPConn{client, node}, relay: relay, stream: stream}
		m.play(rt)
		m.finish(rt, receiveEnding(t, f))
	})
}

func receiveEnding(t *testing.T, f *front) func() loop.Ending {
	return func() loop.Ending { return receive(t, f.ended) }
}

type model struct {
	conns  [2]*net.TCPConn
	relay  *loop.Relay
	stream []byte // every side writes its beginning
	sent   [2]int
	got    [2][]byte // by who wrote
	closed [2]bool
	broken bool
	drain  bool
}

func (m *model) play(t *rapid.T) {
	side := rapid.IntRange(0, 1)
	for range rapid.IntRange(0, 12).Draw(t, "steps") {
		if m.broken {
			return
		}
		s := side.Draw(t, "side")
		switch rapid.IntRange(0, 11).Draw(t, "what") {
		case 0, 1, 2, 3, 4:
			// Never more than the sockets take, so that it does not block.
			n := rapid.IntRange(1, 1<<rapid.IntRange(0, 16).Draw(t, "bits")).Draw(t, "n")
			if m.closed[s] || m.sent[s]-len(m.got[s])+n > 100<<10 {
				continue
			}
			if k, err := m.conns[s].Write(m.stream[m.sent[s] : m.sent[s]+n]); err != nil && !m.drain {
				t.Fatalf("side %d wrote %d, %v", s, k, err)
			}
			m.sent[s] += n
		case 5, 6, 7:
			if n := m.sent[s] - len(m.got[s]); n > 0 && !m.drain {
				p := make([]byte, rapid.IntRange(1, n).Draw(t, "read"))
				k, err := io.ReadFull(m.conns[1-s], p)
				m.got[s] = append(m.got[s], p[:k]...)
				if err != nil {
					t.Fatalf("side %d read %d, %v", 1-s, k, err)
				}
			}
		case 8, 9:
			m.conns[s].CloseWrite()
			m.closed[s] = true
		case 10:
			m.broken = true
			if rapid.Bool().Draw(t, "abort") {
				m.relay.Abort(errors.New("test"))
				return
			}
			m.conns[s].SetLinger(0)
			m.conns[s].Close()
		case 11:
			m.relay.Drain()
			m.drain = true
		}
	}
}

// finish ends both sides, reads the rest, and compares.
func (m *model) finish(t *rapid.T, ending func() loop.Ending) {
	var errs [2]error
	for _, conn := range m.conns {
		conn.CloseWrite()
	}
	together(
		func() { m.got[0], errs[0] = rest(m.conns[1], m.got[0]) },
		func() { m.got[1], errs[1] = rest(m.conns[0], m.got[1]) },
	)
	e := ending()
	for s := range m.got {
		if !bytes.HasPrefix(m.stream, m.got[s]) || len(m.got[s]) > m.sent[s] {
			t.Fatalf("what side %d wrote came as something else", s)
		}
		// What the node says after a drain is read by nobody, for which the node gets a
		// reset after what came from the client.
		whole := !m.broken && (!m.drain || s == int(loop.Client))
		if whole && (len(m.got[s]) != m.sent[s] || (errs[s] != nil && !m.drain)) {
			t.Fatalf("of %d bytes of side %d came %d, %v", m.sent[s], s, len(m.got[s]), errs[s])
		}
	}
	switch {
	case m.broken: // or it was over before
	case m.drain && e.Cause != loop.Drained && e.Cause != loop.EOF, !m.drain && e.Cause != loop.EOF:
		t.Fatalf("ending %+v", e)
	}
	if up, down := m.relay.Bytes(); up != e.Up || down != e.Down || up > int64(m.sent[0]) || down > int64(m.sent[1]) {
		t.Fatalf("%d and %d bytes of %d and %d; the ending says %d and %d", up, down, m.sent[0], m.sent[1], e.Up, e.Down)
	}
}

func rest(conn *net.TCPConn, got []byte) ([]byte, error) {
	p, err := io.ReadAll(conn)
	return append(got, p...), err
}

// TestNothingIsLeft opens and ends many sessions in all ways: then there are the
// goroutines and descriptors of before.
func TestNothingIsLeft(t *testing.T) {
	ln := listenTCP(t)
	g := newGroup(t, loop.Options{})
	f := newFront(t, g, ln.Addr(), nil)
	before, routines := openFDs(t), runtime.NumGoroutine()
	for batch := range 10 {
		var relays []*loop.Relay
		var conns []*net.TCPConn
		for range 200 {
			client := dialTCP(t, f.Addr())
			node, err := ln.AcceptTCP()
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, client, node)
			relays = append(relays, receive(t, f.relays))
		}
		for i, r := range relays {
			client, node := conns[2*i], conns[2*i+1]
			switch (i + batch) % 5 {
			case 0:
				client.Close()
			case 1:
				node.SetLinger(0)
				node.Close()
			case 2:
				r.Abort(nil)
			case 3:
				r.Drain()
			case 4:
				mustWrite(t, client, []byte("x"))
				client.CloseWrite()
			}
		}
		for _, conn := range conns {
			conn.Close()
		}
		for range relays {
			receive(t, f.ended)
		}
	}
	eventually(t, "the end of all connections", func() bool {
		return g.Conns() == 0 && runtime.NumGoroutine() <= routines && openFDs(t) <= before
	})
}
