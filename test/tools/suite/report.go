package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// event is one line of what go test prints; see "go doc test2json".
type event struct {
	Action     string
	Package    string
	ImportPath string // of build events
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// failure is a test that failed, with its subtests.
type failure struct {
	flags     []string // of its group
	pkg, test string
	failed    int  // it and its subtests
	final     bool // whatever it does when it is run again
}

// report is what is known so far. It is written to by "go test -json".
type report struct {
	out                     io.Writer
	flags                   []string // of the group that runs
	rest                    []byte   // of a line
	output                  map[string][]string
	passes                  map[string]int // of tests, not of their subtests
	failures                []*failure     // in order
	passed, failed, skipped int
	broken                  bool // a package failed otherwise than by its tests
	notes                   []string
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: make(map[string][]string), passes: make(map[string]int)}
}

// Write takes in events. It never fails.
func (r *report) Write(p []byte) (int, error) {
	r.rest = append(r.rest, p...)
	for {
		line, rest, found := bytes.Cut(r.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		r.line(line)
		r.rest = rest
	}
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
		if !strings.Contains(e.Test, "/") {
			r.passes[key]++
		}
	case "skip":
		r.skipped++
		r.notes = append(r.notes, fmt.Sprintf("SKIP %s %s: %s", e.Package, e.Test, reason(r.output[key])))
	case "fail":
		r.failed++
		said := strings.Join(r.output[key], "")
		fmt.Fprintf(r.out, "FAIL %s %s\n%s", e.Package, e.Test, said)
		f := r.failure(e.Package, e.Test)
		f.failed++
		f.final = f.final || final(said)
	default:
		return
	}
	delete(r.output, key)
}

// failure returns the entry of a test, which subtests share with it.
func (r *report) failure(pkg, test string) *failure {
	test, _, _ = strings.Cut(test, "/")
	for _, f := range r.failures {
		if f.pkg == pkg && f.test == test {
			return f
		}
	}
	f := &failure{flags: r.flags, pkg: pkg, test: test}
	r.failures = append(r.failures, f)
	return f
}

// final reports whether what a test said is no matter of chance.
func final(said string) bool {
	return strings.Contains(said, "DATA RACE") || strings.Contains(said, "race detected") ||
		strings.Contains(said, "panic: ") || strings.Contains(said, "fatal error: ")
}

func (r *report) pkg(e event) {
	key := e.Package + "\x00"
	switch e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok   %-40s %6.1fs\n", e.Package, e.Elapsed)
	case "fail":
		said := r.unfinished(e.Package) + strings.Join(r.output[key], "")
		r.broken = r.broken || final(said) || !r.explained(e.Package)
		fmt.Fprintf(r.out, "%sFAIL %-40s %6.1fs\n", said, e.Package, e.Elapsed)
	default:
		return
	}
	delete(r.output, key)
}

// explained reports whether a test failed in a package.
func (r *report) explained(pkg string) bool {
	for _, f := range r.failures {
		if f.pkg == pkg {
			return true
		}
	}
	return false
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

// forgivable returns the tests that may be run again: none when something failed that
// will fail again.
func (r *report) forgivable() []*failure {
	if r.broken {
		return nil
	}
	for _, f := range r.failures {
		if f.final {
			return nil
		}
	}
	return r.failures
}

// ran returns how often a test passed.
func (r *report) ran(pkg, test string) int { return r.passes[pkg+"\x00"+test] }

// forgive takes a failure back, and tells of it.
func (r *report) forgive(f *failure) {
	r.failed -= f.failed
	r.passed += f.failed
	r.notes = append(r.notes, fmt.Sprintf("FLAKY %s %s: it failed once (see above), and passed %d times by itself", f.pkg, f.test, chances))
}

func (r *report) finish() error {
	for _, note := range r.notes {
		fmt.Fprintln(r.out, note)
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
