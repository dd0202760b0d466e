package xmpp_test

import (
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"mellium.im/xmpp/jid"

	"imlb/backend/xmpp"
)

func TestParseJID(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1023)
	for in, want := range map[string]struct{ local, domain, resource string }{
		// RFC 7622 §3.5, table 1.
		"juliet@example.com":          {"juliet", "example.com", ""},
		"juliet@example.com/foo":      {"juliet", "example.com", "foo"},
		"juliet@example.com/foo bar":  {"juliet", "example.com", "foo bar"},
		"juliet@example.com/foo@bar":  {"juliet", "example.com", "foo@bar"},
		"foo\\20bar@example.com":      {"foo\\20bar", "example.com", ""},
		"fussball@example.com":        {"fussball", "example.com", ""},
		"fu\u00DFball@example.com":    {"fu\u00DFball", "example.com", ""},
		"\u03C0@example.com":          {"\u03C0", "example.com", ""},
		"\u03A3@example.com/foo":      {"\u03C3", "example.com", "foo"},
		"\u03C3@example.com/foo":      {"\u03C3", "example.com", "foo"},
		"\u03C2@example.com/foo":      {"\u03C2", "example.com", "foo"},
		"king@example.com/\u265A":     {"king", "example.com", "\u265A"},
		"example.com":                 {"", "example.com", ""},
		"example.com/foobar":          {"", "example.com", "foobar"},
		"a.example.com/b@example.net": {"", "a.example.com", "b@example.net"},

		"Juliet@EXAMPLE.Com/Foo":        {"juliet", "example.com", "Foo"},
		"\u00C5@example.com":            {"\u00E5", "example.com", ""},
		"a\u030A@example.com":           {"\u00E5", "example.com", ""},
		"\uFF41@example.com":            {"a", "example.com", ""},
		"a@example.com/\u00A0b":         {"a", "example.com", " b"},
		"a@example.com.":                {"a", "example.com", ""},
		"a@example.com\u3002":           {"a", "example.com", ""},
		"a@B\u00DCCHER.example":         {"a", "b\u00FCcher.example", ""},
		"a@xn--bcher-kva.example":       {"a", "b\u00FCcher.example", ""},
		"a@xn--fuball-cta.example":      {"a", "fu\u00DFball.example", ""},
		"a@\uFF45xample\u3002com":       {"a", "example.com", ""},
		"a@localhost":                   {"a", "localhost", ""},
		"a@127.0.0.1/b":                 {"a", "127.0.0.1", "b"},
		"a@[::1]/b":                     {"a", "[::1]", "b"},
		"a@[2001:DB8:0:0::1]":           {"a", "[2001:db8::1]", ""},
		"a@b/c/d@e":                     {"a", "b", "c/d@e"},
		"a!#$%()*+,-.;=?[\\]^_`{|}~1@b": {"a!#$%()*+,-.;=?[\\]^_`{|}~1", "b", ""},
		long + "@b/" + long:             {long, "b", long},
	} {
		j, err := xmpp.ParseJID(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if j.Local() != want.local || j.Domain() != want.domain || j.Resource() != want.resource {
			t.Errorf("%q: got %q, %q, %q", in, j.Local(), j.Domain(), j.Resource())
		}
		if j.IsBare() != (want.resource == "") || j.IsZero() {
			t.Errorf("%q: IsBare %v, IsZero %v", in, j.IsBare(), j.IsZero())
		}
	}
}

func TestParseJIDRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 1024)
	for in, part := range map[string]string{
		// RFC 7622 §3.5, table 2.
		"\"juliet\"@example.com":  "localpart",
		"foo bar@example.com":     "localpart",
		"juliet@example.com/":     "resourcepart",
		"@example.com/":           "localpart",
		"henry\u2163@example.com": "localpart",
		"\u265A@example.com":      "localpart",
		"juliet@":                 "domainpart",
		"/foobar":                 "domainpart",

		"":                               "domainpart",
		"@":                              "localpart",
		"a@b@c":                          "domainpart",
		"a&b@c":                          "localpart",
		"a'b@c":                          "localpart",
		"a:b@c":                          "localpart",
		"a<b@c":                          "localpart",
		"a>b@c":                          "localpart",
		"a\uFF20b@c":                     "localpart", // a fullwidth @ maps to @
		"a\x00@b":                        "localpart",
		"a\x7f@b":                        "localpart",
		"a\xff@b":                        "localpart",
		"a@b\xff":                        "domainpart",
		"a@b/\xff":                       "resourcepart",
		"a@b/\x07":                       "resourcepart",
		"a@b/\n":                         "resourcepart",
		"a@..":                           "domainpart",
		"a@.":                            "domainpart",
		"a@b..":                          "domainpart",
		"a@b\u3002.":                     "domainpart",
		"a@b.\u3002":                     "domainpart",
		"a@b..c":                         "domainpart",
		"a@.b":                           "domainpart",
		"a@b_c":                          "domainpart",
		"a@b c":                          "domainpart",
		"a@-b":                           "domainpart",
		"a@b-":                           "domainpart",
		"a@xn--a":                        "domainpart",
		"a@\u265A\u200D":                 "domainpart",
		"a@[::1":                         "domainpart",
		"a@[::1]x":                       "domainpart",
		"a@[127.0.0.1]":                  "domainpart",
		"a@[fe80::1%eth0]":               "domainpart",
		"a@" + long[:64]:                 "domainpart",
		long + "@b":                      "localpart",
		"a@b/" + long:                    "resourcepart",
		"a@" + strings.Repeat("x.", 600): "domainpart",
	} {
		var je *xmpp.JIDError
		if j, err := xmpp.ParseJID(in); !errors.As(err, &je) || je.Part != part || !j.IsZero() {
			t.Errorf("%.40q: got %v, %v, want an error of the %s", in, j, err, part)
		}
	}
}

