package xmpp_test

import (
	"testing"

	"imlb/backend/xmpp"
)

func TestAppendWithAttrs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		raw  string
		set  []xmpp.Attr
		want string
	}{
		{"<a/>", nil, "<a/>"},
		{"<a/>", []xmpp.Attr{{"b", "c"}}, "<a b='c'/>"},
		{"<a />", []xmpp.Attr{{"b", "c"}}, "<a b='c' />"},
		{"<a>x</a>", []xmpp.Attr{{"b", "'\"<>&\n"}}, "<a b='&apos;&quot;&lt;&gt;&amp;&#xA;'>x</a>"},
		{"<a b='1' c=\"2\" d='3'>x</a>", []xmpp.Attr{{"c", "4"}, {"e", "5"}}, "<a b='1' c='4' d='3' e='5'>x</a>"},
		{"<a b='1' c='2' d='3'/>", []xmpp.Attr{{"b", ""}, {"d", ""}, {"e", ""}}, "<a c='2'/>"},
		{"<a b='1'\n\tc='2'/>", []xmpp.Attr{{"c", "3"}}, "<a b='1' c='3'/>"},
		{"<a b='>'><c b='1'/></a>", []xmpp.Attr{{"b", "2"}}, "<a b='2'><c b='1'/></a>"},
		{"<a xml:lang='en' lang='x'/>", []xmpp.Attr{{"xml:lang", "de"}}, "<a xml:lang='de' lang='x'/>"},
		{"<a b=c/>", []xmpp.Attr{{"b", "2"}}, "<a b=c/>"},
	} {
		if got := string(xmpp.AppendWithAttrs([]byte("…"), []byte(tc.raw), tc.set...)); got != "…"+tc.want {
			t.Errorf("%s with %v: got %s, want %s", tc.raw, tc.set, got, tc.want)
		}
	}
}

