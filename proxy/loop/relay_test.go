package loop_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// sides returns the ends of a session: the one on a side, and the other.
func (s *session) sides(side loop.Side) (own, other *net.TCPConn) {
	if side == loop.Client {
		return s.client, s.node
	}
	return s.node, s.client
}

func bothSides(t *testing.T, f func(*testing.T, loop.Side)) {
	for _, side := range []loop.Side{loop.Client, loop.Node} {
		t.Run(side.String(), func(t *testing.T) { f(t, side) })
	}
}

func TestRelayCarriesBothWays(t *testing.T) {
	s := newSession(t, nil)
	for _, n := range []int{1, 1000, 64 << 10, 1 << 20} {
		up, down := pattern(n), pattern(n+1)
		together(
			func() { _, _ = s.client.Write(up) },
			func() { wantRead(t, s.node, up) },
		)
		together(
			func() { _, _ = s.node.Write(down) },
			func() { wantRead(t, s.client, down) },
		)
	}
	s.client.CloseWrite()
	wantEOF(t, s.node)
	s.node.Close()
	wantEOF(t, s.client)
	e := s.end(t)
	sum := int64(1 + 1000 + 64<<10 + 1<<20)
	if e.Cause != loop.EOF || e.Side != loop.Client || e.Err != nil || e.Up != sum || e.Down != sum+4 {
		t.Errorf("ending %+v, want EOF by the client, %d and %d bytes", e, sum, sum+4)
	}
	if up, down := s.relay.Bytes(); up != e.Up || down != e.Down {
		t.Errorf("Bytes = %d, %d; want %d, %d", up, down, e.Up, e.Down)
	}
}

// TestRelayHalfClose ends one side, and has the other answer after that.
func TestRelayHalfClose(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		s := newSession(t, nil)
		own, other := s.sides(side)
		mustWrite(t, own, []byte("question"))
		own.CloseWrite()
		wantRead(t, other, []byte("question"))
		wantEOF(t, other)
		answer := pattern(3 << 20)
		together(
			func() { mustWrite(t, other, answer); other.Close() },
			func() { wantRead(t, own, answer); wantEOF(t, own) },
		)
		if e := s.end(t); e.Cause != loop.EOF || e.Side != side {
			t.Errorf("ending %+v, want EOF by the %s", e, side)
		}
	})
}

// resetBy resets a side, and returns how the session ended: by that.
func (s *session) resetBy(t testing.TB, side loop.Side) loop.Ending {
	t.Helper()
	own, _ := s.sides(side)
	own.SetLinger(0)
	own.Close()
	e := s.end(t)
	if e.Cause != loop.Reset || e.Side != side {
		t.Errorf("ending %+v, want a reset by the %s", e, side)
	}
	return e
}

func TestRelayPassesResetOn(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		s := newSession(t, nil)
		own, other := s.sides(side)
		mustWrite(t, own, []byte("last words"))
		wantRead(t, other, []byte("last words"))
		if e := s.resetBy(t, side); !errors.Is(e.Err, syscall.ECONNRESET) {
			t.Errorf("ending %+v, want the error of a reset", e)
		}
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other side read %v, want a reset", err)
		}
	})
}

// TestRelayResetAfterLastWords has both come to the loop in one turn: a DISCONNECT of MQTT, say, of a client that
// has not read all and closes its connection.
func TestRelayResetAfterLastWords(t *testing.T) {
	if portable {
		t.Skip("without epoll, what is sent is in the hands of others")
	}
	bothSides(t, func(t *testing.T, side loop.Side) {
		g := newGroup(t, loop.Options{Loops: 1})
		s := newSessionIn(t, g, nil)
		own, other := s.sides(side)
		inOneTurn(t, g.Loops()[0], func() {
			mustWrite(t, own, []byte("last words"))
			own.SetLinger(0)
			own.Close()
		})
		wantRead(t, other, []byte("last words"))
		if e := s.end(t); e.Cause != loop.Reset || e.Side != side {
			t.Errorf("ending %+v, want a reset by the %s", e, side)
		}
		if _, err := other.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other side read %v, want a reset", err)
		}
	})
}

// TestRelayResetWhilePending resets a side that does not take what waits for it.
func TestRelayResetWhilePending(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		s := newSession(t, nil)
		_, other := s.sides(side)
		fill(t, other)
		s.resetBy(t, side)
		if _, err := io.Copy(io.Discard, other); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the other side read %v, want a reset", err)
		}
	})
}

