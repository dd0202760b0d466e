package store

import (
	"context"
	"time"
)

// Transfers takes accounts out of a cluster and brings them in.
type Transfers interface {
	// Credentials returns all keys of a user, sorted by mechanism; ErrNotFound.
	Credentials(ctx context.Context, user string) ([]Credential, error)
	// EraseAccount is DeleteAccount, and says what was erased. It goes on with a deletion
	// of that name that was interrupted.
	EraseAccount(ctx context.Context, user string) ([]Erased, error)
	// RestoreRoster replaces an owner's roster. All items get its version.
	RestoreRoster(ctx context.Context, owner OwnerID, items []RosterItem, version uint64) error
	// RestoreEntries adds entries that have numbers and times already, both ascending
	// and above those that the timeline has; else the error is ErrExists.
	RestoreEntries(ctx context.Context, owner OwnerID, entries []Entry) error
	// RestoreSpan raises the numbers of a timeline that was restored: that of the last
	// entry, that up to which entries were delivered, and that of the first entry that
	// is there. None goes down.
	RestoreSpan(ctx context.Context, owner OwnerID, first, head, delivered uint64) error
	// RenameAccount gives an account another name. What becomes of the account that has
	// that name, if there is one, is decided in the same transaction. One that is erased
	// is among AccountChanges, so that its sessions end.
	RenameAccount(ctx context.Context, user, name string, other Other) error
	// Tidy takes a step in erasing what interrupted deletions have left, and the accounts
	// with an UnfinishedName that were made before a time. It tells whether there may be
	// more.
	Tidy(ctx context.Context, before time.Time) (more bool, err error)
}

// UnfinishedName is the name of a user's account until all of it is stored. It is that
// of no user, so that nobody can log in, or be sent anything. What has such a name is an
// account only to those who know it: it is in no list and is not counted.
func UnfinishedName(user string) string { return user + "/import" }

// Other says what becomes of an account whose name another one is given.
type Other uint8

// What may become of it.
const (
	KeepOther    Other = iota // it stays: the error is ErrExists
	EraseOther                // it is erased
	SucceedOther              // it is erased, and the one with its name gets its role and state
)

// Erased says how many rows of a table were erased.
type Erased struct {
	Table string
	Rows  int64
}
