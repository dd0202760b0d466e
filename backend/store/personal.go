package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Blocklist is whom an owner does not want to hear of (XEP-0191).
type Blocklist struct {
	Addresses []string // canonical JIDs, sorted by their bytes, without duplicates
	Version   uint64   // grows by one with each change; 0: there was none yet
}

// Blocklists keeps each owner's blocklist.
type Blocklists interface {
	// Blocklist returns the list; an empty one when the owner does not exist.
	Blocklist(ctx context.Context, owner OwnerID) (Blocklist, error)
	// UpdateBlocklist stores what change makes of the addresses, in one
	// transaction, and returns the list as it is afterwards. Addresses are
	// sorted, and duplicates removed, for it; when they are the same as before
	// nothing is stored. ErrNotFound when the owner does not exist.
	//
	// The transaction is open while change runs, and it may run again: it must be
	// quick, must not call the store, and must set what it reports anew each time.
	UpdateBlocklist(ctx context.Context, owner OwnerID, change func(addresses []string) []string) (Blocklist, error)
}

// PrivateXML is what an owner's clients keep under one namespace (XEP-0049).
type PrivateXML struct {
	Space string
	XML   []byte // the elements, each a whole one that declares its namespaces
}

// Quota bounds what an owner may have of something; zero: no bound.
type Quota struct {
	Items int
	Bytes int
}

// Personal keeps what else a user leaves on the server for itself and others.
type Personal interface {
	// PrivateXML returns all of it, sorted by the bytes of the namespaces; none
	// when the owner does not exist.
	PrivateXML(ctx context.Context, owner OwnerID) ([]PrivateXML, error)
	// PrivateXMLIn returns what is kept under one namespace; ErrNotFound.
	PrivateXMLIn(ctx context.Context, owner OwnerID, space string) (PrivateXML, error)
	// SetPrivateXML stores all docs, or none, each instead of what was kept under
	// its namespace; one without XML removes that. ErrFull when all of the owner's
	// would exceed the quota afterwards, ErrNotFound when the owner does not exist.
	SetPrivateXML(ctx context.Context, owner OwnerID, docs []PrivateXML, quota Quota) error
	// VCard returns the owner's vCard (XEP-0054), the whole element; ErrNotFound.
	VCard(ctx context.Context, owner OwnerID) ([]byte, error)
	// SetVCard stores a vCard; an empty one removes it. ErrNotFound when the owner
	// does not exist.
	SetVCard(ctx context.Context, owner OwnerID, vcard []byte) error
}

// Blocklist implements Blocklists.
func (db *DB) Blocklist(ctx context.Context, owner OwnerID) (Blocklist, error) {
	list, err := scanBlocklist(db.read.QueryRowContext(ctx, `SELECT addresses, version FROM blocklists WHERE owner = $1`, owner))
	return list, db.wrap(fmt.Sprintf("blocklist of owner %d", owner), err)
}

// scanBlocklist reads a list; where there is no row, it is empty.
func scanBlocklist(r row) (list Blocklist, err error) {
	var addresses []byte
	err = r.Scan(&addresses, &list.Version)
	if errors.Is(err, sql.ErrNoRows) {
		return Blocklist{}, nil
	}
	if err != nil {
		return Blocklist{}, err
	}
	return list, json.Unmarshal(addresses, &list.Addresses)
}

// UpdateBlocklist implements Blocklists.
func (db *DB) UpdateBlocklist(ctx context.Context, owner OwnerID, change func([]string) []string) (list Blocklist, err error) {
	err = db.updateSurely(ctx, fmt.Sprintf("update blocklist of owner %d", owner), func(tx *sql.Tx, doubtful bool) error {
		if err := db.lockOwner(ctx, tx, owner); err != nil {
			return err
		}
		found, err := scanBlocklist(tx.QueryRowContext(ctx, `SELECT addresses, version FROM blocklists WHERE owner = $1`, owner))
		if err != nil || doubtful && found.Version >= list.Version && slices.Equal(found.Addresses, list.Addresses) {
			return err // what somebody else has made the same comes to the same
		}
		list = found
		after := slices.Compact(slices.Sorted(slices.Values(change(slices.Clone(list.Addresses)))))
		if slices.Equal(after, list.Addresses) {
			return nil
		}
		list = Blocklist{Addresses: after, Version: list.Version + 1}
		return storeBlocklist(ctx, tx, owner, list)
	})
	if err != nil {
		return Blocklist{}, err
	}
	return list, nil
}

func storeBlocklist(ctx context.Context, tx *sql.Tx, owner OwnerID, list Blocklist) error {
	addresses, err := json.Marshal(list.Addresses)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `
		INSERT INTO blocklists (owner, version, addresses) VALUES ($1, $2, $3)
		ON CONFLICT (owner) DO UPDATE SET version = excluded.version, addresses = excluded.addresses`,
		owner, list.Version, string(addresses))
	return err
}

