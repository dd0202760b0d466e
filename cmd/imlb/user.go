package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"imlb/backend"
	"imlb/backend/store"
	"imlb/backend/xmpp"
	"imlb/configs"
)

// userCmd is `imlb user`: the accounts of a cluster. It works on the database,
// whether nodes run or not.
type userCmd struct {
	Config   string `placeholder:"FILE" help:"A node's document; database, domain and SCRAM iterations are taken from it."`
	Database string `placeholder:"URL" help:"The database, when no document is named, like sqlite:/var/lib/imlb/imlb.db."`
	Domain   string `placeholder:"DOMAIN" help:"The users' domain, when no document is named."`

	Add    userAddCmd    `cmd:"" help:"Make an account."`
	Passwd userPasswdCmd `cmd:"" help:"Give an account another password."`
	List   userListCmd   `cmd:"" help:"List the accounts, one address on a line."`
	Delete userDeleteCmd `cmd:"" help:"Delete an account with its contacts and messages."`
}

// Help is the long text of `imlb user --help`.
func (userCmd) Help() string {
	return `Works on the database itself, whether nodes run or not. Passwords are not kept, only keys derived from them. They are not taken
from the command line either, where others on the machine could read them: --stdin reads one line, and without it a random password is made
and printed.`
}

// directory is an open database of accounts.
type directory struct {
	store.Store
	domain     string
	iterations int
}

// open opens the database that the command line names.
func (c *userCmd) open(ctx context.Context) (*directory, error) {
	d := &directory{domain: c.Domain, iterations: backend.DefaultScramIterations}
	database := c.Database
	switch {
	case c.Config != "" && c.Database+c.Domain != "":
		return nil, errors.New("--config names the database and the domain already; leave out --database and --domain")
	case c.Config != "":
		doc, err := configs.LoadNode(c.Config)
		if err != nil {
			return nil, err
		}
		database, d.domain, d.iterations = doc.Database.URL, doc.Domain, doc.SASL.Iterations
	case c.Database == "" || c.Domain == "":
		return nil, errors.New("name a node's document with --config, or the database with --database and --domain")
	}
	db, err := store.Open(ctx, database, store.Options{})
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	d.Store = db
	return d, nil
}

// with opens the database, calls do and closes the database.
func (c *userCmd) with(ctx context.Context, do func(*directory) error) (err error) {
	d, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return do(d)
}

// address returns the canonical address of a user who is named by local part or
// by address.
func (d *directory) address(name string) (string, error) {
	local, domain, ok := strings.Cut(name, "@")
	if !ok {
		domain = d.domain
	}
	jid, err := xmpp.NewJID(local, domain, "")
	if err != nil {
		return "", fmt.Errorf("user %s: %w", name, err)
	}
	if jid.Local() == "" {
		return "", fmt.Errorf("user %s: the name is empty", name)
	}
	if jid.Domain() != d.domain {
		return "", fmt.Errorf("user %s: the domain here is %s", name, d.domain)
	}
	return jid.String(), nil
}

// password is how a command gets a password.
type password struct {
	Stdin bool `help:"Read the password from the first line of standard input."`
}

// credentials reads or makes a password and derives its keys. The password is
// returned only when it was made.
func (p password) credentials(iterations int) (made string, creds []store.Credential, err error) {
	secret := ""
	if p.Stdin {
		secret, err = readLine(os.Stdin)
	} else {
		made = strings.ToLower(rand.Text())
		secret = made
	}
	if err != nil {
		return "", nil, err
	}
	creds, err = backend.DeriveCredentials(secret, iterations)
	return made, creds, err
}

// readLine returns the first line without its end.
func readLine(r io.Reader) (string, error) {
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the password: %w", err)
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", errors.New("read the password: the line is empty")
	}
	return line, nil
}

// tell prints what was done, and the password when it was made for the user.
func tell(user, done, made string) error {
	if made != "" {
		done += ", password " + made
	}
	_, err := fmt.Fprintf(os.Stdout, "%s %s\n", user, done)
	return err
}

// userAddCmd is `imlb user add`.
type userAddCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
	password
}

// Run makes the account.
func (c *userAddCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.with(ctx, func(d *directory) error {
		user, err := d.address(c.Name)
		if err != nil {
			return err
		}
		made, creds, err := c.credentials(d.iterations)
		if err != nil {
			return err
		}
		if _, err := d.CreateAccount(ctx, user, creds); err != nil {
			return fmt.Errorf("add %s: %w", user, err)
		}
		return tell(user, "added", made)
	})
}

// userPasswdCmd is `imlb user passwd`.
type userPasswdCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
	password
}

// Run replaces the account's keys.
func (c *userPasswdCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.with(ctx, func(d *directory) error {
		user, err := d.address(c.Name)
		if err != nil {
			return err
		}
		made, creds, err := c.credentials(d.iterations)
		if err != nil {
			return err
		}
		if err := d.SetCredentials(ctx, user, creds); err != nil {
			return fmt.Errorf("change the password of %s: %w", user, err)
		}
		return tell(user, "changed", made)
	})
}

// userListCmd is `imlb user list`.
type userListCmd struct{}

// Run prints the accounts in the order of their addresses.
func (userListCmd) Run(ctx context.Context, parent *userCmd) error {
	const page = 1000
	return parent.with(ctx, func(d *directory) error {
		out := bufio.NewWriter(os.Stdout)
		for after := ""; ; {
			accounts, err := d.ListAccounts(ctx, after, page)
			if err != nil {
				return fmt.Errorf("list the accounts: %w", err)
			}
			for _, a := range accounts {
				fmt.Fprintln(out, a.User)
				after = a.User
			}
			if len(accounts) < page {
				return out.Flush()
			}
		}
	})
}

// userDeleteCmd is `imlb user delete`.
type userDeleteCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
}

// Run deletes the account.
func (c *userDeleteCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.with(ctx, func(d *directory) error {
		user, err := d.address(c.Name)
		if err != nil {
			return err
		}
		if err := d.DeleteAccount(ctx, user); err != nil {
			return fmt.Errorf("delete %s: %w", user, err)
		}
		return tell(user, "deleted", "")
	})
}
