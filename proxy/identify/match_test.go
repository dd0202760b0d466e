package identify_test

import (
	"testing"

	"imlb/proxy/identify"
)

func TestRoute(t *testing.T) {
	t.Parallel()
	routes := []identify.Match{
		0: {ServerNames: []string{"*.example.com"}},
		1: {ServerNames: []string{"mail.example.com", "chat.example.com"}},
		2: {ServerNames: []string{"*.example.com"}, ALPN: []string{"mqtt"}},
		3: {ServerNames: []string{"Example.COM."}},
		4: {ALPN: []string{"xmpp-client", "xmpp-server"}},
		5: {ServerNames: []string{"chat.example.com"}, ALPN: []string{"mqtt"}},
	}
	for _, c := range []struct {
		name string
		alpn []string
		want int
	}{
		{"www.example.com", nil, 0},
		{"chat.example.com", nil, 1},
		{"CHAT.example.com.", []string{"h2"}, 1},
		{"chat.example.com", []string{"h2", "mqtt"}, 5},
		{"www.example.com", []string{"mqtt"}, 2},
		{"example.com", nil, 3},
		{"a.b.example.com", nil, -1},
		{".example.com", nil, -1},
		{"other.org", []string{"xmpp-client"}, 4},
		{"", []string{"xmpp-server"}, 4},
		{"www.example.com", []string{"xmpp-client"}, 0},
		{"other.org", nil, -1},
		{"", nil, -1},
		{"badexample.com", nil, -1},
	} {
		if got := identify.Route(routes, identify.Hello{ServerName: c.name, ALPN: c.alpn}); got != c.want {
			t.Errorf("%q %q: route %d, want %d", c.name, c.alpn, got, c.want)
		}
	}
	if got := identify.Route(append(routes, identify.Match{}), identify.Hello{}); got != len(routes) {
		t.Errorf("a match without conditions: route %d", got)
	}
}

func TestMatchCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		match identify.Match
		ok    bool
	}{
		{identify.Match{}, true},
		{identify.Match{ServerNames: []string{"a.example", "*.example"}, ALPN: []string{"h2"}}, true},
		{identify.Match{ServerNames: []string{"*"}}, false},
		{identify.Match{ServerNames: []string{"*.*.example"}}, false},
		{identify.Match{ServerNames: []string{"a*.example"}}, false},
		{identify.Match{ServerNames: []string{""}}, false},
		{identify.Match{ServerNames: []string{"*."}}, false},
		{identify.Match{ServerNames: []string{"bücher.example"}}, false},
		{identify.Match{ALPN: []string{""}}, false},
	} {
		if err := c.match.Check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.match, err)
		}
	}
}
