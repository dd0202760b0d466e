package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// adminServer answers operators and health checks over HTTP.
type adminServer struct {
	server *http.Server
	ln     net.Listener
	done   chan error
}

// startAdmin serves h at addr until stop is called. Without an address there is no
// server, and nil is returned.
func startAdmin(ctx context.Context, addr string, h http.Handler, log *slog.Logger) (*adminServer, error) {
	if addr == "" {
		return nil, nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for admin HTTP: %w", err)
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

func registerRuntimeMetrics(r prometheus.Registerer) {
	r.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}
