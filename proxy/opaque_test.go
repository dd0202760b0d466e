package proxy_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy"
)

// starter starts a front and a session on it.
type starter func(t *testing.T, change func(*proxy.Options)) (*front, *stream, *leg)

// carried are the ways in which a session of plain bytes can come to the front and go
// on to its node.
func carried(t *testing.T, run func(t *testing.T, start starter)) {
	for _, protocol := range []proxy.Protocol{proxy.TCP, proxy.TLS} {
		t.Run(protocol.String(), func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, change func(*proxy.Options)) (*front, *stream, *leg) {
				n := startNode(t, "one")
				f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: protocol}, change)
				client := f.client(protocol)
				return f, client, n.leg()
			})
		})
	}
}

// client returns a client of a protocol.
func (f *front) client(protocol proxy.Protocol) *stream {
	f.t.Helper()
	if protocol == proxy.TLS {
		return f.dialSecure(f.clientTLS())
	}
	return f.dial()
}

// What is sent arrives as it was sent, both ways, whoever speaks first.
func TestOpaque(t *testing.T) {
	t.Parallel()
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, nil)
		leg.send("220 ready\r\n")
		client.recv("220 ready\r\n")
		client.send("\x00\x16\xff<not/>xml\r\n")
		leg.recv("\x00\x16\xff<not/>xml\r\n")
		client.closeWrite()
		leg.end()
		leg.send("bye") // the other side goes on
		leg.closeWrite()
		client.recv("bye")
		client.end()
		r := f.ended("client-closed")
		for key, want := range map[string]string{
			"user": "127.0.0.1/32", "identified_by": "source", "node": "one",
			"in.bytes": "14", "out.bytes": "14", "source": client.LocalAddr().String(),
		} {
			if r[key] != want {
				t.Errorf("logged %s %q, want %q", key, r[key], want)
			}
		}
		for _, key := range []string{"logged_in", "auth_failures", "in.messages", "in.presences", "in.iqs", "out.messages"} {
			if got, ok := r[key]; ok { // of which the front knows nothing
				t.Errorf("logged %s %q", key, got)
			}
		}
	})
}

// The source prefix is what the node is picked by, and the pick counts until the end.
func TestOpaqueSource(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	pick := witnessOf(n)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, nil)
	client := f.dial()
	leg := n.leg()
	leg.send("hello")
	client.recv("hello")
	client.send("x")
	leg.recv("x")
	var on []string
	for _, info := range f.sessionsOf("one") {
		on = append(on, info.User+" "+info.ID)
	}
	r := f.hangsUp(client, leg)
	if got := pick.users(); !slices.Equal(got, []string{"127.0.0.1/32"}) {
		t.Errorf("picked for %q", got)
	}
	if want := []string{"127.0.0.1/32 " + r["id"]}; !slices.Equal(on, want) {
		t.Errorf("on the node were %q, want %q", on, want)
	}
	pick.free(t)
}

// A node that ends its side still hears its client.
func TestOpaqueNodeHalfCloses(t *testing.T) {
	t.Parallel()
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, nil)
		leg.send("last")
		leg.closeWrite()
		client.recv("last")
		client.end()
		client.send("still here")
		leg.recv("still here")
		client.Close()
		leg.end()
		f.ended("node-closed")
	})
}

// A side that breaks is seen to break by the other, as if there were no front.
func TestOpaqueReset(t *testing.T) {
	t.Parallel()
	carried(t, func(t *testing.T, start starter) {
		t.Run("client", func(t *testing.T) {
			f, client, leg := start(t, nil)
			client.send("a")
			leg.recv("a")
			client.reset()
			leg.broken()
			f.ended("client-reset")
		})
		t.Run("node", func(t *testing.T) {
			f, client, leg := start(t, nil)
			leg.send("a")
			client.recv("a")
			leg.reset()
			client.broken()
			if r := f.ended("node-lost"); !strings.Contains(r["cause"], "node one: ") {
				t.Errorf("logged the cause %q", r["cause"])
			}
		})
		t.Run("client after its end", func(t *testing.T) {
			f, client, leg := start(t, nil)
			client.send("a")
			leg.recv("a")
			client.closeWrite()
			leg.end()
			client.reset()
			// A write finds out, or the read that a reset ends.
			if _, err := leg.Write([]byte("x")); err == nil {
				_, _ = io.Copy(io.Discard, leg)
			}
			f.ended("client-reset")
		})
		t.Run("node after the client's end", func(t *testing.T) {
			f, client, leg := start(t, nil)
			client.closeWrite()
			leg.end()
			leg.reset()
			client.broken()
			f.ended("node-lost")
		})
	})
}