// TestRelayResetWhileBlocked resets a side that is not read, because the other does
// not take what came from it.
func TestRelayResetWhileBlocked(t *testing.T) {
	if portable {
		t.Skip("without epoll, only a read or a write finds out")
	}
	bothSides(t, func(t *testing.T, side loop.Side) {
		s := newSession(t, nil)
		own, _ := s.sides(side)
		fill(t, own)
		s.resetBy(t, side)
	})
}

// fill writes until nothing is taken any more, and returns how much was.
func fill(t testing.TB, conn *net.TCPConn) int {
	t.Helper()
	p := pattern(64 << 10)
	sum := 0
	for {
		conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := conn.Write(p)
		sum += n
		if err != nil {
			conn.SetWriteDeadline(time.Now().Add(patience))
			return sum
		}
		if sum > 256<<20 {
			t.Fatal("back-pressure does not come")
		}
	}
}

// TestRelayBackPressure stops reading on one side: what is held is bounded, and
// another session on the loop goes on. Then all comes.
func TestRelayBackPressure(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		g := newGroup(t, loop.Options{Loops: 1})
		ends := make(chan [2]loop.End, 1)
		stopped := newSessionIn(t, g, func(cfg *loop.RelayConfig) { ends <- [2]loop.End{cfg.Client, cfg.Node} })
		going := newSessionIn(t, g, nil)
		own, other := stopped.sides(side)
		n := fill(t, own)
		held := receive(t, ends)
		on(t, g.Loops()[0], func() {
			if n := held[1-side].Conn.Pending(); n > len(g.Loops()[0].Scratch()) {
				t.Errorf("%d bytes are held, more than one read takes", n)
			}
		})
		for range 100 {
			mustWrite(t, going.client, []byte("ping"))
			wantRead(t, going.node, []byte("ping"))
		}
		own.CloseWrite()
		got, err := io.Copy(io.Discard, other)
		if err != nil || got != int64(n) {
			t.Errorf("%d bytes came, %v; want %d", got, err, n)
		}
	})
}

func TestRelayStalled(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		s := newSession(t, func(cfg *loop.RelayConfig) {
			cfg.Limits = &loop.Limits{ClientStall: 100 * time.Millisecond, NodeStall: 100 * time.Millisecond}
		})
		_, other := s.sides(side)
		// The writer itself is ended, with a reset, when its peer stalls.
		p := pattern(64 << 10)
		var err error
		for err == nil {
			_, err = other.Write(p)
		}
		if e := s.end(t); e.Cause != loop.Stalled || e.Side != side || !errors.Is(e.Err, loop.ErrStalled) {
			t.Errorf("ending %+v, want a stall of the %s", e, side)
		}
	})
}

func TestRelayIdle(t *testing.T) {
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Limits = &loop.Limits{Idle: 300 * time.Millisecond, Linger: time.Minute}
	})
	var last time.Time
	for start := time.Now(); time.Since(start) < 600*time.Millisecond; { // not idle
		last = time.Now()
		mustWrite(t, s.client, []byte("x"))
		wantRead(t, s.node, []byte("x"))
	}
	wantEOF(t, s.client)
	wantEOF(t, s.node)
	if e := s.end(t); e.Cause != loop.Idle || e.Err != nil {
		t.Errorf("ending %+v, want idle", e)
	}
	if d := time.Since(last); d < 300*time.Millisecond {
		t.Errorf("ended after %v, before its time", d)
	}
}

// A session that was quiet before has all the time to linger from when a side ends.
func TestRelayHalfOpenAfterQuiet(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		const linger = 300 * time.Millisecond
		s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: linger} })
		<-time.After(linger)
		own, other := s.sides(side)
		start := time.Now()
		own.CloseWrite()
		wantEOF(t, other)
		wantReset(t, own)
		if d := time.Since(start); d < linger {
			t.Errorf("ended after %v, before its time", d)
		}
		if e := s.end(t); e.Cause != loop.HalfOpen || e.Side != side {
			t.Errorf("ending %+v, want half-open by the %s", e, side)
		}
	})
}

func TestRelayHalfOpen(t *testing.T) {
	bothSides(t, func(t *testing.T, side loop.Side) {
		s := newSession(t, func(cfg *loop.RelayConfig) {
			cfg.Limits = &loop.Limits{Idle: time.Minute, Linger: 200 * time.Millisecond}
		})
		own, other := s.sides(side)
		own.CloseWrite()
		wantEOF(t, other)
		wantReset(t, own)
		if e := s.end(t); e.Cause != loop.HalfOpen || e.Side != side {
			t.Errorf("ending %+v, want half-open by the %s", e, side)
		}
	})
}

