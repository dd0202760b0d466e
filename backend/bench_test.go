package backend_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
)

// BenchmarkMessage is one message from a client through the node to another, over
// loopback connections, with a store in memory: what the node itself costs.
func BenchmarkMessage(b *testing.B) {
	c := newCluster(b, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	stanza := "<message to='bob@example.com' type='chat' id='m1'><body>" + strings.Repeat("x", 256) + "</body></message>"
	b.ReportAllocs()
	for b.Loop() {
		alice.write(stanza)
		bob.next()
	}
}

// BenchmarkMessages is the same with many messages on their way.
func BenchmarkMessages(b *testing.B) {
	c := newCluster(b, 1, nil)
	alice, bob := c.online(0, "alice", "phone"), c.online(0, "bob", "desk")
	stanza := "<message to='bob@example.com' type='chat' id='m1'><body>" + strings.Repeat("x", 256) + "</body></message>"
	const window = 100
	burst := strings.Repeat(stanza, window)
	b.ReportAllocs()
	for b.Loop() {
		alice.write(burst)
		for range window {
			bob.next()
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*window), "ns/message")
}

// BenchmarkLogin is one SASL PLAIN login with few iterations, bind and close.
func BenchmarkLogin(b *testing.B) {
	c := newCluster(b, 1, nil)
	for b.Loop() {
		alice := c.login(0, "alice", "phone")
		alice.write("</stream:stream>")
		if _, err := io.Copy(io.Discard, alice.conn); err != nil {
			b.Fatal(err)
		}
		_ = alice.conn.Close()
	}
}

// BenchmarkPresence is one presence update of a user who has 100 contacts.
func BenchmarkPresence(b *testing.B) {
	c := newCluster(b, 1, nil)
	for i := range 100 {
		name := fmt.Sprintf("friend-%d", i)
		c.account(name)
		c.befriend("alice", name)
	}
	alice := c.online(0, "alice", "phone")
	b.ReportAllocs()
	for b.Loop() {
		alice.write("<presence><show>away</show></presence>")
		alice.next()
	}
}
