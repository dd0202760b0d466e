package configs

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxNodes bounds the work that aliases can make out of a small document.
const maxNodes = 50_000

// maxNesting is more than any document of ours has in levels.
const maxNesting = 32

// maxDocument is the largest document that is read, in bytes. Consul's KV store
// holds at most 512 KiB in a key.
const maxDocument = 1 << 20

// decoder turns one document into a value of one of this package's types and
// collects everything that is wrong with it.
type decoder struct {
	file    string
	dir     string // relative file names are taken from here; empty: they stay
	anchors map[string]ast.Node
	places  map[string]place // where each path is
	nodes   int              // visited so far, against maxNodes
	errs    Errors

	understood bool // the document is YAML, so that its parts can be looked at
}

// place is a position in the document, line and column counted from 1.
type place struct{ line, column int }

func newDecoder(file, dir string) *decoder {
	return &decoder{file: file, dir: dir, anchors: map[string]ast.Node{}, places: map[string]place{}}
}

// decode fills the struct that into points to from data: defaults first, then
// what the document says. dir is where relative file names start. What is
// wrong is in the decoder afterwards.
func decode(file, dir string, data []byte, into any) *decoder {
	d := newDecoder(file, dir)
	v := reflect.ValueOf(into).Elem()
	fillDefaults(v)
	if body := d.parse(data); body != nil {
		d.understood = true
		d.value(v, body, fieldTag{}, "")
	}
	return d
}

// parse returns the document's only node, nil after an error.
func (d *decoder) parse(data []byte) ast.Node {
	if len(data) > maxDocument {
		d.fail(place{}, "", "the document has %d bytes; at most %d are read", len(data), maxDocument)
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if t := tooDeep(tokens); t != nil {
		d.fail(placeOfToken(t), "", "this is nested too deeply; no key is more than %d levels down", maxNesting)
		return nil
	}
	file, err := parseTokens(tokens)
	if err != nil {
		d.failSyntax(err)
		return nil
	}
	var body ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil:
		case body == nil:
			body = doc.Body
		default:
			d.fail(placeOf(doc.Body), "", "a second document starts here; keep one document in a file")
			return nil
		}
	}
	if body == nil {
		d.fail(place{}, "", "the document is empty")
		return nil
	}
	ast.Walk(anchorVisitor(d.anchors), body)
	return body
}

// errParser stands for a panic of the YAML parser.
var errParser = errors.New("the parser gave up on it")

// parseTokens keeps a panic of the parser from taking a running front with it:
// a new document comes to it while it serves.
func parseTokens(tokens token.Tokens) (file *ast.File, err error) {
	defer func() {
		if recover() != nil {
			file, err = nil, errParser
		}
	}()
	return parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
}

// tooDeep returns the token at which brackets, or the marks before one value,
// are nested deeper than any document of ours can be. The parser's work grows
// with the square of that depth, and its stack with it.
func tooDeep(tokens token.Tokens) *token.Token {
	brackets, marks, line := 0, 0, 0
	for _, t := range tokens {
		if t.Position.Line != line {
			marks, line = 0, t.Position.Line
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			brackets++
		case token.MappingEndType, token.SequenceEndType:
			brackets--
		case token.SequenceEntryType, token.MappingKeyType, token.AnchorType, token.TagType:
			marks++
		default:
		}
		if brackets > maxNesting || marks > maxNesting*maxNesting {
			return t
		}
	}
	return nil
}

// failSyntax reports what the YAML parser could not read.
func (d *decoder) failSyntax(err error) {
	e, ok := errors.AsType[yaml.Error](err)
	if !ok {
		d.fail(place{}, "", "this is not YAML: %v", err)
		return
	}
	// Not its Error, which draws the lines around the place, at a cost that grows
	// with the square of the document.
	d.fail(placeOfToken(e.GetToken()), "", "this is not YAML: %s", e.GetMessage())
}

// anchorVisitor collects what &name marks.
type anchorVisitor map[string]ast.Node

// Visit implements ast.Visitor.
func (a anchorVisitor) Visit(n ast.Node) ast.Visitor {
	if anchor, ok := n.(*ast.AnchorNode); ok && anchor.Name != nil {
		a[anchor.Name.GetToken().Value] = anchor.Value
	}
	return a
}

