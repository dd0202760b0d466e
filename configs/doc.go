// Package configs reads the two YAML documents that imlb runs from: one for a
// front (imlb proxy) and one for a chat node (imlb node).
//
// A document is decoded strictly. A key that is not known, a value of the wrong
// kind, a missing key and a value that makes no sense with the others are all
// errors, and all of them are reported at once, each with its file, line and
// column, its path in the document, and what to do about it. A document with any
// error yields no configuration, so what runs is never half of what was meant.
//
// The types say by their field tags what a key is called (yaml), what it is when
// the document does not mention it (default), what it must be like (is, min, max)
// and whether it has to be there (required, with the advice that is given when it
// is not). Defaults are filled in while decoding: a decoded value is complete.
//
// Values are not to be changed once decoded; a change of configuration is a new
// value. proxy.example.yaml and node.example.yaml beside this file show and
// explain every key.
package configs

//go:generate go test -run "TestReferencePage|TestSchemas" . -update
