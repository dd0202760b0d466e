package backend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// blocklist is whom a user does not want to hear of (XEP-0191), made for looking
// addresses up. It is not changed once made; nil is an empty one.
type blocklist struct {
	version   uint64
	addresses map[string]struct{}
	resources map[string][]string // those on it by themselves, by bare address; nil: none
}

func newBlocklist(list store.Blocklist) *blocklist {
	b := blocklistOf(list.Addresses)
	b.version = list.Version
	return b
}

// blocklistOf returns a list of these addresses that has no version.
func blocklistOf(addresses []string) *blocklist {
	b := &blocklist{addresses: make(map[string]struct{}, len(addresses))}
	for _, a := range addresses {
		b.addresses[a] = struct{}{}
		if bare, resource, full := strings.Cut(a, "/"); full {
			if b.resources == nil {
				b.resources = make(map[string][]string)
			}
			b.resources[bare] = append(b.resources[bare], resource)
		}
	}
	return b
}

// matches tells whether an address is blocked (XEP-0191 §5): by itself, with all
// resources of its bare address, or with all of its domain.
func (b *blocklist) matches(j xmpp.JID) bool {
	return b.blocksAny() && (b.has(j.String()) || b.has(j.Bare().String()) || b.has(j.Domain()))
}

// matchesUser is matches for a canonical bare JID.
func (b *blocklist) matchesUser(user string) bool {
	return b.blocksAny() && (b.has(user) || b.has(user[strings.IndexByte(user, '@')+1:]))
}

// resourcesOf returns which resources of a user are blocked by themselves.
func (b *blocklist) resourcesOf(user string) []string {
	if b == nil {
		return nil
	}
	return b.resources[user]
}

// among returns those of some addresses that are on the list, and the resources of others that are.
func (b *blocklist) among(some map[xmpp.JID]struct{}) []xmpp.JID {
	var all []xmpp.JID
	for to := range some {
		if b.matches(to) {
			all = append(all, to)
			continue
		}
		for _, resource := range b.resourcesOf(to.String()) {
			if one, err := to.WithResource(resource); err == nil {
				all = append(all, one)
			}
		}
	}
	return all
}

// number is the list's version; 0: there was none yet.
func (b *blocklist) number() uint64 {
	if b == nil {
		return 0
	}
	return b.version
}

func (b *blocklist) blocksAny() bool { return b != nil && len(b.addresses) > 0 }

// all returns the addresses on the list, sorted by their bytes.
func (b *blocklist) all() []string {
	if b == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(b.addresses))
}

func (b *blocklist) has(address string) bool {
	_, ok := b.addresses[address]
	return ok
}

// newer returns the one of two lists of a user that was made later.
func (b *blocklist) newer(other *blocklist) *blocklist {
	if b == nil || other != nil && other.version > b.version {
		return other
	}
	return b
}

// blockCache remembers blocklists, since every stanza to somebody asks for two: the
// sender's and the recipient's. A change reaches all nodes by a signal, and is then
// seen by the next lookup. Where the signal is lost and nobody has noticed, a node
// may act on the old list for blockCacheTime.
type blockCache struct {
	store store.Blocklists
	hears atomic.Bool // the node hears of changes; nothing that was read before is remembered

	mu    sync.Mutex
	known map[store.OwnerID]cachedBlocks
	bytes int // what known costs, about
}

type cachedBlocks struct {
	list  *blocklist
	until time.Time // zero: only the version is known
	bytes int
}

const (
	blockCacheTime  = time.Minute
	blockCacheBytes = 32 << 20
)

// What a list, and an address on it, cost beside the address's bytes, about.
const (
	blocksOverhead  = 160
	blockedOverhead = 48
)

func newBlockCache(s store.Blocklists) *blockCache {
	return &blockCache{store: s, known: make(map[store.OwnerID]cachedBlocks)}
}

// lookup returns the list of an owner, which is empty for one who does not exist. It
// asks the store, for the given time at most, if it has to.
func (c *blockCache) lookup(ctx context.Context, owner store.OwnerID, patience time.Duration) (*blocklist, error) {
	now := time.Now()
	c.mu.Lock()
	hit, found := c.known[owner]
	c.mu.Unlock()
	if found && now.Before(hit.until) {
		return hit.list, nil
	}
	query, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	hears := c.hears.Load()
	stored, err := c.store.Blocklist(query, owner)
	if err != nil {
		return nil, fmt.Errorf("read the blocklist of owner %d: %w", owner, err)
	}
	list := newBlocklist(stored)
	if hears {
		c.remember(owner, list, now.Add(blockCacheTime))
	}
	return list, nil
}

// changed makes the next lookup see the version of the list, or a later one.
func (c *blockCache) changed(owner store.OwnerID, version uint64) {
	c.remember(owner, &blocklist{version: version}, time.Time{})
}

// forget makes all lookups ask the store again.
func (c *blockCache) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
	c.bytes = 0
}

// remember keeps a list until then, unless a later one is known. Of two of the same
// version, one that was read goes before one that is known to be there.
func (c *blockCache) remember(owner store.OwnerID, list *blocklist, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, found := c.known[owner]
	if found && (old.list.version > list.version || old.list.version == list.version && until.IsZero()) {
		return
	}
	cost := list.cost()
	if c.bytes += cost - old.bytes; c.bytes > blockCacheBytes {
		clear(c.known) // simple, and rare enough
		c.bytes = cost
	}
	c.known[owner] = cachedBlocks{list, until, cost}
}

// cost is what a list takes in memory, about.
func (b *blocklist) cost() int {
	cost := blocksOverhead
	for a := range b.addresses {
		cost += len(a) + blockedOverhead
	}
	for bare, resources := range b.resources {
		cost += len(bare) + blockedOverhead*(1+len(resources))
	}
	return cost
}
