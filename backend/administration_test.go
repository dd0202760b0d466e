package backend_test

// metric requires the value of a counter or gauge of a node.
func (c *cluster) metric(node int, name string, labels map[string]string, want float64) {
	c.t.Helper()
	if got := c.counter(node, name, labels); got != want {
		c.t.Errorf("%s%v is %v, want %v", name, labels, got, want)
	}
}

// counter returns the value of a counter or gauge of a node, 0 when there is none.
func (c *cluster) counter(node int, name string, labels map[string]string) float64 {
	c.t.Helper()
	families, err := c.nodes[node].metrics.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matches := true
			for _, l := range m.GetLabel() {
				matches = matches && labels[l.GetName()] == l.GetValue()
			}
			if matches {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() // it is one of the two
			}
		}
	}
	return 0
}
