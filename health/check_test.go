package health_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"imlb/health"
)

// listen accepts one connection and returns what came in on it.
func listen(t *testing.T) (addr string, received <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	all := make(chan string)
	go func() {
		defer close(all)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		text, _ := io.ReadAll(conn)
		all <- string(text)
	}()
	t.Cleanup(func() {
		l.Close()
		for range all {
		}
	})
	return l.Addr().String(), all
}

func TestTCPCheck(t *testing.T) {
	for _, c := range []struct {
		check health.TCPCheck
		sends string
	}{
		{health.TCPCheck{}, ""},
		// Signature, version 2 and command LOCAL, unspecified family, length 0.
		{health.TCPCheck{Header: 2}, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"},
		{health.TCPCheck{Header: 1}, "PROXY UNKNOWN\r\n"},
	} {
		addr, received := listen(t)
		if _, err := c.check.Probe(t.Context(), health.Endpoint{Addr: addr}); err != nil {
			t.Errorf("%+v: %v", c.check, err)
		}
		if got := <-received; got != c.sends {
			t.Errorf("%+v sends %q, want %q", c.check, got, c.sends)
		}
	}
}

func TestTCPCheckOfNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := (health.TCPCheck{}).Probe(t.Context(), health.Endpoint{Addr: l.Addr().String()}); err == nil {
		t.Error("nobody listens, but the check passes")
	}
}

func TestHTTPChecks(t *testing.T) {
	for _, c := range []struct {
		name       string
		status     int
		body       string
		http       string // part of the error of an HTTPCheck; "" when it passes
		agent      string // the same of an AgentCheck
		agentFinds health.Answer
	}{
		{
			"ready", 200, `{"node":"a","sessions":3,"ready":true,"capacity":10,"weight":2}`,
			"", "", health.Answer{Node: "a", Sessions: 3, Ready: true, Capacity: 10, Weight: 2},
		},
		{"draining", 200, `{"node":"a","draining":true}`, "", "", health.Answer{Node: "a", Sessions: -1, Draining: true}},
		{"not ready", 200, `{"node":"a"}`, "", "not ready", health.Answer{Node: "a", Sessions: -1}},
		{"another node", 200, `{"node":"b","ready":true}`, "", `"b" answers`, health.Answer{}},
		{"no JSON", 200, `ok`, "", "read answer", health.Answer{}},
		{"unavailable", 503, `{"node":"a","ready":true}`, "503", "503", health.Answer{}},
		{"redirected", 302, ``, "302", "302", health.Answer{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/x" {
					t.Errorf("path %s", r.URL.Path)
				}
				w.Header().Set("Location", "/y")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}))
			defer server.Close()
			e := health.Endpoint{Name: "a", Admin: strings.TrimPrefix(server.URL, "http://")}
			_, err := health.HTTPCheck{Path: "/x"}.Probe(t.Context(), e)
			wantError(t, err, c.http)
			answer, err := health.AgentCheck{Path: "/x"}.Probe(t.Context(), e)
			wantError(t, err, c.agent)
			if answer != nil && !reflect.DeepEqual(*answer, c.agentFinds) {
				t.Errorf("answer %+v, want %+v", *answer, c.agentFinds)
			}
		})
	}
}

func TestHTTPChecksNeedAnAdminAddress(t *testing.T) {
	_, err := health.HTTPCheck{Path: "/readyz"}.Probe(t.Context(), health.Endpoint{Name: "a", Addr: "127.0.0.1:1"})
	wantError(t, err, "no admin address")
}

func TestHTTPCheckOfAHangingNode(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer server.Close()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := health.HTTPCheck{Path: "/readyz"}.Probe(ctx, health.Endpoint{Admin: strings.TrimPrefix(server.URL, "http://")})
	wantError(t, err, "deadline exceeded")
}

func wantError(t *testing.T, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("unexpected: %v", err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("error %v, want one with %q", err, part)
	}
}
