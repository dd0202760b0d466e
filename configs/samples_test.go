package configs

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// The samples are the reference that people read. So they have to be right:
// usable as they are, complete, and true about defaults.

var samples = []struct {
	file     string
	document reflect.Type
	parse    func(name string, data []byte) (any, error)
	// What is wrong when every key is in use at once.
	conflicts []string
}{
	{"proxy.example.yaml", reflect.TypeFor[Proxy](), func(name string, data []byte) (any, error) { return ParseProxy(name, data) }, nil},
	{"node.example.yaml", reflect.TypeFor[Node](), func(name string, data []byte) (any, error) { return ParseNode(name, data) }, []string{
		"bus: has both urls and cluster", "sasl.accounts: has both ldap and http",
	}},
}

func TestSamplesAreUsable(t *testing.T) {
	for _, s := range samples {
		if _, err := s.parse(s.file, read(t, s.file)); err != nil {
			t.Error(err)
		}
		_, err := s.parse(s.file, []byte(uncomment(read(t, s.file))))
		var wrong []string
		if err != nil {
			wrong = strings.Split(err.Error(), "\n")
		}
		if !slices.EqualFunc(wrong, s.conflicts, strings.Contains) {
			t.Errorf("with every key in use: %v; want %q alone", err, s.conflicts)
		}
	}
}

func TestSamplesMentionEveryKey(t *testing.T) {
	for _, s := range samples {
		text := uncomment(read(t, s.file))
		lines := strings.Split(text, "\n")
		shown := keysShown(t, text)
		for path, tag := range keysKnown(s.document, "") {
			line, ok := shown[path]
			switch {
			case !ok:
				t.Errorf("%s does not mention %s", s.file, path)
			case tag.def != "" && !slices.ContainsFunc(line, func(n int) bool { return claim.MatchString(lines[n-1]) }):
				t.Errorf("%s does not say what the default of %s is", s.file, path)
			}
		}
	}
}

// What a sample calls a default has to be what comes of leaving the key out.
func TestSamplesTellTheTruthAboutDefaults(t *testing.T) {
	for _, s := range samples {
		text := string(read(t, s.file))
		if s.conflicts == nil {
			text = uncomment([]byte(text))
		}
		claimed, err := s.parse("claimed", []byte(claimedDefaults(text)))
		if err != nil {
			t.Fatal(err)
		}
		without, err := s.parse("without", []byte(withoutClaims(text)))
		if err != nil {
			t.Fatalf("%v\n%s", err, withoutClaims(text))
		}
		if !reflect.DeepEqual(claimed, without) {
			t.Errorf("%s claims\n%+v\nbut the defaults give\n%+v", s.file, claimed, without)
		}
	}
}

// The sample of the node cannot have all keys in use, so what it claims in
// commented-out lines is checked here, block by block.
func TestClaimsInBothSamplesAgree(t *testing.T) {
	registration := regexp.MustCompile(`(?m)^    #(interval|deregister_after): (\S+) # default$`)
	proxy := registration.FindAllString(string(read(t, "proxy.example.yaml")), -1)
	node := registration.FindAllString(string(read(t, "node.example.yaml")), -1)
	if len(proxy) != 2 || !slices.Equal(proxy, node) {
		t.Errorf("the samples differ about consul.register:\n%q\n%q", proxy, node)
	}
}