// A connection to a node that breaks after it stood is a reason to look at the node; its end
// in order is not.
func TestOpaqueOutcomes(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	pick := witnessOf(n)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, nil)
	client := f.dial()
	leg := n.leg()
	leg.Close()
	client.end()
	client.Close()
	f.ended("node-closed")
	client = f.dial()
	leg = n.leg()
	leg.reset()
	client.broken()
	f.ended("node-lost")
	pick.free(t)
	pick.mu.Lock()
	defer pick.mu.Unlock()
	want := []string{"one: connected", "one: connected", "one: lost"}
	if !slices.Equal(pick.outcomes, want) {
		t.Errorf("reported %q, want %q", pick.outcomes, want)
	}
}

// A node that has closed the connection in order was not lost because its system answers what the client
// goes on to say with a reset.
func TestOpaqueNodeClosesFirst(t *testing.T) {
	t.Parallel()
	for _, protocol := range []proxy.Protocol{proxy.TCP, proxy.TLS} {
		t.Run(protocol.String(), func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			pick := witnessOf(n)
			f := startOpaque(t, pick, proxy.Listener{Protocol: protocol}, nil)
			client := f.client(protocol)
			leg := n.leg()
			leg.send("bye")
			leg.Close()
			client.recv("bye")
			client.end()
			if err := client.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			for err := error(nil); err == nil; {
				_, err = client.Write([]byte("more"))
			}
			if r := f.ended("node-closed"); !strings.Contains(r["cause"], "node one: ") {
				t.Errorf("logged the cause %q", r["cause"])
			}
			pick.mu.Lock()
			defer pick.mu.Unlock()
			if want := []string{"one: connected"}; !slices.Equal(pick.outcomes, want) {
				t.Errorf("reported %q, want %q", pick.outcomes, want)
			}
		})
	}
}

// fill writes until nothing more is taken for a while, and returns how much was.
func (s *stream) fill(limit int) (sent int) {
	s.t.Helper()
	block := pattern(64 << 10)
	for sent < limit {
		if err := s.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			s.t.Fatal(err)
		}
		n, err := s.Write(block[sent%len(block):])
		sent += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.SetWriteDeadline(time.Time{}); err != nil {
		s.t.Fatal(err)
	}
	return sent
}

// pattern is n bytes of which no two neighbours of a row are alike.
func pattern(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i ^ i>>8 ^ i>>16)
	}
	return p
}

// small makes the kernel hold little for a connection, so that it is soon full.
func (s *stream) small() {
	s.t.Helper()
	if err := errors.Join(s.tcp().SetReadBuffer(64<<10), s.tcp().SetWriteBuffer(64<<10)); err != nil {
		s.t.Fatal(err)
	}
}

// Who does not read is not written to without end: the writer has to wait, and what it
// wrote arrives whole afterwards.
func TestOpaqueBackPressure(t *testing.T) {
	t.Parallel()
	const limit = 64 << 20
	for name, up := range map[string]bool{"to the node": true, "to the client": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, nil)
			client := f.dial()
			leg := n.leg()
			client.small()
			leg.small()
			from, to := client, leg.stream
			if !up {
				from, to = to, from
			}
			sent := from.fill(limit)
			if sent >= limit {
				t.Fatalf("%d bytes were taken that nobody reads", sent)
			}
			got := sha256.New()
			done := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(got, to)
				done <- n
			}()
			from.closeWrite()
			if n := <-done; n != int64(sent) {
				t.Fatalf("%d bytes arrived, want %d", n, sent)
			}
			want := sha256.New()
			block := pattern(64 << 10)
			for left := sent; left > 0; left -= len(block) {
				want.Write(block[:min(left, len(block))])
			}
			if string(got.Sum(nil)) != string(want.Sum(nil)) {
				t.Error("other bytes arrived than were sent")
			}
		})
	}
}

