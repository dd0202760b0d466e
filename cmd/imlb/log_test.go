package main

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"imlb/configs"
)

func TestLogSwitch(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	s := newLogSwitch(&out, configs.Log{Level: configs.InfoLevel, Format: configs.TextFormat})
	log := slog.New(s).With("pool", "chat").WithGroup("g")
	log.Debug("unheard")
	log.Info("one", "n", 1)
	s.set(configs.Log{Level: configs.DebugLevel, Format: configs.JSONFormat})
	log.Debug("two", "n", 2, "took", 1500*time.Millisecond)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("want two lines, got %q", lines)
	}
	if want := "level=INFO msg=one pool=chat g.n=1"; !strings.HasSuffix(lines[0], want) {
		t.Errorf("got %q, want the end %q", lines[0], want)
	}
	if want := `"level":"DEBUG","msg":"two","pool":"chat","g":{"n":2,"took":1.5}}`; !strings.HasSuffix(lines[1], want) {
		t.Errorf("got %q, want the end %q", lines[1], want)
	}
}
