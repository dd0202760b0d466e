package xmpp_test

import (
	"slices"
	"testing"

	"imlb/backend/xmpp"
)

const tree = `<iq xmlns='jabber:client' xmlns:p="urn:p" type='set' id='&lt;1&gt;' xml:lang='en'>` +
	`<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>tea &amp; <![CDATA[<cake>]]></resource></bind>` +
	`<p:x p:y='z'><p:z/><w xmlns='urn:w'/></p:x><!---->` + `</iq>`

func TestElement(t *testing.T) {
	t.Parallel()
	e, err := xmpp.ParseElement([]byte(tree))
	if err != nil {
		t.Fatal(err)
	}
	if e.Local() != "iq" || e.Prefix() != "" || e.Space() != xmpp.NSClient || !e.Is(xmpp.NSClient, "iq") || string(e.Raw()) != tree {
		t.Errorf("got %q %q %q", e.Local(), e.Prefix(), e.Space())
	}
	for name, want := range map[string]string{"type": "set", "id": "<1>", "xml:lang": "en", "xmlns:p": "urn:p"} {
		if got, ok := e.Attr(name); !ok || got != want {
			t.Errorf("attribute %s is %q, %v", name, got, ok)
		}
	}
	if got, ok := e.Attr("lang"); ok {
		t.Errorf("attribute lang is %q", got)
	}
	bind, ok := e.Child(xmpp.NSBind, "bind")
	if !ok {
		t.Fatal("no bind")
	}
	if resource, ok := bind.Child(xmpp.NSBind, "resource"); !ok || resource.Text() != "tea & <cake>" {
		t.Errorf("resource is %q, %v", resource.Text(), ok)
	}
	if _, ok := e.Child(xmpp.NSClient, "bind"); ok {
		t.Error("bind found in another namespace")
	}
}

// TestElementNamespaces: a child has the namespaces of the parents that it was reached through.
func TestElementNamespaces(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string][]string{
		"<a/>":                             {""},
		"<a xmlns='x'/>":                   {"x"},
		"<a xmlns='x'><b/></a>":            {"x", "x"},
		"<a xmlns='x'><b xmlns=''/></a>":   {"x", ""},
		"<a><b xmlns='x'><c/></b></a>":     {"", "x", "x"},
		"<p:a xmlns:p='x'><b/></p:a>":      {"x", ""},
		"<a xmlns:p='x'><b><p:c/></b></a>": {"", "", "x"},
		"<a xmlns:p='x'><b xmlns:p='y'><c xmlns:q='z'><p:d/></c></b></a>": {"", "", "", "y"},
		"<a xmlns:p='x'><b xmlns:q='y'><p:c/></b></a>":                    {"", "", "x"},
		"<stream:error><b/></stream:error>":                               {"", ""},
		"<a xmlns:p='x&amp;y'><xml:b><p:c/></xml:b></a>":                  {"", xmpp.NSXML, "x&y"},
		"<a xmlns='" + xmpp.NSChatStates + "'/>":                          {xmpp.NSChatStates},
	} {
		e, err := xmpp.ParseElement([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for ok := true; ok; {
			got = append(got, e.Space())
			ok = false
			for child := range e.Children() {
				e, ok = child, true
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", raw, got, want)
		}
	}
}

// TestElementMalformed: what is no start tag is no element; what makes no sense inside ends
// the children.
func TestElementMalformed(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "<", "x", "a<b/>", "<a", "<a b", "<a b>", "<a/ >", "<a b='c'd=''/>", "<1/>", "</a>", "<a b='"} {
		if _, err := xmpp.ParseElement([]byte(raw)); err == nil {
			t.Errorf("%q is an element", raw)
		}
	}
	for raw, want := range map[string][]string{
		"<a><b/><c":            {"<b/>"},
		"<a><b/><![CDATA[x":    {"<b/>"},
		"<a><b/><c><![CDATA[x": {"<b/>"},
		"<a><b/>text":          {"<b/>"},
		"<a><b/><1/></a>":      {"<b/>"},
	} {
		e, err := xmpp.ParseElement([]byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		if got := children(e); !slices.Equal(got, want) {
			t.Errorf("%q has children %q, want %q", raw, got, want)
		}
	}
}

func TestParseHeader(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]xmpp.Header{
		"<message to='a@b/c' from=\"d\" type='chat' id='1' xml:lang='de' x='y'><body to='z'/></message>": {
			Kind: xmpp.Message, Local: "message", To: "a@b/c", From: "d", Type: "chat", ID: "1", Lang: "de", Addressed: true},
		"<message to=''/>":                          {Kind: xmpp.Message, Local: "message", Addressed: true},
		"<presence/>":                               {Kind: xmpp.Presence, Local: "presence"},
		"<iq id='&quot;&#9;\n&amp;'/>":              {Kind: xmpp.IQ, Local: "iq", ID: "\"\t &"},
		"<iq xmlns='jabber:client'/>":               {Kind: xmpp.IQ, Local: "iq", NS: xmpp.NSClient},
		"<iq xmlns='jabber:server'/>":               {Kind: xmpp.IQ, Local: "iq", NS: xmpp.NSServer},
		"<iq xmlns='urn:x'/>":                       {Local: "iq", NS: "urn:x"},
		"<iq xmlns=''/>":                            {Local: "iq"},
		"<p:iq xmlns:p='jabber:client'/>":           {Local: "iq", NS: xmpp.NSClient},
		"<p:iq xmlns='' xmlns:p='jabber:client'/>":  {Local: "iq", NS: xmpp.NSClient},
		"<p:iq xmlns='jabber:client' xmlns:p='x'/>": {Local: "iq", NS: "x"},
		"<stream:message/>":                         {Local: "message"},
		"<r xmlns='urn:xmpp:sm:3'/>":                {Local: "r", NS: xmpp.NSSM},
	} {
		got, err := xmpp.ParseHeader([]byte(raw))
		if err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", raw, got, err, want)
		}
	}
	if _, err := xmpp.ParseHeader([]byte("<message to=a/>")); err == nil {
		t.Error("an attribute without quotes passed")
	}
}

// TestViewsCopyNothing: looking for a child costs no allocation, a header one.
func TestViewsCopyNothing(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = xmpp.ParseHeader(chat) }); n > 1 {
		t.Errorf("%v allocations for a header", n)
	}
	n := testing.AllocsPerRun(100, func() {
		e, err := xmpp.ParseElement(chat)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := e.Child(xmpp.NSDelay, "delay"); ok {
			t.Fatal("found")
		}
		if _, ok := e.Child(xmpp.NSReceipts, "request"); !ok {
			t.Fatal("not found")
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
