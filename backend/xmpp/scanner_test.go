package xmpp_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"imlb/backend/xmpp"
)

// bare is the shortest stream header that is right.
const bare = `<stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' version='1.0'>`

// transcript feeds input in chunks of at most size bytes and writes down what comes out, one
// token a line, neighboring whitespace as one, and the condition that ended it.
func transcript(s *xmpp.Scanner, input []byte, size int) string {
	var out []string
	space := false
	for len(input) > 0 {
		p := input[:min(size, len(input))]
		input = input[len(p):]
		for {
			tok, rest, err := s.Next(p)
			if err != nil {
				var se *xmpp.StreamError
				if !errors.As(err, &se) {
					return fmt.Sprintf("error of type %T", err)
				}
				return strings.Join(append(out, "! "+se.Condition), "\n")
			}
			if tok.Kind == xmpp.KindNone {
				break
			}
			p = rest
			switch {
			case tok.Kind == xmpp.KindSpace && space:
				out[len(out)-1] += string(tok.Raw)
			default:
				out = append(out, kindNames[tok.Kind]+" "+string(tok.Raw))
			}
			space = tok.Kind == xmpp.KindSpace
		}
	}
	if !s.Idle() {
		out = append(out, "…")
	}
	return strings.Join(out, "\n")
}

var kindNames = map[xmpp.Kind]string{
	xmpp.KindOpen: "open", xmpp.KindElement: "element", xmpp.KindClose: "close", xmpp.KindSpace: "space",
}

