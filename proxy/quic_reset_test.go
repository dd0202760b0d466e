package proxy_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"imlb/proxy"
	"imlb/proxy/secrets"
)

// A front that dies is followed by one on its address with the same keys. The
// clients of the first learn at once that their connections are gone
// (RFC 9000 §10.3). A front of another name says nothing, since it cannot know.
func TestQUICStatelessReset(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	n, pick := onlyNode(t)
	a, b, other := startKeyed(t, pick, keys, "a"), startKeyed(t, pick, keys, "a"), startKeyed(t, pick, keys, "b")
	p := startPath(t, a.addr("keyed"))
	conn := a.dialQUICAt(p.addr(), nil)
	client := a.openQUIC(conn)
	leg := login(client, n, "alice")
	converse(client, leg, "alive")

	p.lead(other.addr("keyed"))
	client.send("<presence/>")
	p.lead(b.addr("keyed")) // this is where it goes at the latest when it is sent again
	wantReset(t, conn)
	leg.close()
	a.ended("node-lost")
}

// One whose client sends nothing but PINGs, which are too small for the resets of quic-go, learns
// of it, too.
func TestQUICStatelessResetOfPings(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	n, pick := onlyNode(t)
	a, b := startKeyed(t, pick, keys, "a"), startKeyed(t, pick, keys, "a")
	p := startPath(t, a.addr("keyed"))
	conn := a.dialQUICAt(p.addr(), &quic.Config{KeepAlivePeriod: 100 * time.Millisecond, MaxIdleTimeout: 3 * patience})
	client := a.openQUIC(conn)
	leg := login(client, n, "alice")
	converse(client, leg, "alive")
	p.lead(b.addr("keyed"))
	wantReset(t, conn)
	leg.close()
	a.ended("node-lost")
}

// goneID returns a connection id of a process of front a that is gone.
func goneID(t *testing.T, keys secrets.Keys) []byte {
	t.Helper()
	gone, err := proxy.NewConnIDs(keys.ConnectionID, "a", 1)
	if err != nil {
		t.Fatal(err)
	}
	id, err := gone.Generate()
	if err != nil {
		t.Fatal(err)
	}
	return id.Bytes()
}

// shortPacket is one of so many bytes for a connection.
func shortPacket(id []byte, size int) []byte {
	return append(append([]byte{0x40}, id...), make([]byte, size)...)[:size]
}

// Answers to small packets are smaller than these, come from the address that was asked, and end
// in the token of the connection.
func TestQUICSmallStatelessResets(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	for name, at := range map[string][2]string{"one address": {"127.0.0.1:0", "127.0.0.1"}, "all addresses": {":0", "127.0.0.2"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := startKeyedAt(t, &picker{}, keys, "a", at[0])
			_, port, _ := net.SplitHostPort(f.addr("keyed"))
			conn, err := net.Dial("udp", net.JoinHostPort(at[1], port)) // hears what comes from there alone
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			buf := make([]byte, 100)
			for size := 22; size <= 43; size++ {
				id := goneID(t, keys)
				if _, err := conn.Write(shortPacket(id, size)); err != nil {
					t.Fatal(err)
				}
				_ = conn.SetReadDeadline(time.Now().Add(patience))
				got, err := conn.Read(buf)
				if err != nil {
					t.Fatalf("%d bytes: %v", size, err)
				}
				token := hmac.New(sha256.New, keys.Reset[:])
				token.Write(id)
				if got != size-1 || buf[0]&0xc0 != 0x40 || !bytes.Equal(buf[got-16:got], token.Sum(nil)[:16]) {
					t.Errorf("%d bytes: got %d, %x", size, got, buf[:got])
				}
			}
		})
	}
}

// They are not many, however many are asked for.
func TestQUICSmallStatelessResetsFlood(t *testing.T) {
	t.Parallel()
	keys, _ := ring(t)
	f := startKeyed(t, &picker{}, keys, "a")
	conn, err := net.Dial("udp", f.addr("keyed"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	start := time.Now()
	small, last := shortPacket(goneID(t, keys), 40), shortPacket(goneID(t, keys), 43)
	for range 2000 {
		if _, err := conn.Write(small); err != nil {
			t.Fatal(err)
		}
	}
	buf, answers := make([]byte, 100), 0
	for by := start.Add(patience); ; { // quic-go answers this one, when all others were read
		if _, err := conn.Write(last); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(patience / 100))
		n, err := conn.Read(buf)
		for ; err == nil && n == 39; n, err = conn.Read(buf) {
			answers++
		}
		if err == nil && answers > 0 { // or quic-go's has come before all of ours
			break
		} else if time.Now().After(by) {
			t.Fatalf("%d answers, %v", answers, err)
		}
	}
	if most := proxy.ResetBurst + int(time.Since(start).Seconds()*proxy.ResetRate) + 1; answers == 0 || answers > most {
		t.Errorf("%d answers, at most %d are allowed", answers, most)
	}
}

// wantReset waits until a client is told that its connection is gone.
func wantReset(t *testing.T, conn *quic.Conn) {
	t.Helper()
	select {
	case <-conn.Context().Done():
	case <-time.After(patience):
		t.Fatal("the client was not told")
	}
	var reset *quic.StatelessResetError
	if err := context.Cause(conn.Context()); !errors.As(err, &reset) {
		t.Errorf("the client was told %v", err)
	}
}
