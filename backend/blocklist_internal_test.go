package backend

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// XEP-0191 §5.
func TestBlocklistMatches(t *testing.T) {
	for _, tt := range []struct{ item, matches, not string }{
		{"bob@example.com/desk", "bob@example.com/desk", "bob@example.com bob@example.com/tab bob@example.com/desk/x example.com/desk"},
		{"bob@example.com", "bob@example.com bob@example.com/desk", "example.com bobo@example.com bob@a.example.com bob@example.com.net"},
		{"example.com/desk", "example.com/desk", "example.com bob@example.com/desk example.com/tab"},
		{"example.com", "example.com example.com/desk bob@example.com bob@example.com/desk", "a.example.com bob@a.example.com example.com@x"},
	} {
		list := newBlocklist(store.Blocklist{Addresses: []string{tt.item}, Version: 1})
		check := func(addresses string, want bool) {
			t.Helper()
			for address := range strings.FieldsSeq(addresses) {
				j, err := xmpp.ParseJID(address)
				if err != nil {
					t.Fatal(err)
				}
				if got := list.matches(j); got != want {
					t.Errorf("%s matches %s: %t", tt.item, address, got)
				}
				if got := list.matchesUser(address); j.Local() != "" && j.IsBare() && got != want {
					t.Errorf("%s matches the user %s: %t", tt.item, address, got)
				}
			}
		}
		check(tt.matches, true)
		check(tt.not, false)
	}
	var none *blocklist
	if none.matches(xmpp.JID{}) || none.matchesUser("") {
		t.Error("no list matches something")
	}
}

// blockStore is a store of which the test says what it holds, and which counts.
type blockStore struct {
	store.Blocklists

	list   store.Blocklist
	asked  int
	during func() // runs while it is asked
}

func (s *blockStore) Blocklist(context.Context, store.OwnerID) (store.Blocklist, error) {
	s.asked++
	list := s.list
	if s.during != nil {
		s.during()
	}
	return list, nil
}

func TestBlockCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &blockStore{}
		c := newBlockCache(s)
		c.hears.Store(true)
		lookup := func(version uint64, asked int) {
			t.Helper()
			list, err := c.lookup(t.Context(), 1, time.Second)
			if err != nil || list.version != version || s.asked != asked {
				t.Fatalf("version %d, asked %d times, %v; want version %d, asked %d times", list.version, s.asked, err, version, asked)
			}
		}
		lookup(0, 1)
		lookup(0, 1)
		s.list.Version = 1
		lookup(0, 1) // nobody has said so
		c.changed(1, 1)
		lookup(1, 2)
		c.changed(1, 1) // late news
		lookup(1, 2)
		s.list.Version = 2
		pause(t.Context(), blockCacheTime) // the bubble's time: the signal was lost
		lookup(2, 3)

		// A change is heard of while the list of before is read.
		pause(t.Context(), blockCacheTime)
		s.during = func() { c.changed(1, 3) }
		lookup(2, 4)
		s.during, s.list.Version = nil, 3
		lookup(3, 5)
		lookup(3, 5)
	})
}

// The cache is bounded by what it holds, and holds what came last.
func TestBlockCacheIsBounded(t *testing.T) {
	s := &blockStore{}
	c := newBlockCache(s)
	c.hears.Store(true)
	long := strings.Repeat("x", 1000)
	for i := range 100 {
		s.list.Addresses = append(s.list.Addresses, fmt.Sprintf("%d%s", i, long))
	}
	for owner := range store.OwnerID(700) { // 70 MB
		if _, err := c.lookup(t.Context(), owner, time.Second); err != nil {
			t.Fatal(err)
		}
		cost := 0
		for _, known := range c.known {
			cost += known.list.cost()
		}
		if cost != c.bytes || cost > blockCacheBytes {
			t.Fatalf("%d bytes are held, and %d counted", cost, c.bytes)
		}
	}
	asked := s.asked
	if _, err := c.lookup(t.Context(), 699, time.Second); err != nil || s.asked != asked {
		t.Errorf("the last list was not held: %v", err)
	}
}
