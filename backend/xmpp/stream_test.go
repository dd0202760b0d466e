package xmpp_test

import (
	"errors"
	"strings"
	"testing"

	"imlb/backend/xmpp"
)

func TestParseStreamHeader(t *testing.T) {
	t.Parallel()
	const spaces = " xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'"
	for raw, want := range map[string]struct {
		h         xmpp.StreamHeader
		condition string
	}{
		header: {h: xmpp.StreamHeader{To: "example.com", Version: "1.0", Lang: "en", NS: xmpp.NSClient}},
		"<stream:stream from='a&amp;b' to='c' id='d' version='01.00'" + spaces + ">": {
			h: xmpp.StreamHeader{From: "a&b", To: "c", ID: "d", Version: "01.00", NS: xmpp.NSClient}},
		"<stream:stream version='1.1'" + spaces + ">": {h: xmpp.StreamHeader{Version: "1.1", NS: xmpp.NSClient}},
		"<stream:stream version='2.0'" + spaces + ">": {h: xmpp.StreamHeader{Version: "2.0", NS: xmpp.NSClient}},
		// RFC 6120 §4.7.5: no version is 0.0.
		"<stream:stream" + spaces + ">":               {condition: xmpp.UnsupportedVersion},
		"<stream:stream version='0.9'" + spaces + ">": {condition: xmpp.UnsupportedVersion},
		"<stream:stream version='1'" + spaces + ">":   {condition: xmpp.UnsupportedVersion},
		"<stream:stream version='1.x'" + spaces + ">": {condition: xmpp.UnsupportedVersion},
		// §4.8.1: the root element has to be in the stream namespace.
		"<stream:stream version='1.0' xmlns='jabber:client' xmlns:stream='urn:x'>": {condition: xmpp.InvalidNamespace},
		"<stream version='1.0' xmlns='jabber:client'>":                             {condition: xmpp.InvalidNamespace},
		// §4.8.2: the content namespace.
		"<stream:stream version='1.0' xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>": {condition: xmpp.InvalidNamespace},
		"<stream:stream version='1.0' xmlns:stream='http://etherx.jabber.org/streams'>":                       {condition: xmpp.InvalidNamespace},
		// §4.8.5: other prefixes need not be accepted.
		"<s:stream version='1.0' xmlns='jabber:client' xmlns:s='http://etherx.jabber.org/streams'>": {condition: xmpp.BadNamespacePrefix},
		"<stream version='1.0' xmlns='http://etherx.jabber.org/streams'>":                           {condition: xmpp.BadNamespacePrefix},
		"<html>":                {condition: xmpp.BadFormat},
		"<?xml version='1.0'?>": {condition: xmpp.NotWellFormed},
		"nothing":               {condition: xmpp.NotWellFormed},
	} {
		h, err := xmpp.ParseStreamHeader([]byte(raw))
		if got := streamCondition(err); got != want.condition {
			t.Errorf("%s: got %q, want %q", raw, got, want.condition)
		}
		if want.condition == "" && h != want.h {
			t.Errorf("%s: got %+v, want %+v", raw, h, want.h)
		}
	}
}

func streamCondition(err error) string {
	var se *xmpp.StreamError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &se):
		return se.Condition
	default:
		return err.Error()
	}
}

