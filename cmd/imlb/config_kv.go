package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"imlb/configs"
)

// kvFlags say which cluster's configuration is meant, and in which Consul.
type kvFlags struct {
	Consul    string `placeholder:"ADDR" env:"CONSUL_HTTP_ADDR" default:"127.0.0.1:8500" help:"host:port of the Consul agent. Default: ${default}."`
	Cluster   string `default:"imlb" help:"The cluster. Default: ${default}."`
	TokenFile string `placeholder:"FILE" type:"path" help:"A file with the ACL token. Default: what $$CONSUL_HTTP_TOKEN or $$CONSUL_HTTP_TOKEN_FILE say."`
	JSON      bool   `name:"json" help:"Print JSON."`
}

// kvTimeout is how long a command may talk to Consul.
const kvTimeout = 15 * time.Second

// open returns the configuration that is meant, and a context for talking to
// Consul.
func (f *kvFlags) open(ctx context.Context) (*configs.KV, context.Context, context.CancelFunc, error) {
	kv, err := configs.NewKV(f.agent(), f.Cluster)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, kvTimeout)
	return kv, ctx, cancel, nil
}

func (f *kvFlags) agent() configs.Consul {
	return configs.Consul{Address: f.Consul, TokenFile: f.TokenFile}
}

// parse reads a document as the fronts of the cluster do, but for the files that
// it names.
func (f *kvFlags) parse(name string, data []byte) (configs.Proxy, error) {
	agent := f.agent()
	// The operator's machine stands in for the fronts', which complete what they
	// register with their own names.
	return configs.ParseProxyFor(name, data, configs.Local{Cluster: f.Cluster, Agent: &agent, Host: "localhost"})
}

// fetch returns a version of the document, 0 for the one in force.
func (f *kvFlags) fetch(ctx context.Context, version uint64) (configs.Document, error) {
	kv, ctx, cancel, err := f.open(ctx)
	if err != nil {
		return configs.Document{}, err
	}
	defer cancel()
	var d configs.Document
	if version == 0 {
		d, err = kv.Document(ctx)
	} else {
		d, err = kv.Version(ctx, version)
	}
	return d, f.explain(err)
}

// stored returns what a version of the document says.
func (f *kvFlags) stored(ctx context.Context, version uint64) (configs.Proxy, error) {
	d, err := f.fetch(ctx, version)
	if err != nil {
		return configs.Proxy{}, err
	}
	return f.parse(fmt.Sprintf("version %d", d.Version), d.Data)
}

// explain adds to an error how to go on.
func (f *kvFlags) explain(err error) error {
	if conflict, ok := errors.AsType[*configs.ConflictError](err); ok {
		return fmt.Errorf("%w\nSee what is there now with \"imlb config pull\" and \"imlb config diff FILE\"; when FILE has it all, push with --version %d", err, conflict.Found)
	}
	if errors.Is(err, configs.ErrNoDocument) {
		return fmt.Errorf("%w\nIs %q the right cluster? \"imlb config history\" lists the documents that were there, \"imlb config push\" puts one there", err, f.Cluster)
	}
	return err
}

// newNote signs a change.
func newNote(comment string) configs.Note {
	name, host := "unknown", "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = h
	}
	return configs.Note{By: name + "@" + host, At: time.Now(), Comment: comment}
}

// readDocument reads a file that may be a document.
func readDocument(file string) ([]byte, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data, nil
}
