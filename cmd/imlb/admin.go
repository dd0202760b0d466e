package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"imlb/proxy"
)

// adminServer answers operators and health checks over HTTP.
type adminServer struct {
	server *http.Server
	ln     net.Listener
	done   chan error
}

// adminName is what the listener for operators is called where it fails.
const adminName = "admin HTTP"

// startAdmin serves h at addr until stop is called. Without an address there is no
// server, and nil is returned.
func startAdmin(ctx context.Context, addr string, h http.Handler, log *slog.Logger) (*adminServer, error) {
	if addr == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &proxy.ListenError{Name: adminName, Err: err}
	}
	a := &adminServer{
		server: &http.Server{
			Handler:           h,
			ReadHeaderTimeout: 5 * time.Second,
			IdleTimeout:       time.Minute,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
		ln:   ln,
		done: make(chan error, 1),
	}
	go func() { a.done <- a.server.Serve(ln) }()
	return a, nil
}

func (a *adminServer) addr() string { return a.ln.Addr().String() }

// stop lets requests under way end, for a while, and waits for the server.
func (a *adminServer) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	err := a.server.Shutdown(ctx)
	if served := <-a.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// startingHandler answers operators while a node starts, which takes as long as its database is away: it lives, and is not ready.
type startingHandler struct {
	node atomic.Pointer[http.Handler]
}

// started has the node answer from now on.
func (h *startingHandler) started(node http.Handler) { h.node.Store(&node) }

func (h *startingHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch node := h.node.Load(); {
	case node != nil:
		(*node).ServeHTTP(w, r)
	case r.URL.Path == "/livez":
		_, _ = io.WriteString(w, "alive\n") // the asker has gone
	default:
		http.Error(w, "the node starts, and waits for its database", http.StatusServiceUnavailable)
	}
}

func registerRuntimeMetrics(r prometheus.Registerer) {
	r.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
