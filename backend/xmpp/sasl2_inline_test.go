package xmpp_test

import (
	"errors"
	"testing"

	"imlb/backend/xmpp"
)

const agentID = "d4565fa7-4d72-4749-b3d3-740edbf87770"

// inlineText shows what was read, for comparison.
type inlineText struct {
	client, resume, bind, enable, request string
	carbons, inactive, invalidate         bool
	count                                 uint64
}

func textOf(in xmpp.Inline) (t inlineText) {
	t.client, t.request = in.Client, in.RequestToken
	if in.Resume != nil {
		t.resume, _ = in.Resume.Attr("previd")
	}
	if in.Bind != nil {
		t.bind, t.carbons, t.inactive = "tag:"+in.Bind.Tag, in.Bind.Carbons, in.Bind.Inactive
		if in.Bind.Enable != nil {
			t.enable = string(in.Bind.Enable.Raw())
		}
	}
	if in.Fast != nil {
		t.count, t.invalidate = in.Fast.Count, in.Fast.Invalidate
	}
	return t
}

func TestParseInline(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]inlineText{
		"":                                   {},
		"<user-agent id='" + agentID + "'/>": {client: agentID},
		"<user-agent id='D4565FA7-4D72-4749-B3D3-740EDBF87770'/>":               {client: agentID},
		"<user-agent/><user-agent id='" + agentID + "'/>":                       {},
		"<user-agent id='phone'/>":                                              {},
		"<user-agent id='d4565fa7-4d72-4749-b3d3+740edbf87770'/>":               {},
		"<user-agent id='g4565fa7-4d72-4749-b3d3-740edbf87770'/>":               {},
		"<resume xmlns='urn:xmpp:sm:3' previd='p' h='1'/>":                      {resume: "p"},
		"<resume previd='p' h='1'/>":                                            {},
		"<bind xmlns='urn:xmpp:bind:0'/>":                                       {bind: "tag:"},
		"<bind xmlns='urn:xmpp:bind:0'><tag> A &amp; B\n</tag></bind>":          {bind: "tag:A & B"},
		"<bind xmlns='urn:xmpp:bind:0'><active xmlns='urn:xmpp:csi:0'/></bind>": {bind: "tag:"},
		"<b:bind xmlns:b='urn:xmpp:bind:0'><b:tag>T</b:tag><enable xmlns='urn:xmpp:carbons:2'/><enable xmlns='urn:xmpp:sm:3' resume='1'/><inactive xmlns='urn:xmpp:csi:0'/></b:bind>": {
			bind: "tag:T", enable: "<enable xmlns='urn:xmpp:sm:3' resume='1'/>", carbons: true, inactive: true,
		},
		"<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-NONE'/>": {request: "HT-SHA-256-NONE"},
		"<fast xmlns='urn:xmpp:fast:0'/>":                                      {},
		"<fast xmlns='urn:xmpp:fast:0' count='12' invalidate='false'/>":        {count: 12},
		"<fast xmlns='urn:xmpp:fast:0' count='1' invalidate='1'/>":             {count: 1, invalidate: true},
		"<fast xmlns='urn:xmpp:fast:0' invalidate='true'/>":                    {invalidate: true},
	} {
		in, err := xmpp.ParseInline([]byte("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='X'>" + body + "</authenticate>"))
		if got := textOf(in); err != nil || got != want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", body, got, err, want)
		}
	}
}

func TestParseInlineRefuses(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		"<authenticate xmlns='urn:xmpp:sasl:2'><fast xmlns='urn:xmpp:fast:0' count='0'/></authenticate>",
		"<authenticate xmlns='urn:xmpp:sasl:2'><fast xmlns='urn:xmpp:fast:0' count='-1'/></authenticate>",
		"<authenticate xmlns='urn:xmpp:sasl:2'><fast xmlns='urn:xmpp:fast:0' count='9223372036854775808'/></authenticate>",
		"<authenticate xmlns='urn:xmpp:sasl:2'><fast xmlns='urn:xmpp:fast:0' count=''/></authenticate>",
		"<authenticate xmlns='urn:xmpp:sasl:2'><fast xmlns='urn:xmpp:fast:0' invalidate='yes'/></authenticate>",
		"<authenticate/>",
		"nothing",
	} {
		_, err := xmpp.ParseInline([]byte(raw))
		if failed, ok := errors.AsType[*xmpp.SASLError](err); !ok || failed.Condition != xmpp.MalformedRequest {
			t.Errorf("%s: the error is %v", raw, err)
		}
	}
}

func TestSASL2Success(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		s    xmpp.SASL2Success
		want string
	}{
		{xmpp.SASL2Success{User: "a@b"}, "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b</authorization-identifier></success>"},
		{
			xmpp.SASL2Success{User: "a@b/<c>", Data: []byte("v=x"), HasData: true, Inline: []byte("<bound xmlns='urn:xmpp:bind:0'/>")},
			"<success xmlns='urn:xmpp:sasl:2'><additional-data>dj14</additional-data><authorization-identifier>a@b/&lt;c&gt;</authorization-identifier><bound xmlns='urn:xmpp:bind:0'/></success>",
		},
	} {
		raw := tc.s.Append(nil)
		if string(raw) != tc.want {
			t.Errorf("got %s, want %s", raw, tc.want)
		}
		if f, ok, err := xmpp.ParseSASL2(raw); !ok || err != nil || f.Kind != xmpp.SASLSuccess || f.User != tc.s.User {
			t.Errorf("%s reads as %+v, %v, %v", raw, f, ok, err)
		}
	}
}

// FuzzInline: what is read is of the form that its users count on, and does not depend
// on what stands around it.
func FuzzInline(f *testing.F) {
	f.Add("<user-agent id='" + agentID + "'/><fast xmlns='urn:xmpp:fast:0' count='3' invalidate='true'/>")
	f.Add("<bind xmlns='urn:xmpp:bind:0'><tag>T</tag><enable xmlns='urn:xmpp:sm:3'/></bind><resume xmlns='urn:xmpp:sm:3' h='1' previd='x'/>")
	f.Add("<request-token xmlns='urn:xmpp:fast:0' mechanism='HT-SHA-256-ENDP'/>")
	f.Fuzz(func(t *testing.T, body string) {
		_, _ = xmpp.ParseInline([]byte(body))
		raw := []byte("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='X'>" + body + "</authenticate>")
		if tok, rest, err := xmpp.NewFrameScanner(xmpp.Limits{}).Next(raw); err != nil || len(rest) > 0 || tok.Kind != xmpp.KindElement {
			_, _ = xmpp.ParseInline(raw) // it must not panic
			return
		}
		in, err := xmpp.ParseInline(raw)
		if failed, ok := errors.AsType[*xmpp.SASLError](err); err != nil && (!ok || failed.Condition != xmpp.MalformedRequest) {
			t.Fatalf("%s: the error is %v", raw, err)
		}
		if len(in.Client) != 0 && len(in.Client) != len(agentID) {
			t.Fatalf("%s: the client is %q", raw, in.Client)
		}
		behind, _ := xmpp.ParseInline(append(raw[:len(raw)-len("</authenticate>"):len(raw)-len("</authenticate>")], "<x/></authenticate>"...))
		if textOf(in) != textOf(behind) {
			t.Fatalf("%s: got %+v, and with one more child %+v", raw, textOf(in), textOf(behind))
		}
	})
}