// Who does not read for too long is cut off. What it did not get it must not take for
// the end.
func TestOpaqueSlow(t *testing.T) {
	t.Parallel()
	for reason, up := range map[string]bool{"slow-node": true, "slow-client": false} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			n := startNode(t, "one")
			f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
				o.Timeouts.Write = 100 * time.Millisecond
			})
			client := f.dial()
			leg := n.leg()
			client.small()
			leg.small()
			from, to := client, leg.stream
			if !up {
				from, to = to, from
			}
			// An error is the front's patience at its end.
			if err := from.SetWriteDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			block := pattern(64 << 10)
			for {
				if _, err := from.Write(block); err != nil {
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Fatal("the session goes on")
					}
					break
				}
			}
			f.ended(reason)
			if err := to.SetReadDeadline(time.Now().Add(patience)); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, to); err == nil {
				t.Error("the slow side saw an end in order")
			}
		})
	}
}

// A session in which nothing happens ends in order; bytes in one direction are enough
// to keep it.
func TestOpaqueIdle(t *testing.T) {
	t.Parallel()
	const idle = 800 * time.Millisecond
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, func(o *proxy.Options) { o.Timeouts.Idle = idle })
		began := time.Now()
		tick := time.NewTicker(idle / 16)
		defer tick.Stop()
		var last time.Time
		for time.Since(began) < 2*idle+idle/8 { // so that the last comes soon after a look whether any did
			<-tick.C
			last = time.Now()
			leg.send("x")
			client.recv("x")
		}
		client.end()
		if quiet := time.Since(last); quiet < idle || quiet > idle*7/4 {
			t.Errorf("the session ended %v after the last byte", quiet)
		}
		leg.end()
		f.ended("idle-timeout")
	})
}

// After the end of one side the other may go on as long as it has something to say,
// also where idleness as such has no limit. Then it is cut off, and does not take what it
// has got for all.
func TestOpaqueHalfOpen(t *testing.T) {
	t.Parallel()
	const linger = time.Second
	for name, idle := range map[string]time.Duration{"without idle timeout": 0, "with a long one": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			carried(t, func(t *testing.T, start starter) {
				f, client, leg := start(t, func(o *proxy.Options) {
					o.Timeouts.Idle, o.Timeouts.HalfOpen = idle, linger
				})
				client.closeWrite()
				leg.end()
				began := time.Now()
				tick := time.NewTicker(linger / 20)
				defer tick.Stop()
				var last time.Time
				for time.Since(began) < 2*linger+linger/8 {
					<-tick.C
					last = time.Now()
					leg.send("x")
					client.recv("x")
				}
				client.broken()
				if quiet := time.Since(last); quiet < linger || quiet > linger*7/4 {
					t.Errorf("the session ended %v after the last byte", quiet)
				}
				if r := f.ended("half-open-timeout"); !strings.Contains(r["cause"], "nothing came from the node for 1s") {
					t.Errorf("logged the cause %q", r["cause"])
				}
			})
		})
	}
}

// A node that has ended its side waits for its client as long, and is cut off as well.
func TestOpaqueNodeHalfOpen(t *testing.T) {
	t.Parallel()
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, func(o *proxy.Options) { o.Timeouts.HalfOpen = 200 * time.Millisecond })
		leg.closeWrite()
		client.end()
		leg.broken()
		if r := f.ended("half-open-timeout"); !strings.Contains(r["cause"], "nothing came from the client") {
			t.Errorf("logged the cause %q", r["cause"])
		}
	})
}

// An idle session of which one side has ended does not end in order for that side.
func TestOpaqueHalfOpenIdle(t *testing.T) {
	t.Parallel()
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, func(o *proxy.Options) { o.Timeouts.Idle = 300 * time.Millisecond })
		client.closeWrite()
		leg.end()
		client.broken()
		f.ended("idle-timeout")
	})
}

