package main

import (
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"imlb/test/consul"
)

// TestConfigScripts runs testdata/config: command lines that work on a real
// Consul agent, which is at $CONSUL_HTTP_ADDR. Each script has a cluster of its
// own.
func TestConfigScripts(t *testing.T) {
	addr := consul.Start(t).Addr
	testscript.Run(t, testscript.Params{
		Dir: "testdata/config",
		Setup: func(e *testscript.Env) error {
			e.Setenv("CONSUL_HTTP_ADDR", addr)
			e.Setenv("COLUMNS", "100")
			return nil
		},
	})
}
