package configs

import (
	"fmt"
	"slices"
	"strings"
)

// suggestKey says which key was probably meant, or else which ones there are.
func suggestKey(key string, fields []field) (meant, advice string) {
	keys := make([]string, len(fields))
	for i, f := range fields {
		keys[i] = f.key
	}
	if near, ok := nearest(key, keys); ok {
		return near, fmt.Sprintf("did you mean %q?", near)
	}
	return "", "the keys here are " + strings.Join(keys, ", ")
}

// oneOf checks that text is one of the choices.
func oneOf(text string, choices []string) error {
	if slices.Contains(choices, text) {
		return nil
	}
	list := strings.Join(choices, ", ")
	if near, ok := nearest(text, choices); ok {
		return fmt.Errorf("%q is not known here; did you mean %q? The choices are %s", text, near, list)
	}
	return fmt.Errorf("%q is not known here; the choices are %s", text, list)
}

// SuggestName says which of the names was probably meant, if one was, and which there are.
func SuggestName(name string, names []string) string {
	const most = 20 // that are listed
	if len(names) == 0 {
		return "there are none"
	}
	list := "there are " + strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		list += fmt.Sprintf(" and %d more", more)
	}
	if near, ok := nearest(name, names); ok {
		return fmt.Sprintf("did you mean %q? %s", near, "T"+list[1:])
	}
	return list
}

// nearest returns the candidate that takes the fewest typing mistakes to become
// word, if they are few enough to believe in. The beginning of a word counts as
// one mistake.
func nearest(word string, candidates []string) (string, bool) {
	best, fewest := "", max(1, len(word)/3)+1
	if len(word) > 64 { // no key is; and the distance takes quadratic time
		return "", false
	}
	for _, c := range candidates {
		if n := mistakes(normal(word), normal(c)); n < fewest {
			best, fewest = c, n
		}
	}
	return best, best != ""
}

func mistakes(word, candidate string) int {
	n := distance(word, candidate)
	if short := min(len(word), len(candidate)); short >= 3 && word[:short] == candidate[:short] {
		return min(n, 1)
	}
	return n
}

// normal makes maxStanza, max-stanza and max_stanza alike.
func normal(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (optimal string alignment), in bytes.
func distance(a, b string) int {
	var before, last []int // rows i-2 and i-1
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
