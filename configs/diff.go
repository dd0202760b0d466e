package configs

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Change is one difference between two documents.
type Change struct {
	// Keys lead to it: pools, chat, check, interval. An item of a list that has
	// a name is led to by its name, as in listeners, xmpp, address.
	Keys []string
	// Old and New are written as in a document; empty where there is nothing.
	Old, New string
}

// Path joins the keys with dots.
func (c Change) Path() string { return strings.Join(c.Keys, ".") }

// String returns "pools.chat.check.interval: 1s → 2s".
func (c Change) String() string {
	switch {
	case c.Old == "":
		return c.Path() + ": added " + c.New
	case c.New == "":
		return c.Path() + ": removed " + c.Old
	}
	return c.Path() + ": " + c.Old + " → " + c.New
}

// Changes are the differences between two documents, in the order of the type's
// keys; names in the order of the alphabet.
type Changes []Change

// Under returns the changes in a block, like Under("pools", "chat").
func (cs Changes) Under(block ...string) Changes {
	var under Changes
	for _, c := range cs {
		if n := min(len(block), len(c.Keys)); slices.Equal(c.Keys[:n], block[:n]) {
			under = append(under, c)
		}
	}
	return under
}

// Names returns which names below a block have changes: Names("pools") are the
// pools that were added, removed or changed.
func (cs Changes) Names(block ...string) []string {
	names := map[string]bool{}
	for _, c := range cs.Under(block...) {
		if len(c.Keys) > len(block) {
			names[c.Keys[len(block)]] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Diff returns what is different in another document of a front, defaults
// included.
func Diff(from, to Proxy) Changes {
	var d differ
	d.compare(nil, reflect.ValueOf(from), reflect.ValueOf(to))
	return d.changes
}

// differ collects changes.
type differ struct{ changes Changes }

func (d *differ) compare(keys []string, from, to reflect.Value) {
	if reflect.DeepEqual(from.Interface(), to.Interface()) {
		return
	}
	typ := from.Type()
	switch {
	case typ.Kind() == reflect.Pointer:
		if from.IsNil() || to.IsNil() {
			d.add(keys, from, to)
			return
		}
		d.compare(keys, from.Elem(), to.Elem())
	case isScalar(typ):
		d.add(keys, from, to)
	case typ.Kind() == reflect.Struct:
		for _, f := range fieldsOf(typ) {
			d.compare(with(keys, f.key), from.FieldByIndex(f.index), to.FieldByIndex(f.index))
		}
	case typ.Kind() == reflect.Map:
		d.compareNamed(keys, ofMap(from), ofMap(to))
	default:
		before, ok1 := ofList(from)
		after, ok2 := ofList(to)
		if !ok1 || !ok2 || slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) && sameItems(before, after) {
			d.add(keys, from, to)
			return
		}
		d.compareNamed(keys, before, after)
	}
}

// sameItems reports whether named items are equal, so that only their order can
// differ.
func sameItems(a, b map[string]reflect.Value) bool {
	for name, v := range a {
		if !reflect.DeepEqual(v.Interface(), b[name].Interface()) {
			return false
		}
	}
	return true
}

func (d *differ) compareNamed(keys []string, from, to map[string]reflect.Value) {
	all := maps.Clone(from)
	maps.Copy(all, to)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		before, ok1 := from[name]
		after, ok2 := to[name]
		if ok1 && ok2 {
			d.compare(with(keys, name), before, after)
			continue
		}
		d.add(with(keys, name), before, after)
	}
}

func (d *differ) add(keys []string, from, to reflect.Value) {
	if from.IsValid() && from.Kind() == reflect.Slice && isScalar(from.Type().Elem()) && to.IsValid() && max(from.Len(), to.Len()) > manyItems {
		d.addLong(keys, from, to)
		return
	}
	d.changes = append(d.changes, Change{Keys: keys, Old: brief(from), New: brief(to)})
}

// manyItems is how many items of a list are told at most.
const manyItems = 20

// addLong tells what went from a long list, and what came.
func (d *differ) addLong(keys []string, from, to reflect.Value) {
	went, came := lacking(from, to), lacking(to, from)
	if went.Len() > 0 {
		d.changes = append(d.changes, Change{Keys: keys, Old: briefList(went)})
	}
	if came.Len() > 0 {
		d.changes = append(d.changes, Change{Keys: keys, New: briefList(came)})
	}
	if went.Len()+came.Len() == 0 {
		d.changes = append(d.changes, Change{Keys: keys, Old: fmt.Sprintf("%d in one order", from.Len()), New: fmt.Sprintf("%d in another", to.Len())})
	}
}

// lacking returns the items of a list that another does not have.
func lacking(list, other reflect.Value) reflect.Value {
	there := make(map[any]bool, other.Len())
	for i := range other.Len() {
		there[other.Index(i).Interface()] = true
	}
	missing := reflect.Zero(list.Type())
	for i := range list.Len() {
		if item := list.Index(i); !there[item.Interface()] {
			missing = reflect.Append(missing, item)
		}
	}
	return missing
}

func briefList(list reflect.Value) string {
	if more := list.Len() - manyItems; more > 0 {
		return fmt.Sprintf("%s and %d more", brief(list.Slice(0, manyItems)), more)
	}
	return brief(list)
}

// with appends a key without touching the list that others append to as well.
func with(keys []string, key string) []string {
	return append(slices.Clip(keys), key)
}

func ofMap(v reflect.Value) map[string]reflect.Value {
	items := make(map[string]reflect.Value, v.Len())
	for key, item := range v.Seq2() {
		items[key.String()] = item
	}
	return items
}

// ofList returns the items of a list by their names, false when they have none.
func ofList(v reflect.Value) (map[string]reflect.Value, bool) {
	if v.Type().Elem().Kind() != reflect.Struct || isScalar(v.Type().Elem()) {
		return nil, false
	}
	if f, ok := find(fieldsOf(v.Type().Elem()), "name"); !ok || f.tag.form != "name" {
		return nil, false
	}
	items := make(map[string]reflect.Value, v.Len())
	for i := range v.Len() {
		items[v.Index(i).FieldByName("Name").String()] = v.Index(i)
	}
	return items, true
}

// brief writes a value in one line; nothing is "" when it is not there, and (none)
// when it is there and empty.
func brief(v reflect.Value) string {
	if !v.IsValid() || v.Kind() == reflect.Pointer && v.IsNil() {
		return ""
	}
	if v.Kind() == reflect.String && v.Len() == 0 || v.Kind() == reflect.Slice && v.Len() == 0 {
		return "(none)"
	}
	text, err := yaml.MarshalWithOptions(v.Interface(), yaml.Flow(true))
	if err != nil {
		return fmt.Sprint(v.Interface())
	}
	return strings.TrimSpace(string(text))
}
