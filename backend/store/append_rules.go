package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/jackc/pgx/v5"
)

// What decides, while a batch is stored, whether a message is archived is read in the
// transaction that claims the numbers, once it has locked the heads: so a preference
// counts from when it is set, on all nodes, and who has none costs nothing.

// place is that of a draft in a batch.
type place struct{ message, draft int }

// contact is one who may be in somebody's roster.
type contact struct {
	owner OwnerID
	peer  string
}

// prefsReader reads from the transaction of a batch.
type prefsReader interface {
	prefs(ctx context.Context, owners []OwnerID) (map[OwnerID]ArchivePrefs, error)
	// contacts returns those who are in the rosters.
	contacts(ctx context.Context, wanted []contact) (map[contact]bool, error)
}

// judge marks the entries that their owners do not want archived.
func (b *appending) judge(ctx context.Context, claims map[OwnerID]*claim, r prefsReader) error {
	b.hidden = nil
	var choosy []OwnerID
	for owner, c := range claims {
		if c.was.choosy {
			choosy = append(choosy, owner)
		}
	}
	if len(choosy) == 0 {
		return nil
	}
	slices.Sort(choosy)
	prefs, err := r.prefs(ctx, choosy)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	known, err := r.contacts(ctx, b.strangers(prefs))
	if err != nil {
		return fmt.Errorf("look into rosters: %w", err)
	}
	b.hidden = make(map[place]bool)
	for i, a := range b.batch {
		for j, d := range a.Drafts {
			if p, ok := prefs[d.Owner]; ok {
				b.hidden[place{i, j}] = !p.Keeps(cmp.Or(d.Address, d.Peer), d.Peer, known[contact{d.Owner, d.Peer}])
			}
		}
	}
	return nil
}

// strangers are those about whom rosters have to be asked.
func (b *appending) strangers(prefs map[OwnerID]ArchivePrefs) []contact {
	wanted := make(map[contact]struct{})
	for _, a := range b.batch {
		for _, d := range a.Drafts {
			if prefs[d.Owner].Default == ArchiveRoster {
				wanted[contact{d.Owner, d.Peer}] = struct{}{}
			}
		}
	}
	return slices.Collect(maps.Keys(wanted))
}

// hides tells whether an entry is hidden.
func (b *appending) hides(message, draft int) bool {
	return b.batch[message].Drafts[draft].Hidden || b.hidden[place{message, draft}]
}

// txReader reads where a query costs no round trip.
type txReader struct{ tx *sql.Tx }

func (r txReader) prefs(ctx context.Context, owners []OwnerID) (map[OwnerID]ArchivePrefs, error) {
	prefs := make(map[OwnerID]ArchivePrefs, len(owners))
	for _, owner := range owners {
		_, p, err := scanPrefs(r.tx.QueryRowContext(ctx, selectPrefs+` WHERE owner = $1`, owner))
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return nil, err
		}
		prefs[owner] = p
	}
	return prefs, nil
}

func (r txReader) contacts(ctx context.Context, wanted []contact) (map[contact]bool, error) {
	found := make(map[contact]bool, len(wanted))
	for _, c := range wanted {
		var known bool
		err := r.tx.QueryRowContext(ctx, `
			SELECT EXISTS (SELECT 1 FROM roster_items WHERE owner = $1 AND contact = $2 AND in_roster)`, c.owner, c.peer).Scan(&known)
		if err != nil {
			return nil, err
		}
		found[c] = known
	}
	return found, nil
}

// pgReader reads with one round trip for all.
type pgReader struct{ conn *pgx.Conn }

func (r pgReader) prefs(ctx context.Context, owners []OwnerID) (map[OwnerID]ArchivePrefs, error) {
	rows, err := r.conn.Query(ctx, selectPrefs+` WHERE owner = ANY($1)`, owners)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	prefs := make(map[OwnerID]ArchivePrefs, len(owners))
	for rows.Next() {
		owner, p, err := scanPrefs(rows)
		if err != nil {
			return nil, err
		}
		prefs[owner] = p
	}
	return prefs, rows.Err()
}

func (r pgReader) contacts(ctx context.Context, wanted []contact) (map[contact]bool, error) {
	found := make(map[contact]bool, len(wanted))
	if len(wanted) == 0 {
		return found, nil
	}
	var owners []OwnerID
	var peers []string
	for _, c := range wanted {
		owners, peers = append(owners, c.owner), append(peers, c.peer)
	}
	rows, err := r.conn.Query(ctx, `
		SELECT r.owner, r.contact FROM unnest($1::bigint[], $2::text[]) AS w (owner, contact)
		JOIN roster_items r ON r.owner = w.owner AND r.contact = w.contact WHERE r.in_roster`, owners, peers)
	if err != nil {
		return nil, err
	}
	var c contact
	_, err = pgx.ForEachRow(rows, []any{&c.owner, &c.peer}, func() error {
		found[c] = true
		return nil
	})
	return found, err
}