func (d *decoder) fail(at place, path, format string, args ...any) {
	d.errs = append(d.errs, &Error{
		File: d.file, Line: at.line, Column: at.column, Path: path, Message: fmt.Sprintf(format, args...),
	})
}

// failAt reports an error at a path, or at the nearest thing around it that the
// document has.
func (d *decoder) failAt(path, format string, args ...any) {
	d.fail(d.placeOfPath(path), path, format, args...)
}

// refuse reports what makes no sense at a path, unless something around it,
// in it or there was wrong before: that comes first.
func (d *decoder) refuse(path, format string, args ...any) {
	for _, e := range d.errs {
		if within(e.Path, path) || within(path, e.Path) {
			return
		}
	}
	d.failAt(path, format, args...)
}

// within reports whether a path is that of a block or of something in it.
func within(path, block string) bool {
	rest, ok := strings.CutPrefix(path, block)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (d *decoder) placeOfPath(path string) place {
	for {
		if at, ok := d.places[path]; ok || path == "" {
			return at
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

func placeOf(n ast.Node) place {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		n = m.Values[0].Key
	}
	return placeOfToken(n.GetToken())
}

func placeOfToken(t *token.Token) place {
	if t == nil || t.Position == nil {
		return place{}
	}
	return place{line: t.Position.Line, column: t.Position.Column}
}

// value decodes n, which is at path, into v.
func (d *decoder) value(v reflect.Value, n ast.Node, tag fieldTag, path string) {
	n, ok := d.resolve(n, path)
	if !ok {
		return
	}
	if _, seen := d.places[path]; !seen {
		d.places[path] = placeOf(n)
	}
	switch {
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillDefaults(v.Elem())
		d.value(v.Elem(), n, tag, path)
	case isScalar(v.Type()):
		d.scalar(v, n, tag, path)
	case v.Kind() == reflect.Struct:
		d.structure(v, n, path)
	case v.Kind() == reflect.Map:
		d.mapping(v, n, tag, path)
	default:
		d.sequence(v, n, tag, path)
	}
}

// resolve follows anchors, aliases and tags to what they stand for.
func (d *decoder) resolve(n ast.Node, path string) (ast.Node, bool) {
	for {
		if !d.spend(1, n, path) {
			return nil, false
		}
		switch t := n.(type) {
		case *ast.AnchorNode:
			n = t.Value
		case *ast.TagNode:
			n = t.Value
		case *ast.AliasNode:
			target, ok := d.anchors[t.Value.GetToken().Value]
			if !ok {
				d.fail(placeOf(n), path, "nothing is marked &%s", t.Value.GetToken().Value)
				return nil, false
			}
			n = target
		default:
			return n, n != nil
		}
	}
}

// spend counts nodes against maxNodes, and says once when that is reached.
func (d *decoder) spend(count int, n ast.Node, path string) bool {
	if d.nodes > maxNodes {
		return false
	}
	if d.nodes += count; d.nodes > maxNodes {
		d.fail(placeOf(n), path, "the document is too large, or its aliases stand for too much")
		return false
	}
	return true
}

// pair is a key with its value in a mapping.
type pair struct {
	key   string
	at    place
	value ast.Node
}

// pairs lists what a mapping holds; what is merged in with << comes last, without
// the keys that the mapping has itself.
func (d *decoder) pairs(n ast.Node, path string) ([]pair, bool) {
	values, ok := mappingValues(n)
	if !ok {
		d.fail(placeOf(n), path, "this is %s; write keys with values", describe(n))
		return nil, false
	}
	if !d.spend(len(values), n, path) {
		return nil, false
	}
	var own, merged []pair
	seen := map[string]place{}
	for _, mv := range values {
		if mv.Key.IsMergeKey() {
			merged = append(merged, d.merged(mv.Value, path)...)
			continue
		}
		p := pair{key: mv.Key.GetToken().Value, at: placeOfToken(mv.Key.GetToken()), value: mv.Value}
		if first, ok := seen[p.key]; ok {
			d.fail(p.at, join(path, p.key), "the key is there twice, first in line %d", first.line)
			continue
		}
		seen[p.key] = p.at
		own = append(own, p)
	}
	for _, p := range merged {
		if _, ok := seen[p.key]; !ok {
			seen[p.key] = p.at
			own = append(own, p)
		}
	}
	return own, true
}

// merged lists what << brings in from one mapping or from a list of them.
func (d *decoder) merged(n ast.Node, path string) []pair {
	n, ok := d.resolve(n, path)
	if !ok {
		return nil
	}
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		pairs, _ := d.pairs(n, path)
		return pairs
	}
	var all []pair
	for _, item := range list.Values {
		all = append(all, d.merged(item, path)...)
	}
	return all
}

func mappingValues(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch t := n.(type) {
	case *ast.MappingNode:
		return t.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{t}, true
	}
	return nil, false
}

// structure decodes a mapping whose keys are the fields of a struct.
func (d *decoder) structure(v reflect.Value, n ast.Node, path string) {
	if isNull(n) {
		d.fail(placeOf(n), path, "has no value; write {} for a block of defaults, or leave the key out")
		return
	}
	fields := fieldsOf(v.Type())
	pairs, ok := d.pairs(n, path)
	if !ok {
		return
	}
	given := map[string]bool{}
	for _, p := range pairs {
		at := join(path, p.key)
		f, ok := find(fields, p.key)
		if !ok {
			meant, advice := suggestKey(p.key, fields)
			given[meant] = true // said once; not missing on top of it
			d.fail(p.at, at, "unknown key; %s", advice)
			continue
		}
		given[p.key] = true
		d.places[at] = p.at
		d.value(v.FieldByIndex(f.index), p.value, f.tag, at)
	}
	d.missing(v, fields, given, path)
}

// missing reports required keys that are not given, also those within blocks
// that are left out but not optional.
func (d *decoder) missing(v reflect.Value, fields []field, given map[string]bool, path string) {
	for _, f := range fields {
		at := join(path, f.key)
		switch {
		case given[f.key]:
		case f.tag.required != "":
			d.failAt(at, "is missing; %s", f.tag.required)
		case f.typ.Kind() == reflect.Struct && !isScalar(f.typ):
			d.missing(v.FieldByIndex(f.index), fieldsOf(f.typ), nil, at)
		}
	}
}

// mapping decodes a mapping whose keys are names that the document gives.
func (d *decoder) mapping(v reflect.Value, n ast.Node, tag fieldTag, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	pairs, ok := d.pairs(n, path)
	for _, p := range pairs {
		at := join(path, p.key)
		d.places[at] = p.at
		if err := tag.is(p.key); err != nil {
			d.fail(p.at, at, "%v", err)
		}
		item := reflect.New(v.Type().Elem()).Elem()
		fillDefaults(item)
		d.value(item, p.value, fieldTag{}, at)
		v.SetMapIndex(reflect.ValueOf(p.key), item)
	}
	if ok && len(pairs) == 0 && tag.required != "" {
		d.failAt(path, "is empty; %s", tag.required)
	}
}

// sequence decodes a list.
func (d *decoder) sequence(v reflect.Value, n ast.Node, tag fieldTag, path string) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fail(placeOf(n), path, "this is %s; write a list, like [a, b]", describe(n))
		return
	}
	out := reflect.Zero(v.Type()) // an empty list is nil, as one that is left out
	for i, item := range list.Values {
		e := reflect.New(v.Type().Elem()).Elem()
		fillDefaults(e)
		d.value(e, item, tag, fmt.Sprintf("%s[%d]", path, i))
		out = reflect.Append(out, e)
	}
	if out.Len() == 0 && tag.required != "" {
		d.failAt(path, "is empty; %s", tag.required)
	}
	v.Set(out)
}

