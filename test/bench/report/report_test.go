package report_test

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"

	"imlb/test/bench/report"
)

func TestSpread(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		values []float64
		want   report.Spread
		text   string
	}{
		{nil, report.Spread{}, "–"},
		{[]float64{7}, report.Spread{Median: 7, Min: 7, Max: 7, N: 1}, "7.00"},
		{[]float64{9, 1}, report.Spread{Median: 5, Min: 1, Max: 9, N: 2}, "5.00 [1.00–9.00]"},
		{[]float64{1234567, 3, 99.96}, report.Spread{Median: 99.96, Min: 3, Max: 1234567, N: 3}, "100 [3.00–1,234,567]"},
		{[]float64{-4321.5, 10, 9.96}, report.Spread{Median: 9.96, Min: -4321.5, Max: 10, N: 3}, "10.0 [-4,322–10.0]"},
	} {
		got := report.NewSpread(slices.Clone(c.values))
		if got != c.want || got.String() != c.text {
			t.Errorf("%v: %+v, %q", c.values, got, got)
		}
	}
}

// sample is a report of two rounds of one workload.
func sample() *report.Report {
	r := &report.Report{
		Machine: report.Machine{Others: 0.25},
		Apart:   []string{"direct", "imlb blind"},
		Peers: []report.Peer{
			{Name: "imlb", Family: "imlb"}, {Name: "imlb-tls", Family: "imlb blind"},
			{Name: "haproxy", Family: "haproxy"}, {Name: "haproxy-2", Family: "haproxy"},
			{Name: "nginx", Family: "nginx"}, {Name: "direct", Family: "direct"},
		},
		Workloads: []report.Workload{{Name: "trips", What: "go and come.", Metrics: []report.Metric{
			{Key: "rate", Title: "per s", Higher: true, OfHAProxy: 1.2, OfBest: 0.83},
			{Key: "cpu", Title: "CPU µs", OfHAProxy: 0.85, OfBest: 1.2, Beside: "imlb-tls", OfBeside: 1.1},
			{Key: "p50", Title: "p50 µs"},
		}}},
	}
	add := func(round int, peer string, rate, cpu float64) {
		m := map[string]float64{"rate": rate, "cpu": cpu, "p50": 3}
		if cpu == 0 {
			delete(m, "cpu")
		}
		r.Samples = append(r.Samples, report.Sample{Round: round, Workload: "trips", Peer: peer, Metrics: m})
	}
	for round, f := range []float64{1, 2} {
		add(round, "imlb", 100*f, 8)
		add(round, "imlb-tls", 100, 8)
		add(round, "haproxy", 50*f, 10)
		add(round, "haproxy-2", 80*f, 16)
		add(round, "nginx", 60, 5*f)
		add(round, "direct", 1000, 0)
	}
	return r
}

func TestRatios(t *testing.T) {
	t.Parallel()
	r := sample()
	rate, cpu := r.Workloads[0].Metrics[0], r.Workloads[0].Metrics[1]
	for name, c := range map[string]struct {
		got            report.Ratio
		of             string
		median, lo, hi float64
	}{
		"rate of HAProxy": {r.OfHAProxy("trips", rate), "haproxy-2", 1.25, 1.25, 1.25},
		"CPU of HAProxy":  {r.OfHAProxy("trips", cpu), "haproxy", 0.8, 0.8, 0.8},
		"rate of best":    {r.OfBest("trips", rate), "haproxy-2", 1.25, 1.25, 1.25},
		"CPU of best":     {r.OfBest("trips", cpu), "nginx", 8 / 7.5, 0.8, 1.6},
	} {
		if c.got.Of != c.of || c.got.N != 2 || far(c.got.Median, c.median) || far(c.got.Min, c.lo) || far(c.got.Max, c.hi) {
			t.Errorf("%s: %+v", name, c.got)
		}
	}
}

func far(a, b float64) bool { return math.Abs(a-b) > 1e-9 }

