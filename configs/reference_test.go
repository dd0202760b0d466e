package configs

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// The reference page and the JSON Schemas are made from the types: keys and rules
// from the fields' tags, words from their comments. With -update the tests write
// them; without, they hold them against the types.

var update = flag.Bool("update", false, "write docs/configuration.md and the JSON Schemas anew")

// documents are what there is a reference for.
var documents = []struct {
	title  string
	typ    reflect.Type
	sample string
	schema string
}{
	{"The document of a front", reflect.TypeFor[Proxy](), "proxy.example.yaml", "proxy.schema.json"},
	{"The document of a node", reflect.TypeFor[Node](), "node.example.yaml", "node.schema.json"},
}

func TestReferencePage(t *testing.T) {
	words := readComments(t)
	var page bytes.Buffer
	page.WriteString(string(read(t, "testdata/configuration.head.md")))
	for _, d := range documents {
		fmt.Fprintf(&page, "\n## %s\n\n%s\n", d.title, sampleNote(d.sample))
		writeBlock(&page, words, d.typ, "")
	}
	compareFile(t, "../docs/configuration.md", page.Bytes())
}

func sampleNote(sample string) string {
	return fmt.Sprintf("[configs/%s](../configs/%[1]s) shows every key in use.", sample)
}

func TestSchemas(t *testing.T) {
	words := readComments(t)
	for _, d := range documents {
		s := schemaOf(words, d.typ, fieldTag{})
		s["$schema"] = "http://json-schema.org/draft-07/schema#"
		s["title"] = d.title
		text, err := json.MarshalIndent(s, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		compareFile(t, d.schema, append(text, '\n'))
	}
}

func compareFile(t *testing.T, file string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say; write it anew with: go generate ./configs", file)
	}
}

// comments are what the source says of types ("Pool") and fields ("Pool.Check").
type comments map[string]string

// readComments takes the comments from this package's files.
func readComments(t *testing.T) comments {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	words := comments{}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			block, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range block.Fields.List {
				for _, id := range f.Names {
					words[spec.Name.Name+"."+id.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
				}
			}
			return true
		})
	}
	return words
}

// of returns what is said of a field, in the words of a document: its key in the
// place of its name.
func (c comments) of(t reflect.Type, f field) string {
	name := t.FieldByIndex(f.index).Name
	text := c[t.Name()+"."+name]
	if rest, ok := strings.CutPrefix(text, name+" "); ok {
		return "`" + f.key + "` " + rest
	}
	return text
}

func TestEveryKeyIsExplained(t *testing.T) {
	words := readComments(t)
	for _, d := range documents {
		checkExplained(t, words, d.typ)
	}
}

func checkExplained(t *testing.T, words comments, typ reflect.Type) {
	t.Helper()
	typ = blockOf(typ)
	if typ == nil {
		return
	}
	for _, f := range fieldsOf(typ) {
		if text := words.of(typ, f); !strings.HasPrefix(text, "`") || !strings.HasSuffix(text, ".") {
			t.Errorf("%s.%s is not explained: %q", typ.Name(), f.key, text)
		}
		checkExplained(t, words, f.typ)
	}
}

// blockOf returns the type of a block with keys of its own behind pointers, lists
// and names; nil when there is none.
func blockOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || isScalar(t) {
		return nil
	}
	return t
}

// writeBlock writes a table of the keys of a block, then the blocks in it.
func writeBlock(page *bytes.Buffer, words comments, typ reflect.Type, path string) {
	if path != "" {
		fmt.Fprintf(page, "\n### `%s`\n", path)
	}
	fmt.Fprint(page, "\n| key | value | default | |\n| --- | --- | --- | --- |\n")
	fields := fieldsOf(typ)
	for _, f := range fields {
		fmt.Fprintf(page, "| `%s` | %s | %s | %s |\n", f.key, valueOf(f), defaultOf(f), words.of(typ, f))
	}
	for _, f := range fields {
		block, at := blockOf(f.typ), join(path, f.key)
		switch {
		case block == nil:
			continue
		case f.typ.Kind() == reflect.Slice:
			at += "[]"
		case f.typ.Kind() == reflect.Map:
			at += ".NAME"
		}
		writeBlock(page, words, block, at)
	}
}

// valueOf says what a key's value looks like.
func valueOf(f field) string {
	switch {
	case f.typ.Kind() == reflect.Map:
		return "blocks by name"
	case f.typ.Kind() == reflect.Slice && blockOf(f.typ) != nil:
		return "list of blocks"
	case f.typ.Kind() == reflect.Slice:
		item := f
		item.typ = f.typ.Elem()
		return "list: " + valueOf(item)
	case blockOf(f.typ) != nil:
		return "block"
	}
	return kindOf(f) + boundsOf(f.tag)
}

