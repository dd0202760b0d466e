// Package need finds what tests need beyond Go: servers and clients that nobody
// here wrote. Program test/tools/setup puts it where this package looks.
//
// A test that lacks something is skipped, by the name of what is missing; with
// IMLB_TEST_REQUIRE=all in the environment it fails instead.
package need

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// RequireAll says whether nothing may be missing here.
func RequireAll() bool { return os.Getenv("IMLB_TEST_REQUIRE") == "all" }

// Tool returns the path of a Go-built tool, a directory of test/tools.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := ToolPath(name)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, name, path)
}

// Node returns the directory whose node_modules holds the packages of a
// directory of test/tools.
func Node(t testing.TB, name string) string {
	t.Helper()
	dir, err := NodePath(name)
	if err != nil {
		t.Fatal(err)
	}
	return file(t, name, dir)
}

// Command returns the path of a program that the machine has, in a Debian
// package of this name or another.
func Command(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, name)
	}
	return path
}

func file(t testing.TB, name, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		Missing(t, name)
	}
	return path
}

// Missing ends a test for want of something.
func Missing(t testing.TB, name string) {
	t.Helper()
	if RequireAll() {
		t.Fatalf("MISSING %s, and IMLB_TEST_REQUIRE=all", name)
	}
	t.Skipf("MISSING %s: 'make tools' gets it, where it may", name)
}

// ToolPath returns where a Go-built tool is kept. The name of the file changes with
// its version, its dependencies and the compiler.
func ToolPath(name string) (string, error) {
	key, err := key(name, runtime.Version(), "go.mod", "go.sum", "tools.go")
	if err != nil {
		return "", err
	}
	cache, err := Cache()
	return filepath.Join(cache, "bin", name+"-"+key), err
}

// NodePath returns where npm packages are kept.
func NodePath(name string) (string, error) {
	key, err := key(name, "", "package.json", "package-lock.json")
	if err != nil {
		return "", err
	}
	cache, err := Cache()
	return filepath.Join(cache, name+"-"+key), err
}

// key stands for the content of files that describe a tool.
func key(name, salt string, files ...string) (string, error) {
	dir, err := Source(name)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	sum.Write([]byte(salt))
	for _, f := range files {
		content, err := os.ReadFile(filepath.Join(dir, f)) //nolint:gosec // a file of this repository
		if err != nil {
			return "", fmt.Errorf("tool %s: %w", name, err)
		}
		sum.Write(content)
	}
	return hex.EncodeToString(sum.Sum(nil))[:12], nil
}

// Source returns the directory that describes a tool.
func Source(name string) (string, error) {
	root, err := Root()
	return filepath.Join(root, "test", "tools", name), err
}

// Cache returns the directory that outlives test runs: IMLB_TEST_CACHE, or
// imlb-test in .cache of the home directory.
func Cache() (string, error) {
	if dir := os.Getenv("IMLB_TEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find the cache of test tools: %w", err)
	}
	return filepath.Join(home, ".cache", "imlb-test"), nil
}

// Root returns the root of this repository, seen from the working directory.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		mod, err := os.ReadFile(filepath.Join(dir, "go.mod")) //nolint:gosec // looked for above, whatever it is
		if err == nil && strings.HasPrefix(string(mod), "module imlb\n") {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("not inside the imlb repository")
		}
		dir = up
	}
}
