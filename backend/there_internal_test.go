package backend

import (
	"fmt"
	"testing"
	"time"
)

func TestThereCache(t *testing.T) {
	t.Parallel()
	var c thereCache
	now := time.Now()
	if c.has("bob@example.com/tab", now) {
		t.Error("nobody was asked for")
	}
	c.add("bob@example.com/tab", now)
	if last := now.Add(thereCacheTime - 1); !c.has("bob@example.com/tab", last) || c.has("bob@example.com/desk", last) {
		t.Error("the one that was there is forgotten, or another one is thought to be there")
	}
	if c.has("bob@example.com/tab", now.Add(thereCacheTime)) {
		t.Error("it is remembered for too long")
	}
	for i := range 3 * thereCacheSize {
		c.add(fmt.Sprint(i), now)
		if len(c.until) > thereCacheSize {
			t.Fatalf("%d are remembered", len(c.until))
		}
	}
}
