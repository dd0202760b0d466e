package backend

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// exportPage is how many entries are read at a time.
const exportPage = 200

// ExportUser writes all that is stored of a user, as a document of XEP-0227. What is
// appended to the user's timeline meanwhile is left out. The error is
// store.ErrNotFound if there is no such user; then nothing was written. After any other
// error what was written is not all.
func ExportUser(ctx context.Context, s store.Store, user string, w io.Writer) error {
	account, err := s.Account(ctx, user)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	jid, err := xmpp.ParseJID(user)
	if err != nil {
		return fmt.Errorf("export %s: %w", user, err)
	}
	out := bufio.NewWriter(w)
	x := &exporter{Store: s, account: account, jid: jid, out: out}
	x.line(appendAttr([]byte("<?xml version='1.0' encoding='UTF-8'?>\n<server-data xmlns='"+nsPIE+"'>\n<host"), "jid", jid.Domain()), ">")
	x.line(appendAttr([]byte("<user"), "name", jid.Local()), ">")
	for _, part := range []func(context.Context) error{x.standing, x.span, x.waiting, x.credentials, x.roster, x.sections, x.archive} {
		if err := part(ctx); err != nil {
			return fmt.Errorf("export %s: %w", user, err)
		}
	}
	if err := x.stillThere(ctx); err != nil {
		return fmt.Errorf("export %s: %w", user, err)
	}
	x.line([]byte("</user>\n</host>\n</server-data>"), "")
	if err := out.Flush(); err != nil {
		return fmt.Errorf("export %s: %w", user, err)
	}
	return nil
}

// exporter writes one user's data. Errors of out show at its Flush.
type exporter struct {
	store.Store

	account         store.Account
	jid             xmpp.JID
	out             *bufio.Writer
	head, delivered uint64 // when the export began
}

// stillThere tells whether it is the same account that the export began with: what was read
// after it was deleted is not what it had.
func (x *exporter) stillThere(ctx context.Context) error {
	now, err := x.Account(ctx, x.account.User)
	if errors.Is(err, store.ErrNotFound) || err == nil && now.Owner != x.account.Owner {
		return errors.New("the account was deleted or replaced meanwhile")
	}
	return err
}

// line writes a line.
func (x *exporter) line(b []byte, end string) {
	_, _ = x.out.Write(b)
	_, _ = x.out.WriteString(end + "\n")
}

// standing says what the account may do and whether it may be used.
func (x *exporter) standing(context.Context) error {
	x.line(appendStanding(nil, x.account.Role, x.account.State), "")
	return nil
}

// span says how far the timeline has come. It also says that ids are numbers.
func (x *exporter) span(ctx context.Context) error {
	first, _, err := x.Span(ctx, x.account.Owner)
	if err != nil {
		return err
	}
	if x.head, x.delivered, err = x.Head(ctx, x.account.Owner); err != nil {
		return err
	}
	line := []byte("<timeline xmlns='" + nsTransfer + "'")
	line = appendAttr(line, "first", archiveID(first))
	line = appendAttr(line, "head", archiveID(x.head))
	line = appendAttr(line, "delivered", archiveID(x.delivered))
	x.line(line, "/>")
	return nil
}

// waiting writes the messages that are to be delivered (XEP-0227 §4.5). Each has the id
// under which it is in the archive; one that is not there is marked.
func (x *exporter) waiting(ctx context.Context) error {
	x.line([]byte("<offline-messages>"), "")
	err := x.entries(ctx, x.delivered, x.Read, func(e store.Entry) {
		if e.Sent {
			return
		}
		m := xmpp.AppendSelfContained(nil, e.Stanza)
		if e.Hidden {
			m = xmpp.AppendWithChild(nil, m, []byte("<hidden xmlns='"+nsTransfer+"'/>"))
		}
		stamp := appendAttr([]byte("<delay xmlns='"+xmpp.NSDelay+"'"), "from", x.jid.Domain())
		stamp = append(appendAttr(stamp, "stamp", e.Time.UTC().Format(stampTemplate)), "/>"...)
		m = xmpp.AppendWithChild(nil, m, stamp)
		x.line(xmpp.AppendWithChild(nil, m, appendStanzaID(nil, x.account.User, e.Seq)), "")
	})
	x.line([]byte("</offline-messages>"), "")
	return err
}

// entries calls do with what read finds after a number, up to the head.
func (x *exporter) entries(ctx context.Context, after uint64,
	read func(context.Context, store.OwnerID, uint64, int) ([]store.Entry, error), do func(store.Entry),
) error {
	for {
		page, err := read(ctx, x.account.Owner, after, exportPage)
		if err != nil {
			return err
		}
		for _, e := range page {
			if after = e.Seq; e.Seq > x.head {
				return nil
			}
			do(e)
		}
		if len(page) < exportPage {
			return nil
		}
	}
}

func (x *exporter) credentials(ctx context.Context) error {
	all, err := x.Credentials(ctx, x.account.User)
	for _, c := range all {
		x.line(appendCredential(nil, c), "")
	}
	return err
}

// roster writes the contacts and the requests that wait for an answer (XEP-0227 §4.4,
// §4.9).
func (x *exporter) roster(ctx context.Context) error {
	items, version, err := x.Roster(ctx, x.account.Owner)
	if err != nil {
		return err
	}
	x.line([]byte("<query xmlns='"+xmpp.NSRoster+"' ver='"+strconv.FormatUint(version, 10)+"'>"), "")
	for _, it := range items {
		if it.InRoster {
			x.line(appendRosterItem(nil, it), "")
		}
	}
	x.line([]byte("</query>"), "")
	for _, it := range items {
		if len(it.PendingIn) > 0 {
			x.line(xmpp.AppendSelfContained(nil, it.PendingIn), "")
		}
	}
	return nil
}

func (x *exporter) sections(ctx context.Context) error {
	for _, part := range userSections() {
		element, err := part.export(ctx, x.Store, x.account.Owner, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", part.local, err)
		}
		if len(element) > 0 {
			x.line(element, "")
		}
	}
	return nil
}

// archive writes the archive (XEP-0227 §4.11).
func (x *exporter) archive(ctx context.Context) error {
	x.line([]byte("<archive xmlns='"+nsPIEMAM+"'>"), "")
	find := func(ctx context.Context, owner store.OwnerID, after uint64, limit int) ([]store.Entry, error) {
		return x.Find(ctx, owner, store.Range{After: after, Limit: limit})
	}
	err := x.entries(ctx, 0, find, func(e store.Entry) {
		r := appendAttr([]byte("<result xmlns='"+xmpp.NSMAM+"'"), "id", archiveID(e.Seq))
		x.line(appendForwarded(append(r, '>'), e.Stanza, e.Time), "</result>")
	})
	x.line([]byte("</archive>"), "")
	return err
}