// scalar decodes a text, a number, a duration or the like.
func (d *decoder) scalar(v reflect.Value, n ast.Node, tag fieldTag, path string) {
	if isNull(n) {
		d.fail(placeOf(n), path, "has no value; give it one or leave the key out")
		return
	}
	text, ok := scalarText(n)
	if !ok {
		d.fail(placeOf(n), path, "this is %s; write a single value", describe(n))
		return
	}
	if err := setScalar(v, text, tag); err != nil {
		d.fail(placeOf(n), path, "%v", err)
		return
	}
	if tag.file && d.dir != "" && text != "" {
		v.SetString(inDir(d.dir, text))
	}
}

// scalarText returns a scalar as it is written, without quotes.
func scalarText(n ast.Node) (string, bool) {
	switch t := n.(type) {
	case *ast.StringNode:
		return t.Value, true
	case *ast.LiteralNode:
		return t.Value.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func isNull(n ast.Node) bool {
	_, ok := n.(*ast.NullNode)
	return ok
}

// describe names the kind of a node for a message.
func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a block of keys"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "empty"
	}
	return "a single value"
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// isScalar reports whether values of the type are written as one YAML scalar.
func isScalar(t reflect.Type) bool {
	if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer:
		return false
	default:
		return true
	}
}

// setScalar reads text into v and checks it against its field's tag.
func setScalar(v reflect.Value, text string, tag fieldTag) error {
	if err := readScalar(v, text); err != nil {
		return err
	}
	if err := tag.inRange(v); err != nil {
		return err
	}
	if v.Kind() == reflect.String {
		return tag.is(text)
	}
	return nil
}

