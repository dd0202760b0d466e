package chatload

import "time"

// usage is the processor time that processes have had.
type usage struct {
	server map[int]time.Duration // by process
	client time.Duration
}

// since returns what came since an earlier reading. A process that was not there then has
// begun since, and all of its time counts; of one that has ended, nothing is known.
func (u usage) since(before usage) usage {
	d := usage{server: make(map[int]time.Duration), client: u.client - before.client}
	for pid, t := range u.server {
		d.server[pid] = t - before.server[pid]
	}
	return d
}

// counts makes a part of a result; things is what was done meanwhile.
func (u usage) counts(things float64) *CPUCounts {
	var server time.Duration
	for _, t := range u.server {
		server += t
	}
	c := &CPUCounts{Server: server.Seconds(), Client: u.client.Seconds()}
	if server > 0 {
		c.PerSecond = things / server.Seconds()
	}
	if u.client == 0 {
		return nil
	}
	return c
}

// memory is what processes occupy, in bytes.
type memory struct {
	anonymous int64 // what belongs to no file: heaps and stacks
	resident  int64
}