func TestJIDParts(t *testing.T) {
	t.Parallel()
	full, err := xmpp.NewJID("Alice", "Example.com", "Phone")
	if err != nil {
		t.Fatal(err)
	}
	bare, err := xmpp.ParseJID("alice@example.com")
	if err != nil {
		t.Fatal(err)
	}
	domain, err := xmpp.NewJID("", "example.com", "")
	if err != nil {
		t.Fatal(err)
	}
	again, err := bare.WithResource("Phone")
	if err != nil {
		t.Fatal(err)
	}
	service, err := domain.WithResource("Phone")
	if err != nil || service.String() != "example.com/Phone" || service.Bare() != domain {
		t.Errorf("got %v, %v", service, err)
	}
	if full.Bare() != bare || bare.Bare() != bare || full.Domainpart() != domain || again != full || full.String() != "alice@example.com/Phone" {
		t.Errorf("got %v, %v, %v, %v", full.Bare(), bare.Bare(), full.Domainpart(), again)
	}
	if _, err := bare.WithResource(""); err == nil {
		t.Error("an empty resource passed")
	}
	if other, err := full.WithResource("x"); err != nil || other.String() != "alice@example.com/x" {
		t.Errorf("got %v, %v", other, err)
	}
	if zero := (xmpp.JID{}); !zero.IsZero() || zero.String() != "" || zero.Domain() != "" || zero.Local() != "" || zero.Resource() != "" || zero.Bare() != zero {
		t.Error("the zero value is something")
	}
}

// TestJIDAllocs: an address that is canonical costs nothing but its string.
func TestJIDAllocs(t *testing.T) {
	if n := testing.AllocsPerRun(100, func() { _, _ = xmpp.ParseJID("alice@example.com/phone") }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzJID: the canonical form is stable, and where mellium.im/xmpp has an opinion that RFC
// 7622 supports it is the same.
func FuzzJID(f *testing.F) {
	for _, s := range []string{
		"juliet@example.com/foo", "Σ@example.com", "a@[::1]", "a@BÜCHER.example.", "ǅ@xn--bcher-kva.ch/\u00A0", "a@b@c", "ﬁ@a", "א@ב", "a@1.2.3.4",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		j, err := xmpp.ParseJID(in)
		theirs, theirErr := jid.Parse(in)
		if err != nil {
			if theirErr == nil && !stricter(theirs) {
				t.Fatalf("%q is refused (%v), mellium has %q", in, err, theirs)
			}
			return
		}
		if again, err := xmpp.ParseJID(j.String()); err != nil || again != j {
			t.Fatalf("%q is %q, which is %q, %v", in, j, again, err)
		}
		if parts, err := xmpp.NewJID(j.Local(), j.Domain(), j.Resource()); err != nil || parts != j {
			t.Fatalf("%q is %q, from its parts %q, %v", in, j, parts, err)
		}
		if !utf8.ValidString(j.String()) || len(j.Local()) > 1023 || len(j.Domain()) > 1023 || len(j.Resource()) > 1023 {
			t.Fatalf("%q is %q", in, j)
		}
		if theirErr == nil && !sameAsTheirs(j, theirs) {
			t.Fatalf("%q is %q, mellium has %q", in, j, theirs)
		}
	})
}

// stricter tells whether an address that mellium accepts is refused here for a known reason: it
// does not look at the labels of host names (RFC 1123 §2.1), nor whether its result is stable.
func stricter(theirs jid.JID) bool {
	for label := range strings.SplitSeq(theirs.Domainpart(), ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "-") != label {
			return true
		}
	}
	return !stable(theirs)
}

func stable(theirs jid.JID) bool {
	again, err := jid.Parse(theirs.String())
	return err == nil && again.Equal(theirs)
}

// sameAsTheirs compares where the two agree on the rules: mellium leaves IPv6 addresses as
// they were written.
func sameAsTheirs(j xmpp.JID, theirs jid.JID) bool {
	return j.String() == theirs.String() || strings.HasPrefix(j.Domain(), "[") || !stable(theirs)
}
