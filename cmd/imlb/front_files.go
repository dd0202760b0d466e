package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"imlb/configs"
)

// fileStamp tells two states of a file apart.
type fileStamp struct {
	changed time.Time
	size    int64
}

// stampFiles looks at the files that are read when a document is applied: who signs the
// clients' certificates, and what nodes and front, checks included, know each other by. What
// clients are shown is followed by the certificates themselves.
func stampFiles(doc configs.Proxy) map[string]fileStamp {
	stamps := make(map[string]fileStamp)
	note := func(names ...string) {
		for _, name := range names {
			if name != "" {
				var s fileStamp
				s.changed, s.size = statFile(name)
				stamps[name] = s
			}
		}
	}
	for _, l := range doc.Listeners {
		note(l.ClientCAFile)
	}
	for _, p := range doc.Pools {
		if p.TLS != nil {
			note(p.TLS.CAFile, p.TLS.CertFile, p.TLS.KeyFile)
		}
		for _, c := range p.Checks {
			note(c.CAFile)
		}
	}
	return stamps
}

// followFiles applies the document anew whenever such files have changed, until ctx ends.
func (f *front) followFiles(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			f.lookAtFiles(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// lookAtFiles reads changed files when two looks have seen the same, because
// a certificate and its key are not written at the same time. When they cannot be used
// what was read before stays, and the log says so once.
func (f *front) lookAtFiles(ctx context.Context) {
	f.changing.Lock()
	defer f.changing.Unlock()
	now := stampFiles(f.doc)
	settled := maps.Equal(now, f.seen)
	f.seen = now
	if !settled || maps.Equal(now, f.used) {
		return
	}
	f.used = now
	err := f.readFiles(ctx)
	f.mu.Lock()
	f.unread = err
	f.mu.Unlock()
	if err != nil {
		f.log.ErrorContext(ctx, "changed files cannot be used; what was in them before stays", slog.Any("error", err))
		return
	}
	f.log.InfoContext(ctx, "changed files of listeners and pools read again")
}

// readFiles gives listeners and pools what is in their files now.
func (f *front) readFiles(ctx context.Context) error {
	options, err := f.proxyOptions(f.doc, f.pools)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(f.pools)) {
		if err := f.pools[name].configure(f.doc); err != nil { // for its checks
			return err
		}
	}
	if err := f.server.Apply(ctx, options); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.options = options
	return nil
}
