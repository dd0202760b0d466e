package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
)

func sourceOf(t *testing.T, args ...string) (*sourceFlags, error) {
	t.Helper()
	var f sourceFlags
	parser, err := kong.New(&f)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return &f, err
}

func TestSourceFlags(t *testing.T) {
	for args, want := range map[string]string{
		"--consul 127.0.0.1:8500":                         "imlb/imlb/config",
		"--consul 127.0.0.1:8500 --cluster c --zone west": "imlb/c/config",
		"--config /front.yaml":                            "/front.yaml",
	} {
		f, err := sourceOf(t, strings.Fields(args)...)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		w, err := f.watcher(slog.New(slog.DiscardHandler))
		if err != nil || w.Status().Source != want {
			t.Errorf("%s: got a watcher of %+v, %v; want %s", args, w, err, want)
		}
	}
	for _, args := range []string{"", "--config a --consul b", "--cluster c"} {
		if _, err := sourceOf(t, strings.Fields(args)...); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	f, err := sourceOf(t, "--config", "a", "--cluster", "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.watcher(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--consul") {
		t.Errorf("a file and a cluster: got %v", err)
	}
}

// A front that runs from the cache of a Consul that is down says so.
func TestConfigStatusAndMetrics(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	down.Close()
	dir := t.TempDir()
	kept, err := json.Marshal(map[string]any{
		"version": 7, "nodes": map[string]string{"node-1": "drain: true"},
		"document": "domains: [a.example]\nlisteners: [{protocol: xmpp, address: ':5222'}]\npools: {chat: {consul: {}}}\n" +
			"tls: {certificates: [{cert_file: a, key_file: b}]}\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "c.config.json"), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := configs.NewWatcher(configs.WatcherOptions{Local: configs.Local{
		Cluster: "c", Agent: &configs.Consul{Address: strings.TrimPrefix(down.URL, "http://")}, CacheDir: dir,
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := w.Run(ctx, func(configs.Update) error { cancel(); return nil }); err != nil {
		t.Fatal(err)
	}
	status := configStatusOf(w.Status())
	if status.Version != 7 || !status.Cached || len(status.Overrides) != 1 || !status.Overrides[0].Drain || status.ConsulError == "" || status.Refused != nil {
		t.Errorf("got %+v", status)
	}
	registry := prometheus.NewRegistry()
	registerConfigMetrics(registry, w)
	values := map[string]float64{}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		values[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
	}
	for name, want := range map[string]float64{
		"imlb_config_version": 7, "imlb_config_good": 1, "imlb_config_cached": 1, "imlb_config_consul_failing": 1,
		"imlb_config_overrides": 1, "imlb_config_cache_failing": 0, "imlb_config_accepted_total": 1, "imlb_config_refused_total": 0,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
