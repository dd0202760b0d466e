package xmpp_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode"

	"pgregory.net/rapid"

	"imlb/backend/xmpp"
)

// seeds are elements, whole and broken, that the fuzz tests start from.
var seeds = []string{
	string(chat),
	"<a/>", "<a b='c'/>", "<a xmlns='x'><b xmlns:p='y' p:c='d'><p:e/></b>t&amp;u<![CDATA[<v>]]></a>",
	"<stream:features><starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/></stream:features>",
	"<a>\r\n\r\t</a>", "<a b='\r\n\t&#10;'/>", "<a>]]</a>", "<a>&#x20AC;€</a>", "<é b=\"'\">😀</é>",
	"<a><!-- --></a>", "<a>&b;</a>", "<a", "<a>", "</a>", "<a></b>", "<a b=c/>", "<p:a/>", "<a xmlns:p='x' p:b='' xmlns:q='x' q:b=''/>",
	"<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGFsaWNlAHNlY3JldA==</auth>",
	"<message to='a' from='b'><stanza-id xmlns='urn:xmpp:sid:0' by='a' id='1'/></message></stream:stream>",
}

// FuzzScannerChunks: however the input is cut, the tokens and the error are the same.
func FuzzScannerChunks(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s), uint8(1))
		f.Add([]byte(header+s), uint8(7))
	}
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		limits := xmpp.Limits{MaxBytes: 512, MaxDepth: 4, MaxAttrs: 4}
		want := transcript(xmpp.NewScanner(limits), in, max(len(in), 1))
		if got := transcript(xmpp.NewScanner(limits), in, int(size)+1); got != want {
			t.Fatalf("chunks of %d: got\n%s\nwhole:\n%s", int(size)+1, got, want)
		}
	})
}

// TestScannerChunksAtRandom: the same, with chunks of all sizes in one stream.
func TestScannerChunksAtRandom(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(bare + strings.Join(rapid.SliceOf(rapid.SampledFrom(seeds)).Draw(t, "elements"), " "))
		cut := xmpp.NewScanner(xmpp.Limits{})
		whole := xmpp.NewScanner(xmpp.Limits{})
		var got []string
		for rest := in; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
			if out := transcript(cut, rest[:n], n); out != "" && out != "…" {
				got = append(got, strings.TrimSuffix(out, "\n…"))
			}
			if rest = rest[n:]; strings.Contains(strings.Join(got, "\n"), "\n! ") {
				break
			}
		}
		want := strings.TrimSuffix(transcript(whole, in, len(in)), "\n…")
		if squeeze(strings.Join(got, "\n")) != squeeze(want) {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
		}
	})
}

// squeeze hides how whitespace between elements was cut.
func squeeze(s string) string { return strings.ReplaceAll(s, "\nspace  ", "") }

// FuzzScannerAgainstXML: what the scanner lets through, encoding/xml reads as one element, and
// the views show the same as it does.
func FuzzScannerAgainstXML(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		compare(t, in)
	})
}

func isASCII(b []byte) bool {
	return !slices.ContainsFunc([]rune(string(b)), func(r rune) bool { return r > unicode.MaxASCII })
}

// show writes an element as its namespace and name, sorted attributes, text, and children.
func show(e xmpp.Element) string {
	var attrs, inside []string
	raw := string(e.Raw())
	for _, a := range attrNames(raw) {
		value, ok := e.Attr(a)
		attrs = append(attrs, fmt.Sprintf("%s=%q/%v", a, blanks(value), ok))
	}
	slices.Sort(attrs)
	for child := range e.Children() {
		inside = append(inside, show(child))
	}
	return fmt.Sprintf("{%s}%s%v%q%v", space(e.Space()), e.Local(), attrs, e.Text(), inside)
}

// attrNames asks encoding/xml which attributes, as written, the element has.
func attrNames(raw string) (names []string) {
	d := xml.NewDecoder(strings.NewReader(raw))
	tok, _ := d.RawToken()
	start, ok := tok.(xml.StartElement)
	if !ok {
		return []string{"not a start tag"}
	}
	for _, a := range start.Attr {
		names = append(names, written(a.Name))
	}
	return names
}

func written(n xml.Name) string {
	if n.Space == "" {
		return n.Local
	}
	return n.Space + ":" + n.Local
}

// blanks makes all whitespace in attribute values the same: encoding/xml does not
// normalize it (XML 1.0 §3.3.3).
func blanks(s string) string { return strings.NewReplacer("\n", " ", "\t", " ", "\r", " ").Replace(s) }

// readXML reads raw, one element, with encoding/xml and shows it as show does. Two decoders go
// in step: one resolves namespaces, the other gives attributes as written.
func readXML(raw []byte) (string, error) {
	x := oracle{xml.NewDecoder(bytes.NewReader(raw)), xml.NewDecoder(bytes.NewReader(raw))}
	tok, asWritten, err := x.next()
	if err != nil {
		return "", err
	}
	out, err := x.element(tok, asWritten)
	if err != nil {
		return "", err
	}
	if _, err := x.resolved.Token(); !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("after the element: %w", err)
	}
	return out, nil
}

type oracle struct{ resolved, raw *xml.Decoder }

func (x oracle) next() (tok, asWritten xml.Token, err error) {
	if asWritten, err = x.raw.RawToken(); err != nil {
		return nil, nil, err
	}
	asWritten = xml.CopyToken(asWritten)
	tok, err = x.resolved.Token()
	return tok, asWritten, err
}