// wantReset reads the end of a side that waited for more.
func wantReset(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	if n, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %d, %v; want a reset", n, err)
	}
}

// Without a limit a drained session waits for its client until it is aborted.
func TestRelayDrainWithoutLimit(t *testing.T) {
	s := newSession(t, nil)
	s.relay.Drain()
	wantEOF(t, s.client)
	mustWrite(t, s.client, []byte("after"))
	wantRead(t, s.node, []byte("after"))
	s.relay.Abort(nil)
	if e := s.end(t); e.Cause != loop.Aborted {
		t.Errorf("ending %+v, want aborted", e)
	}
}

func TestRelayAbort(t *testing.T) {
	s := newSession(t, nil)
	why := errors.New("enough")
	s.relay.Abort(why)
	s.relay.Abort(errors.New("too late"))
	for _, conn := range []*net.TCPConn{s.client, s.node} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %v, want a reset", err)
		}
	}
	if e := s.end(t); e.Cause != loop.Aborted || !errors.Is(e.Err, why) {
		t.Errorf("ending %+v, want aborted", e)
	}
	s.relay.Drain() // does nothing
	on(t, s.front.group.Loops()[0], func() {})
	select {
	case e := <-s.front.ended:
		t.Errorf("ended again: %+v", e)
	default:
	}
}

func TestRelayDrain(t *testing.T) {
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: time.Minute} })
	mustWrite(t, s.node, []byte("before"))
	wantRead(t, s.client, []byte("before"))
	s.relay.Drain()
	wantEOF(t, s.client)
	mustWrite(t, s.client, []byte("after"))
	wantRead(t, s.node, []byte("after"))
	s.client.Close()
	wantEOF(t, s.node)
	if e := s.end(t); e.Cause != loop.Drained {
		t.Errorf("ending %+v, want drained", e)
	}
}

func TestRelayDrainDoesNotWaitForEver(t *testing.T) {
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: 100 * time.Millisecond} })
	s.relay.Drain()
	wantEOF(t, s.client)
	wantReset(t, s.node)
	if e := s.end(t); e.Cause != loop.Drained {
		t.Errorf("ending %+v, want drained", e)
	}
}

// A node that is slow to take what the client of a drained session has said gets all of it, whatever it says
// itself, for which there is a reset at the end.
func TestRelayDrainSlowNode(t *testing.T) {
	onlyLinux(t)
	said := pattern(200 << 10) // more than the node's kernel takes for one that does not read
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: time.Minute} })
	s.relay.Drain()
	wantEOF(t, s.client)
	mustWrite(t, s.node, []byte("nobody hears that"))
	mustWrite(t, s.client, said)
	s.client.Close()
	eventually(t, "the end of the client's connection", func() bool { return s.front.group.Conns() < 2 })
	wantRead(t, s.node, said)
	wantEOF(t, s.node)
	s.node.Close()
	if e := s.end(t); e.Cause != loop.Drained || e.Up != int64(len(said)) {
		t.Errorf("ending %+v, want drained", e)
	}
}

// It is not waited for when there is no more time.
func TestRelayDrainDeafNode(t *testing.T) {
	onlyLinux(t)
	for name, hurry := range map[string]func(*session) error{
		"aborted":          func(s *session) error { s.relay.Abort(nil); return nil },
		"the group closes": func(s *session) error { return s.front.group.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: time.Minute} })
			s.relay.Drain()
			wantEOF(t, s.client)
			mustWrite(t, s.client, pattern(200<<10))
			s.client.Close()
			eventually(t, "the end of the client's connection", func() bool { return s.front.group.Conns() < 2 })
			select {
			case e := <-s.front.ended:
				t.Errorf("ended with %+v before the node had all", e)
			default:
			}
			if err := hurry(s); err != nil {
				t.Error(err)
			}
			if e := s.end(t); e.Cause != loop.Drained {
				t.Errorf("ending %+v, want drained", e)
			}
		})
	}
}

// A client that has ended its side before the drain gets what the node still says.
func TestRelayDrainHalfOpen(t *testing.T) {
	answer := pattern(1 << 20)
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: time.Minute} })
	s.client.CloseWrite()
	wantEOF(t, s.node)
	s.relay.Drain()
	together(
		func() { mustWrite(t, s.node, answer); s.node.Close() },
		func() { wantRead(t, s.client, answer); wantEOF(t, s.client) },
	)
	if e := s.end(t); e.Cause != loop.Drained {
		t.Errorf("ending %+v, want drained", e)
	}
}

