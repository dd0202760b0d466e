// Command suite runs the tests and tells what a person wants to know of them: a line for
// each package, the output of what failed, what was skipped and why, and a last line of
// counts. It fails when a test failed or none ran.
//
//	suite -race -timeout=10m ./a ./b -- -timeout=5m ./c
//
// Each group of arguments is for one "go test"; flags are words that begin with a dash.
//
// Whole programs and real servers share the machine with whatever else it does, and some
// waits end too early then. So when few tests failed, each of them is run again by itself.
// One that passes every time then is told of as FLAKY, with what it had said, and is to be
// mended, but it fails nobody's change. What raced, panicked or ran out of time, and what
// did not even build, gets no second chance.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

const (
	// forgivable is how many tests may have failed for one to be run again: more than
	// a busy machine does means that something is broken.
	forgivable = 3
	// chances is how often a test that failed has to pass.
	chances = 3
)

// group is the arguments of one "go test".
type group struct{ flags, packages []string }

// runner runs "go test -json" and hands what it prints to events; its error is that
// nothing could be run. That tests failed is among the events.
type runner func(args []string, events io.Writer) error

func main() {
	if err := run(os.Args[1:], goTest, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "suite:", err)
		os.Exit(1)
	}
}

// goTest has no deadline of its own: go test's -timeout is one.
func goTest(args []string, events io.Writer) error {
	cmd := exec.CommandContext(context.Background(), "go", append([]string{"test", "-json"}, args...)...) //nolint:gosec // G204: our own arguments
	cmd.Stdout, cmd.Stderr = events, os.Stderr
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("start go test: %w", err)
	}
	return nil
}

func run(args []string, test runner, out io.Writer) error {
	r := newReport(out)
	for _, g := range groups(args) {
		r.flags = g.flags
		if err := test(append(g.flags[:len(g.flags):len(g.flags)], g.packages...), r); err != nil {
			return err
		}
	}
	if err := again(r, test, out); err != nil {
		return err
	}
	return r.finish()
}

// groups reads the command line.
func groups(args []string) []group {
	all := []group{{}}
	for _, arg := range args {
		last := &all[len(all)-1]
		switch {
		case arg == "--":
			all = append(all, group{})
		case strings.HasPrefix(arg, "-"):
			last.flags = append(last.flags, arg)
		default:
			last.packages = append(last.packages, arg)
		}
	}
	return all
}

// again gives what failed its second chance.
func again(r *report, test runner, out io.Writer) error {
	failed := r.forgivable()
	if len(failed) > forgivable {
		return nil
	}
	for _, f := range failed {
		alone := newReport(out)
		args := append(f.flags[:len(f.flags):len(f.flags)],
			fmt.Sprintf("-count=%d", chances), "-run=^"+f.test+"$", f.pkg)
		fmt.Fprintf(out, "AGAIN %s %s, %d times by itself\n", f.pkg, f.test, chances)
		if err := test(args, alone); err != nil {
			return err
		}
		if alone.failed == 0 && !alone.broken && alone.ran(f.pkg, f.test) == chances {
			r.forgive(f)
		}
	}
	return nil
}