func TestAppendWithChild(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"<a/>":                    "<a><x/></a>",
		"<p:a b='c' />":           "<p:a b='c' ><x/></p:a>",
		"<a></a>":                 "<a><x/></a>",
		"<a>t<b></b></a >":        "<a>t<b></b><x/></a >",
		"<a><![CDATA[</a>]]></a>": "<a><![CDATA[</a>]]><x/></a>",
		"<a>":                     "<a>",
		"no element":              "no element",
	} {
		if got := string(xmpp.AppendWithChild([]byte("…"), []byte(raw), []byte("<x/>"))); got != "…"+want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

func TestAppendWithout(t *testing.T) {
	t.Parallel()
	drop := func(e xmpp.Element) bool {
		by, _ := e.Attr("by")
		return e.Is(xmpp.NSStanzaID, "stanza-id") && by == "me"
	}
	for raw, want := range map[string]string{
		"<a/>": "<a/>",
		"<a><stanza-id xmlns='urn:xmpp:sid:0' by='me'/></a>":                                                           "<a></a>",
		"<a>x<stanza-id xmlns='urn:xmpp:sid:0' by='me'>y</stanza-id>z<stanza-id xmlns='urn:xmpp:sid:0' by='you'/></a>": "<a>xz<stanza-id xmlns='urn:xmpp:sid:0' by='you'/></a>",
		"<a><![CDATA[<stanza-id xmlns='urn:xmpp:sid:0' by='me'/>]]><stanza-id xmlns='urn:xmpp:sid:0' by='me'/></a>":    "<a><![CDATA[<stanza-id xmlns='urn:xmpp:sid:0' by='me'/>]]></a>",
		"<a><b><stanza-id xmlns='urn:xmpp:sid:0' by='me'/></b></a>":                                                    "<a><b><stanza-id xmlns='urn:xmpp:sid:0' by='me'/></b></a>",
		"<a xmlns:s='urn:xmpp:sid:0'><s:stanza-id by='me'/></a>":                                                       "<a xmlns:s='urn:xmpp:sid:0'></a>",
		"<a xmlns='urn:xmpp:sid:0'><stanza-id by='me'/></a>":                                                           "<a xmlns='urn:xmpp:sid:0'></a>",
	} {
		if got := string(xmpp.AppendWithout([]byte("…"), []byte(raw), drop)); got != "…"+want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

func TestAppendSelfContained(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"<message/>":                                                      "<message xmlns='jabber:client'/>",
		"<message to='a'>x</message>":                                     "<message xmlns='jabber:client' to='a'>x</message>",
		"<message xmlns='jabber:client'/>":                                "<message xmlns='jabber:client'/>",
		"<r xmlns=\"urn:xmpp:sm:3\"/>":                                    "<r xmlns=\"urn:xmpp:sm:3\"/>",
		"<stream:error><x xmlns='y'/></stream:error>":                     "<stream:error xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'><x xmlns='y'/></stream:error>",
		"<stream:error xmlns:stream='http://etherx.jabber.org/streams'/>": "<stream:error xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'/>",
	} {
		if got := string(xmpp.AppendSelfContained([]byte("…"), []byte(raw))); got != "…"+want {
			t.Errorf("%s: got %s, want %s", raw, got, want)
		}
	}
}

func TestReplies(t *testing.T) {
	t.Parallel()
	request := []byte("<iq xmlns='jabber:client' from=\"a@b/'c'\" to='d' type='get' id='&lt;1' xml:lang='en'><ping xmlns='urn:xmpp:ping'/></iq>")
	if got, want := string(xmpp.AppendResult(nil, request, []byte("<x/>"))),
		"<iq xmlns='jabber:client' to=\"a@b/'c'\" from='d' id='&lt;1' type='result'><x/></iq>"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, tc := range []struct {
		err  *xmpp.StanzaError
		want string
	}{
		{
			xmpp.NewStanzaError(xmpp.ServiceUnavailable, ""),
			"<error type='cancel'><service-unavailable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
		},
		{
			&xmpp.StanzaError{Condition: xmpp.JIDMalformed, Text: "not <this>"},
			"<error type='modify'><jid-malformed xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>" +
				"<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas' xml:lang='en'>not &lt;this&gt;</text></error>",
		},
		{
			&xmpp.StanzaError{Type: xmpp.ErrorWait, Condition: xmpp.PolicyViolation},
			"<error type='wait'><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
		},
		{
			xmpp.NewStanzaError(xmpp.Forbidden, ""),
			"<error type='auth'><forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
		},
		{
			xmpp.NewStanzaError(xmpp.ResourceConstraint, ""),
			"<error type='wait'><resource-constraint xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>",
		},
	} {
		want := "<message to='a' id='1' type='error'>" + tc.want + "</message>"
		if got := string(tc.err.AppendReply(nil, []byte("<message from='a' type='chat' id='1'><body/></message>"))); got != want {
			t.Errorf("%v: got %s, want %s", tc.err, got, want)
		}
	}
}

func TestStreamErrors(t *testing.T) {
	t.Parallel()
	for _, want := range []xmpp.StreamError{
		{Condition: xmpp.SystemShutdown},
		{Condition: xmpp.PolicyViolation, Text: "too <much>"},
	} {
		raw := want.Append(nil)
		mustElement(t, raw)
		got, ok := xmpp.ParseStreamError(raw)
		if !ok || *got != want {
			t.Errorf("%s reads as %+v, %v", raw, got, ok)
		}
	}
	if got, ok := xmpp.ParseStreamError([]byte("<error xmlns='" + xmpp.NSStream + "'><x xmlns='y'/></error>")); !ok || got.Condition != xmpp.UndefinedCondition {
		t.Errorf("got %v, %v", got, ok)
	}
	if _, ok := xmpp.ParseStreamError([]byte("<error xmlns='jabber:client'/>")); ok {
		t.Error("a stanza error passed as a stream error")
	}
}

func TestAppendEscaped(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain é€😀":     "plain é€😀",
		"<&>'\"":        "&lt;&amp;&gt;&apos;&quot;",
		"\t\n\r":        "&#x9;&#xA;&#xD;",
		"\x00\x1f\x7f":  "\uFFFD\uFFFD\x7f",
		"a\xffb\uFFFEc": "a\uFFFDb\uFFFDc",
		"\xed\xa0\x80":  "\uFFFD\uFFFD\uFFFD",
		"]]>":           "]]&gt;",
	} {
		if got := string(xmpp.AppendEscaped(nil, in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}