// A side that has ended and takes its time to read what there is for it waits for nothing.
func TestOpaqueHalfOpenSlow(t *testing.T) {
	t.Parallel()
	const linger = 2 * time.Second // in which the other begins
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
		o.Timeouts.HalfOpen = linger
	})
	client := f.dial()
	leg := n.leg()
	client.small()
	leg.small()
	client.closeWrite()
	leg.end()
	sent := leg.fill(64 << 20)
	<-time.After(2 * linger) // in which not a byte is taken
	leg.closeWrite()
	client.soon()
	if got, err := io.Copy(io.Discard, client); err != nil || got != int64(sent) {
		t.Errorf("got %d bytes and %v, want %d", got, err, sent)
	}
	f.ended("client-closed")
}

// A stream of QUIC is cut off by a reset, which no end in order comes before.
func TestOpaqueQUICHalfOpen(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	f := startOpaque(t, witnessOf(n), proxy.Listener{Protocol: proxy.QUIC, ALPN: []string{"chat"}}, func(o *proxy.Options) {
		o.Timeouts.HalfOpen = 200 * time.Millisecond
	})
	client := f.openOpaqueQUIC()
	client.send("question")
	leg := n.leg()
	leg.recv("question")
	client.closeWrite()
	leg.end()
	client.soon()
	var reset *quic.StreamError
	if got, err := io.ReadAll(client); len(got) > 0 || !errors.As(err, &reset) {
		t.Errorf("got %q and %v, want a reset", got, err)
	}
	f.ended("half-open-timeout")
}

// openOpaqueQUIC returns a client on a stream of a connection of its own.
func (f *front) openOpaqueQUIC() *stream {
	f.t.Helper()
	return f.streamOn(f.dialOpaqueQUIC())
}

// dialOpaqueQUIC returns a connection for what the listener x has agreed to carry as chat.
func (f *front) dialOpaqueQUIC() *quic.Conn {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, f.addr("x"), f.clientTLS("chat"), nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

// streamOn returns a client on a further stream of a connection.
func (f *front) streamOn(conn *quic.Conn) *stream {
	f.t.Helper()
	s, err := conn.OpenStream()
	if err != nil {
		f.t.Fatal(err)
	}
	return newStream(f.t, proxy.NewQUICConn(conn, s))
}

// XMPP is there for who listens for it: where other protocols are listed it has to be, too.
func TestQUICTakesWhatIsListed(t *testing.T) {
	t.Parallel()
	for alpn, takes := range map[string]bool{"": true, "xmpp-client": true, "chat": false, "chat xmpp-client": true} {
		f := startOpaque(t, witnessOf(), proxy.Listener{Protocol: proxy.QUIC, ALPN: strings.Fields(alpn)}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		conn, err := quic.DialAddr(ctx, f.addr("x"), f.clientTLS("xmpp-client"), nil)
		cancel()
		if (err == nil) != takes {
			t.Errorf("with %q: %v", alpn, err)
		}
		if err == nil {
			_ = conn.CloseWithError(0, "")
		}
		f.record()
	}
}

// A node that refuses costs the client nothing: the next one gets the same bytes.
func TestOpaqueNextNode(t *testing.T) {
	t.Parallel()
	refuses, serves := startNode(t, "refuses"), startNode(t, "serves")
	refuses.ln.Close()
	pick := witnessOf(refuses, serves)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP, Identify: byLine(t)}, nil)
	client := f.dial()
	client.send("LOGIN alice\r\nand more")
	leg := serves.leg()
	leg.recv("LOGIN alice\r\nand more")
	client.send("!")
	leg.recv("!")
	if r := f.hangsUp(client, leg); r["node"] != "serves" || r["user"] != "alice" {
		t.Errorf("logged %v", r)
	}
	if got := pick.users(); !slices.Equal(got, []string{"alice", "alice"}) {
		t.Errorf("picked for %q", got)
	}
	pick.free(t)
	if !slices.Equal(pick.outcomes, []string{"refuses: refused", "serves: connected"}) {
		t.Errorf("reported %q", pick.outcomes)
	}
}

