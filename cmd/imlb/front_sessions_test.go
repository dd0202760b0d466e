package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"
)

// imlb runs a command to its end, and returns what it printed.
func imlb(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	command := exec.CommandContext(ctx, "imlb", args...)
	var out, told strings.Builder
	command.Stdout, command.Stderr = &out, &told
	err = command.Run()
	return out.String(), told.String(), err
}

// An operator sees the sessions of a front, page by page, and ends one, which its client and the log hear of.
func TestSessionsCommand(t *testing.T) {
	echo := startEcho(t)
	f := start(t, "--listen", "tcp://127.0.0.1:0", "--to", "n="+echo.addr, "--key", `pattern:^LOGIN (?P<user>\S+)`,
		"--admin", "127.0.0.1:0", "--log-level", "info")
	admin := f.addr(t, "admin")
	clients := map[string]net.Conn{}
	for _, user := range []string{"alice", "bob", "carol"} {
		clients[user] = dialTCP(t, f.addr(t, "tcp"))
		requireEcho(t, clients[user], "LOGIN "+user+"\n")
	}
	out, _, err := imlb(t, "sessions", "--admin", admin, "--user", "bob", "--node", "n", "--json")
	var page sessionsPage
	if err := errors.Join(err, json.Unmarshal([]byte(out), &page)); err != nil || len(page.Sessions) != 1 || page.Next != "" {
		t.Fatalf("%v: %s", err, out)
	}
	if s := page.Sessions[0]; s.User != "bob" || s.Node != "n" || s.Pool != quickPool || s.Listener != "tcp" || s.Transport != "tcp" ||
		s.Source != clients["bob"].LocalAddr().String() || s.In != 10 || s.Out != 10 {
		t.Errorf("the session is %+v", s)
	}
	out, told, err := imlb(t, "sessions", "list", "--admin", admin, "--limit", "2")
	_, after, more := strings.Cut(strings.TrimSpace(told), "--after ")
	if err != nil || strings.Count(out, "\n") != 3 || !strings.HasPrefix(out, "ID ") || !more {
		t.Errorf("%v: %s%s", err, out, told)
	}
	rest, told, err := imlb(t, "sessions", "--admin", admin, "--after", strings.TrimSuffix(after, "."))
	if err != nil || strings.Count(rest, "\n") != 2 || told != "" || strings.Contains(out, strings.Fields(rest)[9]) {
		t.Errorf("%v: %s%s", err, rest, told)
	}
	if _, told, err := imlb(t, "sessions", "end", "--admin", admin, page.Sessions[0].ID); err != nil {
		t.Errorf("%v: %s", err, told)
	}
	if _, err := io.ReadAll(clients["bob"]); err == nil {
		t.Error("the client got an end in order")
	}
	requireEcho(t, clients["alice"], "still here\n")
	for id, want := range map[string]string{page.Sessions[0].ID: "404 Not Found: there is no such session", "x": "is no session's id"} {
		if _, told, err := imlb(t, "sessions", "end", "--admin", admin, id); err == nil || !strings.Contains(told, want) {
			t.Errorf("%s: %v, %s", id, err, told)
		}
	}
	if _, told, err := imlb(t, "sessions", "--admin", admin, "--limit", "1001"); err == nil || !strings.Contains(told, "from 1 to 1000") {
		t.Errorf("%v: %s", err, told)
	}
	f.stop()
	for _, line := range []string{"an administrator ends a session", "reason=ended-by-admin id=" + page.Sessions[0].ID} {
		if !strings.Contains(f.stderr.String(), line) {
			t.Errorf("the log does not say %q:\n%s", line, f.stderr.String())
		}
	}
}

func TestSessionQuery(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0a", 16)
	for query, want := range map[string]string{
		"": "", "user=a%40b&node=n&pool=p&limit=1000&after=" + id: "",
		"limit=0": "limit 0: want", "limit=1001": "limit 1001: want", "limit=x": "limit x: want", "after=x": "no session's id",
		"usr=alice": "usr is not known here", "user=": "user: want one value", "node=a&node=b": "node: want one value",
	} {
		r := httptest.NewRequest(http.MethodGet, "/sessions?"+query, nil)
		switch q, err := sessionQuery(r.URL.Query()); {
		case want == "" && err == nil:
			if query != "" && (q.User != "a@b" || q.Node != "n" || q.Pool != "p" || q.Limit != 1000 || q.After.String() != id) || query == "" && q.Limit != 100 {
				t.Errorf("%s: %+v", query, q)
			}
		case want == "", err == nil, !strings.Contains(err.Error(), want):
			t.Errorf("%s: %v, want %q", query, err, want)
		}
	}
}

// Whoever may gather metrics over the network does not see users, and ends nothing.
func TestSessionsAreOfThisMachine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		from, to string
		want     int
	}{
		{"127.0.0.1:1000", "127.0.0.1:5225", http.StatusOK},
		{"127.0.0.2:1000", "127.0.0.1:5225", http.StatusOK},
		{"[::1]:1000", "[::1]:5225", http.StatusOK},
		{"192.0.2.1:1000", "192.0.2.1:5225", http.StatusOK},
		{"192.0.2.2:1000", "192.0.2.1:5225", http.StatusForbidden},
		{"192.0.2.2:1000", "", http.StatusForbidden},
		{"@", "127.0.0.1:5225", http.StatusForbidden},
	} {
		r := httptest.NewRequest(http.MethodGet, "/sessions", nil)
		r.RemoteAddr, r.Host = c.from, "localhost"
		if to, err := net.ResolveTCPAddr("tcp", c.to); err == nil && c.to != "" {
			r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, to))
		}
		w := httptest.NewRecorder()
		onThisMachine(func(http.ResponseWriter, *http.Request) {})(w, r)
		if w.Code != c.want {
			t.Errorf("from %s to %s: %d, want %d", c.from, c.to, w.Code, c.want)
		}
	}
}

// A page in a browser on the machine of a front does not get at it by a name that leads there.
func TestSessionsAreNotOfOtherNames(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]int{
		"localhost:5225": http.StatusOK, "LOCALHOST": http.StatusOK, "127.0.0.1:5225": http.StatusOK, "[::1]:5225": http.StatusOK, "[::1]": http.StatusOK,
		"evil.example:5225": http.StatusForbidden, "evil.example": http.StatusForbidden, "": http.StatusForbidden,
	} {
		r := httptest.NewRequest(http.MethodDelete, "/sessions/0", nil)
		r.RemoteAddr, r.Host = "127.0.0.1:1000", host
		w := httptest.NewRecorder()
		onThisMachine(func(http.ResponseWriter, *http.Request) {})(w, r)
		if w.Code != want {
			t.Errorf("%q: %d, want %d", host, w.Code, want)
		}
	}
}
