package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

// versionCmd is `imlb version`.
type versionCmd struct{}

// Run prints what this program was built from.
func (versionCmd) Run() error {
	_, err := fmt.Fprintf(os.Stdout, "imlb %s, %s, %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}

// version returns the module's version, and the commit if the program was built
// in a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "(unknown)"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	settings := map[string]string{}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	if revision := settings["vcs.revision"]; revision != "" {
		v += " commit " + revision[:min(12, len(revision))]
	}
	if settings["vcs.modified"] == "true" {
		v += " with changes"
	}
	return v
}
