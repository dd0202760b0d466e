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
	for i, b := range s.pool[:len(s.pool)-s.left] {
		if b != 0 {
			t.Fatalf("byte %d of an ID that was given out is kept", i)
		}
	}
}
