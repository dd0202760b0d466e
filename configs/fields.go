package configs

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// field is one key of a block.
type field struct {
	key   string
	index []int
	typ   reflect.Type
	tag   fieldTag
}

// fieldTag is what a field's tags say about its values.
type fieldTag struct {
	def      string // default
	required string // the advice for whoever leaves it out; empty: optional
	form     string // name of the form that a text must have
	file     bool   // a file name
	min, max string // bounds, written like a value
}

// fieldsOf lists the keys of a block in the order of its type.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for f := range t.Fields() {
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		form := f.Tag.Get("is")
		fields = append(fields, field{key: key, index: f.Index, typ: f.Type, tag: fieldTag{
			def:      f.Tag.Get("default"),
			required: f.Tag.Get("required"),
			form:     form,
			file:     form == "file" || form == "dir" || form == "database" || form == "keys",
			min:      f.Tag.Get("min"),
			max:      f.Tag.Get("max"),
		}})
	}
	return fields
}

func find(fields []field, key string) (field, bool) {
	for _, f := range fields {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

// is checks a text against the form that its field asks for.
func (t fieldTag) is(text string) error {
	check, ok := forms[t.form]
	if !ok {
		return nil
	}
	return check(text)
}

// inRange checks a number, duration or size against its bounds.
func (t fieldTag) inRange(v reflect.Value) error {
	n, ok := magnitude(v)
	if !ok {
		return nil
	}
	if t.min != "" && n < t.bound(v, t.min) {
		return fmt.Errorf("%v is too small; the least is %s", v.Interface(), t.min)
	}
	if t.max != "" && n > t.bound(v, t.max) {
		return fmt.Errorf("%v is too large; the most is %s", v.Interface(), t.max)
	}
	return nil
}

// bound reads a bound as a value of v's type.
func (t fieldTag) bound(v reflect.Value, text string) float64 {
	b := reflect.New(v.Type()).Elem()
	if err := readScalar(b, text); err != nil {
		panic("bound " + strconv.Quote(text) + ": " + err.Error()) // a mistake in a tag, which the tests find
	}
	n, _ := magnitude(b)
	return n
}

// magnitude returns a value that can be compared with others of its type.
func magnitude(v reflect.Value) (float64, bool) {
	switch n := v.Interface().(type) {
	case time.Duration:
		return float64(n), true
	case Size:
		return float64(n), true
	case int:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// The keys on the first level of each document.
var (
	proxyFields = fieldsOf(reflect.TypeFor[Proxy]())
	nodeFields  = fieldsOf(reflect.TypeFor[Node]())
)