func readScalar(v reflect.Value, text string) error {
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		t, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration; write a number with its unit, like 500ms, 30s or 5m", text)
		}
		*p = t
		return nil
	case encoding.TextUnmarshaler:
		return readText(p, text)
	}
	if c, ok := v.Interface().(choice); ok {
		if err := oneOf(text, c.choices()); err != nil {
			return err
		}
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Int:
		base := 10
		if strings.HasPrefix(text, "0x") {
			base = 0
		}
		n, err := strconv.ParseInt(text, base, 0)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		v.SetInt(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || f-f != 0 { // neither infinite nor NaN
			return fmt.Errorf("%q is not a number", text)
		}
		v.SetFloat(f)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(text == "true")
	default:
		return fmt.Errorf("a %s cannot be read", v.Type()) // a field type that this package does not use
	}
	return nil
}

// readText reads one of the types that read themselves, and words what is wrong.
func readText(p encoding.TextUnmarshaler, text string) error {
	err := p.UnmarshalText([]byte(text))
	if addr, ok := p.(*netip.Addr); ok {
		if err != nil || text == "" || addr.IsUnspecified() || addr.IsMulticast() {
			return fmt.Errorf("%q is not the address of an interface; write it like 10.0.0.7 or fd00::7", text)
		}
		*addr = addr.Unmap()
		return nil
	}
	if _, ok := p.(*Size); ok || err == nil && text != "" {
		if network, ok := p.(*netip.Prefix); ok {
			*network = unmapped(*network)
		}
		return err
	}
	return fmt.Errorf("%q is not a network; write it like 10.0.0.0/8 or ::1/128", text)
}

// unmapped returns a network of IPv4 addresses in IPv6 notation as one of IPv4, which is
// what addresses are compared as.
func unmapped(n netip.Prefix) netip.Prefix {
	if n.Addr().Is4In6() && n.Bits() >= 96 {
		return netip.PrefixFrom(n.Addr().Unmap(), n.Bits()-96)
	}
	return n
}

// fillDefaults gives all fields of a struct, and of the structs in it, the value
// of their default tag. Blocks behind pointers stay nil.
func fillDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct || isScalar(v.Type()) {
		return
	}
	for _, f := range fieldsOf(v.Type()) {
		to := v.FieldByIndex(f.index)
		switch {
		case f.tag.def == "":
			fillDefaults(to)
		case to.Kind() == reflect.Slice:
			for text := range strings.SplitSeq(f.tag.def, ",") {
				e := reflect.New(to.Type().Elem()).Elem()
				mustSet(e, text, f)
				to.Set(reflect.Append(to, e))
			}
		default:
			mustSet(to, f.tag.def, f)
		}
	}
}

// mustSet sets a default; a default that its own type refuses is a mistake in
// this package, which the tests find.
func mustSet(v reflect.Value, text string, f field) {
	if err := setScalar(v, text, f.tag); err != nil {
		panic(fmt.Sprintf("default of %s: %v", f.key, err))
	}
}

// Defaults returns a T with all defaults filled in, for those who build
// a configuration in code.
func Defaults[T Proxy | Node | Listener | WebSocket | Identify | Pool | PoolNode | Registration]() T {
	var t T
	fillDefaults(reflect.ValueOf(&t).Elem())
	return t
}

// inDir takes a relative file name, or the one in an SQLite URL, from dir.
func inDir(dir, text string) string {
	if IsURL(text) {
		return text
	}
	path, isSQLite := strings.CutPrefix(text, sqliteScheme)
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	if isSQLite {
		return sqliteScheme + path
	}
	return path
}
