package secrets

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// MaxSize is the largest text that Parse takes, in bytes.
const MaxSize = 64 << 10

// LineError says what is wrong with a ring's text, where, and what to do about it.
// It quotes nothing, because what stands in the wrong place may be the secret.
type LineError struct {
	Line    int // from 1; 0: the text as a whole
	Problem string
	Cure    string
}

// Error returns all of it.
func (e *LineError) Error() string {
	if e.Line == 0 {
		return e.Problem + "; " + e.Cure
	}
	return fmt.Sprintf("line %d: %s; %s", e.Line, e.Problem, e.Cure)
}

// The name of the secret that does not rotate, and what each line looks like.
const (
	staticName = "static"
	makeOne    = "make one with: openssl rand -base64 32"
	form       = "a line is a time, a space and a secret, like 2026-01-31T12:00:00Z and what openssl rand -base64 32 says"
)

// Parse reads a ring. Each line has a time and a secret, the newest first:
//
//	# a comment
//	static               3q2+7w…          at most one: what does not rotate
//	2026-01-31T12:00:00Z mZ0Hh…           RFC 3339
//	1769817600           9f86d081884c7d…  or seconds since 1970
//
// A secret is 32 to 1024 bytes in base64 (either alphabet, padded or not) or, when
// it has nothing but an even number of hexadecimal digits, in hexadecimal. The
// error is a *LineError.
func Parse(text []byte) (Ring, error) {
	var r Ring
	if len(text) > MaxSize {
		return r, &LineError{Problem: fmt.Sprintf("there are %d bytes", len(text)), Cure: fmt.Sprintf("at most %d can be a ring", MaxSize)}
	}
	seen := make(map[string]int) // material to line
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		if err := r.parseLine(strings.TrimSpace(line), n, seen); err != nil {
			return Ring{}, err
		}
	}
	if len(r.secrets) == 0 {
		return Ring{}, &LineError{Problem: "there is no secret", Cure: form}
	}
	return r, nil
}

// parseLine adds what line n says.
func (r *Ring) parseLine(line string, n int, seen map[string]int) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	fields := strings.Fields(line)
	if len(fields) != 2 {
		return &LineError{n, fmt.Sprintf("there are %d words", len(fields)), form}
	}
	material, err := parseMaterial(fields[1], n)
	if err != nil {
		return err
	}
	if first := seen[material]; first > 0 {
		return &LineError{n, fmt.Sprintf("the secret is that of line %d", first), makeOne}
	}
	seen[material] = n
	if fields[0] == staticName {
		return r.addStatic(material, n)
	}
	return r.addSecret(fields[0], material, n)
}

func (r *Ring) addStatic(material string, n int) error {
	if r.static != "" {
		return &LineError{n, "this is a second static secret", "keep the one that the fronts use now"}
	}
	r.static = material
	return nil
}

func (r *Ring) addSecret(when, material string, n int) error {
	since, ok := parseTime(when)
	if !ok {
		return &LineError{n, "the time cannot be read", "write seconds since 1970, or RFC 3339 like 2026-01-31T12:00:00Z"}
	}
	if len(r.secrets) > 0 && since.After(r.secrets[len(r.secrets)-1].since) {
		return &LineError{n, "the secret is newer than the one before it", "put the newest first"}
	}
	if len(r.secrets) == maxSecrets {
		return &LineError{n, fmt.Sprintf("there are more than %d secrets", maxSecrets), "remove the oldest"}
	}
	r.secrets = append(r.secrets, secret{since: since, material: material})
	return nil
}

// parseMaterial reads the secret of line n.
func parseMaterial(s string, n int) (string, error) {
	b, err := hex.DecodeString(s)
	if err != nil {
		alphabet := base64.RawStdEncoding
		if strings.ContainsAny(s, "-_") {
			alphabet = base64.RawURLEncoding
		}
		b, err = alphabet.Strict().DecodeString(strings.TrimRight(s, "="))
	}
	switch {
	case err != nil:
		return "", &LineError{n, "the secret is neither base64 nor hexadecimal", makeOne}
	case len(b) < minMaterial:
		return "", &LineError{n, fmt.Sprintf("the secret has %d bytes, less than %d", len(b), minMaterial), makeOne}
	case len(b) > maxMaterial:
		return "", &LineError{n, fmt.Sprintf("the secret has %d bytes, more than %d", len(b), maxMaterial), makeOne}
	}
	return string(b), nil
}

// parseTime reads a time; fractions of seconds are left out.
func parseTime(s string) (time.Time, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		t := time.Unix(n, 0).UTC()
		return t, n >= 0 && t.Year() < 10000
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.UTC().Truncate(time.Second), err == nil && t.Unix() >= 0 && t.UTC().Year() < 10000
}

// Marshal returns the ring as Parse reads it. This is the secret itself.
func (r Ring) Marshal() []byte {
	var b strings.Builder
	b.WriteString("# The secrets of the fronts of one cluster, the newest first. Whoever reads this\n" +
		"# can read the TLS sessions that are resumed with them. The fronts rotate them.\n")
	if r.static != "" {
		b.WriteString(staticName + " " + base64.StdEncoding.EncodeToString([]byte(r.static)) + "\n")
	}
	for _, s := range r.secrets {
		b.WriteString(s.since.Format(time.RFC3339) + " " + base64.StdEncoding.EncodeToString([]byte(s.material)) + "\n")
	}
	return []byte(b.String())
}
