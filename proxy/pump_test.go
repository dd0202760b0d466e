package proxy_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"imlb/proxy"
)

// duplex is a connection in memory of which either direction can be ended.
type duplex struct {
	net.Conn          // what is read
	to       net.Conn // where it is written
}

func newDuplex() (a, b *duplex) {
	toA, fromB := net.Pipe()
	toB, fromA := net.Pipe()
	return &duplex{toA, fromA}, &duplex{toB, fromB}
}

func (d *duplex) Write(p []byte) (int, error)        { return d.to.Write(p) }
func (d *duplex) CloseWrite() error                  { return d.to.Close() }
func (d *duplex) Close() error                       { return errors.Join(d.Conn.Close(), d.to.Close()) }
func (d *duplex) SetWriteDeadline(t time.Time) error { return d.to.SetWriteDeadline(t) }
func (d *duplex) SetDeadline(t time.Time) error {
	return errors.Join(d.SetReadDeadline(t), d.SetWriteDeadline(t))
}

// pumped is a session that a pump carries.
type pumped struct {
	pump         *proxy.Pump
	client, node *duplex
	reason       string // after over

	over sync.WaitGroup
}

const (
	pumpPause    = 500 * time.Millisecond
	pumpHalfOpen = 30 * time.Second
)

// startPump starts a session in the bubble of a test.
func startPump(t *testing.T, idle, halfOpen time.Duration) *pumped {
	t.Helper()
	s := new(pumped)
	var client, node *duplex
	s.client, client = newDuplex()
	s.node, node = newDuplex()
	s.pump = proxy.NewPump(client, node, idle, halfOpen, pumpPause)
	begun := make(chan struct{})
	s.over.Go(func() { s.reason = s.pump.Run(t.Context(), func() { close(begun) }) })
	<-begun
	return s
}

// says sends what the other side gets.
func says(t *testing.T, from, to *duplex, what string) {
	t.Helper()
	go func() { _, _ = from.Write([]byte(what)) }()
	got := make([]byte, len(what))
	if _, err := io.ReadFull(to, got); err != nil || string(got) != what {
		t.Errorf("got %q, %v; want %q", got, err, what)
	}
}

// ends checks that a side gets the end now, after exactly some time.
func ends(t *testing.T, side *duplex, after time.Duration) {
	t.Helper()
	began := time.Now()
	if n, err := side.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("read %d bytes, %v; want the end", n, err)
	}
	if took := time.Since(began); took != after {
		t.Errorf("the end came after %v, want %v", took, after)
	}
}

// lasts waits for the session's end, and checks that it comes after exactly some time.
func (s *pumped) lasts(t *testing.T, want time.Duration) {
	t.Helper()
	began := time.Now()
	s.over.Wait()
	if took := time.Since(began); took != want {
		t.Errorf("the session ended after %v, want %v", took, want)
	}
}

// leave ends both sides, and checks what the session's end is called.
func (s *pumped) leave(t *testing.T, reason string) {
	t.Helper()
	_, _ = s.client.Close(), s.node.Close()
	s.over.Wait()
	if s.reason != reason {
		t.Errorf("ended with %q, want %q", s.reason, reason)
	}
}

// A session that is drained ends at its next pause: at once if that is now.
func TestPumpDrainQuiet(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startPump(t, time.Hour, pumpHalfOpen)
		says(t, s.client, s.node, "hello")
		<-time.After(time.Second)
		s.pump.Drain()
		ends(t, s.client, 0)
		says(t, s.client, s.node, "after")
		s.leave(t, "shutdown")
	})
}

// As long as either side says something, it goes on.
func TestPumpDrainMoving(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startPump(t, time.Hour, pumpHalfOpen)
		says(t, s.node, s.client, "begin")
		s.pump.Drain()
		for range 100 {
			<-time.After(pumpPause - time.Millisecond)
			says(t, s.client, s.node, "and")
			<-time.After(pumpPause - time.Millisecond)
			says(t, s.node, s.client, "so on")
		}
		ends(t, s.client, pumpPause)
		s.leave(t, "shutdown")
	})
}

// What a side is slow to take is no pause.
func TestPumpDrainSlow(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"node", "client"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := startPump(t, time.Hour, pumpHalfOpen)
				fast, slow := s.node, s.client
				if from == "client" {
					fast, slow = slow, fast
				}
				go func() { _, _ = fast.Write([]byte("much")) }()
				synctest.Wait()
				s.pump.Drain()
				<-time.After(time.Minute + pumpPause*9/10)
				got := make([]byte, 4)
				if _, err := io.ReadFull(slow, got); err != nil || string(got) != "much" {
					t.Errorf("got %q, %v", got, err)
				}
				<-time.After(pumpPause * 9 / 10)
				says(t, slow, fast, "thanks")
				ends(t, s.client, pumpPause)
				s.leave(t, "shutdown")
			})
		})
	}
}

// Who ends a session that goes on is who ends it, and then there is the limit for half-open ones.
func TestPumpDrainEndsItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startPump(t, time.Hour, pumpHalfOpen)
		says(t, s.node, s.client, "all")
		s.pump.Drain()
		s.node.CloseWrite()
		ends(t, s.client, 0)
		<-time.After(pumpHalfOpen / 2)
		says(t, s.client, s.node, "thanks")
		s.leave(t, "node-closed")
	})
}

// Who has ended its side before has the time of the other's answer, for each part of it.
func TestPumpDrainHalfOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startPump(t, time.Hour, pumpHalfOpen)
		s.client.CloseWrite()
		ends(t, s.node, 0)
		s.pump.Drain()
		for range 3 {
			<-time.After(pumpHalfOpen - time.Second)
			says(t, s.node, s.client, "part")
		}
		s.lasts(t, pumpHalfOpen)
		s.leave(t, "shutdown")
	})
}

// The client of a drained session that does not end its side is cut off.
func TestPumpDrainCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := startPump(t, time.Hour, pumpHalfOpen)
		<-time.After(time.Second)
		s.pump.Drain()
		ends(t, s.client, 0)
		s.lasts(t, pumpHalfOpen)
		s.leave(t, "shutdown")
	})
}