// formNames say what the forms of texts are.
var formNames = map[string]string{
	"listen": "[host]:port", "dial": "host:port", "domain": "domain", "name": "name", "file": "file name", "dir": "directory", "path": "path of a URL",
	"database": "sqlite:FILE or postgres://…", "nats": "URL", "uri": "URI", "pattern": "regular expression", "alpn": "protocol",
	"ldap": "ldap://… or ldaps://…", "https": "URL", "keys": "URL or file",
	"server-name": "server name", "user-pattern": "regular expression", "token": "word", "claim": "claim", "mechanism": "SASL mechanism",
}

func kindOf(f field) string {
	if f.typ.Kind() == reflect.Pointer {
		f.typ = f.typ.Elem()
	}
	switch v := reflect.New(f.typ).Elem().Interface().(type) {
	case choice:
		return "`" + strings.Join(v.choices(), "`, `") + "`"
	case time.Duration:
		return "duration"
	case Size:
		return "size"
	case netip.Prefix:
		return "network"
	case netip.Addr:
		return "address"
	case bool:
		return "`true`, `false`"
	case int:
		return "whole number"
	case float64:
		return "number"
	}
	if name, ok := formNames[f.tag.form]; ok {
		return name
	}
	return "text"
}

func boundsOf(tag fieldTag) string {
	switch {
	case tag.min != "" && tag.max != "":
		return fmt.Sprintf(", %s to %s", tag.min, tag.max)
	case tag.min != "":
		return fmt.Sprintf(", at least %s", tag.min)
	case tag.max != "":
		return fmt.Sprintf(", at most %s", tag.max)
	}
	return ""
}

func defaultOf(f field) string {
	switch {
	case f.tag.required != "":
		return "required"
	case f.tag.def == "":
		return ""
	case f.typ.Kind() == reflect.Slice:
		return "`[" + strings.ReplaceAll(f.tag.def, ",", ", ") + "]`"
	}
	return "`" + f.tag.def + "`"
}

// schemaOf describes the values of a type in JSON Schema, draft 7, which editors
// know.
func schemaOf(words comments, t reflect.Type, tag fieldTag) map[string]any {
	switch {
	case t.Kind() == reflect.Pointer:
		return schemaOf(words, t.Elem(), tag)
	case isScalar(t):
		return scalarSchema(t, tag)
	case t.Kind() == reflect.Slice:
		item := tag
		item.def, item.required = "", ""
		s := map[string]any{"type": "array", "items": schemaOf(words, t.Elem(), item)}
		if tag.required != "" {
			s["minItems"] = 1
		}
		return s
	case t.Kind() == reflect.Map:
		s := map[string]any{
			"type": "object", "additionalProperties": schemaOf(words, t.Elem(), fieldTag{}),
			"propertyNames": map[string]any{"pattern": namePattern.String()},
		}
		if tag.required != "" {
			s["minProperties"] = 1
		}
		return s
	}
	return blockSchema(words, t)
}

func blockSchema(words comments, t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for _, f := range fieldsOf(t) {
		s := schemaOf(words, f.typ, f.tag)
		s["description"] = strings.ReplaceAll(words.of(t, f), "`", "")
		if f.tag.def != "" {
			s["default"] = defaultValue(f)
		}
		properties[f.key] = s
		if needed(f) {
			required = append(required, f.key)
		}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// needed reports whether a document has to have a key: it is required, or a block
// that is always there and has such keys.
func needed(f field) bool {
	if f.tag.required != "" {
		return true
	}
	return f.typ.Kind() == reflect.Struct && !isScalar(f.typ) && slices.ContainsFunc(fieldsOf(f.typ), needed)
}

func defaultValue(f field) any {
	var v any
	text := f.tag.def
	if f.typ.Kind() == reflect.Slice {
		text = "[" + strings.ReplaceAll(text, "::1/128", `"::1/128"`) + "]"
	}
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		panic("default of " + f.key + ": " + err.Error())
	}
	return v
}

func scalarSchema(t reflect.Type, tag fieldTag) map[string]any {
	switch v := reflect.New(t).Elem().Interface().(type) {
	case choice:
		return map[string]any{"enum": v.choices()}
	case time.Duration:
		return map[string]any{"type": []string{"string", "integer"}, "pattern": `^([0-9]+(\.[0-9]*)?(ns|us|µs|ms|s|m|h))+$|^0$`, "maximum": 0}
	case Size:
		return map[string]any{"type": []string{"string", "integer"}, "pattern": `^[0-9]+ *([GMK]iB|[GMkK]B|B)?$`, "minimum": 0}
	case bool:
		return map[string]any{"type": "boolean"}
	case int:
		return bounded(map[string]any{"type": "integer"}, tag)
	case float64:
		return bounded(map[string]any{"type": "number"}, tag)
	}
	s := map[string]any{"type": "string"}
	if tag.form == "name" {
		s["pattern"] = namePattern.String()
	}
	return s
}

func bounded(s map[string]any, tag fieldTag) map[string]any {
	if tag.min != "" {
		s["minimum"] = json.Number(tag.min)
	}
	if tag.max != "" {
		s["maximum"] = json.Number(tag.max)
	}
	return s
}
