package proxy_test

import (
	"io"
	"strings"
	"testing"
)

// A message of a usual size, with the number that nodes add.
func benchMessage() []byte {
	return []byte(strings.Replace(entry("12345"), "<body>hi</body>",
		"<body>"+strings.Repeat("lorem ipsum ", 20)+"</body><active xmlns='http://jabber.org/protocol/chatstates'/>", 1))
}

// BenchmarkRelay measures a message's way to the node and back, in TLS, one at a time.
func BenchmarkRelay(b *testing.B) {
	n, pick := onlyNode(b)
	f := startFront(b, pick, nil)
	client := f.dialTLS()
	leg := login(client, n, "alice")
	go func() { _, _ = io.Copy(leg.conn, leg.conn) }()
	message := benchMessage()
	answer := make([]byte, len(message))
	b.SetBytes(int64(2 * len(message)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.conn.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client.conn, answer); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDeliver measures a stream of messages from the node, in TLS.
func BenchmarkDeliver(b *testing.B) {
	n, pick := onlyNode(b)
	f := startFront(b, pick, nil)
	client := f.dialTLS()
	leg := login(client, n, "alice")
	batch := []byte(strings.Repeat(string(benchMessage()), 100))
	got := make([]byte, len(batch))
	b.SetBytes(int64(len(batch)) / 100)
	b.ReportAllocs()
	sent := 0
	for b.Loop() {
		if sent%100 == 0 {
			if _, err := leg.conn.Write(batch); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(client.conn, got); err != nil {
				b.Fatal(err)
			}
		}
		sent++
	}
}
