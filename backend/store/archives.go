package store

import (
	"context"
	"slices"
	"time"
)

// Archives reads timelines as archives (XEP-0313), and keeps them within bounds.
type Archives interface {
	// Span returns the number of the first entry that may still be there, which is
	// the one after the last that retention has removed, and that of the last entry;
	// ErrNotFound when the owner does not exist. There is none if first > head.
	Span(ctx context.Context, owner OwnerID) (first, head uint64, err error)
	// Find returns the entries in a range that are not hidden, or only those that are.
	Find(ctx context.Context, owner OwnerID, r Range) ([]Entry, error)
	// Count returns how many entries Find would return.
	Count(ctx context.Context, owner OwnerID, r Range) (int, error)
	// ArchivePrefs returns what an owner wants archived: everything, as long as it
	// has not said otherwise.
	ArchivePrefs(ctx context.Context, owner OwnerID) (ArchivePrefs, error)
	// SetArchivePrefs replaces the preferences; ErrNotFound when the owner does not
	// exist. They count for what is appended from then on, by whomever.
	SetArchivePrefs(ctx context.Context, owner OwnerID, p ArchivePrefs) error
	// Trim removes what r does not keep from the timelines of an owner and those after
	// it, in one short transaction of about limit entries. It returns the owner to go on
	// with, 0 when all have been looked at, and how many entries it has removed.
	// Several may do it at the same time.
	Trim(ctx context.Context, r Retention, from OwnerID, limit int) (next OwnerID, removed int, err error)
	// ClaimJob gives a job that is due to one of those who ask: to that one it returns
	// true, and the job is due again at next. A job that nobody has claimed is due.
	ClaimJob(ctx context.Context, name string, now, next time.Time) (bool, error)
}

// Range is a part of a timeline.
type Range struct {
	After  uint64 // only entries with higher numbers
	Before uint64 // only entries with lower numbers; 0: all
	Peer   string // only those of this other party; empty: all
	Hidden bool   // those that are hidden, of all parties, instead of those that are not
	Newest bool   // the last ones, from the last to the first, instead of the first ones
	Limit  int
}

// ArchiveRule says what becomes of messages that no list names (XEP-0441 §2.1.1).
type ArchiveRule uint8

// The values of ArchiveRule.
const (
	ArchiveAlways ArchiveRule = iota
	ArchiveNever
	ArchiveRoster // those from and to contacts in the roster
)

// ArchivePrefs is what a user wants archived (XEP-0441).
type ArchivePrefs struct {
	Default       ArchiveRule
	Always, Never []string // canonical addresses, sorted, without duplicates
}

// Keeps tells whether a message is archived. Its other party has the address, with a
// resource if the message has one, and the bare address peer. A listed address with a
// resource says more than one without (XEP-0441 §2.3), and never says more than always.
func (p ArchivePrefs) Keeps(address, peer string, inRoster bool) bool {
	for _, one := range []string{address, peer} {
		switch {
		case slices.Contains(p.Never, one):
			return false
		case slices.Contains(p.Always, one):
			return true
		}
	}
	return p.Default == ArchiveAlways || p.Default == ArchiveRoster && inRoster
}

// isDefault tells whether the preferences are those of a user who has none.
func (p ArchivePrefs) isDefault() bool {
	return p.Default == ArchiveAlways && len(p.Always) == 0 && len(p.Never) == 0
}

// Retention says which entries go. Entries go from the beginning of a timeline on,
// without leaving any out, except for hidden ones. No number is given out again.
type Retention struct {
	// Before is the age at which entries go that have been delivered; zero: they do
	// not go because of their age.
	Before time.Time
	// Lost is the age at which entries go although nobody has received them; zero:
	// those never go.
	Lost time.Time
	// Keep is how many of the last entries of each timeline stay, if they are not too
	// old; those before them go when they are delivered. 0: all stay.
	Keep uint64
	// Hidden is the age at which hidden entries go that have been delivered.
	Hidden time.Time
}

// Removes tells whether an entry goes, given how far its timeline and the delivery of
// it have come, if all before it go as well.
func (r Retention) Removes(seq uint64, at time.Time, head, delivered uint64) bool {
	if seq > delivered {
		return at.Before(r.Lost)
	}
	return at.Before(r.Before) || r.Keep > 0 && head-seq >= r.Keep
}
