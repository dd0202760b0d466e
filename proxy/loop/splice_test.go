package loop_test

import (
	"crypto/sha256"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"imlb/proxy/loop"
)

// TestRelayBulkIsExact sends much in pieces of all sizes, both ways at once, so that
// directions go from copying to splicing and back.
func TestRelayBulkIsExact(t *testing.T) {
	for range 4 {
		s := newSession(t, nil)
		sums := [4]hash.Hash{sha256.New(), sha256.New(), sha256.New(), sha256.New()}
		sizes := [4]int64{}
		seed := rand.Uint64()
		t.Logf("seed %d", seed)
		send := func(conn *net.TCPConn, i int) func() {
			return func() {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				p := pattern(1 << 20)
				for range 60 {
					n := 1 + r.IntN(1<<r.IntN(21))
					if m, err := conn.Write(p[:n]); err != nil {
						t.Errorf("wrote %d, %v", m, err)
						return
					}
					sums[i].Write(p[:n])
					sizes[i] += int64(n)
				}
				conn.CloseWrite()
			}
		}
		get := func(conn *net.TCPConn, i int) func() {
			return func() {
				r := rand.New(rand.NewPCG(seed, uint64(i)))
				for {
					n, err := io.CopyN(sums[i], conn, int64(1+r.IntN(1<<r.IntN(20))))
					sizes[i] += n
					if err != nil {
						return
					}
				}
			}
		}
		together(send(s.client, 0), get(s.node, 1), send(s.node, 2), get(s.client, 3))
		for _, i := range []int{0, 2} {
			if sizes[i] != sizes[i+1] || string(sums[i].Sum(nil)) != string(sums[i+1].Sum(nil)) {
				t.Errorf("%d bytes were sent and %d came, or others", sizes[i], sizes[i+1])
			}
		}
		if e := s.end(t); e.Cause != loop.EOF || e.Up != sizes[0] || e.Down != sizes[2] {
			t.Errorf("ending %+v, want EOF, %d, %d", e, sizes[0], sizes[2])
		}
	}
}

// TestRelayBulkUrgent has urgent data in the middle of much else: where it stands is no end.
func TestRelayBulkUrgent(t *testing.T) {
	if portable {
		t.Skip("nothing is spliced, and what is urgent is read ahead")
	}
	s := newSession(t, nil)
	p := pattern(16 << 20)
	together(func() {
		mustWrite(t, s.client, p[:8<<20])
		urge(t, s.client)
		mustWrite(t, s.client, p[8<<20:])
		s.client.CloseWrite()
	}, func() {
		wantRead(t, s.node, p)
		wantEOF(t, s.node)
	})
	s.node.CloseWrite()
	wantEOF(t, s.client)
	if e := s.end(t); e.Cause != loop.EOF || e.Side != loop.Client {
		t.Errorf("ending %+v, want EOF by the client", e)
	}
}