// TestScannerStreams: what goes in, what comes out, for whole streams.
func TestScannerStreams(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ in, out string }{
		"a whole stream": {
			in:  bare + "<presence/><message to='a'><body>hi</body></message></stream:stream>",
			out: "open " + bare + "\nelement <presence/>\nelement <message to='a'><body>hi</body></message>\nclose </stream:stream>",
		},
		"an XML declaration belongs to the header": {
			in:  "<?xml version='1.0' encoding=\"UTF-8\" standalone='yes'?>\n" + bare,
			out: "open <?xml version='1.0' encoding=\"UTF-8\" standalone='yes'?>\n" + bare,
		},
		"a declaration may name no encoding":       {in: "<?xml version=\"1.0\" ?>" + bare, out: "open <?xml version=\"1.0\" ?>" + bare},
		"the encoding in any case":                 {in: "<?xml version='1.0' encoding='Utf-8'?>" + bare, out: "open <?xml version='1.0' encoding='Utf-8'?>" + bare},
		"whitespace before, between and after":     {in: " " + bare + "\n\t<r/>\r\n</stream:stream >\n", out: "space  \nopen " + bare + "\nspace \n\t\nelement <r/>\nspace \r\n\nclose </stream:stream >\nspace \n"},
		"half an element":                          {in: bare + "<message><body>", out: "open " + bare + "\n…"},
		"half a header":                            {in: bare[:20], out: "…"},
		"a header in need of ParseStreamHeader":    {in: "<html>", out: "open <html>"},
		"a header that declares its own prefix":    {in: "<s:stream xmlns:s='http://etherx.jabber.org/streams'></s:stream>", out: "open <s:stream xmlns:s='http://etherx.jabber.org/streams'>\nclose </s:stream>"},
		"a header with an undeclared prefix":       {in: "<stream:stream>", out: "! bad-namespace-prefix"},
		"a stream that ends in its header":         {in: "<stream/>", out: "! bad-format"},
		"an end before the header":                 {in: "</stream:stream>", out: "! not-well-formed"},
		"another end":                              {in: bare + "</stream>", out: "open " + bare + "\n! not-well-formed"},
		"an element after the end":                 {in: bare + "</stream:stream><r/>", out: "open " + bare + "\nclose </stream:stream>\n! not-well-formed"},
		"HTTP":                                     {in: "GET / HTTP/1.1\r\n", out: "! not-well-formed"},
		"TLS":                                      {in: "\x16\x03\x01", out: "! not-well-formed"},
		"a byte order mark is a character":         {in: "\uFEFF" + bare, out: "! not-well-formed"},
		"text between elements":                    {in: bare + "<r/>hi", out: "open " + bare + "\nelement <r/>\n! bad-format"},
		"UTF-16":                                   {in: "<?xml version='1.0' encoding='UTF-16'?>" + bare, out: "! unsupported-encoding"},
		"XML 1.1":                                  {in: "<?xml version='1.1'?>" + bare, out: "! not-well-formed"},
		"a declaration without version":            {in: "<?xml encoding='UTF-8'?>" + bare, out: "! not-well-formed"},
		"an empty declaration":                     {in: "<?xml?>" + bare, out: "! not-well-formed"},
		"a declaration out of order":               {in: "<?xml version='1.0' standalone='no' encoding='UTF-8'?>" + bare, out: "! not-well-formed"},
		"a declaration with a version twice":       {in: "<?xml version='1.0' version='1.0'?>" + bare, out: "! not-well-formed"},
		"a declaration with more":                  {in: "<?xml version='1.0' mood='good'?>" + bare, out: "! not-well-formed"},
		"standalone maybe":                         {in: "<?xml version='1.0' standalone='maybe'?>" + bare, out: "! not-well-formed"},
		"a declaration without end":                {in: "<?xml version='1.0'" + strings.Repeat(" ", 300) + "?>" + bare, out: "! not-well-formed"},
		"two declarations":                         {in: "<?xml version='1.0'?><?xml version='1.0'?>" + bare, out: "! restricted-xml"},
		"text after the declaration":               {in: "<?xml version='1.0'?>x" + bare, out: "! not-well-formed"},
		"a declaration inside a stream":            {in: bare + "<?xml version='1.0'?>", out: "open " + bare + "\n! restricted-xml"},
		"a processing instruction first":           {in: "<?php version='1.0'?>" + bare, out: "! restricted-xml"},
		"a document type":                          {in: "<!DOCTYPE x [<!ENTITY a 'b'>]>" + bare, out: "! restricted-xml"},
		"a comment before the header":              {in: "<!-- x -->" + bare, out: "! restricted-xml"},
		"a CDATA section between elements":         {in: bare + "<![CDATA[x]]>", out: "open " + bare + "\n! restricted-xml"},
		"a first-level element may be in stream":   {in: bare + "<stream:features/>", out: "open " + bare + "\nelement <stream:features/>"},
		"the prefix stream goes for what is in it": {in: bare + "<stream:error><stream:x/></stream:error>", out: "open " + bare + "\nelement <stream:error><stream:x/></stream:error>"},
		"but not further down":                     {in: bare + "<x><stream:x/></x>", out: "open " + bare + "\n! bad-namespace-prefix"},
		"nor for the next element":                 {in: bare + "<stream:a/><b stream:c=''/>", out: "open " + bare + "\nelement <stream:a/>\n! bad-namespace-prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for size := 1; size <= len(tc.in); size++ {
				if got := transcript(xmpp.NewScanner(xmpp.Limits{}), []byte(tc.in), size); got != tc.out {
					t.Fatalf("chunks of %d: got\n%s\nwant\n%s", size, got, tc.out)
				}
			}
		})
	}
}

