package proxy_test

import (
	"crypto/tls"
	"testing"
	"time"

	"imlb/proxy"
)

// A client that has left Nagle's algorithm on speaks right after its handshake, and does not
// wait for the acknowledgement that Linux puts off for 40 ms at least.
func TestTLSIsAcknowledged(t *testing.T) {
	t.Parallel()
	n := startNode(t, "one")
	for name, l := range map[string]proxy.Listener{
		"relayed at once":    {Protocol: proxy.TLS},
		"waits for a client": {Protocol: proxy.TLS, Identify: byLine(t)},
	} {
		f := startOpaque(t, witnessOf(n), l, nil)
		best, most := time.Hour, 30*time.Millisecond
		for try := 0; best > most && try < 100; try++ { // a busy machine may be slow, too
			tcp := f.dial()
			if err := tcp.tcp().SetNoDelay(false); err != nil {
				t.Fatal(err)
			}
			conn := tls.Client(tcp.Conn, f.clientTLS())
			if err := conn.HandshakeContext(t.Context()); err != nil {
				t.Fatal(err)
			}
			client, began := newStream(t, conn), time.Now()
			client.send("LOGIN alice\n")
			leg := n.leg()
			leg.recv("LOGIN alice\n")
			best = min(best, time.Since(began))
			f.hangsUp(client, leg)
		}
		if best > most {
			t.Errorf("%s: it took %v at least", name, best)
		}
	}
}
