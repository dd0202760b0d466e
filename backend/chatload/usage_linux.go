package chatload

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// readUsage reads the processor time of processes, of those that they have started, and
// of this one.
func readUsage(pids []int) (u usage, err error) {
	u.server = make(map[int]time.Duration)
	for _, pid := range family(pids) {
		spent, err := processorTime(pid)
		switch {
		case err == nil:
			u.server[pid] = spent
		case slices.Contains(pids, pid): // a child may have ended meanwhile
			return u, err
		}
	}
	u.client, err = processorTime(os.Getpid())
	return u, err
}

// processorTime returns what all threads of a process have had, user's and system's. It
// comes from the process's clock, which is what utime and stime in /proc/PID/stat are
// made from, without being rounded to ticks.
func processorTime(pid int) (time.Duration, error) {
	const wholeProcess = 2 // CPUCLOCK_SCHED, not of one thread; see clock_getcpuclockid(3)
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|wholeProcess), &t); err != nil { //nolint:gosec // process ids fit
		return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// family returns the processes with their children, and theirs.
func family(pids []int) (all []int) {
	for _, pid := range pids {
		all = append(append(all, pid), family(childrenOf(pid))...)
	}
	return all
}

// childrenOf returns the processes that a process has started and that live.
func childrenOf(pid int) (children []int) {
	threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, t := range threads {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name())) // of a thread that may have ended
		for field := range bytes.FieldsSeq(text) {
			if child, err := strconv.Atoi(string(field)); err == nil {
				children = append(children, child)
			}
		}
	}
	return children
}

// readMemory adds up the memory of processes and of those that they have started.
func readMemory(pids []int) (m memory, err error) {
	for _, pid := range family(pids) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil && slices.Contains(pids, pid) { // a child may have ended meanwhile
			return m, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		m.anonymous += rollup(text, "Anonymous:")
		m.resident += rollup(text, "Rss:")
	}
	return m, nil
}

// rollup returns a value of a smaps_rollup (proc(5)), in bytes.
func rollup(text []byte, key string) int64 {
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) == 3 && string(fields[0]) == key {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}