// TestStreamHeaderRoundTrip: what is written reads the same, and passes a scanner.
func TestStreamHeaderRoundTrip(t *testing.T) {
	t.Parallel()
	for _, h := range []xmpp.StreamHeader{
		{},
		{To: "example.com"},
		{To: "a'<>&\"\n", From: "alice@example.com", ID: "++&", Lang: "de-AT", Version: "1.1"},
	} {
		want := h
		want.NS = xmpp.NSClient
		if want.Version == "" {
			want.Version = "1.0"
		}
		raw := h.Append(nil)
		tok, _, err := xmpp.NewScanner(xmpp.Limits{}).Next(raw)
		if err != nil || tok.Kind != xmpp.KindOpen || string(tok.Raw) != string(raw) {
			t.Errorf("%s: %v, %v", raw, tok.Kind, err)
		}
		if got, err := xmpp.ParseStreamHeader(tok.Raw); err != nil || got != want {
			t.Errorf("%s reads as %+v, %v", raw, got, err)
		}
		raw = h.AppendFramingOpen(nil)
		tok, _, err = xmpp.NewFrameScanner(xmpp.Limits{}).Next(raw)
		if err != nil || tok.Kind != xmpp.KindOpen {
			t.Errorf("%s: %v, %v", raw, tok.Kind, err)
		}
		if got, err := xmpp.ParseFramingOpen(tok.Raw); err != nil || got != want {
			t.Errorf("%s reads as %+v, %v", raw, got, err)
		}
	}
	const want = "<?xml version='1.0'?><stream:stream xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' to='b' version='1.0'>"
	if got := string(xmpp.StreamHeader{To: "b", NS: xmpp.NSServer}.Append(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFraming(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0'/>": "",
		"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>":               xmpp.UnsupportedVersion,
		"<open xmlns='jabber:client' version='1.0'/>":                       xmpp.InvalidNamespace,
		"<message xmlns='jabber:client'/>":                                  xmpp.BadFormat,
		"<open":                                                             xmpp.NotWellFormed,
	} {
		if _, err := xmpp.ParseFramingOpen([]byte(raw)); streamCondition(err) != want {
			t.Errorf("%s: got %v, want %q", raw, err, want)
		}
	}
	if !xmpp.IsFramingClose(xmpp.AppendFramingClose(nil)) || xmpp.IsFramingClose([]byte("<close/>")) || xmpp.IsFramingClose([]byte("<")) {
		t.Error("the close frame is not told from others")
	}
}

// RFC 6120 §4.7.4: the language of a stream is a tag of RFC 5646; what is none says nothing.
func TestLanguageOfStreamHeader(t *testing.T) {
	t.Parallel()
	for lang, is := range map[string]bool{
		"de": true, "EN": true, "de-CH-1996": true, "sl-rozaj-biske-1994": true, "i-klingon": true, "x-whatever": true,
		"zh-cmn-Hans-CN-a-bbb-ccc-dddddddd": true, "de-Latn-DE-1996-u-co-phonebk-x-abcd": true, // the longest
		"": false, "de-": false, "-de": false, "de--ch": false, "de_CH": false, "de CH": false, "d1": false, "deutschland-x": false,
		"de-Latn-DE-1996-u-co-phonebk-x-abcde": false, "d\u00e9": false, "en.US": false, "*": false, strings.Repeat("&apos;", 1500): false,
	} {
		want := ""
		if is {
			want = lang
		}
		h, err := xmpp.ParseStreamHeader([]byte("<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0' xml:lang='" + lang + "'>"))
		if err != nil || h.Lang != want {
			t.Errorf("%q: got %q, %v", lang, h.Lang, err)
		}
		h, err = xmpp.ParseFramingOpen([]byte("<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' version='1.0' xml:lang='" + lang + "'/>"))
		if err != nil || h.Lang != want {
			t.Errorf("%q: got %q, %v from a frame", lang, h.Lang, err)
		}
	}
}

// What clients may send is less than what others take, and that is less than what fronts take of
// nodes.
func TestLimitsOfNodes(t *testing.T) {
	t.Parallel()
	usual, node := xmpp.Limits{}.WithDefaults(), xmpp.FromNode(1)
	if xmpp.ClientDepth+3 > usual.MaxDepth || usual.MaxDepth*4 > node.MaxDepth {
		t.Errorf("depths of %d, %d and %d", xmpp.ClientDepth, usual.MaxDepth, node.MaxDepth)
	}
	if xmpp.ClientAttrs+4 > usual.MaxAttrs || usual.MaxAttrs*4 > node.MaxAttrs {
		t.Errorf("%d, %d and %d attributes", xmpp.ClientAttrs, usual.MaxAttrs, node.MaxAttrs)
	}
	if node.MaxBytes < xmpp.SentMost || xmpp.FromNode(32<<20).MaxBytes != 32<<20 {
		t.Errorf("%d bytes", node.MaxBytes)
	}
}
