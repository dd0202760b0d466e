package test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// lines collects what a process prints and lets tests wait for a line.
type lines struct {
	mu    sync.Mutex
	all   []string
	ended bool
	more  chan struct{} // closed and replaced with every change
}

func newLines() *lines { return &lines{more: make(chan struct{})} }

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, line)
	close(l.more)
	l.more = make(chan struct{})
}

func (l *lines) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.more)
	l.more = make(chan struct{})
}

// from returns the lines after the first n, and a channel that closes when
// there are more.
func (l *lines) from(n int) (got []string, ended bool, more <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[n:], l.ended, l.more
}

func (l *lines) text() string {
	all, _, _ := l.from(0)
	return strings.Join(all, "\n")
}

// wait returns the first line that match likes.
func (l *lines) wait(ctx context.Context, match func(string) bool) (string, error) {
	for n := 0; ; {
		got, ended, more := l.from(n)
		for _, line := range got {
			if match(line) {
				return line, nil
			}
		}
		n += len(got)
		if ended {
			return "", errStopped
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-more:
		}
	}
}

// process is a program that a test started. It is killed at the end of the
// test, with its whole process group, if it is still there.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *lines // standard output and error, as they come
	done  chan struct{}
	err   error // how it ended; valid once done is closed
}

type startOption func(*exec.Cmd)

func withEnv(vars ...string) startOption {
	return func(c *exec.Cmd) { c.Env = append(os.Environ(), vars...) }
}

// start runs a program in a process group of its own.
func start(t *testing.T, name, path string, args []string, opts ...startOption) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = 5 * time.Second
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	for _, o := range opts {
		o(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	p := &process{t: t, name: name, cmd: cmd, stdin: stdin, out: newLines(), done: make(chan struct{})}
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatalf("start %s: %v", name, err)
	}
	go p.collect(read)
	go p.reap(write)
	t.Cleanup(func() {
		cancel()
		<-p.done
		p.report()
	})
	return p
}

func killGroup(pid int) error {
	err := syscall.Kill(-pid, syscall.SIGKILL)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

func (p *process) collect(r io.Reader) {
	defer p.out.end()
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadString('\n')
		if line != "" {
			p.out.add(strings.TrimRight(line, "\r\n"))
		}
		if err != nil {
			return
		}
	}
}

func (p *process) reap(out io.Closer) {
	p.err = p.cmd.Wait()
	_ = out.Close()
	close(p.done)
}

// report fails the test for what no process of ours may ever print, and shows
// the output of a failed test's processes.
func (p *process) report() {
	p.t.Helper()
	text := p.out.text()
	checkLog(p.t, p.name, text)
	if p.t.Failed() {
		p.t.Logf("---- output of %s\n%s", p.name, tail(text))
	}
	if keep := keepDirectory(p.t); keep != "" {
		name := fmt.Sprintf("%s-%d.out", strings.ReplaceAll(p.name, " ", "-"), p.pid())
		_ = os.WriteFile(filepath.Join(keep, name), []byte(text+"\n"), 0o600)
	}
}

// keepDirectory returns where a failed test leaves its logs whole: below
// IMLB_TEST_KEEP, if that is set.
func keepDirectory(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("IMLB_TEST_KEEP")
	if dir == "" || !t.Failed() {
		return ""
	}
	dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "_"))
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Log(err)
		return ""
	}
	return dir
}

// checkLog fails the test when a log speaks of a crash or a data race.
func checkLog(t *testing.T, name, text string) {
	t.Helper()
	for _, bad := range []string{"panic:", "WARNING: DATA RACE", "fatal error:"} {
		if at := strings.Index(text, bad); at >= 0 {
			t.Errorf("%s printed:\n%.4000s", name, text[at:])
		}
	}
}

// tail keeps the end of a long text.
func tail(text string) string {
	const most = 6000
	if len(text) > most {
		return "…" + text[len(text)-most:]
	}
	return text
}

// awaitLine waits for a line that contains part.
func (p *process) awaitLine(part string) string {
	p.t.Helper()
	line, err := p.out.wait(within(p.t, patience), func(l string) bool { return strings.Contains(l, part) })
	if err != nil {
		p.t.Fatalf("%s: wait for a line with %q: %v\n%s", p.name, part, err, tail(p.out.text()))
	}
	return line
}

// awaitExit waits for the end of the process and returns its exit code.
func (p *process) awaitExit() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-within(p.t, patience).Done():
		p.t.Fatalf("%s did not end within %v\n%s", p.name, patience, tail(p.out.text()))
	}
	var exit *exec.ExitError
	if p.err != nil && !errors.As(p.err, &exit) {
		p.t.Fatalf("%s: %v", p.name, p.err)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// runs executes a command to its end and returns what it printed and its exit code.
func runs(t *testing.T, input, path string, args []string, opts ...startOption) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(within(t, patience), path, args...)
	cmd.Stdin = strings.NewReader(input)
	for _, o := range opts {
		o(cmd)
	}
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", path, err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// alive reports whether a process of that id runs. One that has ended and
// only waits to be collected by its parent does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	_, state, _ := strings.Cut(string(stat), ") ") // the name before may hold anything
	return !strings.HasPrefix(state, "Z")
}

// awaitGone waits until no process of that id is left.
func awaitGone(t *testing.T, what string, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("the end of %s (pid %d)", what, pid), func(context.Context) (bool, string) {
		return !alive(pid), "still there"
	})
}