// lockOwner keeps the account from being deleted, and others from changing what
// it owns, until the end of the transaction.
func (db *DB) lockOwner(ctx context.Context, tx *sql.Tx, owner OwnerID) error {
	_, err := rosterVersion(ctx, tx, owner, db.dialect.locks.change)
	return err
}

// PrivateXML implements Personal.
func (db *DB) PrivateXML(ctx context.Context, owner OwnerID) ([]PrivateXML, error) {
	rows, err := db.read.QueryContext(ctx, `SELECT space, xml FROM private_xml WHERE owner = $1 ORDER BY space`, owner)
	docs, err := collect(rows, err, scanPrivateXML)
	return docs, db.wrap(fmt.Sprintf("private XML of owner %d", owner), err)
}

func scanPrivateXML(r row) (doc PrivateXML, err error) {
	err = r.Scan(&doc.Space, &doc.XML)
	return doc, err
}

// PrivateXMLIn implements Personal.
func (db *DB) PrivateXMLIn(ctx context.Context, owner OwnerID, space string) (PrivateXML, error) {
	doc, err := scanPrivateXML(db.read.QueryRowContext(ctx,
		`SELECT space, xml FROM private_xml WHERE owner = $1 AND space = $2`, owner, space))
	return doc, db.wrap(fmt.Sprintf("private XML of owner %d", owner), err)
}

// SetPrivateXML implements Personal.
func (db *DB) SetPrivateXML(ctx context.Context, owner OwnerID, docs []PrivateXML, quota Quota) error {
	return db.update(ctx, fmt.Sprintf("set private XML of owner %d", owner), func(tx *sql.Tx) error {
		if err := db.lockOwner(ctx, tx, owner); err != nil {
			return err
		}
		for _, doc := range docs {
			if err := setPrivateXML(ctx, tx, owner, doc); err != nil {
				return err
			}
		}
		return checkPrivateXML(ctx, tx, owner, quota)
	})
}

func setPrivateXML(ctx context.Context, tx *sql.Tx, owner OwnerID, doc PrivateXML) error {
	if len(doc.XML) == 0 {
		_, err := tx.ExecContext(ctx, `DELETE FROM private_xml WHERE owner = $1 AND space = $2`, owner, doc.Space)
		return err
	}
	_, err := tx.ExecContext(ctx, `
		INSERT INTO private_xml (owner, space, xml) VALUES ($1, $2, $3)
		ON CONFLICT (owner, space) DO UPDATE SET xml = excluded.xml`, owner, doc.Space, doc.XML)
	return err
}

func checkPrivateXML(ctx context.Context, tx *sql.Tx, owner OwnerID, quota Quota) error {
	var has Quota
	err := tx.QueryRowContext(ctx, `SELECT COUNT(*), COALESCE(SUM(LENGTH(xml)), 0) FROM private_xml WHERE owner = $1`, owner).
		Scan(&has.Items, &has.Bytes)
	if err != nil {
		return err
	}
	return quota.check(has)
}

func (q Quota) check(has Quota) error {
	if q.Items > 0 && has.Items > q.Items || q.Bytes > 0 && has.Bytes > q.Bytes {
		return ErrFull
	}
	return nil
}

// VCard implements Personal.
func (db *DB) VCard(ctx context.Context, owner OwnerID) (vcard []byte, err error) {
	err = db.read.QueryRowContext(ctx, `SELECT vcard FROM vcards WHERE owner = $1`, owner).Scan(&vcard)
	return vcard, db.wrap(fmt.Sprintf("vCard of owner %d", owner), err)
}

// SetVCard implements Personal.
func (db *DB) SetVCard(ctx context.Context, owner OwnerID, vcard []byte) error {
	return db.update(ctx, fmt.Sprintf("set vCard of owner %d", owner), func(tx *sql.Tx) error {
		if err := db.lockOwner(ctx, tx, owner); err != nil {
			return err
		}
		if len(vcard) == 0 {
			_, err := tx.ExecContext(ctx, `DELETE FROM vcards WHERE owner = $1`, owner)
			return err
		}
		_, err := tx.ExecContext(ctx, `
			INSERT INTO vcards (owner, vcard) VALUES ($1, $2)
			ON CONFLICT (owner) DO UPDATE SET vcard = excluded.vcard`, owner, bytes.Clone(vcard))
		return err
	})
}

// personalDeletes clear what this file stores when an account is deleted.
var personalDeletes = []string{ //nolint:gochecknoglobals // A constant list.
	`DELETE FROM blocklists WHERE owner = $1`,
	`DELETE FROM private_xml WHERE owner = $1`,
	`DELETE FROM vcards WHERE owner = $1`,
}
