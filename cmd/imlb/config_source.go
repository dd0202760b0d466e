package main

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"imlb/configs"
)

// sourceFlags say where a front's document comes from, and what the front knows
// of itself when it shares the document with others.
type sourceFlags struct {
	Config    string `xor:"source" required:"" placeholder:"FILE" type:"path" help:"The front's configuration document; configs/proxy.example.yaml explains every key."`
	Consul    string `xor:"source" required:"" placeholder:"ADDR" help:"host:port of the Consul agent that has the document, as \"imlb config push\" put it there."`
	Cluster   string `placeholder:"NAME" help:"With --consul: the cluster. Default: imlb."`
	TokenFile string `placeholder:"FILE" type:"path" help:"With --consul: a file with the ACL token."`
	Cache     string `placeholder:"DIR" type:"path" help:"With --consul: where the last good configuration is kept, for a start while Consul is down."`
	Name      string `placeholder:"NAME" help:"With --consul: what this front is called, the same over restarts and unlike the others. Default: the host's name with the address of the admin listener."`
	Zone      string `placeholder:"ZONE" help:"With --consul: where this front stands."`
	Advertise string `placeholder:"HOST" help:"With --consul: the name or address under which others reach this machine, for the registration."`
}

// watcher follows the document.
func (f *sourceFlags) watcher(log *slog.Logger) (*configs.Watcher, error) {
	if f.Consul == "" {
		if f.ofConsul() {
			return nil, errors.New("--cluster, --token-file, --cache, --name, --zone and --advertise go with --consul; with --config, write them in the document")
		}
		return configs.NewWatcher(configs.WatcherOptions{File: f.Config, Logger: log})
	}
	return configs.NewWatcher(configs.WatcherOptions{
		Local: configs.Local{
			Cluster:  cmp.Or(f.Cluster, configs.Defaults[configs.Proxy]().Cluster),
			Agent:    &configs.Consul{Address: f.Consul, TokenFile: f.TokenFile},
			Host:     f.Advertise,
			Name:     f.Name,
			Zone:     f.Zone,
			Dir:      ".",
			CacheDir: f.Cache,
		},
		Logger: log,
	})
}

// ofConsul tells whether there are flags that only a document in Consul has a use for.
func (f *sourceFlags) ofConsul() bool {
	return f.Cluster+f.TokenFile+f.Cache+f.Name+f.Zone+f.Advertise != ""
}

// configStatus is what /status tells of a front's configuration.
type configStatus struct {
	Source    string         `json:"source"`
	Version   uint64         `json:"version"` // 0: from a file
	Since     string         `json:"since"`
	Cached    bool           `json:"cached"`            // Consul was down, and this was in force before
	Refused   *refusedStatus `json:"refused,omitempty"` // a newer document
	Overrides []overrideLine `json:"overrides"`
	// OverrideErrors tells of those that are not in force.
	OverrideErrors []string `json:"override_errors,omitempty"`
	ConsulError    string   `json:"consul_error,omitempty"`
	CacheError     string   `json:"cache_error,omitempty"`
}

// refusedStatus tells why a document is not in force.
type refusedStatus struct {
	Version uint64   `json:"version"`
	At      string   `json:"at"`
	Errors  []string `json:"errors"`
}

func configStatusOf(s configs.Status) configStatus {
	status := configStatus{
		Source: s.Source, Version: s.InForce.Version, Since: s.InForce.Time.UTC().Format(time.RFC3339), Cached: s.InForce.Cached,
		Overrides: []overrideLine{},
	}
	if !s.Latest.Accepted {
		status.Refused = &refusedStatus{
			Version: s.Latest.Version, At: s.Latest.Time.UTC().Format(time.RFC3339), Errors: s.Latest.Messages(),
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Overrides)) {
		status.Overrides = append(status.Overrides, lineOfOverride(name, s.Overrides[name]))
	}
	for _, e := range s.OverrideErrors {
		status.OverrideErrors = append(status.OverrideErrors, e.Error())
	}
	if s.Failing != nil {
		status.ConsulError = s.Failing.Error()
	}
	if s.CacheFailing != nil {
		status.CacheError = s.CacheFailing.Error()
	}
	return status
}

// registerConfigMetrics publishes what became of a front's documents.
func registerConfigMetrics(r prometheus.Registerer, source documentSource) {
	gauge := func(name, help string, value func(configs.Status) float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "imlb_config_" + name, Help: help}, func() float64 { return value(source.Status()) }))
	}
	counter := func(name, help string, value func(configs.Status) float64) {
		r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "imlb_config_" + name, Help: help}, func() float64 { return value(source.Status()) }))
	}
	gauge("version", "ModifyIndex of the document in force; 0 for a file.", func(s configs.Status) float64 { return float64(s.InForce.Version) })
	gauge("good", "Whether the newest document is good (1), or was refused (0).", func(s configs.Status) float64 { return oneIf(s.Latest.Accepted) })
	gauge("cached", "Whether the document in force is the one kept on disk (1).", func(s configs.Status) float64 { return oneIf(s.InForce.Cached) })
	gauge("cache_failing", "Whether the document in force cannot be kept on disk (1).", func(s configs.Status) float64 { return oneIf(s.CacheFailing != nil) })
	gauge("consul_failing", "Whether Consul fails to answer for configuration (1).", func(s configs.Status) float64 { return oneIf(s.Failing != nil) })
	gauge("overrides", "Nodes of which an operator has said something.", func(s configs.Status) float64 { return float64(len(s.Overrides)) })
	gauge("overrides_refused", "Errors in what was said of nodes.", func(s configs.Status) float64 { return float64(len(s.OverrideErrors)) })
	counter("accepted_total", "Documents that were good.", func(s configs.Status) float64 { return float64(s.Accepted) })
	counter("refused_total", "Documents refused.", func(s configs.Status) float64 { return float64(s.Refused) })
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
