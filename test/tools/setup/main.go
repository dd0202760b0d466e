// Command setup gets what the tests need beyond Go, once: it builds the Go tools
// of test/tools and installs npm packages into a cache outside of the tree, and
// Debian packages where it may. It prints what there is and what is
// missing; with IMLB_TEST_REQUIRE=all the latter is an error.
//
//	go run ./test/tools/setup [NAME...]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"

	"imlb/test/need"
)

// item is something to get.
type item struct {
	name string
	get  func(ctx context.Context, name string) (where string, err error)
}

// everything in the order in which it is got; the npm packages are installed by
// one of the Debian packages.
func everything() []item {
	return []item{
		{"go-sendxmpp", debian},
		{"python3-slixmpp", debian},
		{"ejabberd", debian},
		{"erlang-p1-sqlite3", debian},
		{"prosody", debian},
		{"lua-dbi-sqlite3", debian},
		{"prosody-modules", debian},
		{"nodejs", debianCommand("node")},
		{"npm", debianCommand("npm")},
		{"postgresql", debian},
		{"mosquitto", debian},
		{"mosquitto-clients", debian},
		{"haproxy", debian},
		{"nginx-core", debian},
		{"libnginx-mod-stream", debian},
		{"xmppjs", npmPackages},
		{"strophe", npmPackages},
		{"consul", goTool("github.com/hashicorp/consul")},
		{"golangci-lint", goTool("github.com/golangci/golangci-lint/v2/cmd/golangci-lint")},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "setup:", err)
		os.Exit(1) //nolint:gocritic // nothing left to clean up
	}
}

func run(ctx context.Context, names []string) error {
	items, err := choose(names)
	if err != nil {
		return err
	}
	missing := getAll(ctx, items)
	if len(missing) > 0 && need.RequireAll() {
		return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
	}
	return nil
}

// choose returns the items of these names, all without names.
func choose(names []string) (items []item, err error) {
	all := everything()
	for _, name := range names {
		i := slices.IndexFunc(all, func(it item) bool { return it.name == name })
		if i < 0 {
			return nil, fmt.Errorf("unknown name %q", name)
		}
		items = append(items, all[i])
	}
	if len(names) == 0 {
		items = all
	}
	return items, nil
}

func getAll(ctx context.Context, items []item) (missing []string) {
	for _, it := range items {
		where, err := it.get(ctx, it.name)
		if err != nil {
			fmt.Printf("%-16s MISSING: %v\n", it.name, err)
			missing = append(missing, it.name)
			continue
		}
		fmt.Printf("%-16s %s\n", it.name, where)
	}
	return missing
}

// goTool builds a package of the module in test/tools/<name>.
func goTool(pkg string) func(context.Context, string) (string, error) {
	return func(ctx context.Context, name string) (string, error) {
		path, err := need.ToolPath(name)
		if err != nil {
			return "", err
		}
		if _, err := os.Stat(path); err == nil {
			return path, link(path, name)
		}
		fmt.Printf("%-16s building, this takes minutes\n", name)
		if err := build(ctx, name, pkg, path); err != nil {
			return "", err
		}
		return path, link(path, name)
	}
}

// build makes the binary under another name first, so that what is there is whole.
func build(ctx context.Context, name, pkg, path string) error {
	dir, err := need.Source(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // holds nothing secret
		return err
	}
	unfinished := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(unfinished)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", unfinished, pkg) //nolint:gosec // names from the table above
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if err := quiet(cmd); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// link gives the version that this tree wants its plain name, for people.
func link(path, name string) error {
	plain := filepath.Join(filepath.Dir(path), name)
	if target, err := os.Readlink(plain); err == nil && target == filepath.Base(path) {
		return nil
	}
	return replace(plain, func(fresh string) error { return os.Symlink(filepath.Base(path), fresh) })
}

// replace makes a file or link under another name, and then gives it its own.
func replace(path string, create func(fresh string) error) error {
	fresh := fmt.Sprintf("%s.%d", path, os.Getpid())
	defer os.Remove(fresh)
	if err := create(fresh); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// npmPackages installs what the lock file in test/tools/<name> says, scripts of
// packages not run.
func npmPackages(ctx context.Context, name string) (string, error) {
	path, err := need.NodePath(name)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, linkNode(path, name)
	}
	if err := install(ctx, name, path); err != nil {
		return "", err
	}
	return path, linkNode(path, name)
}

func install(ctx context.Context, name, path string) error {
	source, err := need.Source(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // holds nothing secret
		return err
	}
	unfinished, err := os.MkdirTemp(filepath.Dir(path), name+"-*.new")
	if err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	if err := os.CopyFS(unfinished, os.DirFS(source)); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	cmd.Dir = unfinished
	if err := quiet(cmd); err != nil {
		return err
	}
	return os.Rename(unfinished, path)
}

// linkNode gives packages their plain name, unless a directory has it.
func linkNode(path, name string) error {
	plain := filepath.Join(filepath.Dir(path), name)
	if info, err := os.Lstat(plain); err == nil && info.IsDir() {
		return nil
	}
	return link(path, name)
}

// debian installs a Debian package.
func debian(ctx context.Context, name string) (string, error) {
	if installed(ctx, name) {
		return "installed", nil
	}
	if err := mayInstall(); err != nil {
		return "", err
	}
	if err := aptInstall(ctx, name); err != nil {
		return "", err
	}
	return "installed now", nil
}

// debianCommand installs a Debian package unless the machine has its command from
// elsewhere.
func debianCommand(command string) func(context.Context, string) (string, error) {
	return func(ctx context.Context, name string) (string, error) {
		if path, err := exec.LookPath(command); err == nil {
			return path, nil
		}
		return debian(ctx, name)
	}
}

func installed(ctx context.Context, name string) bool {
	out, err := exec.CommandContext(ctx, "dpkg-query", "-W", "-f=${db:Status-Status}", name).Output() //nolint:gosec // names from the table above
	return err == nil && string(out) == "installed"
}

func mayInstall() error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("not installed, and no apt-get here")
	}
	if os.Geteuid() != 0 {
		return errors.New("not installed, and only root may install")
	}
	return nil
}

// aptInstall asks for a fresh list of packages only when the one at hand does not do.
func aptInstall(ctx context.Context, name string) error {
	if apt(ctx, "install", "--yes", "--no-install-recommends", name) == nil {
		return nil
	}
	if err := apt(ctx, "update"); err != nil {
		return err
	}
	return apt(ctx, "install", "--yes", "--no-install-recommends", name)
}

func apt(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=120"}, args...)...) //nolint:gosec // names from the table above
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	return quiet(cmd)
}

// quiet runs a command whose words are of interest only when it fails.
func quiet(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		tail(os.Stderr, out)
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// tail prints the last lines of an output.
func tail(w io.Writer, out []byte) {
	lines := slices.Collect(strings.Lines(string(out)))
	for _, line := range lines[max(0, len(lines)-30):] {
		fmt.Fprintln(w, "   ", strings.TrimRight(line, "\n"))
	}
}
