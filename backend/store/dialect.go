package store

import (
	"context"
	"database/sql"
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/pressly/goose/v3"
)

// dialect is what differs between databases. All other SQL in this package is
// written so that SQLite and PostgreSQL both take it, with $1, $2 … in the
// order in which they appear and each used once.
type dialect struct {
	name goose.Dialect
	// open connects to the database at a location, which is the URL, without
	// its scheme where the scheme is only this package's.
	open func(ctx context.Context, location string, o Options) (*pools, error)
	// migrations holds the schema's steps, in goose's format.
	migrations func() (fs.FS, error)
	// class says which of this package's errors an error of the driver is,
	// or nil.
	class func(error) error
	// commitClass is class for the error of a commit, after which it may be
	// unknown what happened.
	commitClass func(error) error
	locks       locks
	// clock is the database's time in milliseconds, one for all processes whatever theirs
	// are. It stays what it is within a statement.
	clock string
	// byPeer is where the entries of one contact are, from FROM on, with owner, the numbers
	// between which they are, and contact as $1 to $4.
	byPeer string
	// snapshot is the isolation in which a transaction sees one state of the
	// database.
	snapshot sql.IsolationLevel
}

// locks are clauses that end a SELECT whose rows a transaction is about to
// act on. They are empty where one transaction writes at a time.
type locks struct {
	change string // nobody else changes the rows, or takes this lock
	take   string // the same, and rows that somebody else has locked are left out
	refer  string // nobody removes the rows
}

// pools is an open database: one way in for those who write, one for those
// who read, and what has to be told and ended along with them.
type pools struct {
	write *sql.DB
	read  *sql.DB
	// append stores a batch in one transaction in the database's own way. It is
	// nil where single statements cost no round trips.
	append func(ctx context.Context, b *appending) error
	// raiseDelivered is the statement behind SetDelivered, with sorted owners and
	// numbers as $1 and $2. It is empty where single statements cost no round trips.
	raiseDelivered string
	// setPoints is the statement behind SetResumePoints, with ids, epochs, counts,
	// positions and what is void as $1 to $5. It is empty where single statements cost no round trips.
	setPoints string
	// group commits what is written at the same time together. It is nil where that is
	// the database's own business.
	group *group
	// writers is how many batches are best stored at the same time.
	writers int
	// committed is called after each commit.
	committed func()
	// forget is called after an erasure, to remove what may be left of it.
	forget func(context.Context)
	// close ends all of it and waits.
	close func() error
}

// scheme is the part of a URL before the colon. One letter is a drive's name.
var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

// dialectOf finds the dialect that a database URL speaks of, where its database
// is, and how that is called where a password must not be seen.
func dialectOf(url string) (d dialect, location, shown string, err error) {
	switch name := strings.ToLower(scheme.FindString(url)); name {
	case "":
		return sqliteDialect(), url, url, nil
	case "sqlite:":
		path := strings.TrimPrefix(url[len(name):], "//")
		return sqliteDialect(), path, path, nil
	case "postgres:", "postgresql:":
		// The driver knows the schemes in small letters only.
		return postgresDialect(), name + url[len(name):], postgresName(url), nil
	default:
		return dialect{}, "", "", fmt.Errorf("database scheme %q is not supported: give sqlite:PATH, a path, or postgres://USER@HOST/DATABASE", name)
	}
}
