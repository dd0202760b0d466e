// Command report reads what "go test -json" prints and tells what a person wants to
// know: a line for each package, the output of what failed, what was skipped and
// why, and a last line of counts. It fails when a test failed or none ran.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of the input; see "go doc test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// report is what is known so far.
type report struct {
	out                     io.Writer
	output                  map[string][]string // of a test, or of a package outside of its tests
	passed, failed, skipped int
	broken                  bool // a package failed
	skips                   []string
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	r := &report{out: out, output: make(map[string][]string)}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		r.line(lines.Bytes())
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read test events: %w", err)
	}
	return r.finish()
}

// line takes one line in; what is no event is for the eyes of people.
func (r *report) line(p []byte) {
	var e event
	if err := json.Unmarshal(p, &e); err != nil || e.Action == "" {
		fmt.Fprintf(r.out, "%s\n", p)
		return
	}
	switch {
	case e.Action == "build-output":
		fmt.Fprint(r.out, e.Output)
	case e.Action == "output":
		key := e.Package + "\x00" + e.Test
		r.output[key] = append(r.output[key], e.Output)
	case e.Test != "":
		r.test(e)
	default:
		r.pkg(e)
	}
}

func (r *report) test(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "pass":
		r.passed++
	case "skip":
		r.skipped++
		r.skips = append(r.skips, fmt.Sprintf("SKIP %s %s: %s", e.Package, e.Test, reason(r.output[key])))
	case "fail":
		r.failed++
		fmt.Fprintf(r.out, "FAIL %s %s\n%s", e.Package, e.Test, strings.Join(r.output[key], ""))
	default:
		return
	}
	delete(r.output, key)
}

func (r *report) pkg(e event) {
	key := e.Package + "\x00"
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok   %-40s %6.1fs\n", e.Package, e.Elapsed)
	case "fail":
		r.broken = true
		fmt.Fprintf(r.out, "%s%sFAIL %-40s %6.1fs\n", r.unfinished(e.Package), strings.Join(r.output[key], ""), e.Package, e.Elapsed)
	default:
		return
	}
	delete(r.output, key)
}

// unfinished returns the output of the tests that a package died in.
func (r *report) unfinished(pkg string) string {
	var all strings.Builder
	for key, output := range r.output {
		if name, ok := strings.CutPrefix(key, pkg+"\x00"); ok && name != "" {
			all.WriteString(strings.Join(output, ""))
			delete(r.output, key)
		}
	}
	return all.String()
}

// reason is what a skipped test said.
func reason(output []string) string {
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			return line
		}
	}
	return "no reason given"
}

func (r *report) finish() error {
	for _, skip := range r.skips {
		fmt.Fprintln(r.out, skip)
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", r.passed, r.failed, r.skipped)
	switch {
	case r.failed > 0 || r.broken:
		return errors.New("tests failed")
	case r.passed == 0:
		return errors.New("no test ran")
	default:
		return nil
	}
}
