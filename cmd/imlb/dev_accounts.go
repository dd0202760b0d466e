package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	"imlb/backend"
	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// devUser is an account that somebody asked for. Without a password an
// existing account is left alone and a new one gets a random password.
type devUser struct {
	name     string
	password string
}

// devAccount is an account that exists.
type devAccount struct {
	name     string
	password string // empty when it was made by an earlier run: only derived keys are stored
}

func (a devAccount) passwordText() string {
	if a.password == "" {
		return "(password as before; --user " + a.name + ":PASSWORD sets another)"
	}
	return a.password
}

// parseDevUsers reads the --user flags; without any it returns the default users.
func parseDevUsers(flags []string) ([]devUser, error) {
	users := make([]devUser, 0, len(flags))
	for _, f := range flags {
		name, password, ok := strings.Cut(f, ":")
		if !ok || password == "" {
			return nil, fmt.Errorf("--user %s: want NAME:PASSWORD", f)
		}
		jid, err := xmpp.NewJID(name, devDomain, "")
		if err != nil {
			return nil, fmt.Errorf("--user %s: %w", f, err)
		}
		if jid.Local() == "" {
			return nil, fmt.Errorf("--user %s: the name is empty; want NAME:PASSWORD", f)
		}
		if slices.ContainsFunc(users, func(u devUser) bool { return u.name == jid.Local() }) {
			return nil, fmt.Errorf("--user %s: %s is named twice", f, jid.Local())
		}
		users = append(users, devUser{name: jid.Local(), password: password})
	}
	if len(users) > 0 {
		return users, nil
	}
	for _, name := range devDefaultUsers {
		users = append(users, devUser{name: name})
	}
	return users, nil
}

// ensureDevAccounts makes sure that the database holds the users.
func ensureDevAccounts(ctx context.Context, database string, users []devUser) (accounts []devAccount, err error) {
	db, err := store.Open(ctx, database, store.Options{})
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := checkDatabase(ctx, db, devDomain); err != nil {
		return nil, err
	}
	for _, u := range users {
		a, err := ensureDevAccount(ctx, db, u)
		if err != nil {
			return nil, fmt.Errorf("account %s: %w", u.name, err)
		}
		accounts = append(accounts, a)
	}
	return accounts, nil
}

func ensureDevAccount(ctx context.Context, db store.Accounts, u devUser) (devAccount, error) {
	user := u.name + "@" + devDomain
	_, err := db.Account(ctx, user)
	exists := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return devAccount{}, err
	}
	if exists && u.password == "" {
		return devAccount{name: u.name}, nil
	}
	password := u.password
	if password == "" {
		password = strings.ToLower(rand.Text()[:12])
	}
	creds, err := backend.DeriveCredentials(password, backend.DefaultScramIterations)
	if err != nil {
		return devAccount{}, err
	}
	if exists {
		err = db.SetCredentials(ctx, user, creds)
	} else {
		_, err = db.CreateAccount(ctx, user, creds)
	}
	return devAccount{name: u.name, password: password}, err
}
