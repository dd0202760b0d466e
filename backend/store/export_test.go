package store

import (
	"context"
	"fmt"
	"strings"
)

// SelectTrimStates is what retention asks of every timeline.
const SelectTrimStates = selectTrimStates

// FindQuery is the query of Find without what is selected, with its arguments in it.
func (db *DB) FindQuery(owner OwnerID, r Range) string {
	query, args := r.query(owner, db.dialect.byPeer)
	for i, arg := range args {
		text := fmt.Sprint(arg)
		if peer, ok := arg.(string); ok {
			text = "'" + peer + "'"
		}
		query = strings.ReplaceAll(query, fmt.Sprintf("$%d", i+1), text)
	}
	return query
}

// BoundPages keeps a file of SQLite from having more pages than it has, as a disk does that is full,
// until release is called.
func (db *DB) BoundPages(ctx context.Context) (release func() error, err error) {
	var pages int
	if err := db.write.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&pages); err != nil {
		return nil, err
	}
	bound := func(most int) error {
		_, err := db.write.ExecContext(ctx, fmt.Sprintf(`PRAGMA max_page_count = %d`, most))
		return err
	}
	return func() error { return bound(1 << 30) }, bound(pages)
}
