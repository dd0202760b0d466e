package backend

import (
	"testing"
	"time"
)

// No more than the rate passes in any order of stanzas, and what is more than a
// burst has its time as well.
func TestPacer(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPacer(10, 1000, time.Second)
	for i := range 20 {
		stanzas, bytes := p.reserve(now, true, 50)
		want := max(0, time.Duration(i-9)*100*time.Millisecond)
		if stanzas != want {
			t.Errorf("stanza %d waits for %v, want %v", i, stanzas, want)
		}
		if bytes != 0 {
			t.Errorf("bytes of stanza %d wait for %v", i, bytes)
		}
	}
	if stanzas, bytes := p.reserve(now, false, 3000); stanzas != 0 || bytes != 3*time.Second {
		t.Errorf("a long element waits for %v and %v", stanzas, bytes)
	}
	var none *pacer
	if stanzas, bytes := none.reserve(now, true, 1<<20); stanzas != 0 || bytes != 0 {
		t.Error("without limits there is something to wait for")
	}
	if newPacer(0, 0, time.Second) != nil {
		t.Error("without limits there is a pacer")
	}
}
