//go:build !linux || 386 || s390x || imlb_portable

package loop

// Listeners returns 0: loops accept nothing here.
func (l *Loop) Listeners() int { return 0 }
