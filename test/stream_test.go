package test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/xdg-go/scram"
)

// The namespaces in which the tests expect answers.
const (
	nsStreams = "http://etherx.jabber.org/streams"
	nsStream  = "urn:ietf:params:xml:ns:xmpp-streams"
	nsSASL    = "urn:ietf:params:xml:ns:xmpp-sasl"
	nsTLS     = "urn:ietf:params:xml:ns:xmpp-tls"
	nsBind    = "urn:ietf:params:xml:ns:xmpp-bind"
	nsStanzas = "urn:ietf:params:xml:ns:xmpp-stanzas"
)

// element is any XML element, whole.
type element struct {
	XMLName  xml.Name
	Attrs    []xml.Attr `xml:",any,attr"`
	Text     string     `xml:",chardata"`
	Children []element  `xml:",any"`
}

func (e element) attr(name string) string {
	for _, a := range e.Attrs {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// child returns the first child of that name; a zero element if there is none.
func (e element) child(space, local string) element {
	for _, c := range e.Children {
		if c.XMLName.Space == space && c.XMLName.Local == local {
			return c
		}
	}
	return element{}
}

func (e element) is(space, local string) bool {
	return e.XMLName.Space == space && e.XMLName.Local == local
}

// stream is a client of XMPP in plain Go: it says exactly what a test tells it
// to, and reads with encoding/xml, which shares nothing with the code under test.
type stream struct {
	t    *testing.T
	conn io.ReadWriteCloser
	dec  *xml.Decoder
	from string // stream id of the last header
}

// source is the client's address, as the session log has it.
func (s *stream) source() string {
	s.t.Helper()
	conn, ok := s.conn.(net.Conn)
	if !ok {
		s.t.Fatalf("a %T has no address of its own", s.conn)
	}
	return conn.LocalAddr().String()
}

// deadliner is what both a net.Conn and a QUIC stream have.
type deadliner interface {
	SetDeadline(t time.Time) error
}

// newStream takes over a connection. Every read and write of it must be over
// within patience from here.
func newStream(t *testing.T, conn io.ReadWriteCloser) *stream {
	t.Helper()
	if d, ok := conn.(deadliner); ok {
		if err := d.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &stream{t: t, conn: conn, dec: xml.NewDecoder(conn)}
}

// dial opens a TCP connection.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(within(t, patience), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// dialTLS opens a stream over direct TLS (XEP-0368).
func (d *dev) dialTLS(t *testing.T) *stream {
	t.Helper()
	conn := tls.Client(dial(t, d.Front.XMPPS), d.tls(t, "xmpp-client"))
	if err := conn.HandshakeContext(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	return newStream(t, conn)
}

// write sends text as it is.
func (s *stream) write(format string, args ...any) {
	s.t.Helper()
	text := format
	if len(args) > 0 {
		text = fmt.Sprintf(format, args...)
	}
	if _, err := io.WriteString(s.conn, text); err != nil {
		s.t.Fatalf("write %q: %v", text, err)
	}
}

// open sends a stream header and reads the answer up to the features.
func (s *stream) open(domain string) (features element) {
	s.t.Helper()
	s.header(domain)
	return s.read()
}

// header sends a stream header and reads the server's.
func (s *stream) header(domain string) {
	s.t.Helper()
	s.dec = xml.NewDecoder(s.conn)
	s.write("<?xml version='1.0'?><stream:stream to='%s' version='1.0' xml:lang='en' xmlns='jabber:client' xmlns:stream='%s'>", domain, nsStreams)
	s.readHeader()
}

func (s *stream) readHeader() {
	s.t.Helper()
	for {
		token, err := s.dec.Token()
		if err != nil {
			s.t.Fatalf("read the stream header: %v", err)
		}
		if start, ok := token.(xml.StartElement); ok {
			if start.Name.Space != nsStreams || start.Name.Local != "stream" {
				s.t.Fatalf("want a stream header, got <%s xmlns=%q>", start.Name.Local, start.Name.Space)
			}
			s.from = element{Attrs: start.Attr}.attr("from")
			return
		}
	}
}

// next reads one element; io.EOF after the end of the stream.
func (s *stream) next() (element, error) {
	for {
		token, err := s.dec.Token()
		if err != nil {
			return element{}, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			var e element
			if err := s.dec.DecodeElement(&e, &token); err != nil {
				return element{}, fmt.Errorf("in <%s>: %w", token.Name.Local, err)
			}
			return e, nil
		case xml.EndElement:
			return element{}, io.EOF
		}
	}
}

// read reads one element.
func (s *stream) read() element {
	s.t.Helper()
	e, err := s.next()
	if err != nil {
		s.t.Fatalf("read an element: %v", err)
	}
	return e
}

// readUntil reads elements until one that match likes.
func (s *stream) readUntil(what string, match func(element) bool) element {
	s.t.Helper()
	var seen []string
	for {
		e, err := s.next()
		if err != nil {
			s.t.Fatalf("read until %s: %v; came before: %v", what, err, seen)
		}
		if match(e) {
			return e
		}
		seen = append(seen, e.XMLName.Local)
	}
}

// wantStreamError reads a stream error of this condition and then the end of
// the stream (RFC 6120 §4.9.1.1).
func (s *stream) wantStreamError(condition string) {
	s.t.Helper()
	e := s.read()
	if !e.is(nsStreams, "error") || e.child(nsStream, condition).XMLName.Local == "" {
		s.t.Fatalf("want the stream error %s, got %+v", condition, e)
	}
	s.wantEnd()
}

// wantEnd reads the end of the stream, answers it as RFC 6120 §4.4 asks, and
// reads the end of the connection.
func (s *stream) wantEnd() {
	s.t.Helper()
	if e, err := s.next(); !errors.Is(err, io.EOF) {
		s.t.Fatalf("want </stream:stream>, got %+v, %v", e, err)
	}
	_, _ = io.WriteString(s.conn, "</stream:stream>") // the server need not wait for it
	// encoding/xml has read the closing tag or hit the end of the connection;
	// either way nothing more may follow.
	if rest, err := io.ReadAll(s.conn); len(rest) > 0 || isTimeout(err) {
		s.t.Fatalf("after the end of the stream: %q, %v; want the connection closed", rest, err)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// auth sends <auth/> with an initial response and returns the answer.
func (s *stream) auth(mechanism, payload string) element {
	s.t.Helper()
	s.write("<auth xmlns='%s' mechanism='%s'>%s</auth>", nsSASL, mechanism, base64.StdEncoding.EncodeToString([]byte(payload)))
	return s.read()
}

// plain logs in with PLAIN and returns the answer.
func (s *stream) plain(a account, password string) element {
	s.t.Helper()
	return s.auth("PLAIN", "\x00"+a.name+"\x00"+password)
}

// plainPayload is the initial response of PLAIN for an account.
func plainPayload(a account) string {
	return base64.StdEncoding.EncodeToString([]byte("\x00" + a.name + "\x00" + a.password))
}

// scram runs a SCRAM exchange and returns the last answer of the server.
func (s *stream) scram(mechanism string, a account, password string) element {
	s.t.Helper()
	return s.scramBound(mechanism, a, password, (*scram.Client).NewConversation)
}

// scramBound is scram for a conversation that may bind to the TLS connection.
func (s *stream) scramBound(mechanism string, a account, password string, begin func(*scram.Client) *scram.ClientConversation) element {
	s.t.Helper()
	hash := map[string]scram.HashGeneratorFcn{
		"SCRAM-SHA-1": scram.SHA1, "SCRAM-SHA-256": scram.SHA256, "SCRAM-SHA-512": scram.SHA512,
	}[strings.TrimSuffix(mechanism, "-PLUS")]
	client, err := hash.NewClient(a.name, password, "")
	if err != nil {
		s.t.Fatal(err)
	}
	talk := begin(client)
	first, err := talk.Step("")
	if err != nil {
		s.t.Fatal(err)
	}
	answer := s.auth(mechanism, first)
	for answer.is(nsSASL, "challenge") {
		reply, err := talk.Step(s.decode(answer.Text))
		if err != nil {
			s.t.Fatalf("%s: server's message %q: %v", mechanism, s.decode(answer.Text), err)
		}
		s.write("<response xmlns='%s'>%s</response>", nsSASL, base64.StdEncoding.EncodeToString([]byte(reply)))
		answer = s.read()
	}
	if answer.is(nsSASL, "success") && !talk.Done() {
		if _, err := talk.Step(s.decode(answer.Text)); err != nil {
			s.t.Fatalf("%s: the server did not prove that it knows the password: %v", mechanism, err)
		}
	}
	return answer
}

func (s *stream) decode(text string) string {
	s.t.Helper()
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		s.t.Fatalf("base64 of the server: %v", err)
	}
	return string(data)
}

// session opens a stream, authenticates and binds; it returns the full JID.
func (s *stream) session(domain, mechanism string, a account) string {
	s.t.Helper()
	s.open(domain)
	var answer element
	if mechanism == "PLAIN" {
		answer = s.plain(a, a.password)
	} else {
		answer = s.scram(mechanism, a, a.password)
	}
	if !answer.is(nsSASL, "success") {
		s.t.Fatalf("%s login of %s: %+v", mechanism, a.jid, answer)
	}
	if f := s.open(domain); f.child(nsBind, "bind").XMLName.Local == "" {
		s.t.Fatalf("no resource binding among the features after login: %+v", f)
	}
	s.write("<iq type='set' id='b1'><bind xmlns='%s'/></iq>", nsBind)
	result := s.readUntil("the result of binding", func(e element) bool { return e.attr("id") == "b1" })
	jid := result.child(nsBind, "bind").child(nsBind, "jid").Text
	if !strings.HasPrefix(jid, a.jid+"/") {
		s.t.Fatalf("bound to %q, want a resource of %s: %+v", jid, a.jid, result)
	}
	return jid
}

// message reads on to the next message.
func (s *stream) message() element {
	s.t.Helper()
	return s.readUntil("a message", func(e element) bool { return e.XMLName.Local == "message" })
}

func (e element) body() string { return e.child("jabber:client", "body").Text }

// close ends the stream in good order: both sides say so, then the side that
// began closes the connection (RFC 6120 §4.4).
func (s *stream) close() {
	s.t.Helper()
	s.write("</stream:stream>")
	for {
		_, err := s.next()
		if errors.Is(err, io.EOF) {
			_ = s.conn.Close()
			return
		}
		if err != nil {
			s.t.Fatalf("wait for the server's </stream:stream>: %v", err)
		}
	}
}

// dialQUIC opens a QUIC connection for XMPP (XEP-0467).
func (d *dev) dialQUIC(t *testing.T) *quic.Conn {
	t.Helper()
	conn, err := quic.DialAddr(within(t, patience), d.Front.QUIC, d.tls(t, "xmpp-client"), &quic.Config{MaxIdleTimeout: patience})
	if err != nil {
		t.Fatalf("QUIC: %v", err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn
}

// quicStream opens one XML stream on a QUIC connection.
func quicStream(t *testing.T, conn *quic.Conn) *stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	qs, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatalf("QUIC stream: %v", err)
	}
	return newStream(t, qs)
}
