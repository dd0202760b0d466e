package bosh

import (
	"bytes"
	"math"
	"strconv"
	"strings"

	"imlb/backend/xmpp"
)

// Namespaces.
const (
	NS     = "http://jabber.org/protocol/httpbind"
	NSXMPP = "urn:xmpp:xbosh" // XEP-0206
)

// MaxTag is how long the start tag of <body/> may be, in bytes, with what comes before it.
const MaxTag = 4 << 10

// maxRID is the highest request ID (§14.1).
const maxRID = 1<<53 - 1

// A Request is what a client has sent in one <body/>. Numbers that it does not give are -1.
type Request struct {
	RID       int64
	SID       string // "" in the first request of a session
	To        string
	From      string
	Lang      string
	Ver       string // of BOSH, that the client knows
	Version   string // of XMPP
	Content   string // Content-Type that answers have to have
	Wait      int64  // seconds
	Hold      int64
	Ack       int64
	Pause     int64 // seconds
	Key       string
	NewKey    string
	Restart   bool
	Terminate bool
	Payloads  [][]byte // elements that need nothing from around them but jabber:client
}

// An Error says what is wrong with a request, as a terminal binding condition (§17.2).
type Error struct {
	Condition string
	Text      string
}

// Error returns the condition and what it is about.
func (e *Error) Error() string { return "bosh: " + e.Condition + ": " + e.Text }

func bad(text string) *Error { return &Error{Condition: BadRequest, Text: text} }

// ParseTag reads the start tag of the <body/> that p begins with. more is true when p ends
// too early for that.
func ParseTag(p []byte) (r *Request, more bool, err error) {
	p = trim(p)
	end := tagEnd(p)
	if end == 0 {
		return nil, true, bad("no <body/>")
	}
	// What comes in the tag alone has to be well-formed by itself.
	tag := append([]byte(nil), p[:end]...)
	if tag[end-2] != '/' {
		tag = append(tag[:end-1], "/>"...)
	}
	e, err := whole(tag, 0)
	if err != nil {
		return nil, false, err
	}
	r, err = read(e)
	return r, false, err
}

// Parse reads a whole request, of which no more than maxBytes bytes are looked at. After an
// error r is not nil if its SID and RID are known.
func Parse(p []byte, maxBytes int) (r *Request, err error) {
	e, err := whole(trim(p), maxBytes)
	if err != nil {
		return nil, err
	}
	if r, err = read(e); err != nil {
		return r, err
	}
	if strings.Trim(e.Text(), " \t\r\n") != "" {
		return r, bad("text in <body/>") // §6
	}
	spaces := declared(e)
	for child := range e.Children() {
		r.Payloads = append(r.Payloads, alone(child.Raw(), spaces))
	}
	return r, nil
}

// whole checks that p is one well-formed element, a <body/>.
func whole(p []byte, maxBytes int) (xmpp.Element, error) {
	limits := xmpp.Limits{MaxBytes: maxBytes}.WithDefaults()
	limits.MaxDepth++ // what is in it may be as deep as elsewhere
	tok, _, err := xmpp.NewFrameScanner(limits).Next(p)
	switch {
	case err != nil:
		return xmpp.Element{}, bad(err.Error())
	case tok.Kind != xmpp.KindElement:
		return xmpp.Element{}, bad("no <body/>")
	}
	e, err := xmpp.ParseElement(tok.Raw)
	if err != nil || !e.Is(NS, "body") {
		return xmpp.Element{}, bad("no <body/> of " + NS)
	}
	return e, nil
}

// trim takes off what XML allows before the element: a declaration and blanks.
func trim(p []byte) []byte {
	p = bytes.TrimLeft(p, " \t\r\n")
	if bytes.HasPrefix(p, []byte("<?xml ")) {
		if _, after, ok := bytes.Cut(p, []byte("?>")); ok {
			return bytes.TrimLeft(after, " \t\r\n")
		}
	}
	return p
}

// tagEnd returns where the tag that p begins with ends, or 0 if that is not in p.
func tagEnd(p []byte) int {
	quote := byte(0)
	for i, c := range p {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '\'' || c == '"':
			quote = c
		case c == '>' && i > 0:
			return i + 1
		}
	}
	return 0
}

// read reads the attributes of a <body/>.
func read(e xmpp.Element) (*Request, error) {
	r := &Request{Wait: -1, Hold: -1, Ack: -1, Pause: -1, RID: -1}
	prefix := xboshPrefix(e)
	var wrong error
	number := func(at *int64, name, value string) {
		n, err := strconv.ParseUint(value, 10, 63)
		if err != nil || n > maxRID {
			wrong = bad(name + " is no number")
			return
		}
		*at = int64(n) //nolint:gosec // G115: it is not larger than maxRID
	}
	for a := range e.Attrs() {
		switch a.Name {
		case "rid":
			number(&r.RID, a.Name, a.Value)
		case "sid":
			r.SID = a.Value
		case "to":
			r.To = a.Value
		case "from":
			r.From = a.Value
		case "xml:lang":
			r.Lang = a.Value
		case "ver":
			r.Ver = a.Value
		case "content":
			r.Content = a.Value
		case "wait":
			number(&r.Wait, a.Name, a.Value)
		case "hold":
			number(&r.Hold, a.Name, a.Value)
		case "ack":
			number(&r.Ack, a.Name, a.Value)
		case "pause":
			number(&r.Pause, a.Name, a.Value)
		case "key":
			r.Key = a.Value
		case "newkey":
			r.NewKey = a.Value
		case "type":
			r.Terminate = a.Value == "terminate"
		case prefix + "version":
			r.Version = a.Value
		case prefix + "restart":
			r.Restart = a.Value == "true" || a.Value == "1"
		}
	}
	if wrong == nil && r.RID <= 0 {
		wrong = bad("no rid")
	}
	return r, wrong
}

// xboshPrefix returns the prefix of the attributes of XEP-0206, with its colon.
func xboshPrefix(e xmpp.Element) string {
	for a := range e.Attrs() {
		if p, ok := strings.CutPrefix(a.Name, "xmlns:"); ok && a.Value == NSXMPP {
			return p + ":"
		}
	}
	return "\x00" // there are none
}

// declared returns the prefixes that a <body/> declares, as attributes.
func declared(e xmpp.Element) []xmpp.Attr {
	var all []xmpp.Attr
	for a := range e.Attrs() {
		if strings.HasPrefix(a.Name, "xmlns:") {
			all = append(all, a)
		}
	}
	return all
}

// alone returns a payload with the prefixes declared that it uses, or may, of those that are
// declared around it. One without a namespace is of jabber:client (XEP-0206 §2), as it is in
// the stream that it goes to.
func alone(raw []byte, around []xmpp.Attr) []byte {
	own, err := xmpp.ParseElement(raw)
	if err != nil {
		return nil
	}
	var more []xmpp.Attr
	for _, a := range around {
		prefix := strings.TrimPrefix(a.Name, "xmlns:")
		if _, has := own.Attr(a.Name); !has && bytes.Contains(raw, []byte(prefix+":")) {
			more = append(more, a)
		}
	}
	return xmpp.AppendWithAttrs(nil, raw, more...)
}

// empty tells whether a request asks for nothing but what there is for the client.
func (r *Request) empty() bool {
	return len(r.Payloads) == 0 && !r.Restart && !r.Terminate && r.Pause < 0
}

// seconds returns n bounded by most; most if it was not given.
func seconds(n int64, most int) int {
	if n < 0 || n > math.MaxInt32 {
		return most
	}
	return min(int(n), most)
}
