package identify

// fields are bytes that are read from the front; what is read shares their memory.
type fields []byte

// take reads n bytes.
func (f *fields) take(n int) (fields, bool) {
	if n > len(*f) {
		return nil, false
	}
	taken := (*f)[:n:n]
	*f = (*f)[n:]
	return taken, true
}

// number reads a big-endian number of 1 to 3 bytes.
func (f *fields) number(size int) (int, bool) {
	raw, ok := f.take(size)
	n := 0
	for _, b := range raw {
		n = n<<8 | int(b)
	}
	return n, ok
}

// vector reads what comes with its length before it, a number of 1 to 3 bytes.
func (f *fields) vector(size int) (fields, bool) {
	n, ok := f.number(size)
	if !ok {
		return nil, false
	}
	return f.take(n)
}
