package backend

import (
	"bufio"
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"imlb/backend/xmpp"
)

// elementMost bounds an element that is read whole from a document. All that may be one in the
// account of a user, whatever the nodes' documents say, is shorter.
const elementMost = 32 << 20

// documentLimits are those of such elements. They let through what the limits of any node do, and what has
// been declared around it besides.
var documentLimits = xmpp.Limits{MaxBytes: elementMost, MaxAttrs: 256} //nolint:gochecknoglobals // A constant.

// errTooLarge: an element in a document is larger than that.
var errTooLarge = errors.New("an element is too large")

// document is an XML document that is read from its beginning to its end, element by
// element. Elements can be had as they are written.
type document struct {
	dec   *xml.Decoder
	src   *recorder
	begun int64             // where the last token begins
	scope map[string]string // prefixes declared by the elements around
}

func newDocument(r io.Reader) *document {
	src := &recorder{from: bufio.NewReader(r)}
	return &document{dec: xml.NewDecoder(src), src: src, scope: make(map[string]string)}
}

// recorder remembers what was read, from a place on.
type recorder struct {
	from *bufio.Reader
	kept []byte
	base int64 // where kept begins
}

// ReadByte implements io.ByteReader, which makes the decoder read no further than it
// has come.
func (r *recorder) ReadByte() (byte, error) {
	b, err := r.from.ReadByte()
	if err != nil {
		return 0, err
	}
	if len(r.kept) > elementMost {
		return 0, errTooLarge
	}
	r.kept = append(r.kept, b)
	return b, nil
}

// Read implements io.Reader. The decoder does not use it.
func (r *recorder) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

// forget drops what is before a place.
func (r *recorder) forget(before int64) {
	n := copy(r.kept, r.kept[before-r.base:])
	r.kept, r.base = r.kept[:n], before
}

// next returns the next token. What RFC 6120 §11.1 keeps out of streams is kept out of
// documents as well, since parts of them go into streams.
func (d *document) next() (xml.Token, error) {
	d.begun = d.dec.InputOffset()
	d.src.forget(d.begun)
	token, err := d.dec.Token()
	if _, ok := token.(xml.Directive); ok {
		return nil, errors.New("a document type is not accepted")
	}
	return token, err
}

// root returns the start of the first element.
func (d *document) root() (xml.StartElement, error) {
	for {
		token, err := d.next()
		if err != nil {
			return xml.StartElement{}, err
		}
		if start, ok := token.(xml.StartElement); ok {
			return start, nil
		}
	}
}

// children calls do for each child element of the element whose start was read last. It
// has to read the child to its end.
func (d *document) children(parent xml.StartElement, do func(xml.StartElement) error) error {
	outer := d.scope
	defer func() { d.scope = outer }()
	d.scope = maps.Clone(outer)
	for _, a := range parent.Attr {
		if a.Name.Space == "xmlns" {
			d.scope[a.Name.Local] = a.Value
		}
	}
	for {
		token, err := d.next()
		if err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			if err := do(t); err != nil {
				return err
			}
		case xml.EndElement:
			return nil
		}
	}
}

// skip reads an element to its end.
func (d *document) skip() error {
	for depth := 1; depth > 0; {
		token, err := d.next()
		if err != nil {
			return err
		}
		switch token.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
	}
	return nil
}

// errNotForStreams: an element is well-formed, but no XMPP stream may have it.
var errNotForStreams = errors.New("no XMPP stream may have this element")

// element reads an element to its end, and returns it so that it stands alone.
func (d *document) element(start xml.StartElement) (xmpp.Element, error) {
	begun := d.begun
	if err := d.dec.Skip(); err != nil {
		return xmpp.Element{}, err
	}
	raw := d.src.kept[begun-d.src.base : d.dec.InputOffset()-d.src.base]
	if name, _, _ := bytes.Cut(raw, []byte(start.Name.Local)); bytes.HasSuffix(name, []byte(":")) {
		return xmpp.Element{}, fmt.Errorf("%w: <%s/> has a prefix", errNotForStreams, start.Name.Local)
	}
	raw = xmpp.AppendWithAttrs(nil, raw, d.missing(start, raw)...)
	token, rest, err := xmpp.NewFrameScanner(documentLimits).Next(raw)
	if err != nil || token.Kind != xmpp.KindElement || len(rest) > 0 {
		return xmpp.Element{}, fmt.Errorf("%w: <%s/>: %w", errNotForStreams, start.Name.Local, errors.Join(err))
	}
	return xmpp.ParseElement(raw)
}

// missing are the namespaces that an element uses and inherits.
func (d *document) missing(start xml.StartElement, raw []byte) []xmpp.Attr {
	own := make(map[string]bool)
	for _, a := range start.Attr {
		own[strings.TrimPrefix(a.Name.Space+":"+a.Name.Local, ":")] = true
	}
	var attrs []xmpp.Attr
	if !own["xmlns"] {
		attrs = append(attrs, xmpp.Attr{Name: "xmlns", Value: start.Name.Space})
	}
	for _, prefix := range slices.Sorted(maps.Keys(d.scope)) {
		if !own["xmlns:"+prefix] && bytes.Contains(raw, []byte(prefix+":")) {
			attrs = append(attrs, xmpp.Attr{Name: "xmlns:" + prefix, Value: d.scope[prefix]})
		}
	}
	return attrs
}
