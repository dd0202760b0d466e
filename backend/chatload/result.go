package chatload

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what a run has given. What does not belong to the workload is left out.
type Result struct {
	Workload Workload `json:"workload"`
	Sessions int      `json:"sessions"`
	Seconds  float64  `json:"seconds"` // that counted
	// Managed tells that the server acknowledged stanzas (XEP-0198).
	Managed   bool           `json:"stream_management"`
	Mechanism string         `json:"mechanism,omitempty"`
	Latency   *Latency       `json:"latency,omitempty"`
	Messages  *MessageCounts `json:"messages,omitempty"`
	Logins    *LoginCounts   `json:"logins,omitempty"`
	Memory    *MemoryCounts  `json:"memory,omitempty"`
	Archive   *ArchiveCounts `json:"archive,omitempty"`
	CPU       *CPUCounts     `json:"cpu,omitempty"`
	Errors    map[string]int `json:"errors,omitempty"` // by kind
}

// Latency is how long things took, in microseconds.
type Latency struct {
	Count uint64  `json:"count"`
	P50   float64 `json:"p50_us"`
	P99   float64 `json:"p99_us"`
	P999  float64 `json:"p999_us"`
	Max   float64 `json:"max_us"`
	// Late is by how much, at worst and in the 99th percentile, the load client itself
	// was behind a fixed rate: latency of that size is not the server's.
	Late    float64 `json:"client_late_p99_us,omitempty"`
	LateMax float64 `json:"client_late_max_us,omitempty"`
}

// MessageCounts are of the whole run, but for those per second.
type MessageCounts struct {
	PerSecond float64 `json:"per_second"` // delivered, while it counted
	Offered   int     `json:"offered_per_second,omitempty"`
	Sent      int64   `json:"sent"`
	Delivered int64   `json:"delivered"`
	Lost      int     `json:"lost"`
	Doubled   int64   `json:"doubled"`
	Reordered int64   `json:"reordered"`
	Refused   int64   `json:"refused"` // came back as errors
	Unsent    int     `json:"unsent"`  // due, but the server did not take them
	Unacked   int64   `json:"unacked"` // stanzas without an acknowledgement of XEP-0198
	Old       int64   `json:"old"`     // of other runs, or nobody's
}

// LoginCounts are of what counted.
type LoginCounts struct {
	PerSecond float64 `json:"per_second"`
	Done      int64   `json:"done"`
	Resumed   int64   `json:"tls_resumed"`
}

// MemoryCounts are bytes of the server's processes.
type MemoryCounts struct {
	Before    int64   `json:"before_anonymous"`
	After     int64   `json:"after_anonymous"`
	Anonymous float64 `json:"anonymous_per_session"` // heaps and stacks
	Resident  float64 `json:"resident_per_session"`  // with pages of files
}

// ArchiveCounts say what was read.
type ArchiveCounts struct {
	Filled  int64 `json:"filled"` // messages that were written before
	Queries int   `json:"queries"`
	Page    int   `json:"page"`
	Entries int64 `json:"entries"` // that came
	// Newest are the ids of the messages on the last page that was read, as they came.
	// Changed is how many pages were not like the one before.
	Newest  []string `json:"newest"`
	Changed int      `json:"changed"`
}

// CPUCounts are processor time while it counted, user's and system's.
type CPUCounts struct {
	Server    float64 `json:"server_seconds,omitempty"`
	Client    float64 `json:"client_seconds"`
	PerSecond float64 `json:"per_cpu_second,omitempty"` // messages, logins or pages for each second of the server's
}

// newLatency sums up; nil when there is nothing.
func newLatency(h *Histogram) *Latency {
	if h.Count() == 0 {
		return nil
	}
	return &Latency{
		Count: h.Count(), P50: micros(h.Quantile(.5)), P99: micros(h.Quantile(.99)), P999: micros(h.Quantile(.999)), Max: micros(h.Max()),
	}
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// OK tells whether nothing went wrong, however long it took.
func (r *Result) OK() bool {
	m := r.Messages
	return len(r.Errors) == 0 && (m == nil || int64(m.Lost+m.Unsent)+m.Doubled+m.Reordered+m.Refused+m.Unacked == 0)
}

// WriteJSON writes the result as one JSON object.
func (r *Result) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

// WriteText writes the result for people, a figure on a line.
func (r *Result) WriteText(w io.Writer) error {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	line := func(name, format string, values ...any) {
		fmt.Fprintf(t, "%s\t"+format+"\n", append([]any{name}, values...)...)
	}
	line("workload", "%s, %d sessions, %.1f s", r.Workload, r.Sessions, r.Seconds)
	if r.Mechanism != "" {
		line("mechanism", "%s", r.Mechanism)
	}
	r.writeCounts(line)
	if l := r.Latency; l != nil {
		line("latency", "p50 %s, p99 %s, p99.9 %s, max %s, of %d", us(l.P50), us(l.P99), us(l.P999), us(l.Max), l.Count)
		if l.LateMax > 0 {
			line("client late", "p99 %s, max %s", us(l.Late), us(l.LateMax))
		}
	}
	r.writeCPU(line)
	for _, kind := range slices.Sorted(maps.Keys(r.Errors)) {
		line("ERROR", "%s: %d", kind, r.Errors[kind])
	}
	_ = t.Flush() // into memory
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Result) writeCPU(line func(name, format string, values ...any)) {
	c := r.CPU
	if c == nil {
		return
	}
	if c.PerSecond > 0 {
		line("server's CPU", "%.2f s, %.0f per CPU second", c.Server, c.PerSecond)
	} else if c.Server > 0 {
		line("server's CPU", "%.2f s", c.Server)
	}
	line("client's CPU", "%.2f s", c.Client)
}

func (r *Result) writeCounts(line func(name, format string, values ...any)) {
	if m := r.Messages; m != nil {
		line("messages", "%.0f/s, %d sent, %d delivered", m.PerSecond, m.Sent, m.Delivered)
		line("checked", "%d lost, %d doubled, %d out of order, %d refused, %d not taken", m.Lost, m.Doubled, m.Reordered, m.Refused, m.Unsent)
		line("acknowledged", "%s", acknowledged(r.Managed, m.Unacked))
	}
	if l := r.Logins; l != nil {
		line("logins", "%.0f/s, %d done, %d with resumed TLS", l.PerSecond, l.Done, l.Resumed)
	}
	if m := r.Memory; m != nil {
		line("memory", "%.1f KiB a session (%.1f resident); %.1f MiB before, %.1f MiB after", m.Anonymous/1024, m.Resident/1024,
			float64(m.Before)/(1<<20), float64(m.After)/(1<<20))
	}
	if a := r.Archive; a != nil {
		line("archive", "%d messages written before, %d pages of %d read, %d entries", a.Filled, a.Queries, a.Page, a.Entries)
	}
}

func acknowledged(managed bool, unacked int64) string {
	switch {
	case !managed:
		return "the server has no stream management"
	case unacked == 0:
		return "all"
	}
	return fmt.Sprintf("all but %d", unacked)
}

// us writes microseconds as a person would.
func us(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.2f s", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.2f ms", v/1e3)
	}
	return fmt.Sprintf("%.0f µs", v)
}
