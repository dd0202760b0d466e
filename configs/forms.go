package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// forms are the shapes of text that an "is" tag can ask for.
var forms = map[string]func(string) error{
	"listen":   isListen,
	"dial":     isDial,
	"domain":   isDomain,
	"name":     isName,
	"file":     isFile,
	"dir":      isDir,
	"path":     isPath,
	"alpn":     isALPN,
	"pattern":  isPattern,
	"database": isDatabase,
	"nats":     isNATS,
	"uri":      isURI,

	"server-name":  isServerName,
	"user-pattern": isUserPattern,
	"token":        isToken,
	"claim":        isClaim,
	"mechanism":    isMechanism,
	"ldap":         isLDAP,
	"https":        isHTTPS,
	"keys":         isKeys,
}

// isListen accepts host:port; the host may be empty (all addresses) and the port
// zero (any free one).
func isListen(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not an address to listen on; write host:port, like 127.0.0.1:5222, [::1]:5222 or :5222", s)
	}
	if err := isHost(host, true); err != nil {
		return err
	}
	return isPort(port, 0)
}

// isDial accepts host:port with both of them given.
func isDial(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return fmt.Errorf("%q is not an address; write host:port, like 10.0.0.7:5280 or [fd00::7]:5280", s)
	}
	if err := isHost(host, false); err != nil {
		return err
	}
	return isPort(port, 1)
}