// TestScannerElements: which elements pass, and how the others end the stream.
func TestScannerElements(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		// Tags.
		"<a/>": "", "<a />": "", "<a></a>": "", "<a ></a >": "", "<a\n\tb='c'\r\n/>": "",
		"<a><b/><b></b></a>": "", "<a.b-c_1/>": "", "<_/>": "", "<é-ß/>": "", "<日本/>": "",
		"<a b='>'/>": "", "<a b='\"' c=\"'\"/>": "", "<a b = 'c'/>": "", "<a b=''/>": "",
		"< a/>": "not-well-formed", "<1/>": "not-well-formed", "<-a/>": "not-well-formed", "<a$/>": "not-well-formed",
		"<a/ >": "not-well-formed", "<a//>": "not-well-formed", "</a>": "not-well-formed", "<>": "not-well-formed",
		"<a></b>": "not-well-formed", "<a></a b=''>": "not-well-formed", "<a></ a>": "not-well-formed",
		"<a><b></a></b>": "not-well-formed", "<a></A>": "not-well-formed", "<a<b/>": "not-well-formed",
		"<·/>": "not-well-formed", "<a·/>": "", "<×/>": "not-well-formed", "<a\uFFFE/>": "not-well-formed", "<a\xff/>": "unsupported-encoding",
		// Attributes.
		"<a b/>": "not-well-formed", "<a b=c/>": "not-well-formed", "<a b='c'd='e'/>": "not-well-formed",
		"<a b='<'/>": "not-well-formed", "<a b='c' b='d'/>": "not-well-formed", "<a b='&'/>": "not-well-formed",
		"<a b='&lt;&#60;&#x3C;'/>": "", "<a b='&foo;'/>": "restricted-xml", "<a ='b'/>": "not-well-formed",
		"<a b='\x01'/>": "not-well-formed", "<a b='\t\n\r'/>": "", "<a b='\xc3\x28'/>": "unsupported-encoding", "<a b='é€😀'/>": "",
		"<a b='&lt'/>": "not-well-formed", "<a b='\xe2\x82'/>": "unsupported-encoding",
		// Namespaces.
		"<a xmlns='x'/>": "", "<a xmlns=''/>": "", "<p:a xmlns:p='x'/>": "", "<a xmlns:p='x' p:b=''/>": "", "<a p:b='' xmlns:p='x'/>": "",
		"<a xmlns:p='x'><p:b><p:c/></p:b></a>": "", "<a xml:lang='en'/>": "", "<xml:a/>": "",
		"<p:a/>": "bad-namespace-prefix", "<a p:b=''/>": "bad-namespace-prefix", "<a><b xmlns:p='x'/><p:c/></a>": "bad-namespace-prefix",
		"<a><b xmlns:p='x'><c xmlns:q='y'/><p:d/></b><p:c/></a>": "bad-namespace-prefix",
		"<a xmlns:p=''/>":                                 "not-well-formed",
		"<:a/>":                                           "not-well-formed",
		"<a:/>":                                           "not-well-formed",
		"<p:a:b xmlns:p='x'/>":                            "not-well-formed",
		"<xmlns:a/>":                                      "bad-namespace-prefix",
		"<a xmlns:xmlns='x'/>":                            "not-well-formed",
		"<a xmlns:xml='x'/>":                              "not-well-formed",
		"<a xmlns='" + xmpp.NSXML + "'/>":                 "not-well-formed",
		"<a xmlns:p='" + xmpp.NSXMLNS + "'/>":             "not-well-formed",
		"<a xmlns:xml='" + xmpp.NSXML + "'/>":             "",
		"<a xmlns:p='x' xmlns:p='y'/>":                    "not-well-formed",
		"<a xmlns:p='x' xmlns:q='x' p:b='' q:b=''/>":      "not-well-formed",
		"<a xmlns:p='x' xmlns:q='y' p:b='' q:b='' b=''/>": "",
		"<stream:a xml:b='' stream:b=''/>":                "",
		// Character data.
		"<a>x > y ' \" é€😀 \t\r\n \x7f</a>": "", "<a>&amp;&lt;&gt;&quot;&apos;</a>": "", "<a>&#9;&#x10FFFF;&#00065;</a>": "",
		"<a>&</a>": "not-well-formed", "<a>& b</a>": "not-well-formed", "<a>&b</a>": "not-well-formed", "<a>&;</a>": "not-well-formed",
		"<a>&nbsp;</a>": "restricted-xml", "<a>&AMP;</a>": "restricted-xml", "<a>&#0;</a>": "not-well-formed", "<a>&#xD800;</a>": "not-well-formed",
		"<a>&#xFFFE;</a>": "not-well-formed", "<a>&#x110000;</a>": "not-well-formed", "<a>&#12a;</a>": "not-well-formed", "<a>&#;</a>": "not-well-formed",
		"<a>&#x;</a>": "not-well-formed", "<a>&#8;</a>": "not-well-formed", "<a>&#99999999999999999999;</a>": "not-well-formed", "<a>&lt</a>": "not-well-formed",
		"<a>&" + strings.Repeat("x", 40): "restricted-xml", "<a>&#" + strings.Repeat("0", 40): "not-well-formed",
		"<a>\x00</a>": "not-well-formed", "<a>\x0b</a>": "not-well-formed", "<a>\uFFFE</a>": "not-well-formed", "<a>\uFFFF</a>": "not-well-formed", "<a>\uFFFD</a>": "",
		"<a>\x80</a>": "unsupported-encoding", "<a>\xc0\x80</a>": "unsupported-encoding", "<a>\xed\xa0\x80</a>": "unsupported-encoding", "<a>\xf4\x90\x80\x80</a>": "unsupported-encoding",
		"<a>]]></a>": "not-well-formed", "<a>]]]></a>": "not-well-formed", "<a>]] ></a>": "", "<a>]]</a>": "", "<a>]></a>": "", "<a>]]&gt;</a>": "",
		// CDATA sections, and what is not allowed at all.
		"<a><![CDATA[<b>&c;</d>]] ]>]]></a>": "", "<a><![CDATA[]]></a>": "", "<a><![CDATA[]]]></a>": "", "<a><![CDATA[é]]>x</a>": "",
		"<a><![CDATA[\x02]]></a>": "not-well-formed", "<a><![CDATA[\xff]]></a>": "unsupported-encoding", "<a><![cdata[x]]></a>": "restricted-xml",
		"<a><!-- x --></a>": "restricted-xml", "<a><?x y?></a>": "restricted-xml", "<a><!DOCTYPE a></a>": "restricted-xml", "<a><!ENTITY b 'c'></a>": "restricted-xml",
	} {
		want := "open " + bare + "\n" + map[bool]string{true: "element " + in, false: "! " + want}[want == ""]
		for size := range len(in) + len(bare) {
			if got := transcript(xmpp.NewScanner(xmpp.Limits{}), []byte(bare+in), size+1); got != want {
				t.Errorf("%q in chunks of %d: got\n%s\nwant\n%s", in, size+1, got, want)
				break
			}
		}
	}
}

