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
	// open connects to the database at a location, which is the URL without
	// its scheme.
	open func(ctx context.Context, location string, o Options) (*pools, error)
	// migrations holds the schema's steps, in goose's format.
	migrations func() (fs.FS, error)
	// class says which of this package's errors an error of the driver is,
	// or nil.
	class func(error) error
}

// pools is an open database: one way in for those who write, one for those
// who read, and what has to be told and ended along with them.
type pools struct {
	write *sql.DB
	read  *sql.DB
	// committed is called after each commit.
	committed func()
	// close ends all of it and waits.
	close func() error
}

// scheme is the part of a URL before the colon. One letter is a drive's name.
var scheme = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9+.-]+:`)

// dialectOf finds the dialect that a database URL speaks of, and the URL's rest.
func dialectOf(url string) (dialect, string, error) {
	switch name := strings.ToLower(scheme.FindString(url)); name {
	case "":
		return sqliteDialect(), url, nil
	case "sqlite:":
		return sqliteDialect(), strings.TrimPrefix(url[len(name):], "//"), nil
	default:
		return dialect{}, "", fmt.Errorf("database scheme %q is not supported: give sqlite:PATH or a path", name)
	}
}
