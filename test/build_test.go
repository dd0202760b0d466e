package test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// find returns what the first group of the pattern matches.
func find(t *testing.T, name, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(read(t, name))
	if found == nil {
		t.Fatalf("%s has nothing like %s", name, pattern)
	}
	return found[1]
}

// The image is built with the language that go.mod asks for.
func TestDockerfileGo(t *testing.T) {
	t.Parallel()
	image := find(t, "Dockerfile", `(?m)^FROM golang:([0-9]+\.[0-9]+)[.-]`)
	module := find(t, "go.mod", `(?m)^go ([0-9]+\.[0-9]+)`)
	if image != module {
		t.Errorf("Dockerfile builds with Go %s, go.mod asks for %s", image, module)
	}
}

// What .dockerignore leaves out must not be needed for the program; what the image
// copies has to be there.
func TestDockerfileBuildsTheProgram(t *testing.T) {
	t.Parallel()
	pkg := find(t, "Dockerfile", `go build .* (\./\S+)`)
	if _, err := os.Stat(filepath.Join(root(t), pkg, "main.go")); err != nil {
		t.Error(err)
	}
	for _, line := range strings.Fields(read(t, ".dockerignore")) {
		if known := layers["imlb/"+line]; known != nil {
			t.Errorf(".dockerignore leaves out %s", line)
		}
	}
}

// A lock file must work with whatever registry the machine has.
func TestLockFilesNameNoHost(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"xmppjs", "strophe"} {
		lock := read(t, "test/tools/"+tool+"/package-lock.json")
		if strings.Contains(lock, `"resolved"`) || strings.Contains(lock, "://registry.") {
			t.Errorf("package-lock.json of %s names a registry; make it with --omit-lockfile-registry-resolved", tool)
		}
	}
}

func TestCIRunIsExecutable(t *testing.T) {
	t.Parallel()
	info, err := os.Stat(filepath.Join(root(t), ".ci", "run"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode()&0o111 == 0 {
		t.Error(".ci/run is not executable")
	}
}