// TestScannerLimits: each limit is met to the letter, and counts for each element anew.
func TestScannerLimits(t *testing.T) {
	t.Parallel()
	limits := xmpp.Limits{MaxBytes: len(bare), MaxDepth: 3, MaxAttrs: 3}
	text := func(n int) string { return "<a>" + strings.Repeat("x", n-len("<a></a>")) + "</a>" }
	for in, ok := range map[string]bool{
		strings.Repeat(text(len(bare)), 20):                          true,
		text(len(bare) + 1):                                          false,
		"<a>" + strings.Repeat("\u20ac", len(bare)/3) + "</a>":       false,
		"<a><b><c/></b></a><a><b><c/></b></a>":                       true,
		"<a><b><c><d/></c></b></a>":                                  false,
		"<a b='' c='' d=''><e b='' c='' d=''/></a>":                  true,
		"<a b='' c='' d='' e=''/>":                                   false,
		"<a xmlns:b='x' xmlns:c='x'><a xmlns:d='x'/></a>":            true,
		"<a xmlns:b='x' xmlns:c='x'><a xmlns:d='x' xmlns:e='x'/>":    false,
		"<a xmlns:b='x'/><a xmlns:b='x' xmlns:c='x' xmlns:d='x'/>":   true,
		"<a><b xmlns:b='x' xmlns:c='x'/><b xmlns:c='x' xmlns:d=''/>": false,
	} {
		for _, size := range []int{1, 2, 7, 100, 1 << 20} {
			got := transcript(xmpp.NewScanner(limits), []byte(bare+in), size)
			if strings.Contains(got, "!") == ok {
				t.Errorf("%.60q in chunks of %d: %s", in, size, got)
			}
		}
	}
	if got := transcript(xmpp.NewScanner(limits), []byte(bare+text(len(bare)+1)), 64); !strings.HasSuffix(got, "! policy-violation") {
		t.Errorf("got %s, want policy-violation", got)
	}
}

// TestScannerSetLimits: a session is given more room once it has logged in.
func TestScannerSetLimits(t *testing.T) {
	t.Parallel()
	s := openScanner(t, xmpp.Limits{MaxBytes: 200})
	long := []byte("<a>" + strings.Repeat("x", 300) + "</a>")
	s.SetLimits(xmpp.Limits{MaxBytes: 400})
	if tok, _, err := s.Next(long); err != nil || tok.Kind != xmpp.KindElement {
		t.Fatalf("got %v, %v", tok.Kind, err)
	}
	s.SetLimits(xmpp.Limits{MaxBytes: 200})
	if _, _, err := s.Next(long); err == nil {
		t.Fatal("an element over the limit passed")
	}
}

