package proxy

import (
	"encoding/hex"
	"sync"
	"testing"
)

func TestIDs(t *testing.T) {
	t.Parallel()
	var s ids
	var mu sync.Mutex
	seen := map[string]bool{}
	var running sync.WaitGroup
	for range 4 {
		running.Go(func() {
			for range 100 {
				id := s.next().String()
				if raw, err := hex.DecodeString(id); err != nil || len(raw) != 16 {
					t.Errorf("%q: %d bytes, %v", id, len(raw), err)
				}
				mu.Lock()
				if seen[id] {
					t.Errorf("%s twice", id)
				}
				seen[id] = true
				mu.Unlock()
			}
		})
	}
	running.Wait()
}

// Nobody is to find IDs in memory that were given out.
func TestIDsAreForgotten(t *testing.T) {
	t.Parallel()
	var b idBlock
	for range 3 {
		b.next()
	}
	if used := len(b.bytes) - b.left; used != 3*len(ID{}) {
		t.Fatalf("%d bytes are used of three IDs", used)
	}
	for i, octet := range b.bytes[:len(b.bytes)-b.left] {
		if octet != 0 {
			t.Fatalf("byte %d of an ID that was given out is kept", i)
		}
	}
}

func BenchmarkIDs(b *testing.B) {
	var s ids
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			s.next()
		}
	})
}