func TestRatiosOfWhatIsThere(t *testing.T) {
	t.Parallel()
	r := sample()
	cpu := r.Workloads[0].Metrics[1]
	r.Samples = slices.DeleteFunc(r.Samples, func(s report.Sample) bool { return s.Peer == "haproxy" && s.Round == 0 })
	if got := r.OfHAProxy("trips", cpu); got.N != 1 || got.Of != "haproxy" {
		t.Errorf("with a round missing: %+v", got)
	}
	for i := range r.Samples {
		if strings.HasPrefix(r.Samples[i].Peer, "haproxy") {
			r.Samples[i].Error = "it fell over"
		}
	}
	if got := r.OfHAProxy("trips", cpu); got.N != 0 || got.String() != "–" {
		t.Errorf("of what failed: %+v", got)
	}
	if n := len(r.Failures()); n != 3 {
		t.Errorf("%d failures", n)
	}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	r := sample()
	r.Missing = []string{"nginx"}
	r.Samples = append(r.Samples, report.Sample{Round: 2, Workload: "trips", Peer: "nginx", Error: "wrong byte\nat 1\nat 2\nat 3\nat 4\nat 5\nat 6\nat 7\nat 8\nat 9\n"})
	var b bytes.Buffer
	if err := r.Write(&b, "markdown"); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(b.String(), "trips: p50") {
		t.Errorf("a ratio of which nothing is asked:\n%s", &b)
	}
	for _, want := range []string{
		"left out: nginx.",
		"Other work had 25 % of the processor time.",
		"| peer | version | settings |\n| --- | --- | --- |\n",
		"| peer | per s | CPU µs | p50 µs |\n| --- | ---: | ---: | ---: |\n| imlb | 150 [100–200] | 8.00 [8.00–8.00] | 3.00",
		"| direct | 1,000 [1,000–1,000] | – | 3.00",
		"| trips: CPU µs | 0.80 [0.80–0.80] haproxy | ≤ 0.85 | 1.07 [0.80–1.60] nginx | ≤ 1.20 |\n",
		"| trips: per s | 1.25 [1.25–1.25] haproxy-2 | ≥ 1.20 | 1.25 [1.25–1.25] haproxy-2 | ≥ 0.83 |\n",
		"beside imlb-tls |  |  | 1.00 [1.00–1.00] imlb-tls | ≤ 1.10 |\n",
		"FAILED: trips, nginx, round 3: wrong byte\nat 1\nat 2\nat 3\nat 4\nat 5\nat 6\nat 7\n…\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, &b)
		}
	}
}

func TestOtherFormats(t *testing.T) {
	t.Parallel()
	r := sample()
	var text, document bytes.Buffer
	if err := r.Write(&text, "text"); err != nil || !strings.Contains(text.String(), "imlb        150 [100–200]") {
		t.Errorf("%v\n%s", err, &text)
	}
	if err := r.Write(&document, "json"); err != nil {
		t.Fatal(err)
	}
	var again report.Report
	if err := json.Unmarshal(document.Bytes(), &again); err != nil || len(again.Samples) != len(r.Samples) {
		t.Errorf("%v, %d samples", err, len(again.Samples))
	}
	if err := r.Write(&text, "yaml"); err == nil {
		t.Error("no error for a format that is not")
	}
}

// TestRivals: each peer of ours is compared with the best variant of each rival.
func TestRivals(t *testing.T) {
	t.Parallel()
	r := &report.Report{
		Rivals: []string{"haproxy", "nginx", "absent"},
		Peers: []report.Peer{
			{Name: "imlb", Family: report.Ours}, {Name: "imlb-3", Family: report.Ours}, {Name: "imlb-4", Family: report.Ours},
			{Name: "haproxy", Family: "haproxy"}, {Name: "haproxy-2", Family: "haproxy"}, {Name: "nginx", Family: "nginx"},
		},
		Workloads: []report.Workload{{Name: "trips", Metrics: []report.Metric{{Key: "rate", Title: "per s", Higher: true, OfRivals: 5}, {Key: "p50", Title: "p50"}}}},
	}
	for peer, rate := range map[string]float64{"imlb": 60, "imlb-3": 30, "haproxy": 10, "haproxy-2": 20, "nginx": 5} {
		r.Samples = append(r.Samples, report.Sample{Workload: "trips", Peer: peer, Metrics: map[string]float64{"rate": rate, "p50": 1}})
	}
	var b bytes.Buffer
	if err := r.Write(&b, "markdown"); err != nil {
		t.Fatal(err)
	}
	want := "| figure | peer | of haproxy | of nginx | of absent | target |\n| --- | --- | ---: | ---: | ---: | ---: |\n" +
		"| trips: per s | imlb | 3.00 haproxy-2 | 12.0 nginx | – | ≥ 5.00 |\n| trips: per s | imlb-3 | 1.50 haproxy-2 | 6.00 nginx | – | ≥ 5.00 |\n"
	if text := b.String(); !strings.HasSuffix(text, want) || strings.Contains(text, "HAProxy") {
		t.Errorf("%s\nwant at the end\n%s", text, want)
	}
}
