package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

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
	List   userListCmd   `cmd:"" help:"List the accounts, one on a line."`
	Delete userDeleteCmd `cmd:"" help:"Delete an account with its contacts and messages."`
	Export userExportCmd `cmd:"" help:"Write all that is stored of a user."`
	Import userImportCmd `cmd:"" help:"Bring in users that were exported, here or from another server."`

	Suspend userSuspendCmd `cmd:"" help:"Keep an account from being used."`
	Resume  userResumeCmd  `cmd:"" help:"Let a suspended account be used again."`
	Role    userRoleCmd    `cmd:"" help:"Say what an account may do beside chatting."`
	Show    userShowCmd    `cmd:"" help:"Show an account's role, state, last login and sessions."`
}

// Help is the long text of `imlb user --help`.
func (userCmd) Help() string {
	return `Works on the database itself, whether nodes run or not. Passwords are not kept, only keys derived from them. They are not taken
from the command line either, where others on the machine could read them: --stdin reads one line, and without it a random password is made
and printed. Then standard input has to be a terminal or empty, so that no password on it is ignored.`
}

// directory is an open database of accounts.
type directory struct {
	store.Store
	domain     string
	iterations int
}

// open opens the database that the command line names.
func (c *userCmd) open(ctx context.Context, o store.Options) (*directory, error) {
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
	db, err := store.Open(ctx, database, o)
	if errors.Is(err, fs.ErrNotExist) && o.Existing {
		return nil, fmt.Errorf("open the database: %s is not there; is the path right? A node, imlb user add and imlb user import make a new one", database)
	}
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	d.Store = db
	if err := checkDatabase(ctx, db, d.domain); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return d, nil
}

// checkDatabase makes sure that the database is not that of another domain's nodes. It may be
// nobody's yet.
func checkDatabase(ctx context.Context, db store.Belonging, domain string) error {
	owner, err := db.Domain(ctx)
	if err != nil {
		return err
	}
	return store.CheckDomain(owner, domain)
}

// with opens the database, calls do and closes the database. One that is not there is an
// error: whoever has mistyped its path would look into an empty one.
func (c *userCmd) with(ctx context.Context, do func(*directory) error) error {
	return c.withStore(ctx, store.Options{Existing: true}, do)
}

// withNew is with for what accounts may begin with: the database is made if it is not
// there.
func (c *userCmd) withNew(ctx context.Context, do func(*directory) error) error {
	return c.withStore(ctx, store.Options{}, do)
}

func (c *userCmd) withStore(ctx context.Context, o store.Options, do func(*directory) error) (err error) {
	d, err := c.open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err = do(d); errors.Is(err, store.ErrNotFound) {
		err = fmt.Errorf("%w; imlb user list shows the accounts that there are", err)
	}
	return err
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
	switch {
	case p.Stdin:
		secret, err = readLine(os.Stdin)
	case hasInput(os.Stdin):
		err = errors.New("is there a password on standard input? --stdin reads it; to have one made, leave standard input empty (</dev/null)")
	default:
		made = strings.ToLower(rand.Text())
		secret = made
	}
	if err != nil {
		return "", nil, err
	}
	if creds, err = backend.DeriveCredentials(secret, iterations); err != nil {
		return "", nil, fmt.Errorf("this cannot be a password (RFC 4013); take another one: %w", err)
	}
	return made, creds, nil
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

// give has set give a user the keys of a password, and tells what was done.
func (p password) give(d *directory, name, done string, set func(user string, creds []store.Credential) error) error {
	user, err := d.address(name)
	if err != nil {
		return err
	}
	made, creds, err := p.credentials(d.iterations)
	if err != nil {
		return err
	}
	if err := set(user, creds); err != nil {
		return err
	}
	if err := tell(user, done, made); err != nil {
		return fmt.Errorf("%s is %s, but nobody was told its password; imlb user passwd gives another: %w", user, done, err)
	}
	return nil
}

// userAddCmd is `imlb user add`.
type userAddCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
	password
}

// Run makes the account.
func (c *userAddCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.withNew(ctx, func(d *directory) error {
		return c.give(d, c.Name, "added", func(user string, creds []store.Credential) error {
			_, err := d.CreateAccount(ctx, user, creds)
			if errors.Is(err, store.ErrExists) {
				return fmt.Errorf("add %s: there is such a user already; imlb user passwd gives it another password", user)
			}
			if err != nil {
				return fmt.Errorf("add %s: %w", user, err)
			}
			return nil
		})
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
		return c.give(d, c.Name, "changed", func(user string, creds []store.Credential) error {
			if err := d.SetCredentials(ctx, user, creds); err != nil {
				return fmt.Errorf("change the password of %s: %w", user, err)
			}
			return nil
		})
	})
}

// userListCmd is `imlb user list`.
type userListCmd struct {
	State string `enum:"any,active,suspended,online" default:"any" help:"Only accounts that are active, suspended, or online: with a session."`
}

// Help is the long text of `imlb user list --help`.
func (userListCmd) Help() string {
	return `Each line has the address, the role and the state, with tabs between them.`
}

// Run prints the accounts in the order of their addresses.
func (c *userListCmd) Run(ctx context.Context, parent *userCmd) error {
	const page = 1000
	return parent.with(ctx, func(d *directory) error {
		out := bufio.NewWriter(os.Stdout)
		for after := ""; ; {
			accounts, err := d.FindAccounts(ctx, c.filter(), after, page)
			if err != nil {
				return fmt.Errorf("list the accounts: %w", err)
			}
			now := time.Now()
			for _, a := range accounts {
				after = a.User
				if c.State != "active" || !a.State.SuspendedAt(now) {
					fmt.Fprintf(out, "%s\t%s\t%s\n", a.User, a.Role, stateText(a.State, now))
				}
			}
			if len(accounts) < page {
				return out.Flush()
			}
		}
	})
}

func (c *userListCmd) filter() store.AccountFilter {
	switch c.State {
	case "suspended":
		return store.SuspendedAccounts
	case "online":
		return store.OnlineAccounts
	default:
		return store.EveryAccount
	}
}
