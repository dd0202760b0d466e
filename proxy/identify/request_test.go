package identify_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"imlb/proxy/identify"
)

// upgrade makes the request of a WebSocket; fields are names and values.
func upgrade(target string, fields ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, target, http.NoBody)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Add(fields[i], fields[i+1])
	}
	return r
}

func path(t *testing.T, expr string) identify.Value {
	t.Helper()
	v, err := identify.Path(expr)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func token(payload string) string {
	return "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString([]byte(payload)) + ".c2ln"
}

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		value   identify.Value
		request *http.Request
		want    identify.Verdict
		key     string
	}{
		{"first segment", identify.Segment(1), upgrade("/chat/alice"), identify.Found, "chat"},
		{"second segment", identify.Segment(2), upgrade("/chat/alice/ws"), identify.Found, "alice"},
		{"last segment", identify.Segment(-1), upgrade("/chat/alice/"), identify.Found, "alice"},
		{"a slash inside", identify.Segment(-1), upgrade("/chat/al%2Fice"), identify.Found, "al/ice"},
		{"a line feed inside", identify.Segment(-1), upgrade("/chat/al%0Aice"), identify.BadKey, ""},
		{"too few segments", identify.Segment(3), upgrade("/chat/alice"), identify.Nobody, ""},
		{"too few from the end", identify.Segment(-3), upgrade("/chat/alice"), identify.Nobody, ""},
		{"segment 0", identify.Segment(0), upgrade("/chat"), identify.Nobody, ""},
		{"no path", identify.Segment(1), upgrade("/"), identify.Nobody, ""},
		{"expression", path(t, `^/u/(?P<user>[^/]+)/`), upgrade("/u/al%20ice/ws"), identify.Found, "al ice"},
		{"expression without a match", path(t, `^/u/([^/]+)/`), upgrade("/v/alice/ws"), identify.Nobody, ""},
		{"query", identify.Query("user"), upgrade("/?x=1&user=al%26ice+b&user=bob"), identify.Found, "al&ice b"},
		{"query with a name that is escaped", identify.Query("u r"), upgrade("/?u%20r=alice"), identify.Found, "alice"},
		{"query without it", identify.Query("user"), upgrade("/?users=alice"), identify.Nobody, ""},
		{"query with a semicolon", identify.Query("user"), upgrade("/?user=a;b"), identify.Nobody, ""},
		{"query that is wrong", identify.Query("user"), upgrade("/?user=%zz&a;user=x"), identify.Nobody, ""},
		{"header", identify.Header("x-user"), upgrade("/", "X-User", " alice ", "X-User", "bob"), identify.Found, "alice"},
		{"host", identify.Header("Host"), upgrade("http://alice.example/"), identify.Found, "alice.example"},
		{"no header", identify.Header("x-user"), upgrade("/"), identify.Nobody, ""},
		{"cookie", identify.Cookie("sid"), upgrade("/", "Cookie", "a=b; sid=alice"), identify.Found, "alice"},
		{"no cookie", identify.Cookie("sid"), upgrade("/", "Cookie", "a=b"), identify.Nobody, ""},
		{"bearer", identify.Bearer(), upgrade("/", "Authorization", "bearer  tok"), identify.Found, "tok"},
		{"basic", identify.Bearer(), upgrade("/", "Authorization", "Basic tok"), identify.Nobody, ""},
		{"subprotocol", identify.Subprotocol("bearer"), upgrade("/", "Sec-WebSocket-Protocol", "xmpp, bearer, tok"), identify.Found, "tok"},
		{"subprotocol over two lines", identify.Subprotocol("bearer"), upgrade("/", "Sec-WebSocket-Protocol", "bearer", "Sec-WebSocket-Protocol", "tok"), identify.Found, "tok"},
		{"subprotocol with nothing after", identify.Subprotocol("bearer"), upgrade("/", "Sec-WebSocket-Protocol", "xmpp, bearer"), identify.Nobody, ""},
		{"no request", identify.Bearer(), nil, identify.Nobody, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in := identify.Input{Facts: identify.Facts{Request: c.request}}
			want(t, identify.Request{Value: c.value}.Identify(in), c.want, c.key)
		})
	}
	if _, err := identify.Path(`^/no/group`); err == nil {
		t.Error("a path expression without a group")
	}
}

