package configs

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// An editor sees a document as its schema does. This small validator knows what
// the schemas use and nothing of the types, so it notices when the two part.

func TestSamplesFitTheirSchemas(t *testing.T) {
	for _, d := range documents {
		s := readSchema(t, d.schema)
		text := string(read(t, d.sample))
		for _, text := range []string{text, uncomment([]byte(text))} {
			if wrong := s.check(decodeYAML(t, text), ""); len(wrong) > 0 {
				t.Errorf("%s does not fit its schema:\n%s", d.sample, strings.Join(wrong, "\n"))
			}
		}
		if first, _, _ := strings.Cut(text, "\n"); first != "# yaml-language-server: $schema="+d.schema {
			t.Errorf("%s does not name its schema in the first line: %q", d.sample, first)
		}
	}
}

// What the schema lets pass may still be wrong; what it does not has to be wrong.
func TestSchemaRefuses(t *testing.T) {
	s := readSchema(t, "proxy.schema.json")
	const good = "{domains: [a.example], listeners: [{protocol: xmpp, address: ':1'}], pools: {a: {nodes: []}}, tls: {certificates: [{cert_file: a, key_file: b}]}}"
	for _, tt := range []struct{ from, to, want string }{
		{"", "", ""},
		{"listeners", "listener", ": the key listeners is missing"},
		{"domains", "domain", ": domain is no key here"},
		{"[{protocol: xmpp, address: ':1'}]", "[]", ".listeners: too short"},
		{"[a.example]", "a.example", ".domains: not of type array"},
		{"protocol: xmpp", "protocol: smtp", ".listeners[0].protocol: none of"},
		{"nodes: []", "dial_timeout: 5", ".pools.a.dial_timeout: too large"},
		{"nodes: []", "dial_timeout: 5 s", ".pools.a.dial_timeout: does not match"},
		{"nodes: []", "dial_attempts: 0", ".pools.a.dial_attempts: too small"},
		{"{a: {nodes: []}}", "{}", ".pools: too small"},
		{"{a: ", "{a/b: ", ".pools: a/b does not match"},
		{"cert_file: a, ", "", ".tls.certificates[0]: the key cert_file is missing"},
		{"address: ':1'", "address: ':1', identify: {by: [{type: mqtt, tlv: 256}]}", ".listeners[0].identify.by[0].tlv: too large"},
		{"address: ':1'", "address: ':1', routes: [{pools: a}]", ".listeners[0].routes[0]: pools is no key here"},
	} {
		text := strings.Replace(good, tt.from, tt.to, 1)
		wrong := s.check(decodeYAML(t, text), "")
		if tt.want == "" && len(wrong) > 0 || tt.want != "" && !slices.ContainsFunc(wrong, func(w string) bool { return strings.HasPrefix(w, tt.want) }) {
			t.Errorf("%s: got %q, want %q", text, wrong, tt.want)
		}
		if _, err := ParseProxy("f", []byte(text)); tt.want != "" && err == nil {
			t.Errorf("%s: the schema refuses what the program takes", text)
		}
	}
}

// schema is the part of JSON Schema that is used.
type schema struct {
	Type                 any                `json:"type"`
	Enum                 []string           `json:"enum"`
	Pattern              string             `json:"pattern"`
	Minimum              *float64           `json:"minimum"`
	Maximum              *float64           `json:"maximum"`
	Items                *schema            `json:"items"`
	MinItems             int                `json:"minItems"`
	MinProperties        int                `json:"minProperties"`
	Properties           map[string]*schema `json:"properties"`
	PropertyNames        *schema            `json:"propertyNames"`
	AdditionalProperties json.RawMessage    `json:"additionalProperties"`
	Required             []string           `json:"required"`
	Default              any                `json:"default"`
	Description          string             `json:"description"`
	Schema               string             `json:"$schema"`
	Title                string             `json:"title"`
}

func readSchema(t *testing.T, file string) *schema {
	t.Helper()
	var s schema
	decoder := json.NewDecoder(strings.NewReader(string(read(t, file))))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return &s
}

func decodeYAML(t *testing.T, text string) any {
	t.Helper()
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	v = nil
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (s *schema) check(v any, at string) []string {
	if s.Type != nil && !s.hasType(v) {
		return []string{fmt.Sprintf("%s: not of type %v", at, s.Type)}
	}
	if s.Enum != nil && !slices.ContainsFunc(s.Enum, func(e string) bool { return reflect.DeepEqual(any(e), v) }) {
		return []string{fmt.Sprintf("%s: none of %v", at, s.Enum)}
	}
	switch v := v.(type) {
	case string:
		if !regexp.MustCompile(s.Pattern).MatchString(v) {
			return []string{fmt.Sprintf("%s: does not match %s", at, s.Pattern)}
		}
	case float64:
		return s.checkNumber(v, at)
	case []any:
		return s.checkList(v, at)
	case map[string]any:
		return s.checkBlock(v, at)
	}
	return nil
}

func (s *schema) hasType(v any) bool {
	types, ok := s.Type.([]any)
	if !ok {
		types = []any{s.Type}
	}
	for _, t := range types {
		switch n := v.(type) {
		case string:
			ok = t == "string"
		case bool:
			ok = t == "boolean"
		case float64:
			ok = t == "number" || t == "integer" && n == float64(int64(n))
		case []any:
			ok = t == "array"
		case map[string]any:
			ok = t == "object"
		default:
			ok = false
		}
		if ok {
			return true
		}
	}
	return false
}

func (s *schema) checkNumber(v float64, at string) []string {
	switch {
	case s.Minimum != nil && v < *s.Minimum:
		return []string{at + ": too small"}
	case s.Maximum != nil && v > *s.Maximum:
		return []string{at + ": too large"}
	}
	return nil
}

func (s *schema) checkList(v []any, at string) (wrong []string) {
	if len(v) < s.MinItems {
		wrong = append(wrong, at+": too short")
	}
	for i, item := range v {
		wrong = append(wrong, s.Items.check(item, fmt.Sprintf("%s[%d]", at, i))...)
	}
	return wrong
}

func (s *schema) checkBlock(v map[string]any, at string) (wrong []string) {
	if len(v) < s.MinProperties {
		wrong = append(wrong, at+": too small")
	}
	for _, key := range s.Required {
		if _, ok := v[key]; !ok {
			wrong = append(wrong, at+": the key "+key+" is missing")
		}
	}
	for key, value := range v {
		if s.PropertyNames != nil && !regexp.MustCompile(s.PropertyNames.Pattern).MatchString(key) {
			wrong = append(wrong, at+": "+key+" does not match")
		}
		of, ok := s.Properties[key]
		if !ok && string(s.AdditionalProperties) == "false" {
			wrong = append(wrong, at+": "+key+" is no key here")
			continue
		}
		if !ok && json.Unmarshal(s.AdditionalProperties, &of) != nil {
			continue
		}
		wrong = append(wrong, of.check(value, at+"."+key)...)
	}
	return wrong
}