func TestOpaqueNoNode(t *testing.T) {
	t.Parallel()
	var dead []*node
	for _, name := range []string{"a", "b", "c", "d"} {
		n := startNode(t, name)
		n.ln.Close()
		dead = append(dead, n)
	}
	tests := map[string]struct {
		nodes    []*node
		attempts int
		reason   string
		picks    int
	}{
		"none":             {nil, 0, "no-node", 1},
		"one, dead":        {dead[:1], 0, "dial-failed", 2},
		"more than it may": {dead, 0, "dial-failed", 3},
		"one attempt":      {dead, 1, "dial-failed", 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			pick := witnessOf(test.nodes...)
			f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
				o.Pools["nodes"] = proxy.Pool{Picker: pick, DialAttempts: test.attempts}
			})
			client := f.dial()
			if got := client.over(); got != "" {
				t.Errorf("the client got %q", got)
			}
			r := f.ended(test.reason)
			if got := len(pick.users()); got != test.picks {
				t.Errorf("picked %d times, want %d", got, test.picks)
			}
			if len(test.nodes) > 0 && !strings.Contains(r["cause"], "dial a: ") {
				t.Errorf("logged the cause %q", r["cause"])
			}
			pick.free(t)
		})
	}
}

// A node that takes the connection and never says a word of TLS is one of many.
func TestOpaqueDialTimeout(t *testing.T) {
	t.Parallel()
	mute, serves := startNode(t, "mute"), startNode(t, "serves")
	cert, ca := certificate(t)
	pick := witnessOf(mute, serves)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP}, func(o *proxy.Options) {
		o.Pools["nodes"] = proxy.Pool{Picker: pick, DialTimeout: 3 * time.Second, TLS: nodeTLS(ca)} // enough for the one that serves
	})
	client := f.dial()
	leg := serves.secure(cert)
	leg.send("hello")
	client.recv("hello")
	if r := f.hangsUp(client, leg); r["node"] != "serves" {
		t.Errorf("logged %v", r)
	}
}

