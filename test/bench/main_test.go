//go:build linux

package main

import (
	"errors"
	"flag"
	"testing"

	"imlb/test/bench/report"
)

func TestParse(t *testing.T) {
	t.Parallel()
	o, format, err := parse([]string{"--workloads", "paced,tls-*", "--rounds", "5", "--format", "json", "--sessions", "77"})
	if err != nil || format != "json" || o.Workloads != "paced,tls-*" || o.Rounds != 5 || o.Sessions != 77 || o.Self == "" {
		t.Errorf("%+v, %q, %v", o, format, err)
	}
	if _, _, err := parse([]string{"paced"}); err == nil {
		t.Error("no error for a word that is no flag")
	}
	if _, _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
}

// Figures never fail a run; failed measurements do.
func TestFailures(t *testing.T) {
	t.Parallel()
	slow := report.Sample{Workload: "paced", Peer: "imlb", Metrics: map[string]float64{"p99": 1e9}}
	if err := failures(&report.Report{Samples: []report.Sample{slow}}); err != nil {
		t.Error(err)
	}
	wrong := report.Sample{Workload: "paced", Peer: "nginx", Error: "wrong byte"}
	if err := failures(&report.Report{Samples: []report.Sample{slow, wrong}}); err == nil {
		t.Error("a wrong byte is no error")
	}
}
