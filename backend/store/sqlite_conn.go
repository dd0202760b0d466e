package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
)

// keptStatements is how many statements a connection keeps prepared. There are fewer in this
// package; those of archive queries vary.
const keptStatements = 256

// openPrepared opens a pool whose connections keep the statements that they have run. To
// parse and plan one takes SQLite as long as to run it, or longer.
func openPrepared(name, dsn string) (*sql.DB, error) {
	db, err := sql.Open(name, dsn) // which connects to nothing, but knows the driver
	if err != nil {
		return nil, err
	}
	defer db.Close() //nolint:errcheck // nothing is open
	return sql.OpenDB(connector{driver: db.Driver(), dsn: dsn}), nil
}

// connector makes connections that keep statements.
type connector struct {
	driver driver.Driver
	dsn    string
}

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return c.driver }

// Connect implements driver.Connector.
func (c connector) Connect(context.Context) (driver.Conn, error) {
	conn, err := c.driver.Open(c.dsn)
	if err != nil {
		return nil, err
	}
	able, ok := conn.(ableConn)
	if !ok {
		return nil, errors.Join(errors.New("the driver lacks something"), conn.Close())
	}
	return &keepingConn{ableConn: able, kept: map[string]ableStmt{}}, nil
}

// ableConn is what is used of the driver's connections.
type ableConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// ableStmt is what is used of its statements.
type ableStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// keepingConn is a connection that keeps statements. Like all of package driver, it is used
// by one goroutine at a time.
type keepingConn struct {
	ableConn
	kept map[string]ableStmt // that are not in use
}

// Close implements driver.Conn.
func (c *keepingConn) Close() error {
	var errs []error
	for _, s := range c.kept {
		errs = append(errs, s.Close())
	}
	c.kept = nil
	return errors.Join(append(errs, c.ableConn.Close())...)
}

// PrepareContext implements driver.ConnPrepareContext, for statements that somebody else keeps.
func (c *keepingConn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	s, err := c.prepare(ctx, query)
	if err != nil {
		return nil, err
	}
	return watchedStmt{s}, nil
}

func (c *keepingConn) prepare(ctx context.Context, query string) (ableStmt, error) {
	s, err := c.ableConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	able, ok := s.(ableStmt)
	if !ok {
		return nil, errors.Join(errors.New("the driver's statements lack something"), s.Close())
	}
	return able, nil
}

// watchedStmt is a statement that is run as watched says.
type watchedStmt struct{ ableStmt }

// ExecContext implements driver.StmtExecContext.
func (s watchedStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.ableStmt.ExecContext(watched(ctx), args)
}

// QueryContext implements driver.StmtQueryContext.
func (s watchedStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.ableStmt.QueryContext(watched(ctx), args)
}

// take returns a statement, which nobody else gets until it is put back: rows that are read
// of it end when it is run again.
func (c *keepingConn) take(ctx context.Context, query string) (ableStmt, error) {
	if s, ok := c.kept[query]; ok {
		delete(c.kept, query)
		return s, nil
	}
	return c.prepare(ctx, query)
}

// put keeps a statement that is not in use any more.
func (c *keepingConn) put(query string, s ableStmt) error {
	if _, twice := c.kept[query]; twice || c.kept == nil {
		return s.Close()
	}
	var err error
	if len(c.kept) >= keptStatements {
		for q, other := range c.kept { // any
			delete(c.kept, q)
			err = other.Close()
			break
		}
	}
	c.kept[query] = s
	return err
}

// longKey is for statements that are worth to be interrupted.
type longKey struct{}

// long returns a context whose end interrupts a statement that is being run. Others are run to
// their end: they are short, and to watch over one costs a goroutine each time. Besides,
// what interrupts one that writes undoes the whole transaction, which may be of many.
func long(ctx context.Context) context.Context { return context.WithValue(ctx, longKey{}, true) }

// watched returns the context that a statement is run under.
func watched(ctx context.Context) context.Context {
	if ctx.Value(longKey{}) == nil {
		return context.WithoutCancel(ctx)
	}
	return ctx
}

// ExecContext implements driver.ExecerContext.
func (c *keepingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	ctx = watched(ctx)
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	r, err := s.ExecContext(ctx, args)
	if err := errors.Join(err, c.put(query, s)); err != nil {
		return nil, err
	}
	return r, nil
}

// QueryContext implements driver.QueryerContext.
func (c *keepingConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	ctx = watched(ctx)
	s, err := c.take(ctx, query)
	if err != nil {
		return nil, err
	}
	rows, err := s.QueryContext(ctx, args)
	if err != nil {
		return nil, errors.Join(err, c.put(query, s))
	}
	return &keptRows{Rows: rows, conn: c, query: query, stmt: s}, nil
}

// keptRows are rows whose statement is kept when they are closed.
type keptRows struct {
	driver.Rows
	conn  *keepingConn
	query string
	stmt  ableStmt // nil once it is put back
}

// Close implements driver.Rows.
func (r *keptRows) Close() error {
	if r.stmt == nil {
		return nil
	}
	err := errors.Join(r.Rows.Close(), r.conn.put(r.query, r.stmt))
	r.stmt = nil
	return err
}
