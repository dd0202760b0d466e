package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// ErrStopping says that the front stops and takes no new configuration.
var ErrStopping = errors.New("proxy: the front stops")

// Apply goes over to other options, as a difference: what they have in common
// with those in use is not touched. When there is anything wrong with them the
// error tells all of it, and nothing changes. ctx bounds how long Apply waits
// for another one that runs, and for the addresses to be resolved.
//
// A session is served to its end by the options that it came under, with two
// exceptions: its nodes are dialled as its pool says at the time, and Shutdown
// takes the timeout that is set by then.
//
//   - A listener keeps its socket when there is one with the same address and
//     network, whatever else is new about it; so a port is never closed and opened
//     again. Its rate changes without giving out a new burst.
//   - Other listeners are opened before anything is changed; when one of them
//     cannot be, the options are refused. So an address that overlaps one in use,
//     like :5222 and 127.0.0.1:5222, has to wait until that was removed.
//   - A listener that is no longer there accepts no more. Its sessions go on, and
//     so do its QUIC connections, with new streams, too.
//   - The sessions of a pool that is no longer there go on until they end; those
//     that have not logged in yet are still placed by it.
//   - TLS session tickets stay good over every change.
//   - Logger and Registerer are those given to New; others are ignored.
func (s *Server) Apply(ctx context.Context, opts Options) error {
	used := s.opts.Load()
	opts.Logger, opts.Registerer = used.Logger, used.Registerer
	opts, err := opts.normalize()
	if err != nil {
		return err
	}
	if err := s.beginChange(ctx); err != nil {
		return err
	}
	defer s.endChange()
	if s.now() == stateNew {
		return errors.New("proxy: Apply needs a Listen before it")
	}
	c, err := s.change(ctx, &opts)
	if err != nil {
		return err
	}
	if len(c.opened)+len(c.removed) > 0 {
		s.log.LogAttrs(ctx, slog.LevelInfo, "listeners changed",
			slog.Any("opened", names(c.opened)), slog.Any("removed", names(c.removed)))
	}
	return nil
}

// beginChange waits for the right to change options and listeners.
func (s *Server) beginChange(ctx context.Context) error {
	select {
	case s.changing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("proxy: wait for another change: %w", ctx.Err())
	}
}

func (s *Server) endChange() { <-s.changing }

// change is the difference between the options in use and others.
type change struct {
	opts      *Options
	listeners []*listener // all, in the order of opts
	terms     []*terms    // one for each of them
	opened    []*listener // those that are new
	removed   []*listener // those that are no longer there
}

// change makes opts those in use, or changes nothing.
func (s *Server) change(ctx context.Context, opts *Options) (*change, error) {
	c, err := s.prepare(ctx, opts)
	if err != nil {
		return nil, err
	}
	serving, err := s.install(c)
	if err != nil {
		return nil, errors.Join(err, closeAll(c.opened))
	}
	for _, l := range c.removed {
		end := l.close
		if serving {
			end = l.retire
		}
		if err := end(); err != nil {
			s.log.LogAttrs(ctx, slog.LevelWarn, "close a removed listener",
				slog.String("listener", l.name()), slog.Any("error", err))
		}
	}
	return c, nil
}

// prepare opens what opts need besides what is open. On an error it has closed it
// again.
func (s *Server) prepare(ctx context.Context, opts *Options) (*change, error) {
	c := &change{opts: opts}
	var errs []error
	c.removed = slices.Clone(s.open())
	for _, cfg := range opts.Listeners {
		t := s.newTerms(opts, cfg)
		l := c.keep(cfg.socket())
		if l == nil {
			var err error
			if l, err = s.listen(ctx, t); err != nil {
				errs = append(errs, &ListenError{Name: "listener " + cfg.Name, Err: err})
				continue
			}
			c.opened = append(c.opened, l)
		}
		c.listeners, c.terms = append(c.listeners, l), append(c.terms, t)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, errors.Join(err, closeAll(c.opened))
	}
	return c, nil
}

// keep takes the listener on a socket off those that are removed. It returns nil
// if there is none.
func (c *change) keep(socket string) *listener {
	i := slices.IndexFunc(c.removed, func(l *listener) bool { return l.socket == socket })
	if i < 0 {
		return nil
	}
	l := c.removed[i]
	c.removed = slices.Delete(c.removed, i, i+1)
	return l
}

// install puts a change into use. It tells whether the removed listeners serve.
func (s *Server) install(c *change) (serving bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == stateStopping {
		return false, ErrStopping
	}
	if s.state == stateNew {
		s.state = stateListening
	}
	if err := s.guard.Configure(time.Now(), c.opts.Rules); err != nil {
		return false, fmt.Errorf("proxy: %w", err)
	}
	s.opts.Store(c.opts)
	s.listeners = c.listeners
	for i, l := range c.listeners {
		l.terms.Store(c.terms[i])
	}
	if s.start == nil {
		return false, nil
	}
	for _, l := range c.opened {
		s.start(l)
	}
	return true, nil
}

func names(listeners []*listener) []string {
	out := make([]string, len(listeners))
	for i, l := range listeners {
		out[i] = l.name()
	}
	return out
}
