package main

import "testing"

func TestTidier(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	quiet := memoryUse{allocated: 1000 * mib, live: 10 * mib, objects: 18 * mib, free: 2 * mib}
	with := func(change func(*memoryUse)) memoryUse {
		m := quiet
		change(&m)
		return m
	}
	busy := with(func(m *memoryUse) { m.allocated += 2 * mib })
	for name, tt := range map[string]struct {
		seen []memoryUse
		want bool
	}{
		"the first look knows no rate": {[]memoryUse{quiet, quiet, quiet}, false},
		"quiet for long":               {[]memoryUse{quiet, quiet, quiet, quiet}, true},
		"in a burst":                   {[]memoryUse{quiet, quiet, quiet, busy}, false},
		"just after a burst":           {[]memoryUse{quiet, busy, busy, busy}, false},
		"after a burst":                {[]memoryUse{quiet, busy, busy, busy, busy}, true},
		"little to be had": {[]memoryUse{quiet, quiet, quiet, with(func(m *memoryUse) { m.objects, m.free = 11*mib, mib })},
			false},
		"little of much": {[]memoryUse{quiet, quiet, quiet, with(func(m *memoryUse) { m.live, m.objects = 1000*mib, 1020*mib })},
			false},
		"pages only":                 {[]memoryUse{quiet, quiet, quiet, with(func(m *memoryUse) { m.objects, m.free = 10*mib, 8*mib })}, true},
		"swept below what was alive": {[]memoryUse{quiet, quiet, quiet, with(func(m *memoryUse) { m.objects, m.free = 9*mib, mib })}, false},
	} {
		var tidy tidier
		var got bool
		for _, m := range tt.seen {
			got = tidy.due(m)
		}
		if got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestMemoryUseWithout(t *testing.T) {
	t.Parallel()
	before, after := memoryUse{objects: 20}, memoryUse{live: 18, objects: 20}
	if got, want := before.without(16), (memoryUse{objects: 4}); got != want {
		t.Errorf("before the first collection: %+v, want %+v", got, want)
	}
	if got, want := after.without(16), (memoryUse{live: 2, objects: 4}); got != want {
		t.Errorf("after it: %+v, want %+v", got, want)
	}
}

func TestReadMemoryUse(t *testing.T) {
	t.Parallel()
	if m := readMemoryUse(); m.allocated == 0 || m.objects == 0 {
		t.Errorf("%+v: the runtime does not tell", m)
	}
}