// TestScannerReset: after STARTTLS and SASL a new header has to come; what a dead scanner
// holds against the peer is forgotten.
func TestScannerReset(t *testing.T) {
	t.Parallel()
	s := xmpp.NewScanner(xmpp.Limits{})
	for _, half := range []string{bare, bare + "<a>", "<str", bare + "<a>&", "nonsense"} {
		_ = transcript(s, []byte(half), 3)
		s.Reset()
		if !s.Idle() {
			t.Fatalf("holds bytes after %q and Reset", half)
		}
	}
	want := "open " + bare + "\nelement <a/>\nclose </stream:stream>"
	if got := transcript(s, []byte(bare+"<a/></stream:stream>"), 5); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

// TestScannerStaysDead: an error is final, also for input that would be right.
func TestScannerStaysDead(t *testing.T) {
	t.Parallel()
	s := xmpp.NewScanner(xmpp.Limits{})
	_, _, first := s.Next([]byte("x"))
	_, _, second := s.Next([]byte(bare))
	if first == nil || !errors.Is(second, first) {
		t.Fatalf("got %v, then %v", first, second)
	}
}

// TestScannerFrames: a message is one element that stands alone (RFC 7395 §3.3).
func TestScannerFrames(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='example.com' version='1.0'/>": "open",
		"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>":                               "close",
		"<open xmlns='jabber:client'/>":                                                      "element",
		"<close/>":                                                                           "element",
		"<message xmlns='jabber:client'><body>hi</body></message>":                           "element",
		"<stream:features xmlns:stream='http://etherx.jabber.org/streams'/>":                 "element",
		"<stream:features/>":                                                                 "! bad-namespace-prefix",
		"<a/>\n":                                                                             "element",
		" <a/>":                                                                              "! bad-format",
		" ":                                                                                  "! bad-format",
		"<a/><b/>":                                                                           "! bad-format",
		"<a/>x":                                                                              "! bad-format",
		"<a>":                                                                                "! not-well-formed",
		"<a":                                                                                 "! not-well-formed",
		"</a>":                                                                               "! not-well-formed",
		"<?xml version='1.0'?><a/>":                                                          "! restricted-xml",
		"<!-- --><a/>":                                                                       "! restricted-xml",
		bare:                                                                                 "! not-well-formed",
	} {
		got := transcript(xmpp.NewFrameScanner(xmpp.Limits{}), []byte(in), len(in))
		if !strings.HasPrefix(want, "!") {
			want += " " + strings.TrimSpace(in)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", in, got, want)
		}
	}
	s := xmpp.NewFrameScanner(xmpp.Limits{})
	for range 3 {
		if tok, rest, err := s.Next([]byte("<r xmlns='urn:xmpp:sm:3'/>")); err != nil || tok.Kind != xmpp.KindElement || len(rest) > 0 || !s.Idle() {
			t.Fatalf("got %v, %q, %v", tok.Kind, rest, err)
		}
	}
}

// TestScannerCopiesNothing: an element in one chunk is part of it, and costs no allocation;
// one in several chunks is gathered in a buffer that is borrowed.
func TestScannerCopiesNothing(t *testing.T) {
	s := openScanner(t, xmpp.Limits{})
	tok, rest, err := s.Next(chat)
	if err != nil || &tok.Raw[0] != &chat[0] || len(tok.Raw) != len(chat) || len(rest) != 0 {
		t.Fatalf("got %v, %v, rest %d", tok.Kind, err, len(rest))
	}
	if n := testing.AllocsPerRun(200, func() { _, _, _ = s.Next(chat) }); n > 0 && !raceEnabled {
		t.Errorf("%v allocations for an element in one chunk", n)
	}
	n := testing.AllocsPerRun(200, func() {
		_, _, _ = s.Next(chat[:100])
		_, _, _ = s.Next(chat[100:])
		_, _, _ = s.Next(nil)
	})
	if n > 0 && !raceEnabled {
		t.Errorf("%v allocations for an element in two chunks", n)
	}
	if !s.Idle() {
		t.Error("not idle after a whole element")
	}
}
