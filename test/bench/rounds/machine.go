//go:build linux

package rounds

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"imlb/test/bench/proc"
	"imlb/test/bench/report"
)

// congestion returns what new TCP connections use.
func congestion() string {
	name, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}

// ThisMachine describes the machine.
func ThisMachine() report.Machine {
	return report.Machine{
		CPU: field("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), MemoryGB: memoryGB(),
		Kernel: kernel(), Congestion: congestion(), Go: runtime.Version(),
	}
}

// Watch looks at what the machine is used for.
type Watch struct {
	since     time.Time
	busy, own time.Duration // of the processors, until then: in all, and ours
}

// StartWatch begins to look.
func StartWatch() Watch {
	w := Watch{since: time.Now()}
	w.busy, w.own = usage()
	return w
}

// Others tells what share of the processor time since then was other work's. What child
// processes have had counts from when they have ended.
func (w Watch) Others() float64 {
	busy, own := usage()
	all := time.Since(w.since) * time.Duration(runtime.NumCPU())
	return max(0, float64(busy-w.busy-(own-w.own))/float64(all))
}

// usage returns the processor time that the machine has given so far, and that which
// this process and those that it started and ended have had.
func usage() (busy, own time.Duration) {
	busy, _ = proc.Busy() // the report says 0 where it is not known
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if unix.Getrusage(who, &u) == nil {
			own += time.Duration(u.Utime.Nano() + u.Stime.Nano())
		}
	}
	return busy, own
}

// field returns a value of a file with lines like "key : value".
func field(file, key string) string {
	text, err := os.ReadFile(file) //nolint:gosec // of /proc
	if err != nil {
		return "unknown"
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func memoryGB() int {
	kib, err := strconv.Atoi(strings.TrimSuffix(field("/proc/meminfo", "MemTotal"), " kB"))
	if err != nil {
		return 0
	}
	return kib >> 20
}

func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return string(bytes.TrimRight(name.Release[:], "\x00"))
}
