package configs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// WatcherOptions are the settings of a Watcher.
type WatcherOptions struct {
	// File is the front's document. When it is empty the document is the one of
	// Local.Cluster in Consul, and Local.Agent says how to reach that.
	File string
	// Local is what the front knows of itself. It counts for a document from Consul
	// only: a file is the front's own, and says it all.
	Local Local
	// Poll is how often the file is looked at; one second when 0.
	Poll time.Duration
	// Patience is how long a start waits for Consul before it goes on with the
	// cache; three seconds when 0.
	Patience time.Duration
	// Wait is how long a query of Consul may wait for a change; one minute when 0.
	Wait time.Duration
	// Rate and Burst bound the queries per second; 4 and 8 when 0.
	Rate  float64
	Burst int
	// MaxBackoff is the longest wait after a failure; ten seconds when 0.
	MaxBackoff time.Duration
	Logger     *slog.Logger
}

// Update is a configuration to run with. It is not to be changed.
type Update struct {
	Proxy     Proxy
	Overrides map[string]Override // by node
	// Version is the ModifyIndex of a document from Consul; 0 for a file's.
	Version uint64
}

// Watcher follows the document of a front, and what operators say of nodes.
//
// The document is a file or lies in Consul; overrides come from Consul in both
// cases, unless a file's document has no block consul. A new document is validated
// as a whole. One that fails is refused and reported with everything that is wrong
// with it, and the last good one stays. It is looked at again every few seconds, because files
// that it names may be there later. Overrides are validated one by one: one
// that fails is refused, and the node keeps the one before; the others apply.
//
// What is in force is kept in the document's cache_dir. A front that starts while
// Consul is down, or has no good document for it, goes on with that. A Consul that
// lost its state takes nothing back: overrides stay until it has some again, also over
// a restart of the front. It is known by its index, which is smaller than the last one.
type Watcher struct {
	options WatcherOptions
	limiter *rate.Limiter
	reload  chan struct{} // holds one signal

	mu     sync.Mutex
	status Status
}

// NewWatcher returns a watcher that Run sets going.
func NewWatcher(o WatcherOptions) (*Watcher, error) {
	o.Poll = cmp.Or(o.Poll, time.Second)
	o.Patience = cmp.Or(o.Patience, 3*time.Second)
	o.Wait = cmp.Or(o.Wait, time.Minute)
	o.Rate = cmp.Or(o.Rate, 4)
	o.Burst = cmp.Or(o.Burst, 8)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	w := &Watcher{
		options: o, limiter: rate.NewLimiter(rate.Limit(o.Rate), o.Burst), reload: make(chan struct{}, 1),
	}
	if o.File != "" {
		w.status.Source = o.File
		return w, nil
	}
	if o.Local.Agent == nil {
		return nil, errors.New("watch configuration: name a file, or a Consul agent")
	}
	kv, err := NewKV(*o.Local.Agent, o.Local.Cluster)
	if err != nil {
		return nil, fmt.Errorf("watch configuration: %w", err)
	}
	w.status.Source = kv.DocumentKey()
	return w, nil
}

// Reload makes the watcher look at its document again at once, also when that is
// unchanged, because the files that it names may not be.
func (w *Watcher) Reload() {
	select {
	case w.reload <- struct{}{}:
	default: // it is about to
	}
}

// Run calls apply with the first good configuration and then with each one that
// differs, from one goroutine, until ctx ends; then it returns nil. One that apply returns
// an error for is tried again every few seconds, and is not kept for a start without
// Consul before it could be applied. Run fails only
// when the document is a file that is not good to begin with; the error is that of
// LoadProxy.
func (w *Watcher) Run(ctx context.Context, apply func(Update) error) error {
	ctx, cancel := context.WithCancel(ctx)
	r := &pursuit{Watcher: w, apply: apply}
	defer r.running.Wait()
	defer cancel()
	if err := r.begin(ctx); err != nil {
		return err
	}
	look := time.NewTicker(w.options.Poll)
	defer look.Stop()
	patience := time.NewTimer(w.options.Patience)
	defer patience.Stop()
	for {
		r.announce(ctx)
		select {
		case <-look.C:
			r.lookAtFile(ctx)
			r.lookAtRefused(ctx)
		case <-w.reload:
			r.lookAgain(ctx)
		case a := <-r.documents:
			r.takeDocument(ctx, a)
		case a := <-r.nodes:
			r.takeNodes(ctx, a)
		case <-patience.C:
			r.makeDo(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// Status returns what the watcher has seen and made of it.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status.clone()
}
