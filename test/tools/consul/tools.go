//go:build tools

// Package tools pins the Consul agent that the tests run. Its go.sum names all that the
// build needs, because some of Consul's modules are known to no checksum database.
package tools

import _ "github.com/hashicorp/consul"
