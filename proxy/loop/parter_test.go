package loop_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"imlb/proxy/loop"
)

// talker is a Stream that ends with a full stop, in both directions at once. Its last words
// are how the session ended.
type talker struct {
	conn  *loop.Conn
	ended bool
	told  bool
}

func (s *talker) Read(p []byte) (int, error) {
	if s.ended {
		return 0, io.EOF
	}
	n, err := s.conn.Read(p)
	if i := bytes.IndexByte(p[:n], '.'); i >= 0 {
		s.ended, n = true, i
	}
	s.ended = s.ended || s.told && errors.Is(err, os.ErrDeadlineExceeded)
	if n == 0 && s.ended {
		return 0, io.EOF
	}
	return n, err
}

func (s *talker) Write(p []byte) (int, error) {
	if s.ended || s.told {
		return 0, errors.New("written after the end")
	}
	return s.conn.Write(p)
}

func (s *talker) CloseWrite() error { return nil }

func (s *talker) Part(e loop.Ending) bool {
	if e.Cause == loop.Aborted || s.told {
		return s.told
	}
	s.told = true
	s.conn.Await()
	_, err := io.WriteString(s.conn, e.Cause.String()+".")
	return err == nil
}

// newTalk starts a session of which the client's end is a talker.
func newTalk(t *testing.T, limits loop.Limits) *session {
	t.Helper()
	return newTalkIn(t, newGroup(t, loop.Options{}), limits)
}

func newTalkIn(t *testing.T, g *loop.Group, limits loop.Limits) *session {
	t.Helper()
	return newSessionIn(t, g, func(cfg *loop.RelayConfig) {
		cfg.Client.Stream = &talker{conn: cfg.Client.Conn}
		cfg.Limits = &limits
	})
}

// wantEnd checks how a session ended.
func (s *session) wantEnd(t *testing.T, side loop.Side, cause loop.Cause) {
	t.Helper()
	if e := s.end(t); e.Side != side || e.Cause != cause {
		t.Errorf("ending %+v, want %v by the %v", e, cause, side)
	}
}

// A client that has ended hears nothing more, and its connection ends before the node's.
func TestParterEnds(t *testing.T) {
	s := newTalk(t, loop.Limits{})
	mustWrite(t, s.client, []byte("bye.ignored"))
	wantRead(t, s.node, []byte("bye"))
	wantEOF(t, s.node)
	wantEOF(t, s.client)
	s.client.Close()
	mustWrite(t, s.node, pattern(3<<20))
	s.node.CloseWrite()
	s.wantEnd(t, loop.Client, loop.EOF)
}

// What a client does not take any more does not hold the node up.
func TestParterEndsWhilePending(t *testing.T) {
	s := newTalk(t, loop.Limits{})
	fill(t, s.node)
	mustWrite(t, s.client, []byte("."))
	wantEOF(t, s.node)
	s.node.Close()
	s.wantEnd(t, loop.Client, loop.EOF)
}

// How long a node may go on after that has a limit, even if it talks.
func TestParterGone(t *testing.T) {
	s := newTalk(t, loop.Limits{Linger: 100 * time.Millisecond})
	mustWrite(t, s.client, []byte("."))
	wantEOF(t, s.client)
	for {
		if _, err := s.node.Write([]byte("x")); err != nil {
			break
		}
	}
	s.wantEnd(t, loop.Client, loop.HalfOpen)
}

// The end of the node is said to the client, which is heard to its answer.
func TestParterIsTold(t *testing.T) {
	s := newTalk(t, loop.Limits{})
	mustWrite(t, s.node, []byte("last words "))
	s.node.CloseWrite()
	wantRead(t, s.client, []byte("last words eof."))
	mustWrite(t, s.client, []byte("answer."))
	wantRead(t, s.node, []byte("answer"))
	wantEOF(t, s.node)
	wantEOF(t, s.client)
	s.wantEnd(t, loop.Node, loop.EOF)
}

// The client is told of other ends as well, though it has sent what nobody has read.
func TestParterIsToldOfAll(t *testing.T) {
	for name, c := range map[string]struct {
		limits loop.Limits
		end    func(s *session)
		side   loop.Side
		cause  loop.Cause
	}{
		"idle":    {loop.Limits{Idle: 50 * time.Millisecond}, func(*session) {}, loop.Client, loop.Idle},
		"reset":   {loop.Limits{}, func(s *session) { s.node.SetLinger(0); s.node.Close() }, loop.Node, loop.Reset},
		"drained": {loop.Limits{Linger: 50 * time.Millisecond}, func(s *session) { s.relay.Drain() }, loop.Node, loop.Drained},
	} {
		t.Run(name, func(t *testing.T) {
			s := newTalk(t, c.limits)
			c.end(s)
			wantRead(t, s.client, []byte(c.cause.String()+"."))
			mustWrite(t, s.client, pattern(1000))
			wantEOF(t, s.client)
			s.wantEnd(t, c.side, c.cause)
		})
	}
	t.Run("aborted", func(t *testing.T) {
		s := newTalk(t, loop.Limits{})
		s.relay.Abort(errors.New("test"))
		wantReset(t, s.client)
		s.wantEnd(t, loop.Client, loop.Aborted)
	})
}

