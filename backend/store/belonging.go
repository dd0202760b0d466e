package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// Claim implements Belonging.
func (db *DB) Claim(ctx context.Context, domain, cluster string) (owner Owner, err error) {
	err = db.update(ctx, "claim the database for "+domain, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO belongs (one, domain) VALUES (1, $1) ON CONFLICT (one) DO NOTHING`, domain)
		if err == nil && cluster != "" {
			_, err = tx.ExecContext(ctx, db.takeOver(), cluster, domain)
		}
		if err != nil {
			return err
		}
		return tx.QueryRowContext(ctx, `SELECT domain, cluster FROM belongs`).Scan(&owner.Domain, &owner.Cluster)
	})
	return owner, err
}

// takeOver gives the database of a domain to a cluster if it is nobody's, or no node lives on it.
func (db *DB) takeOver() string {
	return `UPDATE belongs SET cluster = $1 WHERE domain = $2
		AND (cluster = '' OR NOT EXISTS (SELECT 1 FROM leases WHERE until > ` + db.dialect.clock + `))`
}

// Domain implements Belonging.
func (db *DB) Domain(ctx context.Context) (domain string, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT domain FROM belongs`).Scan(&domain)
	if errors.Is(err, sql.ErrNoRows) {
		return "", nil
	}
	return domain, db.wrap("look whose the database is", err)
}

// CheckDomain is the error for a database that belongs to owner, if that is another
// domain; an empty one is none.
func CheckDomain(owner, domain string) error {
	if owner == "" || owner == domain {
		return nil
	}
	return &DomainError{Owner: owner, Domain: domain}
}

// DomainError says that a database belongs to another domain.
type DomainError struct {
	Owner  string // whose it is
	Domain string // whose it was taken for
}

// Error implements error.
func (e *DomainError) Error() string {
	return fmt.Sprintf("the database holds the users of %s, and not of %s: each domain needs a database of its own; correct the database's URL or the domain",
		e.Owner, e.Domain)
}

// CheckCluster is the error for a database that the nodes of the cluster owner use, if that is
// another one; an empty name is none. live are the nodes that live.
func CheckCluster(owner, cluster string, live []string) error {
	if owner == "" || cluster == "" || owner == cluster {
		return nil
	}
	return &ClusterError{Owner: owner, Cluster: cluster, Nodes: live}
}

// ClusterError says that the nodes of another cluster use a database.
type ClusterError struct {
	Owner   string   // whose nodes use it
	Cluster string   // whose it was taken for
	Nodes   []string // that live
}

// Error implements error.
func (e *ClusterError) Error() string {
	return fmt.Sprintf("nodes of the cluster %s use the database (%s), and those of %s would not hear them: "+
		"correct cluster or database.url; to rename a cluster, stop all of its nodes, and wait until the leases of those that were killed are over",
		e.Owner, strings.Join(e.Nodes, ", "), e.Cluster)
}
