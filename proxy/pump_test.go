package proxy_test

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"imlb/proxy"
)

// bothWays is a connection in memory of which either direction can be ended.
type bothWays struct {
	net.Conn // what is read
	out      net.Conn
}

func newBothWays() (a, b bothWays) {
	aIn, bOut := net.Pipe()
	bIn, aOut := net.Pipe()
	return bothWays{aIn, aOut}, bothWays{bIn, bOut}
}

func (c bothWays) Write(p []byte) (int, error)        { return c.out.Write(p) }
func (c bothWays) CloseWrite() error                  { return c.out.Close() }
func (c bothWays) Close() error                       { return errors.Join(c.Conn.Close(), c.out.Close()) }
func (c bothWays) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }

func (c bothWays) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(t), c.out.SetWriteDeadline(t))
}

// pumped is a session that a pump carries, in a bubble of synctest.
type pumped struct {
	t            *testing.T
	client, node bothWays
	ended        chan proxy.Reason
}

func startPump(t *testing.T, idle, halfOpen time.Duration) *pumped {
	t.Helper()
	client, ofClient := newBothWays()
	node, ofNode := newBothWays()
	p := &pumped{t, client, node, make(chan proxy.Reason, 1)}
	go func() { p.ended <- proxy.Pump(t.Context(), ofClient, ofNode, idle, halfOpen) }()
	return p
}

// say sends a byte through the pump.
func (p *pumped) say(from, to bothWays) {
	p.t.Helper()
	if _, err := from.Write([]byte("x")); err != nil {
		p.t.Fatal(err)
	}
	p.hear(to)
}

func (p *pumped) hear(to bothWays) {
	p.t.Helper()
	if _, err := io.ReadFull(to, make([]byte, 1)); err != nil {
		p.t.Fatal(err)
	}
}

// endsAfter checks that the pump ends by that limit, as long from now.
func (p *pumped) endsAfter(want time.Duration, why proxy.Reason) {
	p.t.Helper()
	began := time.Now()
	go io.Copy(io.Discard, p.client) // to the end, so that it is not waited for
	go io.Copy(io.Discard, p.node)
	if got := <-p.ended; got != why {
		p.t.Errorf("the session ended by %v, not %v", got, why)
	}
	if took := time.Since(began); took != want {
		p.t.Errorf("the session ended after %v, not %v", took, want)
	}
}

// The limits count from the last byte, whenever they were looked at before.
func TestPumpLimits(t *testing.T) {
	t.Parallel()
	const idle, halfOpen = 20 * time.Second, 5 * time.Second
	for name, run := range map[string]func(*pumped){
		"silent from the start": func(p *pumped) { p.endsAfter(idle, proxy.ReasonIdle) },
		"a byte from the client": func(p *pumped) {
			<-time.After(time.Second)
			p.say(p.client, p.node)
			p.endsAfter(idle, proxy.ReasonIdle)
		},
		"bytes from both": func(p *pumped) {
			for range 10 {
				<-time.After(idle - time.Second)
				p.say(p.client, p.node)
				<-time.After(idle / 3)
				p.say(p.node, p.client)
			}
			p.endsAfter(idle, proxy.ReasonIdle)
		},
		"a byte that was long not taken": func(p *pumped) {
			if _, err := p.client.Write([]byte("x")); err != nil {
				p.t.Error(err)
			}
			<-time.After(2*idle + time.Second)
			p.hear(p.node)
			p.endsAfter(idle, proxy.ReasonIdle)
		},
		"half-open": func(p *pumped) {
			<-time.After(idle - time.Second)
			p.say(p.client, p.node)
			if err := p.client.CloseWrite(); err != nil {
				p.t.Error(err)
			}
			p.endsAfter(halfOpen, proxy.ReasonHalfOpen)
		},
		"half-open, and a byte": func(p *pumped) {
			if err := p.client.CloseWrite(); err != nil {
				p.t.Error(err)
			}
			for range 3 {
				<-time.After(halfOpen - time.Second)
				p.say(p.node, p.client)
			}
			p.endsAfter(halfOpen, proxy.ReasonHalfOpen)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { run(startPump(t, idle, halfOpen)) })
		})
	}
}
