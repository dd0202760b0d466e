package admin_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/proxy/admin"
)

func get(h http.Handler, path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func TestHandler(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounter(prometheus.CounterOpts{Name: "imlb_test_total", Help: "A test."})
	registry.MustRegister(counter)
	counter.Inc()
	fit := 0
	h := admin.Handler(admin.Options{
		Checks: []admin.Check{
			{Name: "front", Ready: func() error { return nil }},
			{Name: "pool nodes", Ready: func() error {
				if fit == 0 {
					return errors.New("none is fit")
				}
				return nil
			}},
		},
		Metrics: registry,
		Status:  func() any { return map[string]int{"sessions": 3} },
	})
	for _, tt := range []struct {
		path string
		code int
		body string
	}{
		{"/livez", 200, "ok\n"},
		{"/readyz", 503, "front: ok\npool nodes: none is fit\n"},
		{"/metrics", 200, "imlb_test_total 1\n"},
		{"/status", 200, "{\n  \"sessions\": 3\n}\n"},
		{"/", 404, "not found"},
	} {
		w := get(h, tt.path)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s: %d %q, want %d %q", tt.path, w.Code, w.Body, tt.code, tt.body)
		}
	}
	fit = 1
	if w := get(h, "/readyz"); w.Code != 200 || w.Body.String() != "front: ok\npool nodes: ok\n" {
		t.Errorf("/readyz: %d %q when all is well", w.Code, w.Body)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", w.Code)
	}
}

func TestStatusThatCannotBeShown(t *testing.T) {
	t.Parallel()
	h := admin.Handler(admin.Options{Metrics: prometheus.NewRegistry(), Status: func() any { return func() {} }})
	if w := get(h, "/status"); w.Code != http.StatusInternalServerError {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
