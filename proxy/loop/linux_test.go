//go:build linux && !386 && !s390x && !imlb_portable

package loop_test

// portable tells that goroutines do the work.
const portable = false
