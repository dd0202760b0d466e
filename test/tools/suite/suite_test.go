package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

// One "go test" prints what it is given, and nothing is run again.
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
		"empty line": {err: "no test ran"},
		"half event": {in: "{\"Action\":", want: []string{"{\"Action\":\n"}, err: "no test ran"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			err := run([]string{"./p"}, func(args []string, events io.Writer) error {
				if strings.Join(args, " ") == "./p" {
					_, _ = io.WriteString(events, test.in+"\n")
				}
				return nil
			}, &out)
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

// What fails once and passes alone is flaky; what fails again, or cannot be chance, failed.
func TestSecondChance(t *testing.T) {
	t.Parallel()
	const (
		pass  = `{"Action":"pass","Package":"p","Test":"A"}` + "\n"
		fail  = `{"Action":"fail","Package":"p","Test":"A/b"}` + "\n" + `{"Action":"fail","Package":"p","Test":"A"}` + "\n"
		raced = `{"Action":"output","Package":"p","Test":"A","Output":"    testing.go:1: race detected during execution of test\n"}` + "\n"
		died  = `{"Action":"output","Package":"p","Output":"panic: oh\n"}` + "\n"
		well  = `{"Action":"pass","Package":"p"}` + "\n"
		ill   = `{"Action":"fail","Package":"p"}` + "\n"
		alone = "-race -count=3 -run=^A$ p"
	)
	others := func(n int) string {
		var all strings.Builder
		for i := range n {
			fmt.Fprintf(&all, `{"Action":"fail","Package":"p","Test":"B%d"}`+"\n", i)
		}
		return all.String()
	}
	for name, test := range map[string]struct {
		first, again string
		ran          []string // besides the first
		want         string   // "" is that it failed
	}{
		"passes":               {fail + ill, pass + pass + pass + well, []string{alone}, "2 passed, 0 failed, 0 skipped\n"},
		"fails again":          {fail + ill, pass + fail + pass + ill, []string{alone}, ""},
		"passes too seldom":    {fail + ill, pass + pass + well, []string{alone}, ""},
		"raced":                {raced + fail + ill, pass + pass + pass + well, nil, ""},
		"panicked":             {fail + died + ill, pass + pass + pass + well, nil, ""},
		"too many":             {fail + others(forgivable) + ill, pass + pass + pass + well, nil, ""},
		"the package as well":  {fail + ill + `{"Action":"fail","Package":"q"}` + "\n", pass + pass + pass + well, nil, ""},
		"nothing failed":       {pass + well, "", nil, "1 passed, 0 failed, 0 skipped\n"},
		"does not run at last": {fail + ill, "", []string{alone}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			var ran []string
			err := run([]string{"-race", "./..."}, func(args []string, events io.Writer) error {
				in := test.first
				if asked := strings.Join(args, " "); asked != "-race ./..." {
					ran, in = append(ran, asked), test.again
				}
				_, _ = io.WriteString(events, in)
				return nil
			}, &out)
			if !slices.Equal(ran, test.ran) {
				t.Errorf("ran %q, want %q", ran, test.ran)
			}
			if (err == nil) != (test.want != "") || !strings.HasSuffix(out.String(), test.want) {
				t.Errorf("error %v, want the end %q of:\n%s", err, test.want, out.String())
			}
			if flaky := strings.Contains(out.String(), "FLAKY p A: "); flaky != (err == nil && test.ran != nil) {
				t.Errorf("tells that it is flaky: %t", flaky)
			}
		})
	}
}

func TestGroups(t *testing.T) {
	t.Parallel()
	got := groups([]string{"-race", "./a", "./b", "--", "./c", "-run=^X"})
	if want := "[{[-race] [./a ./b]} {[-run=^X] [./c]}]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
