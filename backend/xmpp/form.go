package xmpp

// A Form is a data form (XEP-0004).
type Form struct {
	Type         string // "form", "submit", "cancel" or "result"
	Title        string
	Instructions string
	Fields       []FormField
}

// A FormField is one field of a form. What is empty is left out.
type FormField struct {
	Var      string
	Type     string // such as "text-single"
	Label    string
	Required bool
	Values   []string
	Options  []string // of a list, each its own label
}

// FormType is the field that says what a form's other fields mean (XEP-0068).
const FormType = "FORM_TYPE"

// ParseForm reads an <x/> element of jabber:x:data; ok is false if e is none, has no
// type or has two fields of one name. Of a field it reads what somebody who submits a
// form says.
func ParseForm(e Element) (f Form, ok bool) {
	if !e.Is(NSDataForm, "x") {
		return f, false
	}
	f.Type, _ = e.Attr("type")
	seen := make(map[string]bool)
	for child := range e.Children() {
		if !child.Is(NSDataForm, "field") {
			continue
		}
		field := readField(child)
		if field.Var == "" { // it says nothing
			continue
		}
		if seen[field.Var] {
			return f, false
		}
		seen[field.Var] = true
		f.Fields = append(f.Fields, field)
	}
	return f, f.Type != ""
}

func readField(e Element) FormField {
	var f FormField
	f.Var, _ = e.Attr("var")
	f.Type, _ = e.Attr("type")
	for v := range e.Children() {
		if v.Is(NSDataForm, "value") {
			f.Values = append(f.Values, v.Text())
		}
	}
	return f
}

// Values returns the values of a field.
func (f Form) Values(name string) []string {
	for _, field := range f.Fields {
		if field.Var == name {
			return field.Values
		}
	}
	return nil
}

// Value returns the first value of a field, or "".
func (f Form) Value(name string) string {
	if values := f.Values(name); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Append appends the form as an element.
func (f Form) Append(dst []byte) []byte {
	dst = append(dst, "<x xmlns='"+NSDataForm+"'"...)
	dst = appendAttr(dst, Attr{"type", f.Type})
	dst = append(dst, '>')
	dst = appendTextElement(dst, "title", f.Title)
	dst = appendTextElement(dst, "instructions", f.Instructions)
	for _, field := range f.Fields {
		dst = field.append(dst)
	}
	return append(dst, "</x>"...)
}

func (f FormField) append(dst []byte) []byte {
	dst = append(dst, "<field"...)
	dst = appendAttr(dst, Attr{"var", f.Var})
	dst = appendAttr(dst, Attr{"type", f.Type})
	dst = appendAttr(dst, Attr{"label", f.Label})
	dst = append(dst, '>')
	if f.Required {
		dst = append(dst, "<required/>"...)
	}
	for _, v := range f.Values {
		dst = appendValue(dst, v)
	}
	for _, o := range f.Options {
		dst = append(dst, "<option"...)
		dst = appendAttr(dst, Attr{"label", o})
		dst = append(dst, '>')
		dst = appendValue(dst, o)
		dst = append(dst, "</option>"...)
	}
	return append(dst, "</field>"...)
}

func appendValue(dst []byte, v string) []byte {
	dst = append(dst, "<value>"...)
	dst = AppendEscaped(dst, v)
	return append(dst, "</value>"...)
}

// appendTextElement appends an element that has only text, if there is any.
func appendTextElement(dst []byte, name, text string) []byte {
	if text == "" {
		return dst
	}
	dst = append(append(append(dst, '<'), name...), '>')
	dst = AppendEscaped(dst, text)
	return append(append(append(dst, "</"...), name...), '>')
}
