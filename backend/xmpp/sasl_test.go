package xmpp_test

import (
	"errors"
	"reflect"
	"testing"

	"imlb/backend/xmpp"
)

func saslCondition(err error) string {
	var se *xmpp.SASLError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &se):
		return se.Condition
	default:
		return err.Error()
	}
}

func TestParseSASL(t *testing.T) {
	t.Parallel()
	const ns = " xmlns='urn:ietf:params:xml:ns:xmpp-sasl'"
	type frame = xmpp.SASLFrame
	for raw, want := range map[string]struct {
		f         frame
		condition string
	}{
		"<auth" + ns + " mechanism='PLAIN'>AGEAYg==</auth>":                                  {f: frame{Kind: xmpp.SASLAuth, Mechanism: "PLAIN", Payload: []byte("\x00a\x00b"), HasPayload: true}},
		"<auth" + ns + " mechanism='EXTERNAL'>=</auth>":                                      {f: frame{Kind: xmpp.SASLAuth, Mechanism: "EXTERNAL", HasPayload: true}},
		"<auth" + ns + " mechanism='X'/>":                                                    {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X"}},
		"<auth" + ns + " mechanism='X'></auth>":                                              {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X"}},
		"<s:auth xmlns:s='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='X'>Y&#81;==</s:auth>": {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X", Payload: []byte("a"), HasPayload: true}},
		"<challenge" + ns + ">Y2g=</challenge>":                                              {f: frame{Kind: xmpp.SASLChallenge, Payload: []byte("ch"), HasPayload: true}},
		"<response" + ns + "><![CDATA[cg==]]></response>":                                    {f: frame{Kind: xmpp.SASLResponse, Payload: []byte("r"), HasPayload: true}},
		"<response" + ns + "/>":                                                              {f: frame{Kind: xmpp.SASLResponse}},
		"<success" + ns + "/>":                                                               {f: frame{Kind: xmpp.SASLSuccess}},
		"<abort" + ns + "/>":                                                                 {f: frame{Kind: xmpp.SASLAbort}},
		"<failure" + ns + "><aborted/><text xml:lang='en'>no &amp; no</text></failure>":      {f: frame{Kind: xmpp.SASLFailure, Condition: xmpp.Aborted, Text: "no & no"}},
		"<failure" + ns + "/>":                                                               {f: frame{Kind: xmpp.SASLFailure, Condition: xmpp.NotAuthorized}},
		// RFC 6120 §6.5.7: no mechanism is one that is not supported.
		"<auth" + ns + ">AGEAYg==</auth>": {condition: xmpp.InvalidMechanism},
		// §6.5.5, §13.9.1: characters outside of the alphabet, padding, whitespace, bits that must be 0.
		"<auth" + ns + " mechanism='PLAIN'>AGEAYg</auth>":     {condition: xmpp.IncorrectEncoding},
		"<auth" + ns + " mechanism='PLAIN'>AGEAYg=</auth>":    {condition: xmpp.IncorrectEncoding},
		"<auth" + ns + " mechanism='PLAIN'>AGEAYh==</auth>":   {condition: xmpp.IncorrectEncoding},
		"<auth" + ns + " mechanism='PLAIN'>AGEA\nYg==</auth>": {condition: xmpp.IncorrectEncoding},
		"<auth" + ns + " mechanism='PLAIN'> </auth>":          {condition: xmpp.IncorrectEncoding},
		"<auth" + ns + " mechanism='PLAIN'>AG_A</auth>":       {condition: xmpp.IncorrectEncoding},
		"<auth" + ns + " mechanism='PLAIN'>==</auth>":         {condition: xmpp.IncorrectEncoding},
		// §6.5.8.
		"<auth" + ns + " mechanism='PLAIN'><x/></auth>": {condition: xmpp.MalformedRequest},
		"<login" + ns + "/>":                            {condition: xmpp.MalformedRequest},
	} {
		f, ok, err := xmpp.ParseSASL([]byte(raw))
		if got := saslCondition(err); !ok || got != want.condition {
			t.Errorf("%s: got %v, %q, want %q", raw, ok, got, want.condition)
		}
		if want.condition == "" && !reflect.DeepEqual(f, want.f) {
			t.Errorf("%s: got %+v, want %+v", raw, f, want.f)
		}
	}
	for _, raw := range []string{"<auth/>", "<message xmlns='jabber:client'/>", "nothing"} {
		if _, ok, err := xmpp.ParseSASL([]byte(raw)); ok || err != nil {
			t.Errorf("%s: got %v, %v", raw, ok, err)
		}
	}
}

func TestSASLFrameAppend(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		f    xmpp.SASLFrame
		want string
	}{
		{xmpp.SASLFrame{Kind: xmpp.SASLAuth, Mechanism: "PLAIN", Payload: []byte("\x00a\x00b"), HasPayload: true}, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>AGEAYg==</auth>"},
		{xmpp.SASLFrame{Kind: xmpp.SASLAuth, Mechanism: "EXTERNAL", HasPayload: true}, "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='EXTERNAL'>=</auth>"},
		{xmpp.SASLFrame{Kind: xmpp.SASLChallenge, Payload: []byte("ch"), HasPayload: true}, "<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>Y2g=</challenge>"},
		{xmpp.SASLFrame{Kind: xmpp.SASLSuccess}, "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"},
		{xmpp.SASLFrame{Kind: xmpp.SASLAbort}, "<abort xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"},
		{(&xmpp.SASLError{Condition: xmpp.NotAuthorized}).Failure(), "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/></failure>"},
		{(&xmpp.SASLError{Condition: xmpp.AccountDisabled, Text: "<why>"}).Failure(), "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><account-disabled/><text xml:lang='en'>&lt;why&gt;</text></failure>"},
	} {
		raw := tc.f.Append(nil)
		if string(raw) != tc.want {
			t.Errorf("got %s, want %s", raw, tc.want)
		}
		if f, ok, err := xmpp.ParseSASL(raw); !ok || err != nil || !reflect.DeepEqual(f, tc.f) {
			t.Errorf("%s reads as %+v, %v, %v", raw, f, ok, err)
		}
	}
}

func TestSASLName(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		mechanism, initial string
		authzid, authcid   string
		condition          string
	}{
		{"PLAIN", "\x00alice\x00secret", "", "alice", ""},
		{"PLAIN", "bob@example.com\x00alice\x00secret", "bob@example.com", "alice", ""},
		{"PLAIN", "", "", "", xmpp.MalformedRequest},
		{"PLAIN", "alice\x00secret", "", "", xmpp.MalformedRequest},
		{"PLAIN", "\x00\x00secret", "", "", xmpp.MalformedRequest},
		{"PLAIN", "\x00alice\x00", "", "", xmpp.MalformedRequest},
		{"PLAIN", "\x00alice\x00sec\x00ret", "", "", xmpp.MalformedRequest},
		{"PLAIN", "\x00al\xffice\x00secret", "", "", xmpp.MalformedRequest},

		// The example of RFC 5802 §5, and its variations.
		{"SCRAM-SHA-1", "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", "", "user", ""},
		{"SCRAM-SHA-256", "y,,n=user,r=x", "", "user", ""},
		{"SCRAM-SHA-256", "n,a=ad=2Cmin,n=u=3Ds=2Cer,r=x,e=more", "ad,min", "u=s,er", ""},
		{"SCRAM-SHA-256-PLUS", "p=tls-exporter,,n=user,r=x", "", "user", ""},
		{"SCRAM-SHA-1", "n,,n=日本,r=x", "", "日本", ""},
		{"SCRAM-SHA-1", "p=tls-exporter,,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1-PLUS", "n,,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1-PLUS", "p=,,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "x,,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,b=c,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,a=,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,m=ext,n=user,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=us=2cer,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=user=,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=us\x00er,r=x", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=user,r=", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=user,x=y", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "n,,n=user", "", "", xmpp.MalformedRequest},
		{"SCRAM-SHA-1", "", "", "", xmpp.MalformedRequest},

		{"EXTERNAL", "", "", "", ""},
		{"EXTERNAL", "alice@example.com", "alice@example.com", "", ""},
		{"EXTERNAL", "a\x00b", "", "", xmpp.MalformedRequest},

		{"X-OAUTH2", "\x00alice\x00token", "", "alice", ""},

		// RFC 7628 §4.1 and §4.3, and what is none.
		{"OAUTHBEARER", "n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer vF9dft4qmT\x01\x01", "user@example.com", "", ""},
		{"OAUTHBEARER", "n,,\x01auth=Bearer x\x01\x01", "", "", ""},
		{"OAUTHBEARER", "y,a=a=2Cb,\x01\x01", "a,b", "", ""},
		{"OAUTHBEARER", "n,a=\xff,\x01\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "n,b=user,\x01\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "p=x,,\x01\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "n,a=user\x01\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "n,a=user,x\x01\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "n,,\x01auth=Bearer x\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "n,,\x01\x01\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "\x01", "", "", xmpp.MalformedRequest},
		{"OAUTHBEARER", "", "", "", xmpp.MalformedRequest},

		{"HT-SHA-256-NONE", "alice\x00\xff\x00\x01", "", "alice", ""},
		{"HT-SHA-256-NONE", "\xff\x00\x01", "", "", xmpp.MalformedRequest},
		{"HT-SHA-256-EXPR", "alice", "", "", xmpp.MalformedRequest},
		{"HT-SHA-256-EXPR", "alice\x00", "", "", xmpp.MalformedRequest},
		{"HT-SHA-256-EXPR", "\x00hash", "", "", xmpp.MalformedRequest},

		{"DIGEST-MD5", "", "", "", xmpp.InvalidMechanism},
		{"plain", "\x00alice\x00secret", "", "", xmpp.InvalidMechanism},
	} {
		authzid, authcid, err := xmpp.SASLName(tc.mechanism, []byte(tc.initial))
		if saslCondition(err) != tc.condition || authzid != tc.authzid || authcid != tc.authcid {
			t.Errorf("%s %q: got %q, %q, %v", tc.mechanism, tc.initial, authzid, authcid, err)
		}
		if xmpp.NamesUser(tc.mechanism) == (tc.condition == xmpp.InvalidMechanism) {
			t.Errorf("%s: NamesUser is wrong", tc.mechanism)
		}
	}
}

func FuzzSASL(f *testing.F) {
	f.Add("PLAIN", []byte("\x00alice\x00secret"), true)
	f.Add("SCRAM-SHA-1", []byte("n,,n=a=2Cb,r=x"), true)
	f.Add("EXTERNAL", []byte(nil), true)
	f.Fuzz(func(t *testing.T, mechanism string, data []byte, has bool) {
		_, _, _ = xmpp.SASLName(mechanism, data)
		want := xmpp.SASLFrame{Kind: xmpp.SASLResponse, HasPayload: has}
		if has && len(data) > 0 {
			want.Payload = data
		}
		raw := want.Append(nil)
		mustElement(t, raw)
		if got, ok, err := xmpp.ParseSASL(raw); !ok || err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s reads as %+v, %v, %v", raw, got, ok, err)
		}
	})
}
