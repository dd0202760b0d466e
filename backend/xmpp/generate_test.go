package xmpp_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"imlb/backend/xmpp"
)

// A failer is a *testing.T, a *testing.B or a *rapid.T.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// drawElement draws an element that a Scanner has to accept, nested up to depth.
func drawElement(t *rapid.T, depth int) string {
	name := rapid.SampledFrom([]string{"a", "message", "body", "p:b", "x-y.z", "_", "q:body"}).Draw(t, "name")
	attrs := " xmlns:p='urn:p' xmlns:q=\"urn:q\"" +
		rapid.SampledFrom([]string{"", " xmlns='urn:d'", "\txmlns=''", "\n xmlns = \"jabber:client\""}).Draw(t, "default") +
		rapid.SampledFrom([]string{"", " to='a&amp;b'", " to=\"it's > \"\r\nid='&#10;\t'"}).Draw(t, "plain") +
		rapid.SampledFrom([]string{"", " p:c='1'", " p:c='' q:c='é'", " xml:lang='en'"}).Draw(t, "prefixed") +
		rapid.SampledFrom([]string{"", " "}).Draw(t, "space")
	if depth == 0 || rapid.Bool().Draw(t, "empty") {
		return "<" + name + attrs + "/>"
	}
	var inside strings.Builder
	for range rapid.IntRange(0, 4).Draw(t, "children") {
		switch rapid.IntRange(0, 2).Draw(t, "kind") {
		case 0:
			inside.WriteString(drawElement(t, depth-1))
		case 1:
			inside.WriteString(rapid.SampledFrom([]string{"text", "&lt;", " \r\n", "]] ", "😀é", "] ", "> ", "\r", "&#x20;"}).Draw(t, "text"))
		default:
			inside.WriteString(rapid.SampledFrom([]string{"<![CDATA[]]>", "<![CDATA[<p:b>]]>", "<![CDATA[&amp;\r\n]]]]>"}).Draw(t, "cdata"))
		}
	}
	return "<" + name + attrs + ">" + inside.String() + "</" + name + ">"
}

// TestDrawnElements: elements that are right by construction pass in any chunks, show what
// encoding/xml reads, and can be rewritten; with one byte changed, what passes does so too.
func TestDrawnElements(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		in := []byte(drawElement(rt, 3))
		mustElement(rt, in)
		compare(rt, in)
		at := rapid.IntRange(0, len(in)-1).Draw(rt, "at")
		in[at] = rapid.SampledFrom([]byte("<>&'\"/=:;! ]ax\x00\x80\xc3")).Draw(rt, "byte")
		compare(rt, in)
	})
}

// compare holds what the scanner lets through, if anything, against encoding/xml.
func compare(t failer, in []byte) {
	t.Helper()
	s := openScanner(t, xmpp.Limits{})
	tok, _, err := s.Next(in)
	if err != nil || tok.Kind != xmpp.KindElement {
		return
	}
	want, err := readXML(tok.Raw)
	if err != nil {
		if !isASCII(tok.Raw) && strings.Contains(err.Error(), "name") {
			return // encoding/xml has the names of XML 1.0 before its fifth edition
		}
		t.Fatalf("encoding/xml refuses %q: %v", tok.Raw, err)
	}
	e, err := xmpp.ParseElement(tok.Raw)
	if err != nil {
		t.Fatalf("ParseElement(%q): %v", tok.Raw, err)
	}
	if got := show(e); got != want {
		t.Fatalf("%q shows\n%s\nencoding/xml has\n%s", tok.Raw, got, want)
	}
	checkRewriting(t, tok.Raw)
}
