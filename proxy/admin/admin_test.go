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
	h := admin.Handler(admin.Options{
		Checks:  []admin.Check{{Name: "front", Ready: func() error { return errors.New("it has not begun") }}},
		Pools:   func() []admin.Check { return nil },
		Metrics: registry,
		Status:  func() any { return map[string]int{"sessions": 3} },
	})
	for _, tt := range []struct {
		path string
		code int
		body string
	}{
		{"/livez", 200, "ok\n"},
		{"/readyz", 503, "front: it has not begun\n"},
		{"/metrics", 200, "imlb_test_total 1\n"},
		{"/status", 200, "{\n  \"sessions\": 3\n}\n"},
		{"/", 404, "not found"},
	} {
		w := get(h, tt.path)
		if w.Code != tt.code || !strings.Contains(w.Body.String(), tt.body) {
			t.Errorf("%s: %d %q, want %d %q", tt.path, w.Code, w.Body, tt.code, tt.body)
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /readyz: %d", w.Code)
	}
}

// A front is ready when one of its pools is, or those that are asked for.
func TestReady(t *testing.T) {
	t.Parallel()
	no := map[string]string{} // what is not ready, and why
	check := func(name string) admin.Check {
		return admin.Check{Name: name, Ready: func() error {
			if why, ok := no[name]; ok {
				return errors.New(why)
			}
			return nil
		}}
	}
	h := admin.Handler(admin.Options{
		Checks:  []admin.Check{check("front")},
		Pools:   func() []admin.Check { return []admin.Check{check("chat"), check("mqtt")} },
		Metrics: prometheus.NewRegistry(),
	})
	for _, tt := range []struct {
		no   string
		ask  string
		code int
		body string
	}{
		{"", "", 200, "front: ok\npool chat: ok\npool mqtt: ok\n"},
		{"mqtt", "", 200, "front: ok\npool chat: ok\npool mqtt: none is fit\n"},
		{"chat", "", 200, "front: ok\npool chat: none is fit\npool mqtt: ok\n"},
		{"chat mqtt", "", 503, "front: ok\npool chat: none is fit\npool mqtt: none is fit\n"},
		{"front", "", 503, "front: none is fit\npool chat: ok\npool mqtt: ok\n"},
		{"mqtt", "?pool=chat", 200, "front: ok\npool chat: ok\n"},
		{"mqtt", "?pool=mqtt", 503, "front: ok\npool mqtt: none is fit\n"},
		{"mqtt", "?pool=chat&pool=mqtt", 503, "front: ok\npool chat: ok\npool mqtt: none is fit\n"},
		{"", "?pool=chat&pool=mqtt", 200, "front: ok\npool chat: ok\npool mqtt: ok\n"},
		{"front", "?pool=chat", 503, "front: none is fit\npool chat: ok\n"},
		{"", "?pool=chat&pool=chatt", 404, "there is no such pool; /readyz lists those that there are\n"},
		{"", "?pool=", 404, "there is no such pool; /readyz lists those that there are\n"},
	} {
		clear(no)
		for _, name := range strings.Fields(tt.no) {
			no[name] = "none is fit"
		}
		if w := get(h, "/readyz"+tt.ask); w.Code != tt.code || w.Body.String() != tt.body {
			t.Errorf("%s without %q: %d %q, want %d %q", tt.ask, tt.no, w.Code, w.Body, tt.code, tt.body)
		}
	}
}

func TestStatusThatCannotBeShown(t *testing.T) {
	t.Parallel()
	h := admin.Handler(admin.Options{Metrics: prometheus.NewRegistry(), Status: func() any { return func() {} }})
	if w := get(h, "/status"); w.Code != http.StatusInternalServerError {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
