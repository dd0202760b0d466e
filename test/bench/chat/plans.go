//go:build linux

package main

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"imlb/backend/chatload"
	"imlb/test/bench/chat/servers"
	"imlb/test/bench/report"
)

// plan is a workload and how the load client is told of it.
type plan struct {
	report.Workload
	args    func(rates) []string
	metrics func(*chatload.Result) map[string]float64
	paced   bool   // it needs to be known what the server can
	maximum bool   // it tells what the server can
	fresh   bool   // it needs a server that has done nothing yet
	filled  bool   // it needs a server whose archives are filled in the database
	login   string // the mechanism whose domain is wanted
}

// rates are messages per second of one server.
type rates struct{ half, theirs, same int }

// Targets of ratios to the rivals.
const (
	fiveTimes = 5.0
	notMore   = 1.0
)

func itoa(n int) string { return strconv.Itoa(n) }

// plans are all workloads.
func plans(o options) []plan {
	all := []plan{idlePlan(o), maximumPlan(o)}
	all = append(all,
		pacedPlan(o, "messages-half", "at half of what this server can: ", func(r rates) int { return r.half }, 0),
		pacedPlan(o, "messages-theirs", "others at half of what they can, imlb at half of what the fastest of them can: ",
			func(r rates) int { return r.theirs }, 0),
		pacedPlan(o, "messages-same", "at one rate for all servers: ", func(r rates) int { return r.same }, fiveTimes),
	)
	for _, m := range []string{"SCRAM-SHA-1", "SCRAM-SHA-256", "PLAIN"} {
		all = append(all, loginPlan(o, "logins-"+strings.ToLower(m), m, false))
	}
	archive := archivePlan(o)
	if o.Fill > 0 {
		archive = filledPlan(o)
	}
	return append(all, loginPlan(o, "logins-resumed", "SCRAM-SHA-1", true), archive)
}

func idlePlan(o options) plan {
	return plan{
		Workload: report.Workload{
			Name: "idle", What: fmt.Sprintf("%d users are there and quiet, in TLS.", o.Idle),
			Metrics: []report.Metric{
				{Key: "anonymous", Title: "KiB anonymous per session", OfRivals: notMore},
				{Key: "resident", Title: "KiB resident per session"},
				{Key: "before", Title: "MiB anonymous without them"},
			},
		},
		fresh: true,
		args: func(rates) []string {
			return []string{"--workload", "idle", "--users", itoa(o.Idle), "--duration", "1s"}
		},
		metrics: func(r *chatload.Result) map[string]float64 {
			const kib, mib = 1 << 10, 1 << 20
			return map[string]float64{"anonymous": r.Memory.Anonymous / kib, "resident": r.Memory.Resident / kib, "before": float64(r.Memory.Before) / mib}
		},
	}
}

// pacedMetrics are those of messages at a rate.
func pacedMetrics(r *chatload.Result) map[string]float64 {
	m := latencies(r)
	m["rate"] = r.Messages.PerSecond
	m["percpu"] = r.CPU.PerSecond
	m["late"] = r.Latency.Late / 1e3
	return m
}

// latencies are in milliseconds.
func latencies(r *chatload.Result) map[string]float64 {
	return map[string]float64{"p50": r.Latency.P50 / 1e3, "p99": r.Latency.P99 / 1e3, "p999": r.Latency.P999 / 1e3}
}

func latency(p99 float64) []report.Metric {
	return []report.Metric{{Key: "p50", Title: "p50 ms"}, {Key: "p99", Title: "p99 ms", OfRivals: p99}, {Key: "p999", Title: "p99.9 ms"}}
}

func maximumPlan(o options) plan {
	return plan{
		Workload: report.Workload{
			Name: "messages",
			What: fmt.Sprintf("%d sessions in pairs, %d messages of %d bytes of each on their way, as fast as it goes; archived, acknowledged (XEP-0198).", o.Sessions, o.Window, o.Size),
			Metrics: []report.Metric{
				{Key: "rate", Title: "messages/s", Higher: true, OfRivals: notMore},
				{Key: "percpu", Title: "messages per CPU second", Higher: true, OfRivals: fiveTimes},
			},
		},
		maximum: true,
		args: func(rates) []string {
			return []string{"--workload", "messages", "--users", itoa(o.Sessions), "--window", itoa(o.Window), "--size", itoa(o.Size)}
		},
		// How long a message takes says no more than how many are on their way.
		metrics: func(r *chatload.Result) map[string]float64 {
			return map[string]float64{"rate": r.Messages.PerSecond, "percpu": r.CPU.PerSecond}
		},
	}
}

