package store

import (
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
