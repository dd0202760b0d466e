package loop_test

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// never is a pause that no test waits for.
const never = time.Hour

// newPausing starts a session that is drained at its next pause.
func newPausing(t *testing.T, pause time.Duration) *session {
	t.Helper()
	return newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Limits = &loop.Limits{Linger: time.Minute, Pause: pause}
	})
}

// drained waits until all loops have done what was posted, as by Drain.
func (s *session) drained(t *testing.T) {
	t.Helper()
	s.relay.Drain()
	for _, l := range s.front.group.Loops() {
		on(t, l, func() {})
	}
}

// passed waits until every timer of up to d has fired on all loops.
func (s *session) passed(t *testing.T, d time.Duration) {
	t.Helper()
	for _, l := range s.front.group.Loops() {
		over := make(chan struct{})
		on(t, l, func() { l.After(d, func() { close(over) }) })
		receive(t, over)
	}
}

// A download that is under way when its front stops comes whole, and ends when the node ends it,
// whether it is copied or spliced.
func TestRelayDrainMoving(t *testing.T) {
	for name, size := range map[string]int{"copied": 100, "spliced": 8 << 20} {
		t.Run(name, func(t *testing.T) {
			s := newPausing(t, never)
			body := pattern(size)
			mustWrite(t, s.node, body[:size/2])
			wantRead(t, s.client, body[:size/4])
			s.drained(t)
			together(
				func() { mustWrite(t, s.node, body[size/2:]); s.node.CloseWrite() },
				func() { wantRead(t, s.client, body[size/4:]); wantEOF(t, s.client); s.client.Close() },
			)
			s.wantEnd(t, loop.Node, loop.EOF)
		})
	}
}

// So it does on TLS.
func TestRelayDrainMovingTLS(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			s := newTLSSessionWith(t, version, true, false, &loop.Limits{Pause: never})
			body := pattern(8 << 20)
			half := len(body) / 2
			together(
				func() { mustWrite(t, s.node, body[:half]) },
				func() { wantRead(t, s.client, body[:half]) },
			)
			s.relay.Drain()
			together(
				func() { mustWrite(t, s.node, body[half:]); s.node.CloseWrite() },
				func() { wantRead(t, s.client, body[half:]); wantEOF(t, s.client); s.client.Close() },
			)
			if e := receive(t, s.ended); e.Cause != loop.EOF || e.Side != loop.Node {
				t.Errorf("ending %+v, want EOF by the node", e)
			}
		})
	}
}

// A client that is slow to read is in no pause, however long nothing can be read for it.
func TestRelayDrainSlowReader(t *testing.T) {
	const pause = 20 * time.Millisecond
	s := newPausing(t, pause)
	n := fill(t, s.node)
	s.drained(t)
	s.passed(t, 3*pause)
	rest := pattern(1 << 20)
	together(
		func() { mustWrite(t, s.node, rest) },
		func() {
			if _, err := io.CopyN(io.Discard, s.client, int64(n)); err != nil {
				t.Error(err)
			}
			wantRead(t, s.client, rest)
			wantEOF(t, s.client) // after the pause
			s.client.Close()
		},
	)
	s.wantEnd(t, loop.Node, loop.Drained)
}

// A client that sends waits for an answer, and gets it.
func TestRelayDrainUpload(t *testing.T) {
	s := newPausing(t, never)
	body := pattern(8 << 20)
	half := len(body) / 2
	together(
		func() { mustWrite(t, s.client, body[:half]) },
		func() { wantRead(t, s.node, body[:half]) },
	)
	s.drained(t)
	together(
		func() { mustWrite(t, s.client, body[half:]) },
		func() { wantRead(t, s.node, body[half:]) },
	)
	mustWrite(t, s.node, []byte("got it"))
	wantRead(t, s.client, []byte("got it"))
	s.client.Close()
	wantEOF(t, s.node)
	s.node.Close()
	s.wantEnd(t, loop.Client, loop.EOF)
}

