package chatload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// fleet is sessions that are served until they are closed.
type fleet struct {
	gate     *gate
	sessions []*session
	served   sync.WaitGroup
	stop     context.CancelFunc
	errors   tally
}

// farewell is how long sessions may take to end.
const farewell = 3 * time.Second

// launch logs n sessions in and begins to serve them. The end of ctx ends them; the
// caller has to close the fleet, an error or not.
func launch(ctx context.Context, g *gate, n int, h handler) (*fleet, error) {
	f := &fleet{gate: g, sessions: make([]*session, n)}
	ctx, f.stop = context.WithCancel(ctx)
	group, joining := errgroup.WithContext(ctx)
	group.SetLimit(g.o.Connecting)
	for i := range n {
		group.Go(func() (err error) {
			if err = context.Cause(joining); err == nil {
				f.sessions[i], err = f.join(joining, i, h)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return f, fmt.Errorf("open %d sessions: %w", n, err)
	}
	for _, s := range f.sessions {
		f.served.Go(func() { f.errors.add(s.serve(ctx)) })
	}
	return f, nil
}

// join takes one session until it is available. Until then ctx ends it.
func (f *fleet) join(ctx context.Context, i int, h handler) (*session, error) {
	stream, a, err := f.gate.login(ctx, i, f.gate.tls)
	if err != nil {
		return nil, err
	}
	s := newSession(stream, a, i, h)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	err = s.begin(f.gate.o.Timeout)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// managed tells whether the server acknowledges stanzas.
func (f *fleet) managed() bool { return f.sessions[0].managed }

// close ends all sessions and waits for that.
func (f *fleet) close() {
	defer f.stop()
	for _, s := range f.sessions {
		if s != nil {
			s.finish()
		}
	}
	ended := make(chan struct{})
	go func() {
		f.served.Wait()
		close(ended)
	}()
	timer := time.NewTimer(farewell)
	defer timer.Stop()
	select {
	case <-ended:
		return
	case <-timer.C:
		f.stop()
		<-ended
	}
}

// abandon closes the connections of a fleet that was not launched as a whole.
func (f *fleet) abandon() {
	f.stop()
	for _, s := range f.sessions {
		if s != nil {
			_ = s.Close()
		}
	}
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settled asks again and again until the answer is 0, or it has not changed for so
// long, which is an error.
func settled(ctx context.Context, patience time.Duration, left func() int64) error {
	const step = 5 * time.Millisecond
	last, since := left(), time.Now()
	for last > 0 {
		if err := pause(ctx, step); err != nil {
			return err
		}
		if now := left(); now != last {
			last, since = now, time.Now()
		} else if time.Since(since) > patience {
			return errNoProgress
		}
	}
	return nil
}

var errNoProgress = errors.New("nothing more comes")