// It does not take half of that for all when there is no more time.
func TestRelayDrainHalfOpenDoesNotWaitForEver(t *testing.T) {
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: 100 * time.Millisecond} })
	s.client.CloseWrite()
	wantEOF(t, s.node)
	mustWrite(t, s.node, []byte("half of"))
	wantRead(t, s.client, []byte("half of"))
	s.relay.Drain()
	wantReset(t, s.client)
	if e := s.end(t); e.Cause != loop.Drained {
		t.Errorf("ending %+v, want drained", e)
	}
}

// What a client says while a drained session lingers goes to the node, however long
// it was quiet before.
func TestRelayDrainAfterQuiet(t *testing.T) {
	const linger = 500 * time.Millisecond
	s := newSession(t, func(cfg *loop.RelayConfig) { cfg.Limits = &loop.Limits{Linger: linger} })
	<-time.After(linger)
	s.relay.Drain()
	wantEOF(t, s.client)
	<-time.After(linger / 5)
	mustWrite(t, s.client, []byte("after"))
	wantRead(t, s.node, []byte("after"))
	wantReset(t, s.node)
	if e := s.end(t); e.Cause != loop.Drained {
		t.Errorf("ending %+v, want drained", e)
	}
}

// TestRelayInitial sends more than a socket takes before anything of the client's.
func TestRelayInitial(t *testing.T) {
	initial := pattern(12 << 20)
	const header = 100
	took := make(chan int, 1000)
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Initial, cfg.Sent = initial, len(initial)-header
		cfg.Throttle[loop.Client] = func(n int) time.Duration { took <- n; return 0 }
	})
	if n := receive(t, took); n != len(initial)-header {
		t.Errorf("%d bytes count for the limit, want %d", n, len(initial)-header)
	}
	mustWrite(t, s.client, []byte("then this"))
	s.client.CloseWrite()
	want := append(bytes.Clone(initial), "then this"...)
	wantRead(t, s.node, want)
	wantEOF(t, s.node)
	s.node.Close()
	if e := s.end(t); e.Cause != loop.EOF || e.Up != int64(len(want)-header) {
		t.Errorf("ending %+v, want EOF after %d bytes", e, len(want)-header)
	}
}

func TestRelayThrottle(t *testing.T) {
	const rate = 1 << 20 // bytes per second
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Throttle[loop.Client] = func(n int) time.Duration { return time.Duration(n) * time.Second / rate }
	})
	start := time.Now()
	p := pattern(512 << 10)
	together(
		func() { mustWrite(t, s.client, p) },
		func() { wantRead(t, s.node, p) },
	)
	if d := time.Since(start); d < 300*time.Millisecond || d > 5*time.Second {
		t.Errorf("half a second's bytes took %v", d)
	}
}

// TestRelayWatch shows the first bytes of the node to who asked for them, and nothing
// after that nor from the client.
func TestRelayWatch(t *testing.T) {
	var seen []byte
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Watch = func(p []byte) (bool, error) {
			seen = append(seen, p...)
			return len(seen) < 4, nil
		}
	})
	mustWrite(t, s.client, []byte("up"))
	wantRead(t, s.node, []byte("up"))
	for _, part := range []string{"do", "wn"} {
		mustWrite(t, s.node, []byte(part))
		wantRead(t, s.client, []byte(part))
	}
	down := pattern(3 << 20)
	together(
		func() { mustWrite(t, s.node, down) },
		func() { wantRead(t, s.client, down) },
	)
	s.client.Close()
	s.node.Close()
	s.end(t)
	if string(seen) != "down" {
		t.Errorf("saw %d bytes, %.20q", len(seen), seen)
	}
}

// TestRelayWatchAll does not splice what has to be seen.
func TestRelayWatchAll(t *testing.T) {
	var seen []byte
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Watch = func(p []byte) (bool, error) {
			seen = append(seen, p...)
			return true, nil
		}
	})
	down := pattern(3 << 20)
	together(
		func() { mustWrite(t, s.node, down) },
		func() { wantRead(t, s.client, down) },
	)
	s.client.Close()
	s.node.Close()
	s.end(t)
	if !bytes.Equal(seen, down) {
		t.Errorf("saw %d bytes of %d, or others", len(seen), len(down))
	}
}

