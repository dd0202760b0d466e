package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"imlb/balancer"
)

func TestPlaceIsTheTable(t *testing.T) {
	file := filepath.Join(t.TempDir(), "members")
	if err := os.WriteFile(file, []byte("b 2\n\n# all of them\na # the first\nc 0.5 west\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	members, err := readMembers(file)
	if err != nil {
		t.Fatal(err)
	}
	want := balancer.BuildTable([]balancer.Member{{Name: "a", Weight: 1}, {Name: "c", Weight: 0.5}, {Name: "b", Weight: 2}}, 0.25)
	var in, out bytes.Buffer
	for i := range 1000 {
		fmt.Fprintf(&in, "user-%d@example.com\r\n", i)
	}
	if err := place(t.Context(), balancer.BuildTable(members, 0.25), &in, &out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 1000 {
		t.Fatalf("got %d lines, want 1000", len(lines))
	}
	for _, line := range lines {
		user, node, _ := strings.Cut(line, "\t")
		if node != want.Lookup(user) {
			t.Errorf("%s is placed on %s, want %s", user, node, want.Lookup(user))
		}
	}
}

func BenchmarkPlace(b *testing.B) {
	members := make([]balancer.Member, 20)
	for i := range members {
		members[i] = balancer.Member{Name: fmt.Sprintf("node-%d", i), Weight: 1}
	}
	table := balancer.BuildTable(members, 0.25)
	var in bytes.Buffer
	for i := range 100_000 {
		fmt.Fprintf(&in, "user-%d@example.com\n", i)
	}
	for b.Loop() {
		if err := place(context.Background(), table, bytes.NewReader(in.Bytes()), &bytes.Buffer{}); err != nil {
			b.Fatal(err)
		}
	}
}
