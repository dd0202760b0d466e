package backend

// Contacts are the addresses of those who run the service (XEP-0157), each a URI.
type Contacts struct {
	Abuse    []string
	Admin    []string
	Feedback []string
	Sales    []string
	Security []string
	Status   []string
	Support  []string
}

// form is how service discovery shows them (XEP-0157 §2); ok is false when there are none.
func (c Contacts) form() (form discoForm, ok bool) {
	form.kind = "http://jabber.org/network/serverinfo"
	for _, f := range []discoField{
		{"abuse-addresses", "list-multi", c.Abuse},
		{"admin-addresses", "list-multi", c.Admin},
		{"feedback-addresses", "list-multi", c.Feedback},
		{"sales-addresses", "list-multi", c.Sales},
		{"security-addresses", "list-multi", c.Security},
		{"status-addresses", "list-multi", c.Status},
		{"support-addresses", "list-multi", c.Support},
	} {
		if len(f.values) > 0 {
			form.fields = append(form.fields, f)
		}
	}
	return form, len(form.fields) > 0
}
