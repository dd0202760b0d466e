package backend

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"imlb/backend/xmpp"
)

// archiveQuery is what a client asks of its archive (XEP-0313 §4.1). Empty fields
// ask for nothing.
type archiveQuery struct {
	id                string // that the client gave to the query
	with              xmpp.JID
	start, end        time.Time
	beforeID, afterID string
	ids               []string
	flip              bool // newest first within the page

	// The page (XEP-0059).
	max           int
	before, after string
	backwards     bool // the last page of what is left
	index         uint64
	byIndex       bool
	skip          uint64 // messages to pass over first
}

// readArchiveQuery reads a <query/>; the error is a *xmpp.StanzaError.
func readArchiveQuery(e xmpp.Element) (archiveQuery, error) {
	q := archiveQuery{max: archivePage}
	q.id, _ = e.Attr("queryid")
	if len(q.id) > queryIDMost {
		return q, xmpp.NewStanzaError(xmpp.PolicyViolation, "the id of the query is too long")
	}
	if node, _ := e.Attr("node"); node != "" { // which XEP-0442 gives a meaning for nodes
		return q, xmpp.NewStanzaError(xmpp.ItemNotFound, "a user's archive has no nodes")
	}
	for child := range e.Children() {
		var err error
		switch {
		case child.Is(xmpp.NSDataForm, "x"):
			err = q.readForm(child)
		case child.Is(xmpp.NSRSM, "set"):
			err = q.readPage(child)
		case child.Is(xmpp.NSMAM, "flip-page"):
			q.flip = true
		}
		if err != nil {
			return q, err
		}
	}
	if len(q.ids) > archiveMost {
		return q, xmpp.NewStanzaError(xmpp.PolicyViolation, "too many ids")
	}
	return q, nil
}

// readForm reads the fields of the submitted form.
func (q *archiveQuery) readForm(form xmpp.Element) error {
	kind := ""
	for field := range form.Children() {
		if !field.Is(xmpp.NSDataForm, "field") {
			continue
		}
		name, _ := field.Attr("var")
		var values []string
		for v := range field.Children() {
			if v.Is(xmpp.NSDataForm, "value") {
				values = append(values, v.Text())
			}
		}
		if name == "FORM_TYPE" {
			kind = slices.Concat(values, []string{""})[0]
		} else if err := q.set(name, values); err != nil {
			return err
		}
	}
	if submit, _ := form.Attr("type"); submit != "submit" || kind != xmpp.NSMAM {
		return xmpp.NewStanzaError(xmpp.BadRequest, "this is no query form")
	}
	return nil
}

// set takes one field. One that we do not know would be a restriction that we do not
// keep.
func (q *archiveQuery) set(name string, values []string) error {
	if name == "ids" {
		q.ids = append(q.ids, values...)
		return nil
	}
	if len(values) == 0 { // the field is not filled in
		return nil
	}
	value := values[0]
	var err error
	switch name {
	case "with":
		if q.with, err = xmpp.ParseJID(value); err != nil {
			return xmpp.NewStanzaError(xmpp.JIDMalformed, "with")
		}
	case "start":
		q.start, err = time.Parse(time.RFC3339, value) // XEP-0082 §3.2
	case "end":
		q.end, err = time.Parse(time.RFC3339, value)
	case "before-id":
		q.beforeID = value
	case "after-id":
		q.afterID = value
	case "include-groupchat": // there are none to leave out (XEP-0313 §4.1.4)
		_, err = parseBoolean(value)
	default:
		return xmpp.NewStanzaError(xmpp.FeatureNotImplemented, "no such field")
	}
	if err != nil || len(values) > 1 {
		return xmpp.NewStanzaError(xmpp.BadRequest, "field "+name)
	}
	return nil
}

// parseBoolean reads an xs:boolean.
func parseBoolean(text string) (bool, error) {
	switch text {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	default:
		return false, errors.New("no boolean")
	}
}

// readPage reads which page is wanted (XEP-0059 §2).
func (q *archiveQuery) readPage(set xmpp.Element) error {
	for child := range set.Children() {
		if child.Space() != xmpp.NSRSM {
			continue
		}
		switch text := child.Text(); child.Local() {
		case "max":
			n, err := strconv.ParseUint(text, 10, 31)
			if err != nil {
				return xmpp.NewStanzaError(xmpp.BadRequest, "max")
			}
			q.max = int(min(n, archiveMost))
		case "after":
			q.after = text
		case "before":
			q.before, q.backwards = text, true
		case "index":
			n, err := strconv.ParseUint(text, 10, 63)
			if err != nil {
				return xmpp.NewStanzaError(xmpp.BadRequest, "index")
			}
			q.index, q.byIndex = n, true
		}
	}
	return nil
}
