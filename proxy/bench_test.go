package proxy_test

import (
	"encoding/binary"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"imlb/proxy"
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

// BenchmarkWebSocket measures the way of bytes to the node and back, one message at a time.
func BenchmarkWebSocket(b *testing.B) {
	for _, size := range []int{100, 64 << 10} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			n := startNode(b, "one")
			f := startOpaque(b, witnessOf(n), proxy.Listener{
				Protocol: proxy.WS, WebSocket: proxy.WebSocket{Subprotocols: []string{""}},
			}, nil)
			client := f.dial()
			said := client.upgrade()
			_ = client.SetReadDeadline(time.Time{})
			leg := n.leg()
			go func() { _, _ = io.Copy(leg, leg) }()
			// Masked with zeros, so that what comes back is what was sent.
			message := binary.BigEndian.AppendUint64([]byte{0x82, 0xff}, uint64(size))
			message = append(message, make([]byte, 4+size)...)
			b.SetBytes(int64(2 * size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(message); err != nil {
					b.Fatal(err)
				}
				for got := 0; got < size; {
					head, err := said.Peek(2)
					if err != nil {
						b.Fatal(err)
					}
					n, long := int(head[1]), map[byte]int{126: 2, 127: 8}[head[1]]
					_, _ = said.Discard(2)
					if long > 0 {
						head, _ = said.Peek(long)
						n = 0
						for _, c := range head {
							n = n<<8 | int(c)
						}
						_, _ = said.Discard(long)
					}
					_, _ = said.Discard(n)
					got += n
				}
			}
		})
	}
}
