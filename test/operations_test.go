package test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"imlb/backend"
	"imlb/proxy"
)

// Every reason for which a session can end is on the page for operators, and every metric there
// is one of the program's.
func TestOperationsPage(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	front, node, ok := strings.Cut(string(text), "\n## How a connection ends at a node\n")
	if !ok {
		t.Fatal("there is no part about nodes")
	}
	_, front, _ = strings.Cut(front, "\n## How a session ends at a front\n")
	told := func(page, reason string) {
		t.Helper()
		if !strings.Contains(page, "\n| `"+reason+"` | ") {
			t.Errorf("the reason %s is not told", reason)
		}
	}
	for r := proxy.ReasonNone + 1; r <= proxy.ReasonInternal; r++ {
		told(front, r.String())
	}
	for r := backend.Reason(1); r <= backend.ReasonInternal; r++ {
		told(node, r.String())
	}
	source := programText(t)
	for _, name := range regexp.MustCompile("`imlb_[a-z_]+`").FindAllString(string(text), -1) {
		name = strings.Trim(name, "`")
		short := regexp.MustCompile("^imlb_(proxy|pool|config|secrets|limit)_").ReplaceAllString(name, "")
		if !strings.Contains(source, `"`+name+`"`) && !strings.Contains(source, `"`+short+`"`) {
			t.Errorf("there is no metric %s", name)
		}
	}
}

// programText is the source of the program, without its tests.
func programText(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"../cmd", "../proxy", "../backend"} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