// TestRelayWatchRefuses ends a session because of what the node says, which the client does
// not hear.
func TestRelayWatchRefuses(t *testing.T) {
	why := errors.New("why")
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Watch = func(p []byte) (bool, error) { return false, why }
	})
	mustWrite(t, s.node, []byte("secret"))
	for _, conn := range []*net.TCPConn{s.client, s.node} {
		if n, err := conn.Read(make([]byte, 9)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read = %d, %v; want a reset", n, err)
		}
	}
	if e := s.end(t); e.Cause != loop.Aborted || !errors.Is(e.Err, why) || e.Down != int64(len("secret")) {
		t.Errorf("ending %+v", e)
	}
}

// TestRelayWatchAnswers ends a session in order because of what the node says, of which the client hears
// something else, whatever it has said itself.
func TestRelayWatchAnswers(t *testing.T) {
	why := errors.New("why")
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Watch = func(p []byte) (bool, error) { return false, &loop.Refusal{Answer: []byte("no"), Err: why} }
	})
	mustWrite(t, s.client, []byte("up"))
	wantRead(t, s.node, []byte("up"))
	mustWrite(t, s.node, []byte("secret"))
	wantRead(t, s.client, []byte("no"))
	wantEOF(t, s.client)
	wantEOF(t, s.node)
	mustWrite(t, s.client, []byte("more")) // which is taken until it ends, and dropped
	if e := s.end(t); e.Cause != loop.Refused || !errors.Is(e.Err, why) || e.Down != int64(len("secret")) {
		t.Errorf("ending %+v", e)
	}
}

// TestRelayWatchTime ends a session of which what is watched for has not come in time, and no
// other.
func TestRelayWatchTime(t *testing.T) {
	const most = 500 * time.Millisecond
	watched := func(t *testing.T) *session {
		return newSession(t, func(cfg *loop.RelayConfig) {
			cfg.WatchTime = most
			cfg.Watch = func(p []byte) (bool, error) { return p[len(p)-1] != '.', nil }
		})
	}
	seen, unseen := watched(t), watched(t)
	mustWrite(t, seen.node, []byte("all."))
	wantRead(t, seen.client, []byte("all."))
	for start := time.Now(); time.Since(start) < most/2; { // bytes do not help
		mustWrite(t, unseen.node, []byte("x"))
		wantRead(t, unseen.client, []byte("x"))
	}
	wantEOF(t, unseen.client)
	wantEOF(t, unseen.node)
	if e := unseen.end(t); e.Cause != loop.Unanswered || e.Side != loop.Node || e.Err != nil {
		t.Errorf("ending %+v, want unanswered by the node", e)
	}
	mustWrite(t, seen.client, []byte("more"))
	wantRead(t, seen.node, []byte("more"))
	seen.client.CloseWrite()
	seen.node.CloseWrite()
	if e := seen.end(t); e.Cause != loop.EOF {
		t.Errorf("ending %+v, want the end in order", e)
	}
}

// A session is not idle whose bytes wait, because of a limit or for who takes none.
func TestRelayIdleUnread(t *testing.T) {
	const idle = 200 * time.Millisecond
	t.Run("throttled", func(t *testing.T) {
		bothSides(t, func(t *testing.T, side loop.Side) {
			s := newSession(t, func(cfg *loop.RelayConfig) {
				cfg.Limits = &loop.Limits{Idle: idle}
				cfg.Throttle[side] = func(int) time.Duration { return 3 * idle }
			})
			own, other := s.sides(side)
			p := pattern(2 * len(s.front.group.Loops()[0].Scratch()))
			together(
				func() { mustWrite(t, own, p) },
				func() { wantRead(t, other, p) },
			)
			wantEOF(t, other)
			if e := s.end(t); e.Cause != loop.Idle {
				t.Errorf("ending %+v, want idle", e)
			}
		})
	})
	t.Run("stalled", func(t *testing.T) {
		bothSides(t, func(t *testing.T, side loop.Side) {
			s := newSession(t, func(cfg *loop.RelayConfig) {
				cfg.Limits = &loop.Limits{Idle: idle, ClientStall: time.Minute, NodeStall: time.Minute}
			})
			own, other := s.sides(side)
			n := fill(t, own)
			<-time.After(2 * idle)
			own.CloseWrite()
			if got, err := io.Copy(io.Discard, other); err != nil || got != int64(n) {
				t.Errorf("%d bytes came, %v; want %d", got, err, n)
			}
		})
	})
}
