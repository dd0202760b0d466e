package backend_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"imlb/backend"
	"imlb/backend/store"
)

// hookedStore has a test take part in what the store does. A func that is nil is not called.
type hookedStore struct {
	store.Store

	append func(text string, do func() ([]store.Appended, error)) ([]store.Appended, error) // of the messages' stanzas
	fails  func(what string) error
}

func (s *hookedStore) ask(what string) error {
	if s.fails == nil {
		return nil
	}
	return s.fails(what)
}

func (s *hookedStore) AppendBatch(ctx context.Context, batch []store.Append) ([]store.Appended, error) {
	do := func() ([]store.Appended, error) { return s.Store.AppendBatch(ctx, batch) }
	if s.append == nil {
		return do()
	}
	var text []byte
	for _, a := range batch {
		text = append(text, a.Drafts[0].Stanza...)
	}
	return s.append(string(text), do)
}

func (s *hookedStore) Read(ctx context.Context, owner store.OwnerID, after uint64, limit int) ([]store.Entry, error) {
	if err := s.ask(fmt.Sprint("read ", limit)); err != nil {
		return nil, err
	}
	return s.Store.Read(ctx, owner, after, limit)
}

func (s *hookedStore) Head(ctx context.Context, owner store.OwnerID) (head, delivered uint64, err error) {
	if err := s.ask("head"); err != nil {
		return 0, 0, err
	}
	return s.Store.Head(ctx, owner)
}

func (s *hookedStore) Roster(ctx context.Context, owner store.OwnerID) ([]store.RosterItem, uint64, error) {
	if err := s.ask("roster"); err != nil {
		return nil, 0, err
	}
	return s.Store.Roster(ctx, owner)
}

func (s *hookedStore) RosterSince(ctx context.Context, owner store.OwnerID, since uint64) ([]store.RosterItem, uint64, error) {
	if err := s.ask("roster since"); err != nil {
		return nil, 0, err
	}
	return s.Store.RosterSince(ctx, owner, since)
}

func (s *hookedStore) SaveResumable(ctx context.Context, id string, epoch uint64, r store.Resumable) error {
	if err := s.ask("save"); err != nil {
		return err
	}
	return s.Store.SaveResumable(ctx, id, epoch, r)
}

func (s *hookedStore) Resume(ctx context.Context, id string, owner store.OwnerID, node string, seen uint64) (store.Session, store.Resumable, error) {
	if err := s.ask("resume"); err != nil {
		return store.Session{}, store.Resumable{}, err
	}
	rec, r, err := s.Store.Resume(ctx, id, owner, node, seen)
	if failed := s.ask("resumed"); failed != nil { // its answer was lost
		return store.Session{}, store.Resumable{}, failed
	}
	return rec, r, err
}

func (s *hookedStore) Session(ctx context.Context, id string) (store.Session, error) {
	if err := s.ask("session"); err != nil {
		return store.Session{}, err
	}
	return s.Store.Session(ctx, id)
}

func (s *hookedStore) SessionsOf(ctx context.Context, owner store.OwnerID) ([]store.Session, error) {
	if err := s.ask("sessions"); err != nil {
		return nil, err
	}
	return s.Store.SessionsOf(ctx, owner)
}

func (s *hookedStore) StatesOf(ctx context.Context, owner store.OwnerID) ([]store.Session, error) {
	if err := s.ask("states"); err != nil {
		return nil, err
	}
	return s.Store.StatesOf(ctx, owner)
}

func (s *hookedStore) UpdateRoster(
	ctx context.Context, owner store.OwnerID, contact string, change func(*store.RosterItem) bool,
) (store.RosterItem, uint64, error) {
	item, version, err := s.Store.UpdateRoster(ctx, owner, contact, change)
	if failed := s.ask("roster changed"); err == nil && failed != nil { // its answer was lost
		return store.RosterItem{}, 0, failed
	}
	return item, version, err
}

func (s *hookedStore) TakeLease(ctx context.Context, node, incarnation string, lease time.Duration) error {
	if err := s.ask("take lease"); err != nil {
		return err
	}
	return s.Store.TakeLease(ctx, node, incarnation, lease)
}

func (s *hookedStore) LiveNodes(ctx context.Context) ([]string, error) {
	names, err := s.Store.LiveNodes(ctx)
	if s.ask("ghost") != nil {
		names = append(names, "ghost")
	}
	return names, err
}

func (s *hookedStore) ReapSessions(ctx context.Context, node string, limit int) ([]store.Session, error) {
	dead, err := s.Store.ReapSessions(ctx, node, limit)
	if failed := s.ask("reaped"); err == nil && failed != nil { // its answer was lost
		return nil, failed
	}
	return dead, err
}

func (s *hookedStore) EndSession(ctx context.Context, id string, epoch uint64) error {
	if err := s.ask("end"); err != nil {
		return err
	}
	return s.Store.EndSession(ctx, id, epoch)
}

// newHookedCluster starts nodes on a store with hooks.
func newHookedCluster(t *testing.T, nodes int, hooks *hookedStore, tune func(*backend.Options)) *cluster {
	t.Helper()
	c := newCluster(t, 0, tune)
	hooks.Store, c.store = c.store, hooks
	for i := range nodes {
		c.startNode(fmt.Sprintf("node-%d", i+1))
	}
	return c
}

// killedStore is a store that takes nothing more from a node that is killed.
type killedStore struct {
	store.Store
	killed atomic.Bool
}

func (s *killedStore) SaveResumable(ctx context.Context, id string, epoch uint64, r store.Resumable) error {
	if s.killed.Load() {
		return errAway
	}
	return s.Store.SaveResumable(ctx, id, epoch, r)
}

func (s *killedStore) SetResumePoints(ctx context.Context, points []store.ResumePoint) error {
	if s.killed.Load() {
		return errAway
	}
	return s.Store.SetResumePoints(ctx, points)
}

func (s *killedStore) SetDelivered(ctx context.Context, delivered map[store.OwnerID]uint64) error {
	if s.killed.Load() {
		return errAway
	}
	return s.Store.SetDelivered(ctx, delivered)
}