// element shows the element whose start tag was read last.
func (x oracle) element(tok, asWritten xml.Token) (string, error) {
	start, ok := tok.(xml.StartElement)
	tag, ok2 := asWritten.(xml.StartElement)
	if !ok || !ok2 {
		return "", fmt.Errorf("%T instead of a start tag", tok)
	}
	var attrs, inside []string
	var text []byte
	for _, a := range tag.Attr {
		attrs = append(attrs, fmt.Sprintf("%s=%q/true", written(a.Name), blanks(a.Value)))
	}
	slices.Sort(attrs)
	for {
		tok, asWritten, err := x.next()
		if err != nil {
			return "", err
		}
		switch at := tok.(type) {
		case xml.StartElement:
			child, err := x.element(at, asWritten)
			if err != nil {
				return "", err
			}
			inside = append(inside, child)
		case xml.CharData:
			text = append(text, at...)
		case xml.EndElement:
			return fmt.Sprintf("{%s}%s%v%q%v", space(start.Name.Space), start.Name.Local, attrs, text, inside), nil
		default:
			return "", fmt.Errorf("%T inside an element", tok)
		}
	}
}

// space makes namespaces comparable: encoding/xml leaves a prefix that it does not know as it
// is, and here "stream" may be such a one.
func space(uri string) string {
	if uri == "stream" {
		return ""
	}
	return blanks(uri)
}

// checkRewriting: each rewriting of an acceptable element is one, and does what it says.
func checkRewriting(t failer, raw []byte) {
	t.Helper()
	set := xmpp.AppendWithAttrs(nil, raw, xmpp.Attr{Name: "to", Value: "x<\"'\n&y"}, xmpp.Attr{Name: "id"})
	e := mustElement(t, set)
	if to, _ := e.Attr("to"); to != "x<\"'\n&y" {
		t.Fatalf("attribute to of %q is %q", set, to)
	}
	if _, ok := e.Attr("id"); ok {
		t.Fatalf("attribute id is still in %q", set)
	}

	child := []byte("<stanza-id xmlns='urn:xmpp:sid:0' id='7'/>")
	more := xmpp.AppendWithChild(nil, raw, child)
	if last := children(mustElement(t, more)); len(last) == 0 || last[len(last)-1] != string(child) {
		t.Fatalf("the last child of %q is not %s", more, child)
	}

	first := true
	less := xmpp.AppendWithout(nil, raw, func(xmpp.Element) bool { drop := first; first = false; return drop })
	before, after := mustElement(t, raw), mustElement(t, less)
	if want := children(before); len(want) > 0 && !slices.Equal(want[1:], children(after)) || before.Text() != after.Text() {
		t.Fatalf("without its first child %q is %q", raw, less)
	}

	alone := xmpp.AppendSelfContained(nil, raw)
	if got := transcript(xmpp.NewFrameScanner(xmpp.Limits{}), alone, len(alone)); !strings.HasPrefix(got, "element ") && !bytes.Contains(alone, []byte(xmpp.NSFraming)) {
		t.Fatalf("%q is not self-contained: %s", alone, got)
	}
	_, _ = xmpp.ParseHeader(raw)
	mustElement(t, xmpp.NewStanzaError(xmpp.BadRequest, "no").AppendReply(nil, xmpp.AppendSelfContained(nil, raw)))
}

// mustElement wants raw to be acceptable.
func mustElement(t failer, raw []byte) xmpp.Element {
	t.Helper()
	s := openScanner(t, xmpp.Limits{MaxBytes: 1 << 24, MaxAttrs: 1000})
	tok, rest, err := s.Next(raw)
	if err != nil || tok.Kind != xmpp.KindElement || len(rest) > 0 {
		t.Fatalf("%q is refused: kind %d, %v", raw, tok.Kind, err)
	}
	e, err := xmpp.ParseElement(raw)
	if err != nil {
		t.Fatalf("%q: %v", raw, err)
	}
	return e
}

func children(e xmpp.Element) (out []string) {
	for child := range e.Children() {
		out = append(out, string(child.Raw()))
	}
	return out
}

// FuzzViews: nothing that looks at bytes panics, whatever they are.
func FuzzViews(f *testing.F) {
	for _, s := range seeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(_ *testing.T, in []byte) {
		if e, err := xmpp.ParseElement(in); err == nil {
			look(e, 0)
		}
		_, _ = xmpp.ParseHeader(in)
		_, _ = xmpp.ParseStreamHeader(in)
		_, _ = xmpp.ParseFramingOpen(in)
		_, _ = xmpp.ParseStreamError(in)
		_, _, _ = xmpp.ParseSASL(in)
		_, _, _ = xmpp.ParseSASL2(in)
		_, _ = xmpp.ParseInline(in)
		_ = xmpp.AppendInitialResponse(nil, in, in)
		_ = xmpp.AppendWithAttrs(nil, in, xmpp.Attr{Name: "to", Value: "x"})
		_ = xmpp.AppendWithChild(nil, in, in)
		_ = xmpp.AppendWithout(nil, in, func(xmpp.Element) bool { return true })
		_ = xmpp.AppendSelfContained(nil, in)
		_ = xmpp.AppendResult(nil, in, nil)
		_ = xmpp.NewStanzaError(xmpp.BadRequest, "").AppendReply(nil, in)
	})
}

func look(e xmpp.Element, depth int) {
	_, _, _, _, _ = e.Local(), e.Prefix(), e.Space(), e.Text(), e.Raw()
	_, _ = e.Attr("to")
	for child := range e.Children() {
		if depth < 10 {
			look(child, depth+1)
		}
	}
}
