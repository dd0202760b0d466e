// Package admin is the HTTP interface for those who operate a front: liveness,
// readiness, metrics and status. It knows nothing of the front: what it shows it
// asks through the funcs of its Options.
package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
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
	// Checks have to hold, all of them.
	Checks []Check
	// Pools returns a check for each pool, by its name. One of them has to hold, or those that are
	// asked for.
	Pools   func() []Check
	Metrics prometheus.Gatherer
	// Status returns the value that /status shows.
	Status func() any
}

// Handler returns the admin interface:
//
//	/livez              200 while the process runs
//	/readyz             200 when all checks hold, and those of a pool, else 503; the body names each
//	/readyz?pool=NAME   the same for that pool, or for all of several that are named so
//	/metrics            Prometheus
//	/status             what the front knows
func Handler(o Options) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { text(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { readyz(w, r.URL.Query()["pool"], o) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(o.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { statusJSON(w, o.Status()) })
	return mux
}

// readyz answers with one line for each check. A front of which one pool has no node serves the others:
// whoever asks it for something of one pool names that.
func readyz(w http.ResponseWriter, asked []string, o Options) {
	pools, least := o.Pools(), 1
	if len(asked) > 0 {
		var unknown bool
		if pools, unknown = named(pools, asked); unknown {
			text(w, http.StatusNotFound, "there is no such pool; /readyz lists those that there are\n")
			return
		}
		least = len(pools)
	}
	var body strings.Builder
	ready := holding(&body, "", o.Checks) == len(o.Checks)
	code := http.StatusOK
	if holding(&body, "pool ", pools) < least || !ready {
		code = http.StatusServiceUnavailable
	}
	text(w, code, body.String())
}

// named returns the checks that have one of the names, and whether there is a name that none has.
func named(checks []Check, names []string) (some []Check, unknown bool) {
	for _, name := range names {
		unknown = unknown || !slices.ContainsFunc(checks, func(c Check) bool { return c.Name == name })
	}
	for _, c := range checks {
		if slices.Contains(names, c.Name) {
			some = append(some, c)
		}
	}
	return some, unknown
}

// holding writes a line for each check, and returns how many of them hold.
func holding(to *strings.Builder, what string, checks []Check) (n int) {
	for _, c := range checks {
		state := "ok"
		if err := c.Ready(); err != nil {
			state = err.Error()
		} else {
			n++
		}
		fmt.Fprintf(to, "%s%s: %s\n", what, c.Name, state)
	}
	return n
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
