package login_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"imlb/backend/login"
)

// serve starts an HTTPS server, and returns its URL and the file with its authority.
func serve(t *testing.T, handle http.HandlerFunc) (url, caFile string) {
	t.Helper()
	s := httptest.NewTLSServer(handle)
	t.Cleanup(s.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(caFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return s.URL, caFile
}

func newHTTP(t *testing.T, o login.HTTPOptions) *login.HTTP {
	t.Helper()
	h, err := login.NewHTTP(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func TestHTTPAnswers(t *testing.T) {
	url, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		var q map[string]string
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || r.Method != http.MethodPost ||
			r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Authorization") != "Bearer knows us" ||
			q["domain"] != "example.com" || len(q) != 3 {
			http.Error(w, "bad question", http.StatusTeapot)
			return
		}
		switch q["user"] {
		case "alice":
			if q["password"] != `pen"cil ✎` {
				w.WriteHeader(http.StatusUnauthorized)
			}
		case "locked":
			w.WriteHeader(http.StatusForbidden)
		case "moved":
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		default:
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	h := newHTTP(t, login.HTTPOptions{URL: url, CAFile: ca, Domain: "example.com", Token: "knows us"})
	for _, tt := range []struct {
		user, password string
		ok             bool
		err            string
	}{
		{"alice", `pen"cil ✎`, true, ""},
		{"alice", "pen", false, ""},
		{"locked", "pencil", false, ""},
		{"moved", "pencil", false, "the answer is 307 Temporary Redirect"},
		{"broken", "pencil", false, "the answer is 500 Internal Server Error"},
	} {
		ok, err := h.Check(t.Context(), tt.user, tt.password)
		if ok != tt.ok || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s with %q: got %t, %v; want %t, %s", tt.user, tt.password, ok, err, tt.ok, tt.err)
		}
	}
}

// A service that is not the one that is meant gets no passwords.
func TestHTTPAuthority(t *testing.T) {
	asked := false
	url, _ := serve(t, func(http.ResponseWriter, *http.Request) { asked = true })
	h := newHTTP(t, login.HTTPOptions{URL: url})
	if ok, err := h.Check(t.Context(), "alice", "pencil"); ok || err == nil || asked {
		t.Errorf("got %t, %v; asked: %t", ok, err, asked)
	}
	if _, err := login.NewHTTP(login.HTTPOptions{URL: url, CAFile: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a file of authorities that is not there is no mistake")
	}
}

// Not more than so many questions are under way, and none takes too long.
func TestHTTPBounds(t *testing.T) {
	arrived, release := make(chan struct{}, 10), make(chan struct{})
	url, ca := serve(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	h := newHTTP(t, login.HTTPOptions{URL: url, CAFile: ca, Concurrency: 2, Timeout: 10 * time.Second})
	var asking sync.WaitGroup
	for range 2 {
		asking.Go(func() {
			if ok, err := h.Check(t.Context(), "alice", "pencil"); !ok || err != nil {
				t.Errorf("got %t, %v", ok, err)
			}
		})
	}
	<-arrived
	<-arrived
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if ok, err := h.Check(soon, "alice", "pencil"); ok || err == nil || !strings.Contains(err.Error(), "wait for one of 2 places") {
		t.Errorf("a third question: got %t, %v", ok, err)
	}
	close(release)
	asking.Wait()
	if len(arrived) != 0 {
		t.Error("the third question was asked")
	}
}

func TestHTTPTimeout(t *testing.T) {
	release := make(chan struct{})
	url, ca := serve(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	h := newHTTP(t, login.HTTPOptions{URL: url, CAFile: ca, Timeout: 50 * time.Millisecond})
	if ok, err := h.Check(t.Context(), "alice", "pencil"); ok || err == nil {
		t.Errorf("got %t, %v", ok, err)
	}
}
