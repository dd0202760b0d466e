package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		in   string
		want []string
		err  string
	}{
		"all well": {
			in: `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"A","Output":"hello\n"}
{"Action":"pass","Package":"p","Test":"A"}
{"Action":"pass","Package":"p","Elapsed":1.5}`,
			want: []string{"ok   p", "1.5s", "1 passed, 0 failed, 0 skipped\n"},
		},
		"skipped": {
			in: `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"=== RUN   B\n"}
{"Action":"output","Package":"p","Test":"B","Output":"    b_test.go:3: MISSING consul\n"}
{"Action":"output","Package":"p","Test":"B","Output":"--- SKIP: B (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"B"}
{"Action":"pass","Package":"p"}`,
			want: []string{"SKIP p B: b_test.go:3: MISSING consul\n", "1 passed, 0 failed, 1 skipped\n"},
		},
		"failed": {
			in: `{"Action":"output","Package":"p","Test":"A","Output":"wrong\n"}
{"Action":"fail","Package":"p","Test":"A"}
{"Action":"fail","Package":"p"}`,
			want: []string{"FAIL p A\nwrong\n", "0 passed, 1 failed, 0 skipped\n"},
			err:  "tests failed",
		},
		"died inside a test": {
			in: `{"Action":"pass","Package":"p","Test":"A"}
{"Action":"output","Package":"p","Test":"B","Output":"panic: test timed out\n"}
{"Action":"output","Package":"p","Output":"FAIL\tp\n"}
{"Action":"fail","Package":"p"}`,
			want: []string{"panic: test timed out\n", "FAIL p"},
			err:  "tests failed",
		},
		"does not build": {
			in: `{"ImportPath":"p","Action":"build-output","Output":"p.go:1: oops\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","Package":"p","FailedBuild":"p"}`,
			want: []string{"p.go:1: oops\n"},
			err:  "tests failed",
		},
		"no event":   {in: "go: downloading something\n", want: []string{"go: downloading something\n"}, err: "no test ran"},
		"no test":    {in: `{"Action":"skip","Package":"p"}`, err: "no test ran"},
		"no line":    {err: "no test ran"},
		"half event": {in: "{\"Action\":", want: []string{"{\"Action\":\n"}, err: "no test ran"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			err := run(strings.NewReader(test.in), &out)
			if got := errText(err); got != test.err {
				t.Errorf("error %q, want %q", got, test.err)
			}
			for _, want := range test.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, out.String())
				}
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
