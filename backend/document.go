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
// been declared around it besides; and fronts let through what nodes make of it (xmpp.FromNode).
var documentLimits = xmpp.Limits{MaxBytes: elementMost, MaxAttrs: 256} //nolint:gochecknoglobals // A constant.

// errTooLarge: an element in a document is larger than that.
var errTooLarge = errors.New("an element is too large")

// document is an XML document that is read from its beginning to its end, element by
// element. Elements can be had as they are written.
//
// Tags and elements are read as nodes read those of clients, so that all that a client has sent can be
// imported from an export. The decoder of encoding/xml knows fewer names: those of XML
// before its fifth edition.
type document struct {
	src   *bufio.Reader
	line  int               // that has been come to
	kept  []byte            // what was read last
	begun int               // where in kept the last piece of markup begins
	names []string          // of the elements that are open, as written
	empty bool              // the last of them was <name/>, so that its end comes next
	scope map[string]string // namespaces declared by the elements around, by prefix; that of "" is the default
}

func newDocument(r io.Reader) *document {
	return &document{src: bufio.NewReader(r), line: 1}
}

// opening is the start tag of an element.
type opening struct {
	Name xml.Name
	tag  xmpp.Element // with the namespaces that it inherits, and empty
}

// attribute returns an attribute of an element, or nothing.
func attribute(start opening, name string) string {
	value, _ := start.tag.Attr(name)
	return value
}

// markup is what a '<' begins.
type markup uint8

const (
	startTag markup = iota
	endTag
	noTag // a comment, CDATA section or processing instruction
)

// read keeps what comes up to the next markup, and the markup itself.
func (d *document) read() (markup, error) {
	if d.empty {
		d.empty, d.names = false, d.names[:len(d.names)-1]
		return endTag, nil
	}
	err := d.through('<')
	if errors.Is(err, io.EOF) && len(d.names) == 0 {
		return noTag, io.EOF
	}
	d.begun = len(d.kept) - len("<")
	kind := noTag
	if err == nil {
		kind, err = d.markup()
	}
	switch {
	case errors.Is(err, io.EOF):
		return kind, fmt.Errorf("line %d: %w", d.line, io.ErrUnexpectedEOF)
	case err != nil:
		return kind, fmt.Errorf("line %d: %w", d.line, err)
	}
	return kind, nil
}

