package chatload_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"imlb/backend/chatload"
)

func TestHistogram(t *testing.T) {
	t.Parallel()
	var h chatload.Histogram
	if h.Quantile(.5) != 0 || h.Count() != 0 {
		t.Error("an empty histogram has something")
	}
	rapid.Check(t, func(t *rapid.T) {
		var h chatload.Histogram
		values := rapid.SliceOfN(rapid.Int64Range(0, int64(time.Hour)), 1, 50).Draw(t, "values")
		for _, v := range values {
			h.Record(time.Duration(v))
		}
		slices.Sort(values)
		for _, q := range []float64{0, .5, .99, .999, 1} {
			want := values[max(0, int(q*float64(len(values))+0.999999)-1)]
			if got := int64(h.Quantile(q)); got < want || got > want+want/100+1 {
				t.Fatalf("quantile %g of %v is %d", q, values, got)
			}
		}
		if int64(h.Max()) != values[len(values)-1] {
			t.Fatalf("the longest of %v is %d", values, h.Max())
		}
	})
}

// TestHistogramOfMany: what spans all magnitudes is as exact.
func TestHistogramOfMany(t *testing.T) {
	t.Parallel()
	var h chatload.Histogram
	var all []time.Duration
	for range 50_000 {
		d := time.Duration(1) << rand.IntN(36)
		d += time.Duration(rand.Int64N(int64(d)))
		all = append(all, d)
		h.Record(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		want := all[int(q*float64(len(all))+0.999999)-1]
		if got := h.Quantile(q); got < want || float64(got) > float64(want)*1.01+1 {
			t.Errorf("quantile %v is %v, in a sorted list %v", q, got, want)
		}
	}
}

func TestHistogramEnds(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, 1, 127, 128, 255, 256, 257, 1<<63 - 1} {
		var h chatload.Histogram
		h.Record(d)
		if got := h.Quantile(1); got < d || float64(got) > float64(d)*1.01 {
			t.Errorf("%d came back as %d", d, got)
		}
	}
	var h chatload.Histogram
	h.Record(-time.Second)
	if got := h.Quantile(1); got != 0 {
		t.Errorf("a negative duration came back as %v", got)
	}
}

func TestHistogramAdd(t *testing.T) {
	t.Parallel()
	var a, b chatload.Histogram
	for range 99 {
		a.Record(time.Millisecond)
	}
	b.Record(time.Second)
	a.Add(&b)
	if a.Count() != 100 || a.Quantile(0.99) > 2*time.Millisecond || a.Quantile(1) < time.Second || a.Max() != time.Second {
		t.Errorf("%d, %v, %v, %v", a.Count(), a.Quantile(0.99), a.Quantile(1), a.Max())
	}
}
