package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Write writes the report as "json", "markdown" or "text".
func (r *Report) Write(w io.Writer, format string) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	case "markdown":
		return r.write(w, markdown)
	case "text":
		return r.write(w, aligned)
	}
	return fmt.Errorf("no format %q: json, markdown or text", format)
}

// table is rows of cells; the first row is the heading.
type table struct {
	rows  [][]string
	words int // columns, from the left, that are words and not figures
}

func newTable(words int, heading ...string) table {
	return table{rows: [][]string{heading}, words: words}
}

func (t *table) add(row ...string) { t.rows = append(t.rows, row) }

// empty tells whether there is nothing but the heading.
func (t *table) empty() bool { return len(t.rows) == 1 }

func (r *Report) write(w io.Writer, layout func(table) string) error {
	var b strings.Builder
	r.head(&b)
	b.WriteString(layout(r.peerTable()))
	for _, wl := range r.Workloads {
		if t := r.workloadTable(wl); !t.empty() {
			fmt.Fprintf(&b, "\n**%s**: %s\n\n%s", wl.Name, wl.What, layout(t))
		}
	}
	ratios := r.ratioTable
	if len(r.Rivals) > 0 {
		ratios = r.rivalTable
	}
	if t := ratios(); !t.empty() {
		b.WriteString("\n**Ratios**: imlb's figure as a multiple of the other's; in brackets the range of what single rounds gave.\n\n")
		b.WriteString(layout(t))
	}
	for _, s := range r.Failures() {
		fmt.Fprintf(&b, "\nFAILED: %s, %s, round %d: %s\n", s.Workload, s.Peer, s.Round+1, beginning(s.Error))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// beginning leaves of what may be a whole stack trace the lines that matter most;
// JSON has all of it.
func beginning(text string) string {
	const most = 8
	lines := slices.Collect(strings.Lines(text))
	if len(lines) <= most {
		return text
	}
	return strings.Join(lines[:most], "") + "…"
}

func (r *Report) head(b *strings.Builder) {
	m := r.Machine
	fmt.Fprintf(b, "%s, %d × %s, %d GB, Linux %s, TCP %s, %s. Other work had %.0f %% of the processor time.\n", r.Date, m.Cores, m.CPU,
		m.MemoryGB, m.Kernel, m.Congestion, m.Go, 100*m.Others)
	fmt.Fprintf(b, "\n    %s\n\n", r.Command)
	if len(r.Missing) > 0 {
		fmt.Fprintf(b, "Not installed here and left out: %s.\n\n", strings.Join(r.Missing, ", "))
	}
}

func (r *Report) peerTable() table {
	t := newTable(3, "peer", "version", "settings")
	for _, p := range r.Peers {
		t.add(p.Name, p.Version, p.Settings)
	}
	return t
}

// workloadTable has the figures of a workload, one peer a row.
func (r *Report) workloadTable(wl Workload) table {
	heading := []string{"peer"}
	for _, m := range wl.Metrics {
		heading = append(heading, m.Title)
	}
	t := newTable(1, heading...)
	for _, p := range r.Peers {
		row, any := []string{p.Name}, false
		for _, m := range wl.Metrics {
			s := r.spread(wl.Name, p.Name, m.Key)
			any = any || s.N > 0
			row = append(row, s.String())
		}
		if any {
			t.add(row...)
		}
	}
	return t
}

// ratioTable compares us with the others, one figure a row.
func (r *Report) ratioTable() table {
	t := newTable(1, "figure", "of HAProxy", "target", "of the best peer", "target")
	for _, wl := range r.Workloads {
		for _, m := range wl.Metrics {
			r.addRatios(&t, wl.Name, m)
		}
	}
	return t
}

// addRatios adds those of a figure of which something is asked.
func (r *Report) addRatios(t *table, workload string, m Metric) {
	name := workload + ": " + m.Title
	a, b := r.OfHAProxy(workload, m), r.OfBest(workload, m)
	if m.OfHAProxy+m.OfBest > 0 && a.N+b.N > 0 {
		t.add(name, a.String(), m.target(m.OfHAProxy), b.String(), m.target(m.OfBest))
	}
	if m.Beside == "" {
		return
	}
	if c := r.Ratio(workload, Ours, m.Beside, m.Key); c.N > 0 {
		t.add(name+", beside "+m.Beside, "", "", c.String(), m.target(m.OfBeside))
	}
}

// rivalTable compares each of our peers with the best variant of each rival, in the
// figures of which something is asked.
func (r *Report) rivalTable() table {
	heading := []string{"figure", "peer"}
	for _, family := range r.Rivals {
		heading = append(heading, "of "+family)
	}
	t := newTable(2, append(heading, "target")...)
	for _, wl := range r.Workloads {
		for _, m := range wl.Metrics {
			for _, p := range r.Peers {
				if p.Family == Ours && m.OfRivals > 0 {
					r.addRivals(&t, wl.Name, p.Name, m)
				}
			}
		}
	}
	return t
}

func (r *Report) addRivals(t *table, workload, peer string, m Metric) {
	row, any := []string{workload + ": " + m.Title, peer}, false
	for _, family := range r.Rivals {
		ratio := r.OfRival(workload, peer, family, m)
		any = any || ratio.N > 0
		row = append(row, ratio.String())
	}
	if any {
		t.add(append(row, m.target(m.OfRivals))...)
	}
}

func (m Metric) target(v float64) string {
	switch {
	case v == 0:
		return ""
	case m.Higher:
		return fmt.Sprintf("≥ %.2f", v)
	}
	return fmt.Sprintf("≤ %.2f", v)
}

// String writes a spread as "median [least–greatest]".
func (s Spread) String() string {
	switch s.N {
	case 0:
		return "–"
	case 1:
		return number(s.Median)
	}
	return fmt.Sprintf("%s [%s–%s]", number(s.Median), number(s.Min), number(s.Max))
}

// String writes a ratio with the peer that it refers to.
func (r Ratio) String() string {
	if r.N == 0 {
		return "–"
	}
	return r.Spread.String() + " " + r.Of
}

// number writes three digits that matter, and thousands apart.
func number(v float64) string {
	text := strconv.FormatFloat(v, 'f', digits(v), 64)
	whole, rest, _ := strings.Cut(text, ".")
	sign := ""
	if strings.HasPrefix(whole, "-") {
		sign, whole = "-", whole[1:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		rest = "." + rest
	}
	return sign + whole + rest
}

func markdown(t table) string {
	var b strings.Builder
	for i, row := range t.rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("| --- ", t.words) + strings.Repeat("| ---: ", len(row)-t.words) + "|\n")
		}
	}
	return b.String()
}

func aligned(t table) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range t.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	_ = w.Flush() // into memory
	return b.String()
}
