package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"imlb/backend"
	"imlb/backend/store"
)

// userExportCmd is `imlb user export`.
type userExportCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
	Out  string `placeholder:"FILE" help:"Write to a file that only you may read, instead of standard output. It appears when it is complete. A device or a pipe is written to."`
}

// Help is the long text of `imlb user export --help`.
func (userExportCmd) Help() string {
	return `Writes what is stored of a user as XML in the portable format of XEP-0227: role and state, keys, contacts, archive preferences,
messages that wait and the archive. Keep it safe: with the keys others can log in as the user.`
}

// Run writes the document.
func (c *userExportCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.with(ctx, func(d *directory) error {
		user, err := d.address(c.Name)
		if err != nil {
			return err
		}
		write := func(w io.Writer) error { return backend.ExportUser(ctx, d.Store, user, w) }
		if c.Out == "" {
			return write(os.Stdout)
		}
		return writeOut(c.Out, write)
	})
}

// writeOut writes to what a name stands for: a device or a pipe as it is, a file as a whole, and
// where a link points to the same.
func writeOut(name string, write func(io.Writer) error) error {
	if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return writeWhole(name, write)
	}
	info, err := os.Stat(name) // through links, and such that only the kernel follows, as in /dev/stdout
	if err != nil {
		return fmt.Errorf("write to %s: %w", name, err)
	}
	if info.Mode().IsRegular() {
		target, err := filepath.EvalSymlinks(name)
		if err != nil {
			return fmt.Errorf("write to %s: %w", name, err)
		}
		return writeWhole(target, write)
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0) //nolint:gosec // It is what the user has named.
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// writeWhole writes a file that only its owner may read, and that is not there until it
// is complete.
func writeWhole(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".new-*")
	if err != nil {
		return fmt.Errorf("make a file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// userImportCmd is `imlb user import`.
type userImportCmd struct {
	File    string `arg:"" help:"The document; - is standard input."`
	Replace bool   `help:"Erase accounts that are there already, with their contacts and messages, and end their sessions. Role and state stay unless the document has them."`
}

// Help is the long text of `imlb user import --help`.
func (userImportCmd) Help() string {
	return `Reads users from a document in the portable format of XEP-0227, of this or another server, with the files beside it that it includes. A user
appears when all that belongs to it is stored. What is not understood is named on standard error and left out. That nobody is imported is an error.`
}

// Run brings the users in.
func (c *userImportCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.withNew(ctx, func(d *directory) (err error) {
		in, open, closeAll, err := c.open()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeAll()) }()
		done, err := backend.ImportUsers(ctx, d.Store, in, backend.ImportOptions{
			Domain: d.domain, Replace: c.Replace, Open: open, ScramIterations: d.iterations,
		})
		if errors.Is(err, store.ErrExists) {
			err = fmt.Errorf("%w; --replace erases accounts that are there", err)
		}
		for _, what := range done.LeftOut {
			fmt.Fprintln(os.Stderr, "imlb: left out:", what)
		}
		for _, user := range done.Users {
			err = errors.Join(err, tell(user, "imported", ""))
		}
		if err == nil && len(done.Users) == 0 {
			err = fmt.Errorf("import: nobody was imported: there is no user of %s in %s that can be; what was left out is named above", d.domain, c.File)
		}
		return err
	})
}

// open opens the document, and says how to open those that it includes: files of its
// directory and those below.
func (c *userImportCmd) open() (in io.Reader, open func(string) (io.ReadCloser, error), closeAll func() error, err error) {
	if c.File == "-" {
		return os.Stdin, nil, func() error { return nil }, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("open the document: %w", err)
	}
	root, err := os.OpenRoot(filepath.Dir(c.File))
	if err != nil {
		return nil, nil, nil, errors.Join(fmt.Errorf("open the directory of the document: %w", err), f.Close())
	}
	open = func(href string) (io.ReadCloser, error) {
		u, err := url.Parse(href)
		if err != nil || u.IsAbs() || u.Host != "" {
			return nil, fmt.Errorf("%q is not the name of a file", href)
		}
		return root.Open(filepath.FromSlash(u.Path))
	}
	return f, open, func() error { return errors.Join(f.Close(), root.Close()) }, nil
}

// userDeleteCmd is `imlb user delete`.
type userDeleteCmd struct {
	Name string `arg:"" help:"The user: alice or alice@example.com."`
}

// Help is the long text of `imlb user delete --help`.
func (userDeleteCmd) Help() string {
	return `Erases the account and all that it owns, and prints how much that was. What the user has written stays with those who have received it,
and in backups of the database.`
}

// Run erases the account.
func (c *userDeleteCmd) Run(ctx context.Context, parent *userCmd) error {
	return parent.with(ctx, func(d *directory) error {
		user, err := d.address(c.Name)
		if err != nil {
			return err
		}
		erased, err := backend.DeleteUser(ctx, d, user)
		if err != nil {
			return fmt.Errorf("delete %s: %w", user, err)
		}
		out := bufio.NewWriter(os.Stdout)
		fmt.Fprintf(out, "%s deleted\n", user)
		for _, e := range erased {
			if words := erasedWords(e.Table); words != "" {
				fmt.Fprintf(out, "  %s: %d\n", words, e.Rows)
			}
		}
		return out.Flush()
	})
}

// erasedWords says what the rows of a table are to whoever runs the service; nothing if
// each account has exactly one.
func erasedWords(table string) string {
	switch table {
	case "accounts", "heads":
		return ""
	case "credentials":
		return "keys"
	case "roster_items":
		return "contacts"
	case "roster_removals":
		return "removed contacts"
	case "entries":
		return "messages"
	case "archive_prefs":
		return "archive preferences"
	case "resumables":
		return "sessions that could be resumed"
	case "reaped":
		return "sessions whose end was to be announced"
	case "private_xml":
		return "private data"
	default:
		return strings.ReplaceAll(table, "_", " ")
	}
}
