package health

import (
	"errors"
	"slices"
	"syscall"
)

// lacking tells whether an error says what this system or process has not got: descriptors,
// memory, local ports and addresses. Of the node nothing was learnt then. The front's data path judges its
// dials by the same list.
func lacking(err error) bool {
	return slices.ContainsFunc([]error{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL, errNoSource,
	}, func(lack error) bool { return errors.Is(err, lack) })
}
