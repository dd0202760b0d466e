package main

import (
	"slices"
	"testing"
)

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

func TestPacer(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	type look struct {
		live     uint64
		sessions int
	}
	for name, tt := range map[string]struct {
		seen []look
		want []int // percent of those that are set
	}{
		"nothing is known":        {[]look{{0, 0}}, []int{400}},
		"little is in use":        {[]look{{5 * mib, 10}}, []int{400}},
		"more is in use":          {[]look{{16 * mib, 10}}, []int{200}},
		"much is in use":          {[]look{{100 * mib, 10}}, []int{100}},
		"little more is in use":   {[]look{{16 * mib, 10}, {17 * mib, 10}, {20 * mib, 10}}, []int{200, 160}},
		"sessions arrive":         {[]look{{16 * mib, 10}, {20 * mib, 500}}, []int{200, 50}},
		"the first ones arrive":   {[]look{{5 * mib, 500}}, []int{80}},
		"hardly any is there yet": {[]look{{1 * mib, 500}}, []int{100}},
		"few arrive":              {[]look{{16 * mib, 10}, {16 * mib, 250}}, []int{200}},
		"few of many arrive": {
			[]look{{900 * mib, 2e5}, {900 * mib, 2e5}, {900 * mib, 2e5}, {900 * mib, 2e5}, {900 * mib, 2e5}, {900 * mib, 200900}},
			[]int{50, 100},
		},
		"all have arrived": {
			[]look{{16 * mib, 10}, {20 * mib, 500}, {20 * mib, 500}, {20 * mib, 500}, {20 * mib, 500}, {20 * mib, 500}, {20 * mib, 500}},
			[]int{200, 50, 160},
		},
		"they go": {[]look{{40 * mib, 5000}, {40 * mib, 5000}, {40 * mib, 5000}, {40 * mib, 5000}, {40 * mib, 5000}, {40 * mib, 10}, {16 * mib, 10}}, []int{50, 100, 200}},
	} {
		var p pacer
		var got []int
		for _, l := range tt.seen {
			if percent, changed := p.next(l.live, l.sessions); changed {
				got = append(got, percent)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestReadMemoryUse(t *testing.T) {
	t.Parallel()
	if m := readMemoryUse(); m.allocated == 0 || m.objects == 0 {
		t.Errorf("%+v: the runtime does not tell", m)
	}
}
