//go:build linux

package servers

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"time"
)

// The databases, within the directories of the servers.
const (
	imlbDatabase     = "imlb.db"
	ejabberdDatabase = "ejabberd.sqlite"
	prosodyDatabase  = "prosody.sqlite"
)

// imlbLayout: entries are numbered without gaps within their owner.
func imlbLayout() layout {
	return layout{
		file: imlbDatabase, table: "entries", owner: "owner", stanza: "stanza",
		stamped:    []string{"owner", "seq", "time"},
		openLedger: openHeads, recipientFirst: true,
	}
}

// heads are the numbers that imlb has given out, by user.
type heads []head

type head struct {
	owner           int64
	last, delivered int64 // numbers of the last entry, and of the last that was received
	at              int64
}

func openHeads(ctx context.Context, tx *sql.Tx, users int) (ledger, error) {
	all := make(heads, users+1)
	for i := range users {
		if err := tx.QueryRowContext(ctx, `SELECT owner FROM accounts WHERE name = $1`, userName(i+1)+"@"+Domain).Scan(&all[i+1].owner); err != nil {
			return nil, fmt.Errorf("account of user %d: %w", i+1, err)
		}
	}
	return all, nil
}

func (h heads) user(number int) any { return h[number].owner }

func (h heads) stamp(m *message, received bool) []any {
	of := &h[m.owner(received)]
	of.last++
	of.at = m.at.UnixMilli()
	if received {
		of.delivered = of.last
	}
	return []any{of.owner, of.last, of.at}
}

// close raises the counters, and has the entries found by contact.
func (h heads) close(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO peer_index (owner, peer, seq) SELECT owner, peer, seq FROM entries ORDER BY owner, peer, seq`)
	if err != nil {
		return err
	}
	for _, of := range h[1:] {
		_, err := tx.ExecContext(ctx, `UPDATE heads SET head = $1, time = $2, delivered = $3, indexed = $4 WHERE owner = $5`, of.last, of.at, of.delivered, of.last, of.owner)
		if err != nil {
			return err
		}
	}
	return nil
}

// ejabberdLayout: what identifies an entry is its time in microseconds.
func ejabberdLayout() layout {
	return layout{
		file: ejabberdDatabase, table: "archive", owner: "username", stanza: "xml", automatic: "id",
		stamped:    []string{"username", "timestamp", "created_at"},
		openLedger: func(context.Context, *sql.Tx, int) (ledger, error) { return ejabberdTimes{}, nil },
	}
}

type ejabberdTimes struct{}

func (ejabberdTimes) user(number int) any { return userName(number) }

// stamp gives the recipient's entry a later time, as it has.
func (ejabberdTimes) stamp(m *message, received bool) []any {
	at := m.at
	if received {
		at = at.Add(time.Millisecond)
	}
	return []any{userName(m.owner(received)), at.UnixMicro(), at.UTC().Format(time.DateTime)}
}

func (ejabberdTimes) close(context.Context, *sql.Tx) error { return nil }

// prosodyLayout: what identifies an entry is a random UUID; times are in seconds.
func prosodyLayout() layout {
	return layout{
		file: prosodyDatabase, table: "prosodyarchive", owner: "user", stanza: "value", automatic: "sort_id",
		stamped:    []string{"user", "key", "when"},
		openLedger: func(context.Context, *sql.Tx, int) (ledger, error) { return prosodyKeys{}, nil },
	}
}

type prosodyKeys struct{}

func (prosodyKeys) user(number int) any { return userName(number) }

func (prosodyKeys) stamp(m *message, received bool) []any {
	return []any{userName(m.owner(received)), randomUUID(), m.at.Unix()}
}

func (prosodyKeys) close(context.Context, *sql.Tx) error { return nil }

// randomUUID is of version 4, as Prosody's are.
func randomUUID() string {
	a, b := rand.Uint64(), rand.Uint64() //nolint:gosec // no secret
	return fmt.Sprintf("%08x-%04x-4%03x-%04x-%012x", a>>32, a>>16&0xffff, a&0xfff, 0x8000|b>>48&0x3fff, b&(1<<48-1))
}
