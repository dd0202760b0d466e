package backend

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// AdminHandler answers operators and health checks: /livez (the process), /readyz
// (it can take sessions: 200, else 503 and why; whether it does so without the bus; and how many it has), /metrics and /status (JSON).
func (n *Node) AdminHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "alive")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := n.ready(r.Context()); err != nil {
			writeText(w, http.StatusServiceUnavailable, err.Error()+"\n"+n.loadText())
			return
		}
		text := "ready\n"
		if err := n.busAway(); err != nil {
			text += "degraded: delivery is slower without the bus: " + err.Error() + "\n"
		}
		writeText(w, http.StatusOK, text+n.loadText())
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(n.Status(r.Context())) // the asker has gone
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.opts.Gatherer, promhttp.HandlerOpts{}))
	return mux
}

// loadText is what Consul shows of a check: it keeps the text of the answer.
func (n *Node) loadText() string {
	sessions, draining := n.Load()
	return fmt.Sprintf("sessions=%d capacity=%d draining=%t", sessions, n.opts.Capacity, draining)
}

func writeText(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text + "\n")) // the asker has gone
}
