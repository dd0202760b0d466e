package main

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"imlb/configs"
)

// newLogger makes the program's logger: lines on w, from the configured level
// up, in the configured form, each with the given attributes.
func newLogger(w io.Writer, c configs.Log, attrs ...slog.Attr) *slog.Logger {
	return slog.New(newHandler(w, c).WithAttrs(attrs))
}

func newHandler(w io.Writer, c configs.Log) slog.Handler {
	if c.Format == configs.JSONFormat {
		return slog.NewJSONHandler(w, &slog.HandlerOptions{Level: c.Level, ReplaceAttr: inSeconds})
	}
	return slog.NewTextHandler(w, &slog.HandlerOptions{Level: c.Level})
}

// inSeconds makes durations what metrics have, too.
func inSeconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		return slog.Float64(a.Key, a.Value.Duration().Seconds())
	}
	return a
}

// logSwitch is a handler whose level and form can be changed while loggers that were
// derived from it are in use.
type logSwitch struct {
	w       io.Writer
	current *atomic.Pointer[slog.Handler]   // shared by all that were derived
	derive  func(slog.Handler) slog.Handler // adds what this one has been given
}

// newLogSwitch returns a switch that is set to c.
func newLogSwitch(w io.Writer, c configs.Log) *logSwitch {
	s := &logSwitch{w: w, current: new(atomic.Pointer[slog.Handler]), derive: func(h slog.Handler) slog.Handler { return h }}
	s.set(c)
	return s
}

// set changes level and form of all that was derived, too.
func (s *logSwitch) set(c configs.Log) {
	h := newHandler(s.w, c)
	s.current.Store(&h)
}

// Enabled implements slog.Handler.
func (s *logSwitch) Enabled(ctx context.Context, l slog.Level) bool {
	return (*s.current.Load()).Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (s *logSwitch) Handle(ctx context.Context, r slog.Record) error {
	return s.derive(*s.current.Load()).Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (s *logSwitch) WithAttrs(attrs []slog.Attr) slog.Handler {
	return s.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (s *logSwitch) WithGroup(name string) slog.Handler {
	return s.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (s *logSwitch) with(more func(slog.Handler) slog.Handler) *logSwitch {
	return &logSwitch{w: s.w, current: s.current, derive: func(h slog.Handler) slog.Handler { return more(s.derive(h)) }}
}
