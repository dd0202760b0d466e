package backend

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"imlb/backend/store"
)

// missed are the hubs that may have missed signals. What a timeline has is made up for by
// the cursors. Rosters and blocklists have versions, which are compared with the store's, of
// many hubs at a time; they go first, since they say who may see what. Then each hub asks for
// the presence of its contacts.
type missed struct {
	hint chan struct{} // there are some

	mu       sync.Mutex
	versions map[*hub]struct{} // have to be compared
	presence map[*hub]struct{} // has to be asked for
}

// comparedAtATime bounds the hubs whose versions are compared with one query.
const comparedAtATime = 100

// askPause is between the hubs that ask for presence: when a bus comes back, all of
// them have to.
const askPause = 2 * time.Millisecond

// makeUpPause is how long the node waits when the store does not answer.
const makeUpPause = time.Second

func newMissed() *missed {
	return &missed{
		hint: make(chan struct{}, 1), versions: make(map[*hub]struct{}), presence: make(map[*hub]struct{}),
	}
}

// all notes that a hub may have missed anything.
func (m *missed) all(h *hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.versions[h], m.presence[h] = struct{}{}, struct{}{}
	poke(m.hint)
}

// compare notes that the versions of hubs have to be compared.
func (m *missed) compare(hubs []*hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range hubs {
		m.versions[h] = struct{}{}
	}
	poke(m.hint)
}

// ask notes that a hub has to ask for presence.
func (m *missed) ask(h *hub) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.presence[h] = struct{}{}
	poke(m.hint)
}

// toCompare takes some hubs whose versions have to be compared.
func (m *missed) toCompare() []*hub {
	m.mu.Lock()
	defer m.mu.Unlock()
	return takeSome(m.versions, comparedAtATime)
}

// toAsk takes a hub that has to ask for presence, nil if there is none.
func (m *missed) toAsk() *hub {
	m.mu.Lock()
	defer m.mu.Unlock()
	if some := takeSome(m.presence, 1); len(some) > 0 {
		return some[0]
	}
	return nil
}

func takeSome(set map[*hub]struct{}, most int) []*hub {
	var some []*hub
	for h := range set {
		if len(some) == most {
			break
		}
		some = append(some, h)
		delete(set, h)
	}
	return some
}

// compareAll has the versions of all hubs compared.
func (n *Node) compareAll() {
	n.mu.RLock()
	hubs := slices.Collect(maps.Values(n.hubs))
	n.mu.RUnlock()
	n.missed.compare(hubs)
}

// makeUp makes up for what hubs have missed, until ctx ends.
func (n *Node) makeUp(ctx context.Context) {
	failing := false
	for {
		select {
		case <-n.missed.hint:
		case <-ctx.Done():
			return
		}
		err := n.makeUpAll(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil && !failing {
			n.opts.Logger.WarnContext(ctx, "make up for lost signals; this is tried again", slog.Any("error", err))
		}
		if failing = err != nil; failing && !pause(ctx, makeUpPause) {
			return
		}
	}
}

// makeUpAll does all that there is. After an error the rest is left for the next time.
func (n *Node) makeUpAll(ctx context.Context) error {
	for ctx.Err() == nil {
		if hubs := n.missed.toCompare(); len(hubs) > 0 {
			if err := n.compareVersions(ctx, hubs); err != nil {
				n.missed.compare(hubs)
				return err
			}
			continue
		}
		h := n.missed.toAsk()
		if h == nil {
			return nil
		}
		if err := h.askAround(ctx); err != nil {
			n.missed.ask(h)
			return err
		}
		pause(ctx, askPause)
	}
	return nil
}

// compareVersions has those of some hubs read what is not as they know it. It goes on
// after an error: one user's must not keep the others from it.
func (n *Node) compareVersions(ctx context.Context, hubs []*hub) error {
	owners := make([]store.OwnerID, len(hubs))
	for i, h := range hubs {
		owners[i] = h.owner
	}
	query, cancel := n.storeContext(ctx)
	defer cancel()
	stored, err := n.store.Versions(query, owners)
	if err != nil {
		return err
	}
	var failed error
	for _, h := range hubs {
		if now, ok := stored[h.owner]; ok { // deleted accounts lose their sessions anyway
			failed = errors.Join(failed, h.compare(ctx, now))
		}
	}
	return failed
}
