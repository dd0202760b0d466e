package proxy

import (
	"reflect"
	"testing"
	"unsafe"
)

// What outgrows its size class takes the next one, of up to 128 bytes more for each of the idle sessions: of the
// session, as long as it lasts, and of the looped, until what it was is collected.
func TestSessionsFitTheirSizeClasses(t *testing.T) {
	if unsafe.Sizeof(uintptr(0)) != 8 {
		t.Skip("the classes are those of 64 bits")
	}
	for of, class := range map[reflect.Type]uintptr{
		reflect.TypeFor[session](): 640,
		reflect.TypeFor[looped]():  768,
	} {
		if size := of.Size(); size > class {
			t.Errorf("%v takes %d bytes, want at most %d", of, size, class)
		}
	}
}