// The front's end is told to both sides by the end of what is written to them.
func TestOpaqueShutdown(t *testing.T) {
	t.Parallel()
	carried(t, func(t *testing.T, start starter) {
		f, client, leg := start(t, func(o *proxy.Options) { o.Timeouts.Shutdown = time.Second })
		client.send("a")
		leg.recv("a")
		done := make(chan error, 1)
		go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
		client.end()
		client.Close()
		leg.end()
		leg.Close()
		f.ended("shutdown")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A client that has not said who it is does not keep the front from stopping.
func TestOpaqueShutdownEarly(t *testing.T) {
	t.Parallel()
	f := startOpaque(t, witnessOf(), proxy.Listener{Protocol: proxy.TCP, Identify: byLine(t)}, nil)
	client := f.dial()
	client.send("LOG")
	for f.Status().Sessions == 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("no session")
		case <-time.After(time.Millisecond):
		}
	}
	if err := f.Shutdown(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
	client.over()
	f.ended("shutdown")
}

// A listener on IPv6 tells the node so, whatever the node is on.
func TestOpaqueIPv6(t *testing.T) {
	t.Parallel()
	if ln, err := net.Listen("tcp", "[::1]:0"); err != nil {
		t.Skip("no IPv6 here")
	} else {
		ln.Close()
	}
	n := startNode(t, "one")
	pick := witnessOf(n)
	f := startOpaque(t, pick, proxy.Listener{Protocol: proxy.TCP, Address: "[::1]:0"}, nil)
	client := f.dial()
	leg := n.leg()
	if got := leg.header.SourceAddr.String(); got != client.LocalAddr().String() || leg.raw[13] != 0x21 {
		t.Errorf("the node was told %s in family %#x", got, leg.raw[13])
	}
	if got := leg.header.DestinationAddr.String(); got != f.addr("x") {
		t.Errorf("the node was told that the client came to %s", got)
	}
	checkSum(t, leg.raw)
	client.send("x")
	leg.recv("x")
	f.hangsUp(client, leg)
	if got := pick.users(); !slices.Equal(got, []string{"::/64"}) {
		t.Errorf("picked for %q", got)
	}
}

// However many sessions there are when the front stops, each ends for that reason, and in
// order for its client and its node.
func TestOpaqueQUICShutdown(t *testing.T) {
	t.Parallel()
	const sessions = 30
	f, n := startQUIC(t, nil)
	var clients []*stream
	var legs []*leg
	for range sessions {
		client := f.openOpaqueQUIC()
		client.send("hi")
		leg := n.leg()
		leg.recv("hi")
		leg.send("welcome")
		client.recv("welcome")
		clients, legs = append(clients, client), append(legs, leg)
	}
	done := make(chan error, 1)
	go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
	for i, client := range clients {
		client.end()
		client.closeWrite()
		legs[i].end()
	}
	for range sessions {
		f.ended("shutdown")
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// drained are the sessions that something carries which has to be drained when the front
// stops.
func drained(t *testing.T, run func(t *testing.T, start starter)) {
	t.Helper()
	carried(t, func(t *testing.T, start starter) {
		run(t, func(t *testing.T, change func(*proxy.Options)) (*front, *stream, *leg) {
			f, client, leg := start(t, change)
			client.send("hello")
			leg.recv("hello")
			return f, client, leg
		})
	})
	t.Run("quic", func(t *testing.T) {
		t.Parallel()
		run(t, func(t *testing.T, change func(*proxy.Options)) (*front, *stream, *leg) {
			f, n := startQUIC(t, change)
			client := f.openOpaqueQUIC()
			client.send("hello")
			leg := n.leg()
			leg.recv("hello")
			return f, client, leg
		})
	})
}

// When the front stops, what a client still sends goes to its node, up to the client's end.
// There is an end to the patience with it, which its node must not take for that.
func TestOpaqueDrained(t *testing.T) {
	t.Parallel()
	body := string(pattern(1 << 20))
	stop := func(t *testing.T, f *front) (wait func()) {
		done := make(chan error, 1)
		go func() { done <- f.Shutdown(context.WithoutCancel(t.Context())) }()
		return func() {
			t.Helper()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Run("in time", func(t *testing.T) {
		t.Parallel()
		drained(t, func(t *testing.T, start starter) {
			f, client, leg := start(t, nil)
			leg.send("before")
			client.recv("before")
			wait := stop(t, f)
			client.end()
			go func() {
				client.send(body)
				client.closeWrite()
			}()
			leg.recv(body)
			leg.end()
			f.ended("shutdown")
			client.Close()
			wait()
		})
	})
	t.Run("too slow", func(t *testing.T) {
		t.Parallel()
		drained(t, func(t *testing.T, start starter) {
			f, client, leg := start(t, func(o *proxy.Options) { o.Timeouts.HalfOpen = 300 * time.Millisecond })
			wait := stop(t, f)
			client.end()
			client.send("half of")
			leg.recv("half of")
			leg.broken()
			f.ended("shutdown")
			wait()
		})
	})
	t.Run("cut off", func(t *testing.T) {
		t.Parallel()
		drained(t, func(t *testing.T, start starter) {
			f, client, leg := start(t, func(o *proxy.Options) { o.Timeouts.Shutdown = 300 * time.Millisecond })
			wait := stop(t, f)
			client.end()
			client.send("half of")
			leg.recv("half of")
			leg.broken()
			if r := f.ended("shutdown"); r["cause"] == "" {
				t.Errorf("logged %v", r)
			}
			wait()
		})
	})
	t.Run("the client has ended", func(t *testing.T) {
		t.Parallel()
		drained(t, func(t *testing.T, start starter) {
			f, client, leg := start(t, nil)
			client.closeWrite()
			leg.end()
			wait := stop(t, f)
			leg.send("answer")
			client.recv("answer")
			leg.closeWrite()
			client.end()
			if r := f.record()["reason"]; r != "shutdown" && r != "client-closed" { // it may have been faster
				t.Errorf("logged %s", r)
			}
			wait()
		})
	})
}
