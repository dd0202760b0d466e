package backend

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// ImportOptions says how a document is brought in.
type ImportOptions struct {
	// Domain whose users are imported; those of other hosts are left out.
	Domain string
	// Replace erases accounts that are there already; without it they are an error.
	Replace bool
	// Open opens a file that the document includes (XEP-0227 §5), by its relative name;
	// nil: none is.
	Open func(name string) (io.ReadCloser, error)
	// ScramIterations is the work in keys that are derived from a password in the
	// document; 0: DefaultScramIterations.
	ScramIterations int
	// HeldBytes is how much of the messages that are to be delivered is held in memory; the rest
	// is in a temporary file until the archive has been read. 0: 256 MiB.
	HeldBytes int
}

// Imported says what was brought in.
type Imported struct {
	Users   []string // as far as it went, if there was an error
	LeftOut []string // what was not understood or is not stored, for the operator to read
}

// leftOutMost bounds what is said of things left out.
const leftOutMost = 1000

// ImportUsers brings in the users of a document of XEP-0227. A user appears when all
// that belongs to it is stored, and not at all if something fails before. What is there
// of one whose import is killed is erased by the next import or DeleteUser of the
// user, and by a node a day after it was begun.
func ImportUsers(ctx context.Context, s store.Store, r io.Reader, o ImportOptions) (Imported, error) {
	setDefault(&o.ScramIterations, DefaultScramIterations)
	setDefault(&o.HeldBytes, heldBytes)
	im := &importer{store: s, opts: o}
	err := im.file(ctx, r, im.serverData)
	if err != nil {
		err = fmt.Errorf("import: %w", err)
	}
	return im.result, err
}

// importer reads documents.
type importer struct {
	store  store.Store
	opts   ImportOptions
	result Imported
}

// part reads one element, whose start was read, to its end.
type part func(ctx context.Context, d *document, start opening) error

// file reads a document whose root is one part.
func (im *importer) file(ctx context.Context, r io.Reader, do part) error {
	d := newDocument(r)
	start, err := d.root()
	if err != nil {
		return err
	}
	return do(ctx, d, start)
}

// children reads the children of an element, those that it includes from other files
// as well.
func (im *importer) children(ctx context.Context, d *document, parent opening, do part) error {
	return d.children(parent, func(start opening) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if start.Name.Space != nsXInclude || start.Name.Local != "include" {
			return do(ctx, d, start)
		}
		if err := d.skip(); err != nil {
			return err
		}
		return im.include(ctx, attribute(start, "href"), do)
	})
}

// include reads a file in the place of the element that names it. The file's root is a
// part, so that files which include each other do not go deeper than parts do.
func (im *importer) include(ctx context.Context, name string, do part) error {
	if im.opts.Open == nil {
		return fmt.Errorf("file %q cannot be included here", name)
	}
	f, err := im.opts.Open(name)
	if err != nil {
		return fmt.Errorf("include: %w", err)
	}
	defer f.Close()
	if err := im.file(ctx, f, do); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// leaveOut passes over an element and says so.
func (im *importer) leaveOut(d *document, start opening, where string) error {
	im.tell("<%s xmlns='%s'/> of %s is not understood", start.Name.Local, start.Name.Space, where)
	return d.skip()
}

func (im *importer) tell(format string, args ...any) {
	if len(im.result.LeftOut) < leftOutMost {
		im.result.LeftOut = append(im.result.LeftOut, fmt.Sprintf(format, args...))
	}
}

// serverData reads the root (XEP-0227 §4).
func (im *importer) serverData(ctx context.Context, d *document, start opening) error {
	if start.Name != (xml.Name{Space: nsPIE, Local: "server-data"}) {
		return fmt.Errorf("<%s/> is not the beginning of a document of XEP-0227", start.Name.Local)
	}
	return im.children(ctx, d, start, im.host)
}

// host reads a <host/> (XEP-0227 §4.1).
func (im *importer) host(ctx context.Context, d *document, start opening) error {
	if start.Name != (xml.Name{Space: nsPIE, Local: "host"}) {
		return im.leaveOut(d, start, "the document")
	}
	name := attribute(start, "jid")
	jid, err := xmpp.ParseJID(name)
	if err != nil || jid.String() != im.opts.Domain {
		im.tell("host %s is not %s", name, im.opts.Domain)
		return d.skip()
	}
	return im.children(ctx, d, start, im.user)
}

// user reads a <user/> (XEP-0227 §4.2). The account is made under a name that nobody
// can have, and renamed when it is complete.
func (im *importer) user(ctx context.Context, d *document, start opening) error {
	if start.Name != (xml.Name{Space: nsPIE, Local: "user"}) {
		return im.leaveOut(d, start, "host "+im.opts.Domain)
	}
	jid, err := xmpp.NewJID(attribute(start, "name"), im.opts.Domain, "")
	if err != nil || jid.Local() == "" {
		im.tell("user %q has a name that no user can have", attribute(start, "name"))
		return d.skip()
	}
	u := &incomingUser{importer: im, jid: jid, temporary: store.UnfinishedName(jid.String()), password: attribute(start, "password")}
	if err := u.begin(ctx); err != nil {
		return fmt.Errorf("%s: %w", jid, err)
	}
	err = im.children(ctx, d, start, u.part)
	if err == nil {
		err = u.finish(ctx)
	}
	u.timeline.close()
	if err != nil {
		return errors.Join(fmt.Errorf("%s: %w", jid, err), u.abandon(ctx))
	}
	im.result.Users = append(im.result.Users, jid.String())
	return nil
}
