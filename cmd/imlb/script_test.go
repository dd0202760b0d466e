package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"imlb": main})
}

// TestScripts runs testdata/script: command lines and what they print.
//
// The scripts find an admin listener that is ready at $READY (host:port), one
// that is not at $UNREADY, and nobody at $NOBODY; the sample documents are in
// $SAMPLES.
func TestScripts(t *testing.T) {
	ready := adminOf(t, http.StatusOK, "ok\n")
	unready := adminOf(t, http.StatusServiceUnavailable, "the database does not answer\n")
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	samples, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("READY", ready)
			e.Setenv("UNREADY", unready)
			e.Setenv("NOBODY", strings.TrimPrefix(gone.URL, "http://"))
			e.Setenv("SAMPLES", samples+"/../../configs")
			e.Setenv("COLUMNS", "100")
			return nil
		},
	})
}

// adminOf serves /readyz and returns where.
func adminOf(t *testing.T, status int, body string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestReadyURL(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:5225":    "http://127.0.0.1:5225/readyz",
		":5225":             "http://127.0.0.1:5225/readyz",
		"0.0.0.0:5225":      "http://127.0.0.1:5225/readyz",
		"[::]:5225":         "http://[::1]:5225/readyz",
		"[fd00::1]:5225":    "http://[fd00::1]:5225/readyz",
		"front.example:443": "http://front.example:443/readyz",
	} {
		if got := readyURL(address); got != want {
			t.Errorf("readyURL(%q) = %q, want %q", address, got, want)
		}
	}
}
