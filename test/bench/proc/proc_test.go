//go:build linux

package proc_test

import (
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"imlb/test/bench/proc"
)

const rollup = `5588073a2000-7ffea75a7000 ---p 00000000 00:00 0                          [rollup]
Rss:                1604 kB
Pss:                 376 kB
Pss_Dirty:           112 kB
Pss_Anon:             96 kB
Anonymous:            96 kB
Shared_Clean:       1416 kB
Private_Clean:        76 kB
Private_Dirty:       112 kB
SwapPss:               0 kB
Locked:                0 kB
`

func TestParseRollup(t *testing.T) {
	t.Parallel()
	m, err := proc.ParseRollup([]byte(rollup))
	if want := (proc.Memory{RSS: 1604 << 10, Anonymous: 96 << 10}); err != nil || m != want {
		t.Errorf("got %+v, %v; want %+v", m, err, want)
	}
	for _, text := range []string{"", "Rss: 1 kB\n", "Rss: x kB\nAnonymous: 1 kB\n"} {
		if m, err := proc.ParseRollup([]byte(text)); err == nil {
			t.Errorf("%q gave %+v", text, m)
		}
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	busy, err := proc.ParseStat([]byte("cpu  100 20 3 9999 88 4 5 77 0 0\ncpu0 1 2 3 4 5 6 7 8 9 0\n"))
	if want := 1320 * time.Millisecond; err != nil || busy != want {
		t.Errorf("%v, %v; want %v", busy, err, want)
	}
	for _, text := range []string{"", "cpu0 1 2 3 4 5 6 7 8 9 0\n", "cpu 1 2 3\n", "cpu 1 x 3 4 5 6 7\n"} {
		if busy, err := proc.ParseStat([]byte(text)); err == nil {
			t.Errorf("%q gave %v", text, busy)
		}
	}
	if busy, err := proc.Busy(); err != nil || busy <= 0 {
		t.Errorf("this machine: %v, %v", busy, err)
	}
}

func TestMemoryGrows(t *testing.T) {
	t.Parallel()
	pids := []int{os.Getpid()}
	debug.FreeOSMemory() // what a block could be made of without more memory
	before, err := proc.ReadMemory(pids)
	if err != nil {
		t.Fatal(err)
	}
	const size = 64 << 20
	block := make([]byte, size)
	for i := 0; i < len(block); i += 1024 {
		block[i] = 1
	}
	after, err := proc.ReadMemory(pids)
	if err != nil {
		t.Fatal(err)
	}
	runtime.KeepAlive(block)
	if grown := after.Sub(before); grown.Anonymous < size/2 || grown.RSS < size/2 {
		t.Errorf("%d bytes more are seen as %+v", len(block), grown)
	}
}

func TestCPU(t *testing.T) {
	t.Parallel()
	pids := []int{os.Getpid()}
	before, err := proc.CPU(pids)
	if err != nil {
		t.Fatal(err)
	}
	after := before
	for start := time.Now(); after-before < 5*time.Millisecond && time.Since(start) < 20*time.Second; { // others may be busier
		if after, err = proc.CPU(pids); err != nil {
			break
		}
	}
	if err != nil || after-before < 5*time.Millisecond {
		t.Errorf("a busy process had %v, %v", after-before, err)
	}
	if _, err := proc.CPU([]int{1 << 22}); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

func TestChildren(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	pids, err := proc.Children(os.Getpid())
	if err != nil || !slices.Contains(pids, cmd.Process.Pid) {
		t.Errorf("children %v, %v; want %d among them", pids, err, cmd.Process.Pid)
	}
}
