package health

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
)

// XMPPCheck opens an XMPP stream at the node's session address and expects its
// features (RFC 6120 §4.3). It answers which SASL mechanisms the node offers.
type XMPPCheck struct {
	// Domain is the one that the stream is opened to.
	Domain  string
	Opening Opening
}

// The namespaces of streams (RFC 6120 §4.8) and SASL (§6.2).
const (
	nsStream = "http://etherx.jabber.org/streams"
	nsSASL   = "urn:ietf:params:xml:ns:xmpp-sasl"
)

// Probe implements [Check].
func (c XMPPCheck) Probe(ctx context.Context, e Endpoint) (*Answer, error) {
	conn, err := c.Opening.dial(ctx, e)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, c.open()); err != nil {
		return nil, fmt.Errorf("open stream: %w", err)
	}
	features, err := readFeatures(io.LimitReader(conn, maxAnswer))
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "</stream:stream>"); err != nil {
		return nil, fmt.Errorf("close stream: %w", err)
	}
	mechanisms := append([]string{}, features.Mechanisms...) // offering none is an answer too
	return &Answer{Sessions: -1, Ready: true, Mechanisms: mechanisms}, nil
}

func (c XMPPCheck) open() string {
	var domain strings.Builder
	_ = xml.EscapeText(&domain, []byte(c.Domain)) // a Builder takes everything
	return "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='" + nsStream +
		"' version='1.0' to='" + domain.String() + "'>"
}

// features is what matters of <stream:features/>.
type features struct {
	Mechanisms []string `xml:"urn:ietf:params:xml:ns:xmpp-sasl mechanisms>mechanism"`
}

// streamError is <stream:error/>: its first child is the condition.
type streamError struct {
	Conditions []struct{ XMLName xml.Name } `xml:",any"`
}

// readFeatures reads a stream up to its features.
func readFeatures(r io.Reader) (f features, err error) {
	d := xml.NewDecoder(r)
	d.CharsetReader = func(string, io.Reader) (io.Reader, error) { return nil, errors.New("not in UTF-8") }
	root, err := nextElement(d)
	if err != nil {
		return f, fmt.Errorf("read stream: %w", err)
	}
	if root.Name != (xml.Name{Space: nsStream, Local: "stream"}) {
		return f, fmt.Errorf("read stream: it begins with <%s/>", root.Name.Local)
	}
	first, err := nextElement(d)
	if err != nil {
		return f, fmt.Errorf("read features: %w", err)
	}
	switch first.Name {
	case xml.Name{Space: nsStream, Local: "features"}:
		if err := d.DecodeElement(&f, &first); err != nil {
			return f, fmt.Errorf("read features: %w", err)
		}
		return f, nil
	case xml.Name{Space: nsStream, Local: "error"}:
		return f, readStreamError(d, first)
	default:
		return f, fmt.Errorf("read features: <%s/> instead", first.Name.Local)
	}
}

func readStreamError(d *xml.Decoder, start xml.StartElement) error {
	var e streamError
	if err := d.DecodeElement(&e, &start); err != nil {
		return fmt.Errorf("read stream error: %w", err)
	}
	if len(e.Conditions) == 0 {
		return errors.New("stream error")
	}
	return fmt.Errorf("stream error: %s", e.Conditions[0].XMLName.Local)
}

// nextElement returns the next start tag; io.ErrUnexpectedEOF when the parent or
// the input ends before.
func nextElement(d *xml.Decoder) (xml.StartElement, error) {
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return xml.StartElement{}, err
		}
		switch token := token.(type) {
		case xml.StartElement:
			return token, nil
		case xml.EndElement:
			return xml.StartElement{}, io.ErrUnexpectedEOF
		}
	}
}