func read(t *testing.T, file string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

var commented = regexp.MustCompile(`(?m)^( *)#([a-z-])`)

// uncomment puts the keys that a sample only shows into use.
func uncomment(data []byte) string { return commented.ReplaceAllString(string(data), "$1$2") }

// claim matches a key of which a sample says what its default is: the value
// itself, or another one.
var claim = regexp.MustCompile(`^( *)([a-z0-9_]+): (.*?) # default(?:: ([^;]+))?(?:;.*)?$`)

// claimedDefaults sets everything that a sample makes a claim about to what it claims.
func claimedDefaults(text string) string {
	return eachLine(text, func(line string) (string, bool) {
		if m := claim.FindStringSubmatch(line); m != nil && m[4] != "" {
			return m[1] + m[2] + ": " + m[4], true
		}
		return line, true
	})
}

// withoutClaims leaves out everything that a sample makes a claim about.
func withoutClaims(text string) string {
	text = eachLine(text, func(line string) (string, bool) {
		trimmed := strings.TrimSpace(line)
		return line, trimmed != "" && !strings.HasPrefix(trimmed, "#") && !claim.MatchString(line)
	})
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		block := strings.HasSuffix(strings.SplitN(line, " #", 2)[0], ":")
		if block && (i+1 == len(lines) || indent(lines[i+1]) <= indent(line)) {
			lines[i] = line + " {}"
		}
	}
	return strings.Join(lines, "\n")
}

func eachLine(text string, change func(string) (string, bool)) string {
	var out []string
	for line := range strings.SplitSeq(text, "\n") {
		if changed, keep := change(line); keep {
			out = append(out, changed)
		}
	}
	return strings.Join(out, "\n")
}

func indent(line string) int { return len(line) - len(strings.TrimLeft(line, " -")) }

// keysKnown lists the keys that a type knows, with [] for list items and * for
// names that a document gives.
func keysKnown(t reflect.Type, path string) map[string]fieldTag {
	keys := map[string]fieldTag{}
	switch {
	case isScalar(t):
	case t.Kind() == reflect.Pointer:
		return keysKnown(t.Elem(), path)
	case t.Kind() == reflect.Slice:
		return keysKnown(t.Elem(), path+"[]")
	case t.Kind() == reflect.Map:
		return keysKnown(t.Elem(), join(path, "*"))
	default:
		for _, f := range fieldsOf(t) {
			keys[join(path, f.key)] = f.tag
			maps.Copy(keys, keysKnown(f.typ, join(path, f.key)))
		}
	}
	return keys
}

// keysShown lists the keys of a document, written like those of keysKnown, with
// the lines where they are.
func keysShown(t *testing.T, text string) map[string][]int {
	t.Helper()
	file, err := parser.ParseBytes([]byte(text), 0)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string][]int{}
	var walk func(n ast.Node, path string)
	walk = func(n ast.Node, path string) {
		if values, ok := mappingValues(n); ok {
			for _, v := range values {
				key := v.Key.GetToken()
				at := join(path, key.Value)
				if path == "pools" {
					at = "pools.*"
				}
				shown[at] = append(shown[at], key.Position.Line)
				walk(v.Value, at)
			}
		}
		if list, ok := n.(*ast.SequenceNode); ok {
			for _, item := range list.Values {
				walk(item, path+"[]")
			}
		}
	}
	walk(file.Docs[0].Body, "")
	return shown
}

func TestFieldTags(t *testing.T) {
	for _, document := range []reflect.Type{reflect.TypeFor[Proxy](), reflect.TypeFor[Node]()} {
		checkTags(t, document, document.Name())
	}
}

// checkTags holds each field's default and bounds against its own rules, by
// filling them in: what does not fit panics.
func checkTags(t *testing.T, typ reflect.Type, path string) {
	t.Helper()
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct || isScalar(typ) {
		return
	}
	v := reflect.New(typ).Elem()
	fillDefaults(v)
	for _, f := range fieldsOf(typ) {
		at := fmt.Sprintf("%s.%s", path, f.key)
		if f.key == "" {
			t.Errorf("%s has a field without a key", path)
		}
		if _, ok := forms[f.tag.form]; f.tag.form != "" && !ok {
			t.Errorf("%s asks for the form %q, which is not known", at, f.tag.form)
		}
		if f.tag.def != "" && f.tag.required != "" {
			t.Errorf("%s is required and has a default", at)
		}
		for _, bound := range []string{f.tag.min, f.tag.max} {
			if bound != "" {
				f.tag.bound(v.FieldByIndex(f.index), bound)
			}
		}
		checkTags(t, f.typ, at)
	}
}
