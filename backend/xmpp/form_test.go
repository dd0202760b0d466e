package xmpp_test

import (
	"reflect"
	"testing"

	"imlb/backend/xmpp"
)

func parseForm(t testing.TB, raw string) (xmpp.Form, bool) {
	t.Helper()
	e, err := xmpp.ParseElement([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	return xmpp.ParseForm(e)
}

func TestParseForm(t *testing.T) {
	const ns = "xmlns='jabber:x:data'"
	for _, tt := range []struct {
		name, raw string
		want      xmpp.Form
		bad       bool
	}{
		{name: "nothing", raw: "<x " + ns + " type='submit'/>", want: xmpp.Form{Type: "submit"}},
		{
			name: "fields", raw: "<x " + ns + " type='submit'><field var='a' type='hidden'><value>1 &amp; 2</value></field><field var='b'><value>x</value><value/></field><field var='c'/></x>",
			want: xmpp.Form{Type: "submit", Fields: []xmpp.FormField{
				{Var: "a", Type: "hidden", Values: []string{"1 & 2"}}, {Var: "b", Values: []string{"x", ""}}, {Var: "c"},
			}},
		},
		{name: "what does not count", raw: "<x " + ns + " type='submit'><title>t</title><field type='fixed'><value>x</value></field><field xmlns='urn:x' var='a'/></x>", want: xmpp.Form{Type: "submit"}},
		{name: "no type", raw: "<x " + ns + "/>", bad: true},
		{name: "another namespace", raw: "<x xmlns='urn:x' type='submit'/>", bad: true},
		{name: "a field twice", raw: "<x " + ns + " type='submit'><field var='a'/><field var='a'/></x>", bad: true},
	} {
		got, ok := parseForm(t, tt.raw)
		if ok == tt.bad || ok && !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %t", tt.name, got, ok)
		}
	}
}

func TestFormAppend(t *testing.T) {
	f := xmpp.Form{Type: "form", Title: "A & B", Instructions: "Do.", Fields: []xmpp.FormField{
		{Var: xmpp.FormType, Type: "hidden", Values: []string{"urn:x"}},
		{Var: "a", Type: "list-single", Label: "'A'", Required: true, Values: []string{"2"}, Options: []string{"1", "2"}},
	}}
	const want = "<x xmlns='jabber:x:data' type='form'><title>A &amp; B</title><instructions>Do.</instructions>" +
		"<field var='FORM_TYPE' type='hidden'><value>urn:x</value></field>" +
		"<field var='a' type='list-single' label='&apos;A&apos;'><required/><value>2</value>" +
		"<option label='1'><value>1</value></option><option label='2'><value>2</value></option></field></x>"
	if got := string(f.Append(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	back, ok := parseForm(t, want)
	if !ok || back.Value("a") != "2" || len(back.Values("b")) != 0 || back.Value("b") != "" {
		t.Errorf("read back %+v", back)
	}
}

// FuzzForm checks that what was read of a form is the same after it was written.
func FuzzForm(f *testing.F) {
	f.Add([]byte("<x xmlns='jabber:x:data' type='submit'><field var='a' type='hidden'><value>1 &amp; 2</value></field></x>"))
	f.Add([]byte("<d:x xmlns:d='jabber:x:data' type='form'><d:field var=\"'\"><d:value><![CDATA[<]]>&#xD;\n</d:value></d:field></d:x>"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		tok, _, err := xmpp.NewFrameScanner(xmpp.Limits{}).Next(raw)
		if err != nil || tok.Kind != xmpp.KindElement {
			return
		}
		e, err := xmpp.ParseElement(tok.Raw)
		if err != nil {
			t.Fatal(err)
		}
		form, ok := xmpp.ParseForm(e)
		if !ok {
			return
		}
		written := form.Append(nil)
		if _, _, err := xmpp.NewFrameScanner(xmpp.Limits{MaxBytes: 1 << 30, MaxAttrs: 100}).Next(written); err != nil {
			t.Fatalf("wrote %q: %v", written, err)
		}
		if back, ok := parseForm(t, string(written)); !ok || !reflect.DeepEqual(back, form) {
			t.Errorf("read %+v, wrote %q, read %+v", form, written, back)
		}
	})
}
