package bosh_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"imlb/backend/xmpp"
	"imlb/proxy/bosh"
)

func TestParse(t *testing.T) {
	t.Parallel()
	const tag = "<?xml version='1.0'?>\n<body xmlns='http://jabber.org/protocol/httpbind' xmlns:x='urn:xmpp:xbosh' xmlns:p='urn:p' rid='7' sid='s' to='example.com'" +
		" xml:lang='en' ver='1.6' wait='60' hold='1' ack='6' pause='9' content='text/xml' key='k' newkey='n' type='terminate' x:version='1.0' x:restart='true'>"
	r, err := bosh.Parse([]byte(tag+" <iq xmlns='jabber:client'/>\n<p:a p:b='c'/><message><p:d/></message></body>"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if r.RID != 7 || r.SID != "s" || r.To != "example.com" || r.Lang != "en" || r.Ver != "1.6" || r.Wait != 60 || r.Hold != 1 ||
		r.Ack != 6 || r.Pause != 9 || r.Content != "text/xml" || r.Key != "k" || r.NewKey != "n" || !r.Terminate || r.Version != "1.0" || !r.Restart {
		t.Errorf("read as %+v", r)
	}
	want := "<iq xmlns='jabber:client'/><p:a p:b='c' xmlns:p='urn:p'/><message xmlns:p='urn:p'><p:d/></message>"
	if got := string(bytes.Join(r.Payloads, nil)); got != want {
		t.Errorf("brought %s, want %s", got, want)
	}
	head, more, err := bosh.ParseTag([]byte(tag + "<half"))
	if err != nil || more || head.SID != "s" || head.RID != 7 {
		t.Errorf("the tag reads as %+v, %v, %v", head, more, err)
	}
	if _, more, _ := bosh.ParseTag([]byte(tag[:100])); !more {
		t.Error("half a tag is a tag")
	}
}

// What is no request is bad; what is one of a session ends that.
func TestParseBad(t *testing.T) {
	t.Parallel()
	in := func(attrs, content string) string { return "<body " + ns + " " + attrs + ">" + content + "</body>" }
	for raw, known := range map[string]bool{
		"":                                   false,
		"hello":                              false,
		"<body rid='1'/>":                    false,
		"<body xmlns='urn:x' rid='1'/>":      false,
		"<x " + ns + " rid='1'/>":            false,
		in("rid='1'", "<a>"):                 false,
		in("rid='1'", "") + "<x xmlns='x'/>": false,
		in("rid='1'", "<!-- c -->"):          false, // §6
		in("rid='1'", "<?pi?>"):              false,
		"<!DOCTYPE body><body " + ns + " rid='1'/>":      false,
		in("rid='1'", "&x;"):                             false,
		in("rid='1'", "<p:a/>"):                          false,
		in("rid='1' sid='s'", "text"):                    true,
		in("sid='s'", ""):                                true,
		in("rid='0' sid='s'", ""):                        true,
		in("rid='-1' sid='s'", ""):                       true,
		in("rid='9007199254740992' sid='s'", ""):         true, // §14.1
		in("rid='1' wait='x' sid='s'", ""):               true,
		in("rid='1' sid='s'", strings.Repeat("x", 2000)): false,
	} {
		r, err := bosh.Parse([]byte(raw), 1000)
		var bad *bosh.Error
		if !errors.As(err, &bad) || bad.Condition != bosh.BadRequest {
			t.Errorf("%s: %v", raw, err)
		}
		if (r != nil && r.SID == "s") != known {
			t.Errorf("%s: read as %+v", raw, r)
		}
	}
}

// Whatever comes, what a request brings is whole, and can stand in a stream.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		empty, "<body " + ns + " rid='1' sid='s' xmlns:p='urn:p'><p:a/><message><body>Grüße &amp; <![CDATA[x]]></body></message></body>",
		"<?xml version='1.0'?> <body " + ns + " rid='1' xmlns:stream='http://etherx.jabber.org/streams'><stream:error/></body>",
		"<b:body xmlns:b='http://jabber.org/protocol/httpbind' rid='2'><b:x/></b:body>", "<body", "<body a='>'", "",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		const most = 1000
		before := bytes.Clone(p)
		head, more, headErr := bosh.ParseTag(p)
		r, err := bosh.Parse(p, most)
		if !bytes.Equal(p, before) {
			t.Fatal("the input was changed")
		}
		if err != nil {
			return
		}
		if more || headErr != nil || head.SID != r.SID || head.RID != r.RID {
			t.Fatalf("the tag reads as %+v, %v, %v and all of it as %+v", head, more, headErr, r)
		}
		stream := xmpp.NewScanner(xmpp.Limits{MaxBytes: 1 << 20, MaxAttrs: 1000})
		if _, _, err := stream.Next(xmpp.StreamHeader{}.Append(nil)); err != nil {
			t.Fatal(err)
		}
		for _, payload := range r.Payloads {
			tok, rest, err := stream.Next(payload)
			if err != nil || tok.Kind != xmpp.KindElement || len(rest) > 0 {
				t.Fatalf("%q brings %q: %v", p, payload, err)
			}
		}
	})
}
