package storetest

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"imlb/backend/store"
)

// endedSession is what is remembered of a resumable session that is over.
type endedSession struct {
	owner   store.OwnerID
	handled uint32
	at      time.Time
}

// overdue tells whether nobody need wait for the session any more.
func (s *session) overdue(at time.Time) bool {
	if r := s.resumable; r != nil && !r.Parked.IsZero() && !r.Parked.Add(r.Hold).After(at) {
		return true
	}
	if s.lease.until.After(at) {
		return false
	}
	return s.resumable == nil || !s.lease.over().Add(s.resumable.Hold).After(at)
}

// remove removes a session.
func (m *Memory) remove(id string) store.Session {
	s := m.sessions[id]
	if s.resumable != nil {
		s.State = string(s.resumable.State)
		m.ended[id] = endedSession{s.Owner, s.Handled, now()}
	}
	for _, a := range m.accounts {
		if a.Owner == s.Owner {
			a.ended = now()
		}
	}
	delete(m.sessions, id)
	s.Shown = s.shown
	return s.Session
}

// SaveResumable implements store.Resumption.
func (m *Memory) SaveResumable(ctx context.Context, id string, epoch uint64, r store.Resumable) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := m.fence(id, epoch)
	if err != nil {
		return err
	}
	r.State = append([]byte{}, r.State...)
	switch {
	case r.Note == nil && s.resumable != nil:
		r.Note = s.resumable.Note
	case len(r.Note) == 0:
		r.Note = nil
	default:
		r.Note = bytes.Clone(r.Note)
	}
	if !r.Unsure {
		s.Handled = r.Handled
	}
	r.Unsure = false
	s.resumable = &r
	s.setPoint(store.ResumePoint{Epoch: epoch, Count: r.Count, Pos: r.Pos, Claimed: r.Claimed, Voided: r.Voided, Told: r.Told, Early: r.Early, Number: r.Number})
	return nil
}

// SetResumePoints implements store.Resumption.
func (m *Memory) SetResumePoints(ctx context.Context, points []store.ResumePoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, p := range points {
		if s, err := m.fence(p.ID, p.Epoch); err == nil && s.resumable != nil {
			s.setPoint(p)
		}
	}
	return nil
}

// setPoint notes where a session stands, unless a later point is known.
func (s *session) setPoint(p store.ResumePoint) {
	if p.Epoch > s.point.Epoch || p.Epoch == s.point.Epoch && p.Number >= s.point.Number {
		p.Early = bytes.Clone(p.Early)
		s.point = p
	}
}

// NoteResumable implements store.Resumption.
func (m *Memory) NoteResumable(ctx context.Context, id string, owner store.OwnerID, note []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.ofOwner(id, owner); s != nil && ctx.Err() == nil {
		s.resumable.Note = bytes.Clone(note)
	}
	return ctx.Err()
}

// ofOwner returns the owner's resumable session, or nil.
func (m *Memory) ofOwner(id string, owner store.OwnerID) *session {
	if s := m.sessions[id]; s != nil && s.Owner == owner && s.resumable != nil {
		return s
	}
	return nil
}

// Holding implements store.Resumption.
func (m *Memory) Holding(ctx context.Context, id string, owner store.OwnerID) (store.Holding, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.ofOwner(id, owner)
	if s == nil {
		return store.Holding{}, fmt.Errorf("session %s: %w", id, store.ErrNotFound)
	}
	h := store.Holding{Epoch: s.Epoch, Parked: !s.resumable.Parked.IsZero() || s.lease.until.IsZero(), Taken: s.taken}
	if !s.lease.until.IsZero() && !s.lease.until.After(now()) {
		h.Lapsed = s.Node
	}
	return h, ctx.Err()
}

// Resume implements store.Resumption.
func (m *Memory) Resume(ctx context.Context, id string, owner store.OwnerID, node string, seen uint64) (store.Session, store.Resumable, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return store.Session{}, store.Resumable{}, err
	}
	s := m.ofOwner(id, owner)
	if s == nil {
		return store.Session{}, store.Resumable{}, fmt.Errorf("session %s: %w", id, store.ErrNotFound)
	}
	if seen != 0 && s.Epoch != seen {
		return store.Session{}, store.Resumable{}, fmt.Errorf("session %s: %w", id, store.ErrFenced)
	}
	r := *s.resumable
	r.Handled, r.Number, r.Lease = s.Handled, 0, s.lease.over()
	s.Epoch++
	s.Node, s.lease = node, m.currentLease(node)
	r.Count, r.Pos, r.Claimed, r.Voided, r.Told, r.Early = s.point.Count, s.point.Pos, s.point.Claimed, s.point.Voided, s.point.Told, s.point.Early
	s.resumable.Parked, s.taken = time.Time{}, now()
	return s.Session, r, nil
}

// Park implements store.Resumption.
func (m *Memory) Park(ctx context.Context, id string, epoch uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	s, err := m.fence(id, epoch)
	if err == nil && s.resumable != nil && s.resumable.Parked.IsZero() {
		s.resumable.Parked = now()
	}
	return err
}

// EndedSession implements store.Resumption.
func (m *Memory) EndedSession(ctx context.Context, id string, owner store.OwnerID) (uint32, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.ended[id]
	if !ok || e.owner != owner {
		return 0, fmt.Errorf("session %s: %w", id, store.ErrNotFound)
	}
	return e.handled, ctx.Err()
}

// ForgetEnded implements store.Resumption.
func (m *Memory) ForgetEnded(ctx context.Context, before time.Time, limit int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, e := range m.ended {
		if limit > 0 && e.at.Before(before) {
			delete(m.ended, id)
			limit--
		}
	}
	return ctx.Err()
}
