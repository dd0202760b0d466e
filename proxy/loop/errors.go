package loop

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// ErrAgain is what Read returns when nothing has arrived: try again when the
// handler is called. It is a net.Error that is temporary and a timeout, so that
// crypto/tls does not take it for the end.
var ErrAgain error = again{} //nolint:gochecknoglobals // a sentinel

// ErrStalled is what a connection's Read and Write return after its peer did not
// take any output for the time of SetStall. It is a net.Error and a timeout.
var ErrStalled error = stalled{} //nolint:gochecknoglobals // a sentinel

type again struct{}

func (again) Error() string   { return "nothing to read yet" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

type stalled struct{}

func (stalled) Error() string   { return "peer does not read" }
func (stalled) Timeout() bool   { return true }
func (stalled) Temporary() bool { return false }

// PanicError is a panic that a loop recovered from.
type PanicError struct {
	Value any
	Stack []byte
}

// Error returns what was panicked with.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// opError says in what operation on a connection an error came up.
func opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Err: err}
}

// classify says how a connection ended, from the error of a read or write.
func classify(err error) Cause {
	var op *net.OpError
	switch {
	case errors.Is(err, io.EOF):
		return EOF
	case errors.Is(err, ErrStalled):
		return Stalled
	case errors.Is(err, net.ErrClosed):
		return Aborted
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Reset
	case errors.Is(err, syscall.ETIMEDOUT), errors.Is(err, syscall.EHOSTUNREACH),
		errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, os.ErrDeadlineExceeded):
		return Lost
	case errors.Is(err, io.ErrUnexpectedEOF):
		return Broken
	case errors.As(err, &op) && op.Op != "local error" && op.Op != "remote error":
		return Reset
	default:
		return Broken
	}
}