func TestRequestClaim(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, claim, token string
		want               identify.Verdict
		key                string
	}{
		{"RFC 7519 §3.1", "iss", "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9" +
			".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ" +
			".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", identify.Found, "joe"},
		{"a number", "exp", token(`{"exp":1300819380}`), identify.Found, "1300819380"},
		{"inside", "user.id", token(`{"user":{"id":"alice"}}`), identify.Found, "alice"},
		{"a URL", "https://a.example/uid", token(`{"https://a.example/uid":"alice"}`), identify.Found, "alice"},
		{"inside a URL", "https://a.example/x.id", token(`{"https://a.example/x":{"id":"alice"}}`), identify.Nobody, ""},
		{"escapes", "sub", token(`{"sub":"\u00e9\n"}`), identify.BadKey, ""},
		{"the last of two", "sub", token(`{"sub":"a","sub":"b"}`), identify.Found, "b"},
		{"another case", "sub", token(`{"Sub":"a"}`), identify.Nobody, ""},
		{"empty", "sub", token(`{"sub":""}`), identify.Nobody, ""},
		{"true", "sub", token(`{"sub":true}`), identify.Nobody, ""},
		{"null", "sub", token(`{"sub":null}`), identify.Nobody, ""},
		{"a list", "sub", token(`{"sub":["a"]}`), identify.Nobody, ""},
		{"a fraction", "sub", token(`{"sub":1.5}`), identify.Nobody, ""},
		{"below a string", "sub.id", token(`{"sub":"a"}`), identify.Nobody, ""},
		{"no claims", "sub", token(`null`), identify.Malformed, ""},
		{"not JSON", "sub", token(`{"sub":`), identify.Malformed, ""},
		{"not UTF-8", "sub", token("{\"sub\":\"\xff\"}"), identify.Malformed, ""},
		{"not base64", "sub", "a.!.c", identify.Malformed, ""},
		{"two parts", "sub", "a.e30", identify.Malformed, ""},
		{"encrypted", "sub", "a.e30.c.d.e", identify.Malformed, ""},
		{"too long", "sub", token(`{"sub":"` + strings.Repeat("a", 8<<10) + `"}`), identify.TooLong, ""},
		{"a long key", "sub", token(`{"sub":"` + strings.Repeat("a", 1024) + `"}`), identify.Found, shortened(strings.Repeat("a", 1024))},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in := identify.Input{Facts: identify.Facts{Request: upgrade("/", "Authorization", "Bearer "+c.token)}}
			want(t, identify.Request{Value: identify.Bearer(), Claim: c.claim}.Identify(in), c.want, c.key)
		})
	}
	in := identify.Input{Facts: identify.Facts{Request: upgrade("/")}}
	want(t, identify.Request{Value: identify.Bearer(), Claim: "sub"}.Identify(in), identify.Nobody, "")
}

// FuzzQuery: of a query we read what net/url reads.
func FuzzQuery(f *testing.F) {
	f.Add("user=alice", "user")
	f.Add("&=0", "")
	f.Add("a=b&user=%41+b&user=c;d&=x&&user", "user")
	f.Fuzz(func(t *testing.T, query, name string) {
		values, _ := url.ParseQuery(query)
		got := identify.Query(name)(&http.Request{URL: &url.URL{RawQuery: query}})
		if got != values.Get(name) {
			t.Fatalf("%q in %q: got %q, want %q", name, query, got, values.Get(name))
		}
	})
}

// FuzzJWT: a string that is put into a token comes out of it, and what encoding/json finds
// in any payload is found.
func FuzzJWT(f *testing.F) {
	f.Add("alice", []byte(`{"sub":"alice"}`), "a.b.c")
	f.Add("é\U0001F469", []byte(`{"sub":{"sub":1}}`), "..")
	f.Fuzz(func(t *testing.T, user string, payload []byte, raw string) {
		whole, err := json.Marshal(map[string]any{"sub": user, "other": []int{1}})
		if err != nil {
			t.Fatal(err)
		}
		got := bySub(token(string(whole)))
		if got.Verdict == identify.Found && got.Key != shortened(user) && utf8.ValidString(user) {
			t.Fatalf("%q: got %+v", user, got)
		}
		if plain := user != "" && utf8.ValidString(user) && !strings.ContainsFunc(user, control); plain && got.Verdict != identify.Found {
			t.Fatalf("%q: got %+v", user, got)
		}
		var claims map[string]any
		got = bySub(token(string(payload)))
		if json.Unmarshal(payload, &claims) != nil && got.Verdict == identify.Found {
			t.Fatalf("%q: got %+v", payload, got)
		}
		if sub, ok := claims["sub"].(string); ok && got.Verdict == identify.Found && got.Key != shortened(sub) {
			t.Fatalf("%q: got %+v, want %q", payload, got, sub)
		}
		bySub(raw)
	})
}

