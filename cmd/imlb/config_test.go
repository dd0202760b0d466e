package main

import (
	"testing"

	"github.com/hashicorp/consul/api"
	"github.com/rogpeppe/go-internal/testscript"

	"imlb/test/consul"
)

// TestConfigScripts runs testdata/config: command lines that work on a real
// Consul agent, which is at $CONSUL_HTTP_ADDR. Each script has a cluster of its
// own. "delete KEY" deletes a key, and "register SERVICE NAME" registers a node.
func TestConfigScripts(t *testing.T) {
	addr := consul.Start(t).Addr
	client, err := api.NewClient(&api.Config{Address: addr})
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/config",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"delete": func(ts *testscript.TestScript, _ bool, args []string) {
				_, err := client.KV().Delete(args[0], nil)
				ts.Check(err)
			},
			"register": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(client.Agent().ServiceRegister(&api.AgentServiceRegistration{
					Name: args[0], ID: "id-of-" + args[1], Address: "127.0.0.1", Port: 5280, Meta: map[string]string{"name": args[1]},
				}))
			},
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("CONSUL_HTTP_ADDR", addr)
			e.Setenv("COLUMNS", "100")
			return nil
		},
	})
}
