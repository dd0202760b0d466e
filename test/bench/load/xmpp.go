//go:build linux

package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
)

// What clients and the node say to each other until messages go. Only the front
// between them is of interest, so the node believes everybody.
const (
	clientHeader = "<?xml version='1.0'?><stream:stream to='localhost' version='1.0' xmlns='jabber:client' " +
		"xmlns:stream='http://etherx.jabber.org/streams'>"
	nodeHeader = "<?xml version='1.0'?><stream:stream from='localhost' id='%016x' version='1.0' xmlns='jabber:client' " +
		"xmlns:stream='http://etherx.jabber.org/streams'>"
	loginFeatures = "<stream:features><mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>" +
		"<mechanism>PLAIN</mechanism></mechanisms></stream:features>"
	bindFeatures = "<stream:features><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></stream:features>"
	auth         = "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>%s</auth>"
	success      = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
	bind         = "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/></iq>"
	bound        = "<iq type='result' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>" +
		"<jid>somebody@localhost/load</jid></bind></iq>"
	messageHead = "<message type='chat' to='echo@localhost' id='%08x'><body>"
	messageTail = "</body></message>"
)

// xmppTalk is a client's stream after it has logged in: messages come back from the
// node as they were sent.
type xmppTalk struct {
	stream
	in      *bufio.Reader
	text    *Pattern
	pos     uint64
	count   uint32
	message []byte
	got     []byte
}

// login takes a stream through SASL and resource binding.
func login(s stream, text *Pattern, seed uint64, size int) (*xmppTalk, error) {
	t := &xmppTalk{
		stream: s, in: bufio.NewReaderSize(s, 1024), text: text, pos: origin(seed),
		message: make([]byte, 0, size), got: make([]byte, size),
	}
	credentials := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "\x00user%d\x00secret", seed))
	steps := []struct{ say, until string }{
		{clientHeader, "</stream:features>"},
		{fmt.Sprintf(auth, credentials), success},
		{clientHeader, "</stream:features>"},
		{bind, "</iq>"},
	}
	for _, step := range steps {
		if _, err := io.WriteString(s, step.say); err != nil {
			return nil, err
		}
		if err := readUntil(t.in, step.until); err != nil {
			return nil, fmt.Errorf("login: %w", err)
		}
	}
	return t, nil
}

// readUntil reads up to a text, at most 8 KiB.
func readUntil(r io.ByteReader, text string) error {
	var seen []byte
	for !bytes.HasSuffix(seen, []byte(text)) {
		b, err := r.ReadByte()
		if err != nil {
			return fmt.Errorf("%w behind %q instead of %q", err, seen, text)
		}
		if seen = append(seen, b); len(seen) > 8<<10 {
			return fmt.Errorf("%q instead of %q", seen, text)
		}
	}
	return nil
}

// roundTrip has one message echoed.
func (t *xmppTalk) roundTrip() error {
	t.count++
	t.message = fmt.Appendf(t.message[:0], messageHead, t.count)
	body := len(t.got) - len(t.message) - len(messageTail)
	t.message = append(t.message, t.text.At(t.pos, body)...)
	t.message = append(t.message, messageTail...)
	t.pos += uint64(body) //nolint:gosec // a length
	if _, err := t.Write(t.message); err != nil {
		return err
	}
	if _, err := io.ReadFull(t.in, t.got); err != nil {
		return err
	}
	if !bytes.Equal(t.got, t.message) {
		return mismatch(0, t.got, t.message)
	}
	return nil
}

// stanzas has messages echoed on one stream in TLS.
func (c *streamClient) stanzas(ctx context.Context, t *tally) error {
	conn, seed, err := c.dial(ctx, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	return c.exchange(ctx, conn, seed, t)
}

func (c *streamClient) exchange(ctx context.Context, s stream, seed uint64, t *tally) error {
	talk, err := login(s, c.text, seed, c.spec.Size)
	if err != nil {
		return err
	}
	c.window.connect()
	for !c.window.over() {
		if err := c.timed(ctx, t, talk.roundTrip); err != nil {
			return err
		}
	}
	return nil
}

// node is a chat server as far as clients that log in and write messages can tell.
type node struct{}

// serve serves one stream.
func (n node) serve(conn net.Conn) { _ = n.answer(conn) }

func (n node) answer(s stream) error {
	in := bufio.NewReaderSize(s, 4096)
	if err := skipProxyHeader(in); err != nil {
		return err
	}
	steps := []struct{ until, say string }{
		{"<stream:stream ", ""},
		{">", fmt.Sprintf(nodeHeader, 1) + loginFeatures},
		{"</auth>", success},
		{"<stream:stream ", ""},
		{">", fmt.Sprintf(nodeHeader, 2) + bindFeatures},
		{"</iq>", bound},
	}
	for _, step := range steps {
		if err := readUntil(in, step.until); err != nil {
			return err
		}
		if _, err := io.WriteString(s, step.say); err != nil {
			return err
		}
	}
	return echoBack(s, in)
}

// echoBack sends everything back. The end of the stream comes back, too, and so it is
// in order.
func echoBack(w io.Writer, in *bufio.Reader) error {
	for {
		if _, err := in.Peek(1); err != nil {
			return err
		}
		data, err := in.Peek(in.Buffered())
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
		if _, err := in.Discard(len(data)); err != nil {
			return err
		}
	}
}

// skipProxyHeader passes over the PROXY v2 header that a front may send first.
func skipProxyHeader(in *bufio.Reader) error {
	const signature = "\r\n\r\n\x00\r\nQUIT\n"
	head, err := in.Peek(16)
	if err != nil || string(head[:12]) != signature {
		return err
	}
	_, err = in.Discard(16 + int(binary.BigEndian.Uint16(head[14:])))
	return err
}
