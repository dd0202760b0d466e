package proxy

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"imlb/backend/xmpp"
	"imlb/proxy/bosh"
)

// boshLeg is a leg on the requests of a BOSH client (XEP-0206): each element is one in a
// <body/>, and the attributes of that say when a stream is opened and ended.
type boshLeg struct {
	conn    *boshConn
	session *session

	// owned by the reader
	max  int
	next xmpp.Token // that Ahead has taken
	err  error      // what the client has done wrong, after which there is but the end

	// owned by the writer
	wrote int        // elements so far
	marks []boshMark // of what the client has not received for sure
	last  uint64     // entry of the last mark that it has
	fault []byte     // a stream error that was written
	ends  bool       // and so was the stream's end
}

// boshMark says that the entry was in one of the elements up to a number.
type boshMark struct {
	upTo  int
	entry uint64
}

// boshRoom is how many bytes wait for a client's next request before its node is read no
// more. It is more than what a session is sent that has not logged in, so that one goroutine
// which reads and writes does not wait for itself.
const boshRoom = 2 * maxFeatures

func newBOSHLeg(conn *boshConn, s *session, maxBytes int) *boshLeg {
	return &boshLeg{conn: conn, session: s, max: maxBytes}
}

func (l *boshLeg) Next() (xmpp.Token, error) {
	if tok := l.next; tok.Kind != xmpp.KindNone {
		l.next = xmpp.Token{}
		return tok, nil
	}
	if l.err != nil {
		return xmpp.Token{}, l.err
	}
	e, ok := l.conn.next()
	if !ok {
		return xmpp.Token{}, nil
	}
	switch e.Kind {
	case bosh.Opened:
		r := e.Request
		return header(xmpp.StreamHeader{To: r.To, From: r.From, Lang: r.Lang, Version: r.Version}), nil
	case bosh.Payload:
		if len(e.Raw) > l.max {
			l.err = errTooLong
			return xmpp.Token{}, l.err
		}
		return element(e.Raw), nil
	case bosh.Closed:
		return streamEnd(), nil
	case bosh.Failed:
		l.err = boshFault(e.Condition)
	}
	return xmpp.Token{}, l.err
}

// boshFault says in words of XMPP what a client has done wrong in those of BOSH.
func boshFault(condition string) error {
	e := &xmpp.StreamError{Condition: xmpp.PolicyViolation, Text: "BOSH: " + condition}
	if condition == bosh.BadRequest {
		e.Condition = xmpp.BadFormat
	}
	return e
}

func (l *boshLeg) Fill() error {
	err := l.conn.fill()
	if errors.Is(err, errBOSHEnded) {
		return io.EOF
	}
	return err
}

func (l *boshLeg) Ahead() (ends bool, err error) { return ahead(l, &l.next) }

func (l *boshLeg) Write(tok xmpp.Token) error {
	switch tok.Kind {
	case xmpp.KindOpen:
		h, err := xmpp.ParseStreamHeader(tok.Raw)
		if err != nil {
			return fmt.Errorf("stream header: %w", err)
		}
		l.conn.with(func(s *bosh.Session) { s.Hello(h.From, h.ID) })
	case xmpp.KindElement:
		if isStreamError(tok.Raw) {
			l.fault = slices.Clone(tok.Raw)
			return nil
		}
		raw := xmpp.AppendSelfContained(nil, tok.Raw)
		l.conn.with(func(s *bosh.Session) { l.wrote = s.Send(raw) })
	case xmpp.KindClose:
		l.ends = true
	case xmpp.KindNone, xmpp.KindSpace: // a request that is held shows that the client is there
	}
	return nil
}

// Flush gives out what was written, or has it wait for the client's next request. If too much
// waits, so does the caller: how long is up to the inactivity that was agreed on.
func (l *boshLeg) Flush() error {
	l.conn.do((*bosh.Session).Flush)
	err := l.finish()
	if errors.Is(err, errBOSHEnded) {
		return nil // the client knows, and the reader sees
	}
	return err
}

func (l *boshLeg) finish() error {
	if !l.ends {
		return l.conn.drain(boshRoom)
	}
	return l.conn.end(l.condition())
}

// condition is what the client is told at the end. What a node has said is passed on as that
// (XEP-0206 §6); what the front says has its own words in BOSH, if there are some.
func (l *boshLeg) condition() (condition string, content []byte) {
	if l.fault == nil {
		return "", nil
	}
	if e, ok := xmpp.ParseStreamError(l.fault); ok && !l.session.erred {
		switch e.Condition {
		case xmpp.HostUnknown:
			return bosh.HostUnknown, nil
		case xmpp.ImproperAddressing:
			return bosh.ImproperAddressing, nil
		case xmpp.SystemShutdown:
			return bosh.SystemShutdown, nil
		case xmpp.InternalServerError:
			return bosh.InternalServerError, nil
		}
	}
	e, err := xmpp.ParseElement(l.fault)
	if err != nil {
		return bosh.RemoteStreamError, nil
	}
	for child := range e.Children() {
		content = appendWhole(content, child)
	}
	return bosh.RemoteStreamError, content
}

// proved notes that an entry was in what was written so far, and returns the last one that
// the client has received for sure. Requests of the client are what proves it.
func (l *boshLeg) proved(entry uint64) uint64 {
	if n := len(l.marks); entry > l.last && (n == 0 || l.marks[n-1].entry < entry) {
		l.marks = append(l.marks, boshMark{l.wrote, entry})
	}
	received := 0
	l.conn.with(func(s *bosh.Session) { received = s.Received() })
	for len(l.marks) > 0 && l.marks[0].upTo <= received {
		l.last = l.marks[0].entry
		l.marks = l.marks[1:]
	}
	return l.last
}

func (l *boshLeg) Restart(limits xmpp.Limits) { l.SetLimits(limits) }

func (l *boshLeg) SetLimits(limits xmpp.Limits) {
	l.max = limits.WithDefaults().MaxBytes
	l.conn.setMax(l.max)
}

func (l *boshLeg) CloseWrite() error { return nil }

func (l *boshLeg) Close() error { return l.conn.Close() }
