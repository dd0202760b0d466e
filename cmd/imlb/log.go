package main

import (
	"io"
	"log/slog"

	"imlb/configs"
)

// newLogger makes the program's logger: lines on w, from the configured level
// up, in the configured form, each with the given attributes.
func newLogger(w io.Writer, c configs.Log, attrs ...slog.Attr) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.Level}
	var h slog.Handler = slog.NewTextHandler(w, options)
	if c.Format == configs.JSONFormat {
		h = slog.NewJSONHandler(w, options)
	}
	return slog.New(h.WithAttrs(attrs))
}