// pacedPlan has messages at a rate. What they cost can be compared at one rate only.
func pacedPlan(o options, name, what string, rate func(rates) int, perCPU float64) plan {
	return plan{
		Workload: report.Workload{
			Name: name, What: what + "as messages, but whether or not others have arrived; latency from when each was due.",
			Metrics: append(append([]report.Metric{{Key: "rate", Title: "messages/s"}, {Key: "percpu", Title: "messages per CPU second", Higher: true, OfRivals: perCPU}},
				latency(notMore)...), report.Metric{Key: "late", Title: "client late, p99 ms"}),
		},
		paced: true,
		args: func(r rates) []string {
			return []string{"--workload", "messages", "--users", itoa(o.Sessions), "--rate", itoa(rate(r)), "--size", itoa(o.Size)}
		},
		metrics: pacedMetrics,
	}
}

func loginPlan(o options, name, mechanism string, resumed bool) plan {
	args := []string{"--workload", "logins", "--users", itoa(o.Users), "--connecting", itoa(o.Connecting), "--mechanism", mechanism}
	what := fmt.Sprintf("%d users log in by %s, %d at a time: connection, STARTTLS with a full handshake, SASL, resource.", o.Users, mechanism, o.Connecting)
	if resumed {
		args = append(args, "--resume")
		what = "as logins-" + strings.ToLower(mechanism) + ", but TLS goes on with an earlier session where the server can."
	}
	return plan{
		Workload: report.Workload{Name: name, What: what, Metrics: append([]report.Metric{
			{Key: "rate", Title: "logins/s", Higher: true, OfRivals: notMore}, {Key: "cpu", Title: "CPU ms per login", OfRivals: notMore},
			{Key: "resumed", Title: "% resumed"},
		}, latency(0)...)},
		login: mechanism,
		args:  func(rates) []string { return args },
		metrics: func(r *chatload.Result) map[string]float64 {
			m := latencies(r)
			m["rate"], m["cpu"] = r.Logins.PerSecond, 1e3/r.CPU.PerSecond
			m["resumed"] = 100 * float64(r.Logins.Resumed) / float64(r.Logins.Done)
			return m
		},
	}
}

// archivePlan reads an archive that the client has filled before.
func archivePlan(o options) plan {
	what := fmt.Sprintf("the last 50 messages of an archive of %d (and of what came before) are read, %d times.", o.Preload, o.Queries)
	return pagesPlan(o, what, o.Preload)
}

// filledPlan reads an archive that was filled in the database.
func filledPlan(o options) plan {
	what := fmt.Sprintf("the last %d messages of an archive of %d are read, %d times; all archives together have %d entries.", servers.NewestLength, o.Fill, o.Queries, o.FillTotal)
	p := pagesPlan(o, what, 0)
	p.filled = true
	return p
}

// samplePlan has the client store what the others are copied from.
func samplePlan(o options) plan {
	o.Queries = 5
	return pagesPlan(o, "", servers.NewestLength)
}

func pagesPlan(o options, what string, preload int) plan {
	return plan{
		Workload: report.Workload{
			Name: "archive", What: what,
			Metrics: append([]report.Metric{{Key: "cpu", Title: "CPU ms per page", OfRivals: notMore}}, latency(notMore)...),
		},
		args: func(rates) []string {
			return []string{"--workload", "archive", "--users", "10", "--preload", itoa(preload), "--queries", itoa(o.Queries), "--window", "32", "--size", itoa(o.Size)}
		},
		metrics: func(r *chatload.Result) map[string]float64 {
			m := latencies(r)
			m["cpu"] = 1e3 / r.CPU.PerSecond
			return m
		},
	}
}

// matches tells whether a name is among patterns with commas between; none is all.
func matches(patterns, name string) (bool, error) {
	if patterns == "" {
		return true, nil
	}
	for _, p := range strings.Split(patterns, ",") {
		if ok, err := path.Match(p, name); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}
