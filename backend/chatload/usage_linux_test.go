package chatload

import (
	"os"
	"os/exec"
	"testing"
)

// TestUsage reads what this process and a child of it cost.
func TestUsage(t *testing.T) {
	t.Parallel()
	child := exec.CommandContext(t.Context(), "cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	before, err := readUsage([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := before.server[child.Process.Pid]; !ok {
		t.Errorf("the child is not in %v", before.server)
	}
	for n := 0; ; n++ { // until it is seen, whatever the clock's steps
		after, err := readUsage([]int{os.Getpid()})
		if err != nil {
			t.Fatal(err)
		}
		if d := after.since(before); d.server[os.Getpid()] > 0 && d.client > 0 {
			if c := d.counts(10); c == nil || c.PerSecond <= 0 || c.Server <= 0 {
				t.Errorf("%+v", c)
			}
			break
		}
	}
	m, err := readMemory([]int{os.Getpid()})
	if err != nil || m.anonymous < 1<<20 || m.resident < m.anonymous {
		t.Errorf("%+v, %v", m, err)
	}
	_ = in.Close()
	if err := child.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := readUsage([]int{child.Process.Pid}); err == nil {
		t.Error("a process that has ended has processor time")
	}
	if _, err := readMemory([]int{child.Process.Pid}); err == nil {
		t.Error("a process that has ended has memory")
	}
}
