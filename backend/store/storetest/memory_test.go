package storetest_test

import (
	"testing"

	"imlb/backend/store"
	"imlb/backend/store/storetest"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) storetest.Open {
		m := storetest.NewMemory()
		return func(*testing.T) store.Store { return m }
	})
}