func isHost(host string, emptyToo bool) error {
	if host == "" {
		if emptyToo {
			return nil
		}
		return errors.New("the host is missing; write host:port")
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if !hostPattern.MatchString(host) {
		return fmt.Errorf("%q is neither an IP address nor a host name", host)
	}
	return nil
}

func isPort(port string, least int) error {
	n, err := strconv.Atoi(port)
	if err != nil || n < least || n > 65535 {
		return fmt.Errorf("%q is not a port; ports are numbers from %d to 65535", port, least)
	}
	return nil
}

var (
	hostPattern   = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)
	domainPattern = regexp.MustCompile(`^[\pL\pN]([\pL\pN\pM-]*[\pL\pN\pM])?(\.[\pL\pN]([\pL\pN\pM-]*[\pL\pN\pM])?)*$`)
	tokenPattern  = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}$")
	saslPattern   = regexp.MustCompile(`^[A-Z0-9_-]{1,20}$`)
	namePattern   = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$`)
)

// isDomain accepts a domain in the form in which JIDs are compared (RFC 7622
// §3.2): lower case, no final dot. Package backend/xmpp has the last word.
func isDomain(s string) error {
	if len(s) > 253 || !domainPattern.MatchString(s) {
		return fmt.Errorf("%q is not a domain; write it like example.com", s)
	}
	if lower := strings.ToLower(s); lower != s {
		return fmt.Errorf("%q has capital letters; write %q", s, lower)
	}
	return nil
}

// isName accepts what can stand in file names, metric labels and Consul alike.
func isName(s string) error {
	if !namePattern.MatchString(s) {
		return fmt.Errorf("%q is not a name; use up to 64 letters, digits, dots, dashes and underscores, with a letter or digit first and last", s)
	}
	return nil
}

func isFile(s string) error {
	if s == "" || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not a file name", s)
	}
	if s != "." && strings.HasSuffix(s, string(filepath.Separator)) {
		return fmt.Errorf("%q is a directory; name a file", s)
	}
	return nil
}

func isDir(s string) error {
	if s == "" || strings.ContainsRune(s, 0) {
		return fmt.Errorf("%q is not the name of a directory", s)
	}
	return nil
}

// isPath accepts the path of a URL on the node that is asked, or nothing.
func isPath(s string) error {
	if s == "" {
		return nil
	}
	u, err := url.Parse(s)
	if err != nil || !strings.HasPrefix(s, "/") || u.Host != "" || u.Fragment != "" {
		return fmt.Errorf("%q is not a path; write it like /readyz", s)
	}
	return nil
}

// isALPN accepts the name of an application protocol (RFC 7301 §3.1).
func isALPN(s string) error {
	if s == "" || len(s) > 255 {
		return fmt.Errorf("%q is not the name of an application protocol; write it like xmpp-client", s)
	}
	return nil
}

// isPattern accepts a regular expression, or nothing.
func isPattern(s string) error {
	if _, err := regexp.Compile(s); err != nil {
		return fmt.Errorf("%q is not a regular expression of the kind of RE2: %w", s, err)
	}
	return nil
}

// isServerName accepts the name of a host, or one with its first label left open.
func isServerName(s string) error {
	if !hostPattern.MatchString(strings.TrimPrefix(s, "*.")) {
		return fmt.Errorf("%q is not a server name; write it like chat.example.com, or *.example.com for all one label below", s)
	}
	return nil
}

// isUserPattern accepts a regular expression of which one group is the user, or nothing.
func isUserPattern(s string) error {
	if s == "" {
		return nil
	}
	if err := isPattern(s); err != nil {
		return err
	}
	if re := regexp.MustCompile(s); re.SubexpIndex("user") < 0 && re.NumSubexp() != 1 {
		return fmt.Errorf("%q does not say what of it is the user; name a group user, like ^LOGIN (?P<user>\\S+)", s)
	}
	return nil
}

// isToken accepts what can stand as a name in HTTP (RFC 9110 §5.6.2).
func isToken(s string) error {
	if !tokenPattern.MatchString(s) {
		return fmt.Errorf("%q is not a name of the kind of HTTP; use up to 64 letters, digits, dashes, dots and underscores", s)
	}
	return nil
}

// isClaim accepts the name of a claim, which may be a URL, or the way to one.
func isClaim(s string) error {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsGraphic(r) || unicode.IsSpace(r) }) {
		return fmt.Errorf("%q is not the name of a claim; write it like sub, or user.id for one inside another", s)
	}
	return nil
}

// isMechanism accepts the name of a SASL mechanism (RFC 4422 §3.1).
func isMechanism(s string) error {
	if upper := strings.ToUpper(s); upper != s && saslPattern.MatchString(upper) {
		return fmt.Errorf("%q is not written like a SASL mechanism; write %q", s, upper)
	}
	if !saslPattern.MatchString(s) {
		return fmt.Errorf("%q is not the name of a SASL mechanism; they have up to 20 capital letters, digits, dashes and underscores, like SCRAM-SHA-256-PLUS", s)
	}
	return nil
}

// isDatabase accepts sqlite:PATH, PATH and the URL of a PostgreSQL database, which
// may hold a password and is never repeated.
func isDatabase(s string) error {
	if isPostgres(s) {
		if _, err := url.Parse(s); err != nil {
			return errors.New("this is not the URL of a PostgreSQL database; write postgres://USER:PASSWORD@HOST/DATABASE, odd characters as %XX")
		}
		return nil
	}
	path, ok := strings.CutPrefix(s, sqliteScheme)
	if !ok && strings.Contains(s, ":") {
		return fmt.Errorf("%q is not a database; write sqlite: and a file name, like sqlite:/var/lib/imlb/imlb.db, or postgres://USER:PASSWORD@HOST/DATABASE", s)
	}
	return isFile(path)
}

// isPostgres reports whether a text is the URL of a PostgreSQL database.
func isPostgres(s string) bool {
	return strings.HasPrefix(s, "postgres://") || strings.HasPrefix(s, "postgresql://")
}

// sqliteScheme starts the URL of an SQLite database.
const sqliteScheme = "sqlite:"

// isNATS accepts the URL of a NATS server.
func isNATS(s string) error {
	u, err := url.Parse(s)
	if err != nil || (u.Scheme != "nats" && u.Scheme != "tls") || u.Host == "" {
		return fmt.Errorf("%q is not the URL of a NATS server; write nats://host:port or tls://host:port", s)
	}
	return nil
}

// isURI accepts an absolute URI.
func isURI(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" && u.Path == "" || strings.ContainsFunc(s, unicode.IsSpace) {
		return fmt.Errorf("%q is not a URI; write one like mailto:admin@example.com or https://example.com/contact", s)
	}
	return nil
}
