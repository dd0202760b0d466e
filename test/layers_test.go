package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"imlb/test/need"
)

// layers says what each package of this module may import of it. cmd/imlb is on top and
// joins the packages in the middle, which do not know each other.
var layers = map[string][]string{ //nolint:gochecknoglobals // The table of docs/architecture.md.
	"imlb/cmd/imlb": {
		"imlb/proxy", "imlb/proxy/admin", "imlb/proxy/identify", "imlb/proxy/limit", "imlb/proxy/secrets", "imlb/health", "imlb/balancer", "imlb/configs",
		"imlb/backend", "imlb/backend/chatload", "imlb/backend/xmpp", "imlb/backend/store", "imlb/backend/bus", "imlb/backend/login",
	},
	"imlb/proxy":                   {"imlb/backend/xmpp", "imlb/proxy/bosh", "imlb/proxy/identify", "imlb/proxy/limit", "imlb/proxy/loop", "imlb/proxy/secrets", "imlb/proxy/ws"},
	"imlb/proxy/bosh":              {"imlb/backend/xmpp"},
	"imlb/proxy/identify":          {},
	"imlb/proxy/limit":             {},
	"imlb/proxy/loop":              {},
	"imlb/proxy/secrets":           {},
	"imlb/proxy/ws":                {},
	"imlb/proxy/admin":             {"imlb/backend/xmpp"},
	"imlb/health":                  {},
	"imlb/balancer":                {},
	"imlb/configs":                 {},
	"imlb/backend":                 {"imlb/backend/xmpp", "imlb/backend/store", "imlb/backend/bus"},
	"imlb/backend/chatload":        {"imlb/backend/xmpp"},
	"imlb/backend/xmpp":            {},
	"imlb/backend/store":           {"imlb/backend/xmpp"},
	"imlb/backend/store/storetest": {"imlb/backend/xmpp", "imlb/backend/store"},
	"imlb/backend/bus":             {"imlb/backend/xmpp"},
	"imlb/backend/login":           {},
}

// helpers may be imported by every test, besides what its package imports.
var helpers = []string{"imlb/backend/store/storetest", "imlb/test/consul", "imlb/test/need"} //nolint:gochecknoglobals // Beside the table.

// pure packages decide and never do.
var pure = map[string][]string{ //nolint:gochecknoglobals // Beside the table.
	// A session that waits for room is given up by its caller's context: that is the
	// caller's clock.
	"imlb/balancer":     {"net", "os", "time", "log/slog", "log", "syscall", "math/rand", "math/rand/v2"},
	"imlb/backend/xmpp": {"net", "os", "time", "log/slog", "log", "syscall"},
}

// vague names say nothing about what a package is for, or hide it.
var vague = []string{"internal", "pkg", "util", "utils", "common", "helpers", "misc"} //nolint:gochecknoglobals // Beside the table.

// source is one package, as its files tell.
type source struct {
	path        string
	imports     []string // of its files
	testImports []string // of its tests
	documented  bool
	inits       []string // positions of init functions
}

func TestLayers(t *testing.T) {
	t.Parallel()
	for _, p := range sources(t) {
		if p.path == "imlb/test" || strings.HasPrefix(p.path, "imlb/test/") {
			continue // tests whole programs, through whatever they need
		}
		allowed, known := layers[p.path]
		if !known {
			t.Errorf("%s: not in the table of packages; add it here and in docs/architecture.md", p.path)
			continue
		}
		mayImport(t, p.path, p.imports, allowed)
		mayImport(t, p.path+" (tests)", p.testImports, slices.Concat(allowed, helpers, []string{p.path}))
	}
}

func mayImport(t *testing.T, name string, imports, allowed []string) {
	t.Helper()
	for _, i := range imports {
		if strings.HasPrefix(i, "imlb/") && !slices.Contains(allowed, i) {
			t.Errorf("%s imports %s", name, i)
		}
	}
}

func TestPurePackages(t *testing.T) {
	t.Parallel()
	seen := 0
	for _, p := range sources(t) {
		forbidden, isPure := pure[p.path]
		if !isPure {
			continue
		}
		seen++
		for _, i := range p.imports {
			if slices.Contains(forbidden, i) || strings.HasPrefix(i, "net/") && i != "net/netip" {
				t.Errorf("%s imports %s, but does no I/O and knows no clock", p.path, i)
			}
		}
	}
	if seen != len(pure) {
		t.Errorf("saw %d of %d pure packages", seen, len(pure))
	}
}

func TestPackageNames(t *testing.T) {
	t.Parallel()
	for _, p := range sources(t) {
		for _, part := range strings.Split(p.path, "/") {
			if slices.Contains(vague, part) {
				t.Errorf("%s: name the package for what it is about", p.path)
			}
		}
	}
}

func TestPackageDocs(t *testing.T) {
	t.Parallel()
	for _, p := range sources(t) {
		if !p.documented {
			t.Errorf("%s has no package comment", p.path)
		}
		for _, at := range p.inits {
			t.Errorf("%s: init function; say it in the constructor", at)
		}
	}
}

// What docs/architecture.md says of the packages is the table above.
func TestPackagesInArchitecture(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range slices.Sorted(maps.Keys(layers)) {
		name := strings.TrimPrefix(p, "imlb/")
		if path.Base(name) != "storetest" && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("docs/architecture.md does not name `%s`", name)
		}
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := need.Root()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// sources reads every package of the module.
func sources(t *testing.T) []*source {
	t.Helper()
	dir := root(t)
	found := make(map[string]*source)
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return enter(dir, file, entry)
		case strings.HasSuffix(file, ".go"):
			return readSource(found, dir, file)
		default:
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(found) < len(layers) {
		t.Fatalf("found %d packages only", len(found))
	}
	return slices.SortedFunc(maps.Values(found), func(a, b *source) int { return strings.Compare(a.path, b.path) })
}

// enter skips what is no part of the module.
func enter(root, dir string, entry fs.DirEntry) error {
	if dir == root {
		return nil
	}
	if name := entry.Name(); name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func readSource(found map[string]*source, root, file string) error {
	files := token.NewFileSet()
	syntax, err := parser.ParseFile(files, file, nil, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	dir, err := filepath.Rel(root, filepath.Dir(file))
	if err != nil {
		return err
	}
	name := path.Join("imlb", filepath.ToSlash(dir))
	p, ok := found[name]
	if !ok {
		p = &source{path: name}
		found[name] = p
	}
	p.add(files, syntax, strings.HasSuffix(file, "_test.go"))
	return nil
}

func (p *source) add(files *token.FileSet, syntax *ast.File, test bool) {
	for _, spec := range syntax.Imports {
		name, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		if test {
			p.testImports = append(p.testImports, name)
		} else {
			p.imports = append(p.imports, name)
		}
	}
	p.documented = p.documented || syntax.Doc != nil
	for _, decl := range syntax.Decls {
		if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" && !test {
			p.inits = append(p.inits, files.Position(f.Pos()).String())
		}
	}
}
