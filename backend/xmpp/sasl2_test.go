package xmpp_test

import (
	"reflect"
	"testing"

	"imlb/backend/xmpp"
)

func TestParseSASL2(t *testing.T) {
	t.Parallel()
	const ns = " xmlns='urn:xmpp:sasl:2'"
	type frame = xmpp.SASLFrame
	for raw, want := range map[string]struct {
		f         frame
		condition string
	}{
		// XEP-0388 §2.4, §6.
		"<authenticate" + ns + " mechanism='PLAIN'><initial-response>AGEAYg==</initial-response><user-agent id='d'/></authenticate>": {f: frame{Kind: xmpp.SASLAuth, Mechanism: "PLAIN", Payload: []byte("\x00a\x00b"), HasPayload: true}},
		"<authenticate" + ns + " mechanism='X'><x xmlns='urn:x'><initial-response/></x></authenticate>":                              {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X"}},
		"<authenticate" + ns + " mechanism='X'><initial-response>=</initial-response></authenticate>":                                {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X", HasPayload: true}},
		"<authenticate" + ns + " mechanism='X'><initial-response/></authenticate>":                                                   {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X", HasPayload: true}},
		"<authenticate" + ns + " mechanism='X'/>":                                                                                    {f: frame{Kind: xmpp.SASLAuth, Mechanism: "X"}},
		"<challenge" + ns + ">Y2g=</challenge>":                                                                                      {f: frame{Kind: xmpp.SASLChallenge, Payload: []byte("ch"), HasPayload: true}},
		"<response" + ns + "/>":                                                                                                      {f: frame{Kind: xmpp.SASLResponse}},
		"<abort" + ns + "><text>why</text></abort>":                                                                                  {f: frame{Kind: xmpp.SASLAbort}},
		"<next" + ns + " task='X'/>":                                                                                                 {f: frame{Kind: xmpp.SASLNext}},
		"<task-data" + ns + "><x xmlns='urn:x'/></task-data>":                                                                        {f: frame{Kind: xmpp.SASLTaskData}},
		"<continue" + ns + "><tasks><task>X</task></tasks></continue>":                                                               {f: frame{Kind: xmpp.SASLContinue}},
		"<success" + ns + "/>":                                                                                                       {f: frame{Kind: xmpp.SASLSuccess}},
		"<success" + ns + "><additional-data>!</additional-data><authorization-identifier>a@b/c</authorization-identifier><bound xmlns='urn:xmpp:bind:0'/></success>": {f: frame{Kind: xmpp.SASLSuccess, User: "a@b/c"}},
		"<failure" + ns + "><aborted xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/><x xmlns='urn:x'/><text>no</text></failure>":                                           {f: frame{Kind: xmpp.SASLFailure, Condition: xmpp.Aborted, Text: "no"}},
		"<authenticate" + ns + "/>": {condition: xmpp.InvalidMechanism},
		"<authenticate" + ns + " mechanism='PLAIN'><initial-response>!</initial-response></authenticate>":    {condition: xmpp.IncorrectEncoding},
		"<authenticate" + ns + " mechanism='PLAIN'><initial-response><x/></initial-response></authenticate>": {condition: xmpp.MalformedRequest},
		"<auth" + ns + " mechanism='PLAIN'/>": {condition: xmpp.MalformedRequest},
	} {
		f, ok, err := xmpp.ParseSASL2([]byte(raw))
		if got := saslCondition(err); !ok || got != want.condition {
			t.Errorf("%s: got %v, %q, want %q", raw, ok, got, want.condition)
		}
		want.f.SASL2 = true
		if want.condition == "" && !reflect.DeepEqual(f, want.f) {
			t.Errorf("%s: got %+v, want %+v", raw, f, want.f)
		}
	}
	for _, raw := range []string{"<authenticate/>", "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>", "nothing"} {
		if _, ok, err := xmpp.ParseSASL2([]byte(raw)); ok || err != nil {
			t.Errorf("%s: got %v, %v", raw, ok, err)
		}
	}
}

func TestSASL2FrameAppend(t *testing.T) {
	t.Parallel()
	failure := (&xmpp.SASLError{Condition: xmpp.NotAuthorized, Text: "<why>"}).Failure()
	failure.SASL2 = true
	for _, tc := range []struct {
		f    xmpp.SASLFrame
		want string
	}{
		{xmpp.SASLFrame{SASL2: true, Kind: xmpp.SASLAuth, Mechanism: "PLAIN", Payload: []byte("\x00a\x00b"), HasPayload: true}, "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><initial-response>AGEAYg==</initial-response></authenticate>"},
		{xmpp.SASLFrame{SASL2: true, Kind: xmpp.SASLAuth, Mechanism: "X"}, "<authenticate xmlns='urn:xmpp:sasl:2' mechanism='X'/>"},
		{xmpp.SASLFrame{SASL2: true, Kind: xmpp.SASLChallenge}, "<challenge xmlns='urn:xmpp:sasl:2'/>"},
		{xmpp.SASLFrame{SASL2: true, Kind: xmpp.SASLResponse, Payload: []byte("ch"), HasPayload: true}, "<response xmlns='urn:xmpp:sasl:2'>Y2g=</response>"},
		{xmpp.SASLFrame{SASL2: true, Kind: xmpp.SASLSuccess, User: "a@b"}, "<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b</authorization-identifier></success>"},
		{failure, "<failure xmlns='urn:xmpp:sasl:2'><not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/><text>&lt;why&gt;</text></failure>"},
	} {
		raw := tc.f.Append(nil)
		if string(raw) != tc.want {
			t.Errorf("got %s, want %s", raw, tc.want)
		}
		if f, ok, err := xmpp.ParseSASL2(raw); !ok || err != nil || !reflect.DeepEqual(f, tc.f) {
			t.Errorf("%s reads as %+v, %v, %v", raw, f, ok, err)
		}
	}
}

// An initial response that came later takes the place that it would have had.
func TestAppendInitialResponse(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ raw, payload, want string }{
		{
			"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='X'/>", "a",
			"<authenticate xmlns='urn:xmpp:sasl:2' mechanism='X'><initial-response xmlns='urn:xmpp:sasl:2'>YQ==</initial-response></authenticate>",
		},
		{
			"<s:authenticate xmlns:s='urn:xmpp:sasl:2' mechanism='X' ><s:user-agent id='1'/></s:authenticate>", "",
			"<s:authenticate xmlns:s='urn:xmpp:sasl:2' mechanism='X'><initial-response xmlns='urn:xmpp:sasl:2'>=</initial-response><s:user-agent id='1'/></s:authenticate>",
		},
	} {
		raw := xmpp.AppendInitialResponse(nil, []byte(tc.raw), []byte(tc.payload))
		if string(raw) != tc.want {
			t.Errorf("got  %s\nwant %s", raw, tc.want)
		}
		if f, ok, err := xmpp.ParseSASL2(raw); !ok || err != nil || string(f.Payload) != tc.payload || !f.HasPayload {
			t.Errorf("%s reads as %+v, %v, %v", raw, f, ok, err)
		}
	}
}

func TestOAuthBearer(t *testing.T) {
	t.Parallel()
	for initial, want := range map[string]string{
		"n,,\x01auth=Bearer a.b.c\x01\x01":           "a.b.c",
		"n,,\x01host=h\x01auth=bearer  t\x01\x01":    "t",
		"n,,\x01auth=Basic t\x01\x01":                "",
		"n,,\x01xauth=Bearer t\x01flag\x01\x01":      "",
		"n,a=u,\x01auth=Bearer t=\x01port=1\x01\x01": "t=",
	} {
		if _, token, err := xmpp.OAuthBearer([]byte(initial)); err != nil || token != want {
			t.Errorf("%q: got %q, %v, want %q", initial, token, err, want)
		}
	}
}

// FuzzSASL2: what is written is what is read, and an initial response that is put in is
// found there, in an element that still is one.
func FuzzSASL2(f *testing.F) {
	f.Add("<authenticate xmlns='urn:xmpp:sasl:2' mechanism='PLAIN'><user-agent id='a'/></authenticate>", []byte("data"))
	f.Add("<success xmlns='urn:xmpp:sasl:2'><authorization-identifier>a@b</authorization-identifier></success>", []byte(nil))
	f.Fuzz(func(t *testing.T, raw string, data []byte) {
		in := []byte(raw)
		if tok, _, err := xmpp.NewFrameScanner(xmpp.Limits{}).Next(in); err == nil && tok.Kind == xmpp.KindElement {
			frame, ok, err := xmpp.ParseSASL2(tok.Raw)
			if ok && err == nil && frame.Kind == xmpp.SASLAuth && !frame.HasPayload {
				whole := xmpp.AppendInitialResponse(nil, tok.Raw, data)
				mustElement(t, whole)
				if got, _, err := xmpp.ParseSASL2(whole); err != nil || got.Mechanism != frame.Mechanism || string(got.Payload) != string(data) {
					t.Fatalf("%s reads as %+v, %v", whole, got, err)
				}
			}
		}
		response := xmpp.SASLFrame{SASL2: true, Kind: xmpp.SASLResponse, HasPayload: len(data) > 0}
		if len(data) > 0 {
			response.Payload = data
		}
		written := response.Append(nil)
		mustElement(t, written)
		if got, ok, err := xmpp.ParseSASL2(written); !ok || err != nil || !reflect.DeepEqual(got, response) {
			t.Fatalf("%s reads as %+v, %v, %v", written, got, ok, err)
		}
	})
}

// FuzzOAuthBearer: the names and tokens come from what was given.
func FuzzOAuthBearer(f *testing.F) {
	f.Add("n,a=user@example.com,\x01host=h\x01port=143\x01auth=Bearer vF9dft4qmT\x01\x01")
	f.Add("n,,\x01\x01")
	f.Fuzz(func(t *testing.T, initial string) {
		authzid, token, err := xmpp.OAuthBearer([]byte(initial))
		if err != nil && (authzid != "" || token != "") {
			t.Fatalf("%q: %q and %q with %v", initial, authzid, token, err)
		}
		if len(authzid)+len(token) > len(initial) {
			t.Fatalf("%q: %q and %q", initial, authzid, token)
		}
		if name, _, again := xmpp.SASLName("OAUTHBEARER", []byte(initial)); again == nil && (err != nil || name != authzid) {
			t.Fatalf("%q: %q, %q", initial, authzid, name)
		}
	})
}
