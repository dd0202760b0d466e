// Package admin is the HTTP interface for those who operate a front: liveness,
// readiness, metrics and status. It knows nothing of the front: what it shows it
// asks through the funcs of its Options.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Check is one thing that has to hold before a front can serve.
type Check struct {
	Name string
	// Ready returns why not, or nil. It is called for every request of
	// /readyz, so it must answer from memory.
	Ready func() error
}

// Options says where the answers come from.
type Options struct {
	Checks  []Check
	Metrics prometheus.Gatherer
	// Status returns the value that /status shows.
	Status func() any
}

// Handler returns the admin interface:
//
//	/livez        200 while the process runs
//	/readyz       200 when all checks hold, else 503; the body names each
//	/metrics      Prometheus
//	/status       what the front knows
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { readyz(w, o.Checks) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { statusJSON(w, o.Status()) })
	return mux
}

// readyz answers with one line for each check.
func readyz(w http.ResponseWriter, checks []Check) {
	var body strings.Builder
	code := http.StatusOK
	for _, c := range checks {
		state := "ok"
		if err := c.Ready(); err != nil {
			code, state = http.StatusServiceUnavailable, err.Error()
		}
		fmt.Fprintf(&body, "%s: %s\n", c.Name, state)
	}
	text(w, code, body.String())
}

func statusJSON(w http.ResponseWriter, status any) {
	body, err := json.MarshalIndent(status, "", "  ")
	if err != nil {
		text(w, http.StatusInternalServerError, "cannot show the status: "+err.Error()+"\n")
		return
	}
	fresh(w, "application/json")
	_, _ = w.Write(append(body, '\n')) // the client may have gone
}

func text(w http.ResponseWriter, code int, body string) {
	fresh(w, "text/plain; charset=utf-8")
	w.WriteHeader(code)
	_, _ = w.Write([]byte(body)) // the client may have gone
}

// fresh marks an answer as one that must not be kept.
func fresh(w http.ResponseWriter, kind string) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "no-store")
}
