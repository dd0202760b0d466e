package backend

import (
	"testing"
	"unsafe"
)

// What outgrows its size class takes the next one, of 256 bytes more for each session that is there.
func TestSessionFitsItsSizeClass(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the classes are those of 64 bits")
	}
	if size := unsafe.Sizeof(session{}); size > 1536 {
		t.Errorf("a session takes %d bytes, want at most 1536", size)
	}
}
