//go:build linux

// Package proc reads what processes cost: processor time and memory.
package proc

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU returns the processor time, user's and system's, that all threads of these
// processes have had. It comes from the processes' clocks, which are what utime
// and stime in /proc/PID/stat are made from, without being rounded to ticks.
func CPU(pids []int) (total time.Duration, err error) {
	for _, pid := range pids {
		var t unix.Timespec
		if err := unix.ClockGettime(clock(pid), &t); err != nil {
			return 0, fmt.Errorf("processor time of process %d: %w", pid, err)
		}
		total += time.Duration(t.Nano())
	}
	return total, nil
}

// clock is the kernel's name for a process's clock: clock_getcpuclockid(3).
func clock(pid int) int32 {
	const wholeProcess = 2               // CPUCLOCK_SCHED, not of one thread
	return int32(^pid<<3 | wholeProcess) //nolint:gosec // process ids fit
}

// Busy returns the processor time that all processors have spent on work.
func Busy() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return ParseStat(text)
}

// ParseStat reads the busy time out of the text of /proc/stat (proc(5)).
func ParseStat(text []byte) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	line, _, _ := bytes.Cut(text, []byte("\n"))
	fields := bytes.Fields(line)
	if len(fields) < 8 || string(fields[0]) != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// Memory is what processes occupy, in bytes.
type Memory struct {
	RSS int64 // resident
	// Anonymous is what belongs to no file: heaps and stacks. Pages of program files
	// count as private, shared, clean or dirty by who else runs the program and when it
	// was built, so that they are better left out.
	Anonymous int64
}

// Sub returns what m has more than before.
func (m Memory) Sub(before Memory) Memory {
	return Memory{RSS: m.RSS - before.RSS, Anonymous: m.Anonymous - before.Anonymous}
}

// ReadMemory adds up the memory of these processes.
func ReadMemory(pids []int) (total Memory, err error) {
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return total, err
		}
		m, err := ParseRollup(text)
		if err != nil {
			return total, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		total.RSS += m.RSS
		total.Anonymous += m.Anonymous
	}
	return total, nil
}

// ParseRollup reads the text of a smaps_rollup (proc(5)).
func ParseRollup(text []byte) (m Memory, err error) {
	seen := 0
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) != 3 || string(fields[2]) != "kB" {
			continue
		}
		n, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			return m, err
		}
		switch string(fields[0]) {
		case "Rss:":
			m.RSS += n << 10
		case "Anonymous:":
			m.Anonymous += n << 10
		default:
			continue
		}
		seen++
	}
	if seen != 2 {
		return m, fmt.Errorf("smaps_rollup: %d of 2 lines found", seen)
	}
	return m, nil
}

// Children returns the processes that a process has started and that live.
func Children(pid int) (pids []int, err error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	for _, t := range threads {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, t.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range bytes.Fields(text) {
			child, err := strconv.Atoi(string(f))
			if err != nil {
				return nil, err
			}
			pids = append(pids, child)
		}
	}
	slices.Sort(pids)
	return pids, nil
}