// through keeps what comes up to a byte, and that.
func (d *document) through(end byte) error {
	for {
		some, err := d.src.ReadSlice(end)
		d.line += bytes.Count(some, []byte("\n"))
		if len(d.kept)+len(some) > elementMost {
			return errTooLarge
		}
		d.kept = append(d.kept, some...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// markup reads the markup whose '<' was read. What RFC 6120 §11.1 keeps out of streams is kept
// out of documents as well, since parts of them go into streams.
func (d *document) markup() (markup, error) {
	if err := d.through('>'); err != nil {
		return noTag, err
	}
	switch at := d.kept[d.begun:]; {
	case bytes.HasPrefix(at, []byte("<?")):
		return noTag, errors.Join(d.upTo("<?", "?>"), checkEncoding(d.kept[d.begun:]))
	case bytes.HasPrefix(at, []byte("<!--")):
		return noTag, d.upTo("<!--", "-->")
	case bytes.HasPrefix(at, []byte("<![CDATA[")):
		return noTag, d.upTo("<![CDATA[", "]]>")
	case bytes.HasPrefix(at, []byte("<!")):
		return noTag, errors.New("a document type is not accepted")
	case bytes.HasPrefix(at, []byte("</")):
		return endTag, d.leave()
	default:
		return startTag, d.enter()
	}
}

// upTo reads markup that begins with one thing up to the other, which ends in '>'.
func (d *document) upTo(begin, end string) error {
	for len(d.kept)-d.begun < len(begin+end) || !bytes.HasSuffix(d.kept, []byte(end)) {
		if err := d.through('>'); err != nil {
			return err
		}
	}
	return nil
}

// checkEncoding refuses an XML declaration that names another encoding than UTF-8.
func checkEncoding(instruction []byte) error {
	inside, ok := bytes.CutPrefix(instruction, []byte("<?xml"))
	if !ok {
		return nil
	}
	declaration, err := xmpp.ParseElement(slices.Concat([]byte("<xml"), bytes.TrimSuffix(inside, []byte("?>")), []byte("/>")))
	if err != nil {
		return nil //nolint:nilerr // another instruction
	}
	if encoding, ok := declaration.Attr("encoding"); ok && !strings.EqualFold(encoding, "utf-8") {
		return fmt.Errorf("the document is in %s and has to be in UTF-8: iconv -f %s -t UTF-8 makes it so, its first line has to be changed", encoding, encoding)
	}
	return nil
}

// enter reads a start tag to its end, which is the first '>' outside of quotes.
func (d *document) enter() error {
	quote := byte(0)
	for i := d.begun + 1; ; i++ {
		if i == len(d.kept) {
			if err := d.through('>'); err != nil {
				return err
			}
		}
		switch c := d.kept[i]; {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '<':
			return errors.New("< inside a tag")
		case c == '>':
			tag := d.kept[d.begun : i+1]
			d.names = append(d.names, string(tag[1:bytes.IndexAny(tag, " \t\r\n/>")]))
			d.empty = tag[len(tag)-2] == '/'
			return nil
		}
	}
}

// leave checks an end tag.
func (d *document) leave() error {
	name := string(bytes.TrimRight(d.kept[d.begun+len("</"):len(d.kept)-len(">")], " \t\r\n"))
	if len(d.names) == 0 {
		return fmt.Errorf("</%s> ends nothing", name)
	}
	last := d.names[len(d.names)-1]
	if name != last {
		return fmt.Errorf("</%s> ends <%s>", name, last)
	}
	d.names = d.names[:len(d.names)-1]
	return nil
}

// next returns the next start tag; ok is false at the end of the element that is open.
func (d *document) next() (start opening, ok bool, err error) {
	for {
		d.kept = d.kept[:0]
		switch kind, err := d.read(); {
		case err != nil:
			return opening{}, false, err
		case kind == startTag:
			start, err := d.opening()
			return start, true, err
		case kind == endTag:
			return opening{}, false, nil
		}
	}
}

// opening looks at the start tag that was read last.
func (d *document) opening() (opening, error) {
	inside := bytes.TrimSuffix(bytes.TrimSuffix(d.kept[d.begun:], []byte(">")), []byte("/"))
	tag := slices.Concat(inside, []byte("/>"))
	e, err := xmpp.ParseElement(tag)
	if err == nil {
		tag = xmpp.AppendWithAttrs(nil, tag, d.inherited(e, d.scope[""])...)
		_, _, err = xmpp.NewFrameScanner(documentLimits).Next(tag)
	}
	if err == nil {
		e, err = xmpp.ParseElement(tag)
	}
	if err != nil {
		return opening{}, fmt.Errorf("line %d: <%s>: %w", d.line, d.names[len(d.names)-1], err)
	}
	return opening{Name: xml.Name{Space: e.Space(), Local: e.Local()}, tag: e}, nil
}

// inherited are the declarations of namespaces that an element uses and has not itself.
func (d *document) inherited(e xmpp.Element, fallback string) []xmpp.Attr {
	own := make(map[string]bool)
	for a := range e.Attrs() {
		own[a.Name] = true
	}
	var attrs []xmpp.Attr
	if !own["xmlns"] {
		attrs = append(attrs, xmpp.Attr{Name: "xmlns", Value: fallback})
	}
	for _, prefix := range slices.Sorted(maps.Keys(d.scope)) {
		if prefix != "" && !own["xmlns:"+prefix] && bytes.Contains(e.Raw(), []byte(prefix+":")) {
			attrs = append(attrs, xmpp.Attr{Name: "xmlns:" + prefix, Value: d.scope[prefix]})
		}
	}
	return attrs
}

// root returns the start of the first element.
func (d *document) root() (opening, error) {
	start, _, err := d.next()
	if errors.Is(err, io.EOF) {
		err = errors.New("there is nothing in the document")
	}
	return start, err
}

// children calls do for each child element of the element whose start was read last. It
// has to read the child to its end.
func (d *document) children(parent opening, do func(opening) error) error {
	outer := d.scope
	defer func() { d.scope = outer }()
	d.scope = make(map[string]string)
	maps.Copy(d.scope, outer)
	for a := range parent.tag.Attrs() {
		if prefix, ok := strings.CutPrefix(a.Name, "xmlns"); ok && (prefix == "" || prefix[0] == ':') {
			d.scope[strings.TrimPrefix(prefix, ":")] = a.Value
		}
	}
	for {
		start, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if err := do(start); err != nil {
			return err
		}
	}
}

// skip reads an element to its end.
func (d *document) skip() error {
	for inside := len(d.names); len(d.names) >= inside; {
		d.kept = d.kept[:0]
		if _, err := d.read(); err != nil {
			return err
		}
	}
	return nil
}

// errNotForStreams: an element is well-formed, but no XMPP stream may have it.
var errNotForStreams = errors.New("no XMPP stream may have this element")

// element reads an element to its end, and returns it so that it stands alone. One that has a
// prefix is returned without, as stanzas have to be (RFC 6120 §4.8.5).
func (d *document) element(start opening) (xmpp.Element, error) {
	begun, name := d.begun, d.names[len(d.names)-1]
	for inside := len(d.names); len(d.names) >= inside; {
		if _, err := d.read(); err != nil {
			return xmpp.Element{}, err
		}
	}
	raw := d.kept[begun:]
	if prefix, _, ok := strings.Cut(name, ":"); ok {
		raw = xmpp.AppendWithAttrs(nil, withoutPrefix(raw, prefix+":"), xmpp.Attr{Name: "xmlns", Value: start.Name.Space})
	}
	e, err := xmpp.ParseElement(raw)
	if err == nil {
		raw = xmpp.AppendWithAttrs(nil, raw, d.inherited(e, start.Name.Space)...)
		err = checkElement(raw)
	}
	if err != nil {
		return xmpp.Element{}, fmt.Errorf("%w: <%s/>: %w", errNotForStreams, start.Name.Local, err)
	}
	return xmpp.ParseElement(raw)
}

// withoutPrefix returns a copy of an element whose name has no prefix any more.
func withoutPrefix(raw []byte, prefix string) []byte {
	out := slices.Concat([]byte("<"), raw[len("<"+prefix):])
	if end := bytes.LastIndex(out, []byte("</"+prefix)); end >= 0 && !bytes.HasSuffix(out, []byte("/>")) {
		out = slices.Delete(out, end+len("</"), end+len("</"+prefix))
	}
	return out
}

// checkElement tells why bytes are not one element that stands alone.
func checkElement(raw []byte) error {
	token, rest, err := xmpp.NewFrameScanner(documentLimits).Next(raw)
	if err == nil && (token.Kind != xmpp.KindElement || len(rest) > 0) {
		err = errors.New("it is not one element")
	}
	return err
}