// deaf is a Stream that has no use for what comes, without end.
type deaf struct{ talker }

func (s *deaf) Read([]byte) (int, error) {
	if s.told {
		return 0, io.EOF
	}
	return 0, nil
}

// A stream that is kept busy with itself does not keep the loop.
func TestRelayStreamThatCarriesNothing(t *testing.T) {
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Client.Stream = &deaf{talker{conn: cfg.Client.Conn}}
	})
	mustWrite(t, s.node, []byte("still here "))
	wantRead(t, s.client, []byte("still here "))
	s.node.CloseWrite()
	wantRead(t, s.client, []byte("eof."))
	s.wantEnd(t, loop.Node, loop.EOF)
}

// A client that is slow to take what it was sent, and talks meanwhile, gets all of it, and then
// has its time to answer or to end the connection.
func TestParterIsSlow(t *testing.T) {
	onlyLinux(t)
	const answerTime = 50 * time.Millisecond
	for _, first := range []loop.Side{loop.Node, loop.Client} {
		t.Run(first.String(), func(t *testing.T) {
			if first == loop.Client && !loop.CanDetach {
				t.Skip("where goroutines stand in for a socket, one that has ended itself may be reset for what it still says")
			}
			s := newTalkIn(t, newGroup(t, loop.Options{AnswerTime: answerTime}), loop.Limits{})
			all := pattern(1 << 20) // more than the client's kernel takes for one that does not read
			mustWrite(t, s.node, all)
			if first == loop.Client {
				mustWrite(t, s.client, []byte("."))
				wantEOF(t, s.node)
			}
			s.node.CloseWrite()
			for began := time.Now(); time.Since(began) < 10*answerTime; <-time.After(answerTime) {
				mustWrite(t, s.client, []byte("x"))
			}
			if first == loop.Node {
				wantRead(t, s.client, append(all, "eof."...))
				s.wantEnd(t, loop.Node, loop.EOF)
				return
			}
			if n, err := io.Copy(io.Discard, s.client); n == 0 || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
		})
	}
}

// A client that takes nothing more is not waited for without end, though it talks.
func TestParterIsDeaf(t *testing.T) {
	onlyLinux(t)
	s := newTalkIn(t, newGroup(t, loop.Options{AnswerTime: time.Hour}), loop.Limits{ClientStall: 200 * time.Millisecond})
	if err := s.client.SetReadBuffer(8 << 10); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, s.node, pattern(100<<10)) // for which the kernel has room
	s.node.CloseWrite()
	mustWrite(t, s.client, []byte("x"))
	s.wantEnd(t, loop.Client, loop.Stalled)
}

// onlyLinux skips what needs to know what a peer has acknowledged.
func onlyLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the system does not tell")
	}
}

// chatty is a Stream of which every other byte is for itself.
type chatty struct {
	talker
	extra int64
}

func (s *chatty) Read(p []byte) (int, error) {
	n, err := s.talker.Read(p)
	kept := p[:0]
	for i, b := range p[:n] {
		if i%2 == 0 {
			kept = append(kept, b)
		}
	}
	s.extra += int64(n - len(kept))
	return len(kept), err
}

func (s *chatty) Extra() int64 { return s.extra }

// What a stream reads for itself counts for the limits, but is not of the session.
func TestMeter(t *testing.T) {
	took := 0
	s := newSession(t, func(cfg *loop.RelayConfig) {
		cfg.Client.Stream = &chatty{talker: talker{conn: cfg.Client.Conn}}
		cfg.Throttle[loop.Client] = func(n int) time.Duration { took += n; return 0 }
	})
	const sent = 1 << 20
	together(
		func() { mustWrite(t, s.client, bytes.Repeat([]byte("ab"), sent/2)); s.client.CloseWrite() },
		func() {
			got, err := io.ReadAll(s.node)
			if err != nil || len(got) > sent/2+100 || len(got) < sent/2 {
				t.Errorf("the node read %d bytes, %v", len(got), err)
			}
			s.node.Close()
		},
	)
	if e := s.end(t); took != sent || e.Up >= sent {
		t.Errorf("%d bytes counted for the limit and %d for the session, of %d", took, e.Up, sent)
	}
}