func bySub(token string) identify.Result {
	r := &http.Request{URL: &url.URL{}, Header: http.Header{"X-Token": {token}}}
	id := identify.Request{Value: identify.Header("X-Token"), Claim: "sub"}
	return id.Identify(identify.Input{Facts: identify.Facts{Request: r}})
}

// webValues are all the ways to take a value from a request.
func webValues(t testing.TB) []identify.Value {
	t.Helper()
	path, err := identify.Path(`/u/(?P<user>[^/]+)`)
	if err != nil {
		t.Fatal(err)
	}
	return []identify.Value{
		identify.Segment(1), identify.Segment(-1), identify.Segment(3), identify.Segment(-3), path, identify.Query("user"),
		identify.Header("X-User"), identify.Header("Host"), identify.Cookie("user"), identify.Bearer(), identify.Subprotocol("user"),
	}
}

// FuzzRequest: whatever request net/http takes, no part of it makes an identifier panic, or
// find a user that may not be one.
func FuzzRequest(f *testing.F) {
	for _, seed := range []string{
		"GET /u/al%2Fice/?user=%41+b HTTP/1.1\r\nHost: alice.example\r\nX-User:  bob \r\n\r\n",
		"GET //u//x%zz HTTP/1.1\r\nHost: x\r\nCookie: a=b; user=\"al ice\"; user=\r\nAuthorization: bearer  \r\n\r\n",
		"GET http://x?user HTTP/1.1\r\nHost: y\r\nSec-WebSocket-Protocol: mqtt, USER ,\r\nSec-WebSocket-Protocol: ,alice\r\n\r\n",
		"GET * HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.\r\n\r\n",
		"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		f.Add(seed)
	}
	values := webValues(f)
	f.Fuzz(func(t *testing.T, raw string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil {
			return
		}
		in := identify.Input{Facts: identify.Facts{Request: r}}
		for i, value := range values {
			for _, claim := range []string{"", "sub"} {
				got := identify.Request{Value: value, Claim: claim}.Identify(in)
				if got.Verdict == identify.More || (got.Verdict == identify.Found) != (got.Key != "") {
					t.Fatalf("value %d, claim %q: got %+v", i, claim, got)
				}
				if k := got.Key; len(k) > identify.MaxKey || !utf8.ValidString(k) || strings.ContainsFunc(k, control) {
					t.Fatalf("value %d, claim %q: found %q", i, claim, k)
				}
			}
		}
	})
}

// FuzzRequestParts: what is written into a part of a request as net/http and net/url do is
// found in it, among others of its kind.
func FuzzRequestParts(f *testing.F) {
	f.Add("alice", "x/y", ", ")
	f.Add("al/ice ü%2F", "", ",")
	f.Add("a;b,c\"", "user", " ,\t")
	f.Fuzz(func(t *testing.T, user, other, comma string) {
		if user == "" {
			return
		}
		check := func(what string, value identify.Value, r *http.Request, want string) {
			if got := value(r); got != want {
				t.Fatalf("%s: found %q in %v %v, want %q", what, got, r.URL, r.Header, want)
			}
		}
		if u, err := url.Parse("/x/" + url.PathEscape(user) + "/" + url.PathEscape("y"+other)); err == nil {
			r := &http.Request{URL: u}
			check("segment 2", identify.Segment(2), r, user)
			check("segment -2", identify.Segment(-2), r, user)
		}
		r := &http.Request{URL: &url.URL{}, Header: http.Header{}}
		r.AddCookie(&http.Cookie{Name: "other", Value: other})
		r.AddCookie(&http.Cookie{Name: "user", Value: user})
		parsed, err := http.ParseCookie(r.Header.Get("Cookie"))
		for _, c := range parsed {
			if c.Name == "user" && err == nil {
				check("cookie", identify.Cookie("user"), r, c.Value)
			}
		}
		if plain := !strings.ContainsFunc(user+other, func(r rune) bool { return r <= ' ' || r > '~' || r == ',' }); !plain {
			return
		}
		if strings.Trim(comma, " \t,") != "" || strings.Count(comma, ",") != 1 || strings.EqualFold(other, "marker") {
			return
		}
		r.Header = http.Header{"Sec-Websocket-Protocol": {"x" + comma + other + "_" + comma + "marker" + comma + user + comma + "z"}}
		check("subprotocol", identify.Subprotocol("Marker"), r, user)
		r.Header = http.Header{"Sec-Websocket-Protocol": {"x" + other, "marker", user, "z"}}
		check("subprotocol over some lines", identify.Subprotocol("marker"), r, user)
		r.Header = http.Header{"Authorization": {"bearer " + user}, "X-User": {" " + user + "\t", other}}
		check("bearer", identify.Bearer(), r, user)
		check("header", identify.Header("X-User"), r, user)
	})
}
