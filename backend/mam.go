package backend

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"time"

	"imlb/backend/store"
	"imlb/backend/xmpp"
)

// The archive (XEP-0313 1.1.3) is the user's timeline read back, without what is hidden:
// an entry's number is its id. Nothing else is kept for it. That such ids can be guessed,
// which §3 rules out, tells nobody anything: only the user can ask for them, and ids
// that others have put into a message are taken out.

const (
	archivePage = 50  // messages in a page whose size the client leaves to us
	archiveMost = 250 // messages in any page
	// archiveScan bounds the entries that are read to fill one page, which matters only
	// when a single resource is asked for. A page that would need more ends early. If it
	// is empty, its first and last id are the place that it has come to, although
	// XEP-0059 §2.2 wants none: the client goes on from there.
	archiveScan = 20_000
	// archiveCounted bounds the numbers among which messages are counted for each page.
	archiveCounted = 1000
	// archiveBytes bounds a page: none has another message after so many.
	archiveBytes = 1 << 20
)

// archive answers a request to the user's archive.
func (s *session) archive(ctx context.Context, q request) error {
	name, get := q.payload.Local(), q.header.Type == iqGet
	switch {
	case name == "query" && get:
		q.reply([]byte(archiveForm))
		return nil
	case name == "query":
		return s.queryArchive(ctx, q)
	case name == "metadata" && get:
		return s.archiveMetadata(ctx, q)
	case name == "prefs" && get:
		return s.getArchivePrefs(ctx, q)
	case name == "prefs":
		return s.setArchivePrefs(ctx, q)
	default:
		return xmpp.NewStanzaError(xmpp.FeatureNotImplemented, "")
	}
}

// archiveForm says which fields a query may have (XEP-0313 §4.1).
const archiveForm = "<query xmlns='" + xmpp.NSMAM + "'><x xmlns='" + xmpp.NSDataForm + "' type='form'>" +
	"<field type='hidden' var='FORM_TYPE'><value>" + xmpp.NSMAM + "</value></field>" +
	"<field type='jid-single' var='with'/>" +
	"<field type='text-single' var='start'/>" +
	"<field type='text-single' var='end'/>" +
	"<field type='text-single' var='before-id'/>" +
	"<field type='text-single' var='after-id'/>" +
	"<field type='list-multi' var='ids'>" +
	"<validate xmlns='http://jabber.org/protocol/xdata-validate' datatype='xs:string'><open/></validate></field>" +
	"<field type='boolean' var='include-groupchat'/>" +
	"</x></query>"

// queryArchive sends a page of the archive and then says where it begins and ends.
func (s *session) queryArchive(ctx context.Context, q request) error {
	query, err := readArchiveQuery(q.payload)
	if err != nil {
		return err
	}
	a, err := s.openArchive(ctx)
	if err != nil {
		return err
	}
	page, err := a.find(ctx, query)
	if err != nil {
		return err
	}
	shown := page.entries
	if query.flip {
		slices.Reverse(shown)
	}
	for _, e := range shown {
		s.out.room(s.done) // a page may be more than an outbox takes
		s.send(xmpp.Message, s.archived(query, e))
	}
	s.out.room(s.done)
	q.reply(page.fin())
	return nil
}

// archived is an entry as a result of a query (XEP-0313 §4.2).
func (s *session) archived(query archiveQuery, e store.Entry) []byte {
	m := appendAttr([]byte("<message"), "from", s.account.User)
	m = appendAttr(m, "to", s.jid.String())
	m = append(m, "><result xmlns='"+xmpp.NSMAM+"'"...)
	if query.id != "" {
		m = appendAttr(m, "queryid", query.id)
	}
	m = appendAttr(m, "id", archiveID(e.Seq))
	m = append(m, '>')
	m = appendForwarded(m, e.Stanza, e.Time)
	return append(m, "</result></message>"...)
}

// appendForwarded appends a stanza inside <forwarded/> (XEP-0297), with its time
// unless that is zero.
func appendForwarded(dst, stanza []byte, at time.Time) []byte {
	dst = append(dst, "<forwarded xmlns='"+xmpp.NSForward+"'>"...)
	if !at.IsZero() {
		dst = append(dst, "<delay xmlns='"+xmpp.NSDelay+"' stamp='"...)
		dst = at.UTC().AppendFormat(dst, stampTemplate)
		dst = append(dst, "'/>"...)
	}
	dst = xmpp.AppendSelfContained(dst, stanza)
	return append(dst, "</forwarded>"...)
}

// archiveMetadata says where the archive begins and ends (XEP-0313 §5).
func (s *session) archiveMetadata(ctx context.Context, q request) error {
	a, err := s.openArchive(ctx)
	if err != nil {
		return err
	}
	metadata, err := a.metadata(ctx)
	if err != nil {
		return err
	}
	q.reply(metadata)
	return nil
}

func (a *archive) metadata(ctx context.Context) ([]byte, error) {
	all := span{a.first, a.head}
	first, err := a.page(ctx, archiveQuery{max: 1}, all)
	if err != nil {
		return nil, err
	}
	last, err := a.page(ctx, archiveQuery{max: 1, backwards: true}, all)
	if err != nil {
		return nil, err
	}
	result := []byte("<metadata xmlns='" + xmpp.NSMAM + "'")
	if len(first.entries) == 0 || len(last.entries) == 0 {
		return append(result, "/>"...), nil
	}
	result = append(result, '>')
	result = appendArchiveEnd(result, "start", first.entries[0])
	result = appendArchiveEnd(result, "end", last.entries[0])
	return append(result, "</metadata>"...), nil
}

func appendArchiveEnd(dst []byte, name string, e store.Entry) []byte {
	dst = appendAttr(append(append(dst, '<'), name...), "id", archiveID(e.Seq))
	dst = appendAttr(dst, "timestamp", e.Time.UTC().Format(stampTemplate))
	return append(dst, "/>"...)
}

// fin ends the answer to a query (XEP-0313 §4.2, XEP-0059 §2). Who pages from the end is not told an
// index, which need not be there: there are clients (slixmpp) that take the first such page for the
// last of all. Nothing says whether count and index are exact: an attribute that XEP-0059 does not
// have is an error to clients that are strict (xmpp-rs).
func (r archiveResult) fin() []byte {
	fin := []byte("<fin xmlns='" + xmpp.NSMAM + "'")
	if r.complete {
		fin = append(fin, " complete='true'"...)
	}
	fin = append(fin, "><set xmlns='"+xmpp.NSRSM+"'>"...)
	if r.first != 0 {
		fin = append(fin, "<first"...)
		if r.counted && !r.backwards {
			fin = appendAttr(fin, "index", strconv.FormatUint(r.index, 10))
		}
		fin = append(fin, ">"+archiveID(r.first)+"</first><last>"+archiveID(r.last)+"</last>"...)
	}
	if r.counted {
		fin = append(fin, "<count>"+strconv.FormatUint(r.count, 10)+"</count>"...)
	}
	return append(fin, "</set></fin>"...)
}

// hasHint tells whether a stanza has a hint of XEP-0334.
func hasHint(stanza []byte, name string) bool {
	if !bytes.Contains(stanza, []byte(name)) {
		return false
	}
	e, err := xmpp.ParseElement(stanza)
	if err != nil {
		return false
	}
	_, ok := e.Child(xmpp.NSHints, name)
	return ok
}
