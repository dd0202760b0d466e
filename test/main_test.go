// Package test drives whole programs: the imlb binary as it is shipped, real
// clients that nobody here wrote, and a real Consul agent.
package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait for something that must happen. Nothing waits
// that long unless it is broken: two cores and the race detector are slow.
const patience = 30 * time.Second

// scratch is the directory of what all tests share: the binary.
var scratch string //nolint:gochecknoglobals // Made and removed by TestMain.

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "imlb-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	scratch = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// program builds the binary on first use and returns its path. It carries the
// race detector when the tests do; what it reports fails the test that
// started the process.
func program(t *testing.T) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var build = sync.OnceValues(func() (string, error) { //nolint:gochecknoglobals // Built once for all tests.
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	bin := filepath.Join(scratch, "imlb")
	args := []string{"build", "-o", bin}
	if raceDetector {
		args = append(args, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "imlb/cmd/imlb")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build imlb: %w\n%s", err, out)
	}
	return bin, nil
})

// within returns a context for one wait.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually asks ok again and again until it says yes.
func eventually(t *testing.T, what string, ok func(context.Context) (bool, string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		done, seen := ok(ctx)
		if done {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v; last seen: %s", what, patience, seen)
		case <-tick.C:
		}
	}
}

// errStopped is the cause of a wait that ended because its process did.
var errStopped = errors.New("the process has ended")