// A download that does not come to its end in time must not look as if it had.
func TestRelayDrainCutOff(t *testing.T) {
	s := newPausing(t, time.Millisecond)
	fill(t, s.node)
	s.drained(t)
	s.relay.Abort(errors.New("enough"))
	for _, conn := range []*net.TCPConn{s.client, s.node} {
		if _, err := io.Copy(io.Discard, conn); err == nil {
			t.Error("the end was in order")
		}
	}
	if e := s.end(t); e.Cause != loop.Aborted {
		t.Errorf("ending %+v, want aborted", e)
	}
}

// When a drained session is quiet already, its client is told at once, and else not before it is.
func TestRelayDrainAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		pause time.Duration
		told  bool
	}{
		"quiet":  {50 * time.Millisecond, true},
		"moving": {never, false},
	} {
		t.Run(name, func(t *testing.T) {
			var client *talker
			s := newSession(t, func(cfg *loop.RelayConfig) {
				client = &talker{conn: cfg.Client.Conn}
				cfg.Client.Stream, cfg.Limits = client, &loop.Limits{Pause: c.pause}
			})
			mustWrite(t, s.node, []byte("before"))
			wantRead(t, s.client, []byte("before"))
			s.passed(t, 60*time.Millisecond)
			s.drained(t)
			told := make(chan bool, 1)
			client.conn.Loop().Post(func() { told <- client.told })
			if got := receive(t, told); got != c.told {
				t.Errorf("the client was told: %v", got)
			}
		})
	}
}

// What waits for the client when its session is ended comes to it, and the end behind that, at
// the pace of the client.
func TestRelayDrainWhilePending(t *testing.T) {
	s := newPausing(t, 0)
	n := fill(t, s.node)
	s.drained(t)
	if got, err := io.Copy(io.Discard, s.client); got == 0 || got > int64(n) || err != nil {
		t.Errorf("read %d bytes of %d, %v", got, n, err)
	}
	s.client.Close()
	s.wantEnd(t, loop.Node, loop.Drained)
}

// A client that has ended its side before, and waits for a long answer, has the limit of that
// for each part of it and not for all.
func TestRelayDrainHalfOpenMoving(t *testing.T) {
	const linger = time.Second
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: linger, Pause: time.Millisecond} })
	s.client.CloseWrite()
	wantEOF(t, s.node)
	s.drained(t)
	for range 4 {
		s.passed(t, linger*2/5/2) // on each of two loops
		mustWrite(t, s.node, []byte("part"))
		wantRead(t, s.client, []byte("part"))
	}
	s.node.Close()
	wantEOF(t, s.client)
	s.wantEnd(t, loop.Node, loop.Drained)
}

// A client that leaves a drained session and hears no more of its node is not waited for.
func TestRelayDrainParted(t *testing.T) {
	s := newTalk(t, loop.Limits{Pause: never})
	s.drained(t)
	mustWrite(t, s.client, []byte("bye."))
	wantRead(t, s.node, []byte("bye"))
	wantEOF(t, s.node)
	s.wantEnd(t, loop.Node, loop.Drained)
}

// What has come is no pause, though the loop was too busy to hear of it.
func TestRelayDrainUnheard(t *testing.T) {
	if !loop.CanDetach {
		t.Skip("what has come is read elsewhere")
	}
	const pause = 50 * time.Millisecond
	var client *talker
	s := newSession(t, func(cfg *loop.RelayConfig) {
		client = &talker{conn: cfg.Client.Conn}
		cfg.Client.Stream, cfg.Limits = client, &loop.Limits{Pause: pause}
	})
	s.passed(t, 2*pause)
	l, busy, told := client.conn.Loop(), make(chan struct{}), make(chan bool, 1)
	l.Post(func() { <-busy })
	l.Post(func() { mustWrite(t, s.node, []byte("more ")) }) // in one turn with those that follow
	s.relay.Drain()
	l.Post(func() { told <- client.told })
	close(busy)
	if receive(t, told) {
		t.Error("the client was told before it had all")
	}
	wantRead(t, s.client, []byte("more drained."))
}
