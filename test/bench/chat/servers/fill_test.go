//go:build linux

package servers_test

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"imlb/backend/chatload"
	"imlb/test/bench/chat/servers"
	"imlb/test/bench/rounds"
	"imlb/test/need"
)

// archives are where servers keep them, with queries that count what their servers never
// write: gaps, times that go backwards, counters that say something else.
var archives = map[string]struct {
	file, table, owner, order string
	wrong                     []string
}{
	"imlb": {"imlb.db", "entries", "owner", "seq", []string{
		`SELECT count(*) FROM (SELECT seq - lag(seq, 1, 0) OVER w AS step, time - lag(time, 1, 0) OVER w AS later FROM entries
			WINDOW w AS (PARTITION BY owner ORDER BY seq)) WHERE step <> 1 OR later < 0`,
		`SELECT count(*) FROM heads LEFT JOIN (SELECT owner, max(seq) AS last, max(time) AS at, max(seq) FILTER (WHERE NOT sent) AS received
			FROM entries GROUP BY owner) USING (owner) WHERE head <> last OR heads.time <> at OR delivered NOT BETWEEN coalesce(received, 0) AND head`,
	}},
	"ejabberd-sqlite": {"ejabberd.sqlite", "archive", "username", "id", []string{
		`SELECT count(*) FROM (SELECT timestamp - lag(timestamp, 1, 0) OVER (PARTITION BY username ORDER BY id) AS later FROM archive) WHERE later <= 0`,
		`SELECT count(*) FROM archive WHERE unixepoch(created_at) NOT BETWEEN timestamp / 1000000 - 60 AND timestamp / 1000000 + 60`,
		`SELECT count(*) FROM sqlite_sequence WHERE name = 'archive' AND seq <> (SELECT max(id) FROM archive)`,
	}},
	"prosody-sqlite": {"prosody.sqlite", "prosodyarchive", `"user"`, "sort_id", []string{
		`SELECT count(*) FROM (SELECT "when" - lag("when", 1, 0) OVER (PARTITION BY user ORDER BY sort_id) AS later FROM prosodyarchive) WHERE later < 0`,
		`SELECT count(*) FROM prosodyarchive WHERE key NOT GLOB '????????-????-4???-[89ab]???-????????????'`,
		`SELECT count(*) FROM sqlite_sequence WHERE name = 'prosodyarchive' AND seq <> (SELECT max(sort_id) FROM prosodyarchive)`,
	}},
}

// fillable returns the servers whose archives can be filled.
func fillable(t *testing.T, name string) servers.Server {
	t.Helper()
	var all []servers.Server
	var needs string
	var err error
	switch name {
	case "imlb":
		program := filepath.Join(t.TempDir(), "imlb")
		all, err = servers.IMLB(program), rounds.Build(t.Context(), program)
	case "ejabberd-sqlite":
		needs = "erlang-p1-sqlite3"
		all, _, err = servers.Ejabberds(t.Context())
	case "prosody-sqlite":
		needs = "lua-dbi-sqlite3"
		all, _, err = servers.Prosodies(t.Context())
	}
	if err != nil && !errors.Is(err, servers.ErrMissing) {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(s servers.Server) bool { return s.Name == name && s.Fill != nil })
	if i < 0 {
		need.Missing(t, needs)
	}
	return all[i]
}

// TestFill fills the archives of each server in its database. What is then in it has to
// be what the server could have written itself, and the server has to go on with it.
func TestFill(t *testing.T) {
	t.Parallel()
	for name := range archives {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := fillable(t, name)
			certs, err := servers.MakeCerts(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			task := servers.Task{Dir: t.TempDir(), Users: users, Certs: certs}
			serve(t, s, task, 60)

			f := servers.Fill{User: 300, Total: 2000}
			newest, err := s.Fill(t.Context(), task, f)
			if err != nil || len(newest) != servers.NewestLength {
				t.Fatal(newest, err)
			}
			counts(t, s, task, f.User, f.Total)
			pages := serve(t, s, task, 0, 70)
			if !slices.Equal(pages[0], newest) {
				t.Errorf("the last page has %v, and not %v", pages[0], newest)
			}
			if page := pages[1]; len(page) != 50 || slices.ContainsFunc(page, func(id string) bool { return id == "" || slices.Contains(newest, id) }) {
				t.Errorf("after 70 messages the last page has %v", page)
			}
			counts(t, s, task, f.User+70, f.Total+2*70)
		})
	}
}

// serve has a server serve until so many messages have been written, and the last page
// read, for each of the numbers. It returns the pages.
func serve(t *testing.T, s servers.Server, task servers.Task, messages ...int) (pages [][]string) {
	t.Helper()
	r, err := s.Start(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	}()
	o := loads()[0]
	o.Workload, o.Queries = chatload.Archive, 5
	o.Servers, o.Domain, o.TLSConfig = []string{r.Addr}, servers.Domain, trusting(t, task.Certs.Cert)
	for _, o.Preload = range messages {
		result, err := chatload.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if result.Archive.Changed != 0 {
			t.Errorf("%d pages differ", result.Archive.Changed)
		}
		pages = append(pages, result.Archive.Newest)
	}
	return pages
}

// counts looks into the database of a server that is stopped.
func counts(t *testing.T, s servers.Server, task servers.Task, user, total int) {
	t.Helper()
	a := archives[s.Name]
	db, err := sql.Open("sqlite", filepath.Join(task.Dir, a.file))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ask := func(query string) (n int) {
		if err := db.QueryRowContext(t.Context(), query).Scan(&n); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		return n
	}
	first := `(SELECT ` + a.owner + ` FROM ` + a.table + ` ORDER BY length(` + a.owner + `), ` + a.owner + ` LIMIT 1)`
	if n := ask(`SELECT count(*) FROM ` + a.table + ` WHERE ` + a.owner + ` = ` + first); n != user {
		t.Errorf("the first user has %d entries instead of %d", n, user)
	}
	if n := ask(`SELECT count(*) FROM ` + a.table); n != total {
		t.Errorf("there are %d entries instead of %d", n, total)
	}
	for _, query := range append(a.wrong, kinds(t, db, a.table)) {
		if n := ask(query); n != 0 {
			t.Errorf("%d of %s", n, query)
		}
	}
	if n := ask(`SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'`); n != 0 {
		t.Errorf("the database has %d faults", n)
	}
}

// kinds is a query for how many combinations of kinds of values there are beside that of
// the last entry, which the server has written itself at the end.
func kinds(t *testing.T, db *sql.DB, table string) string {
	t.Helper()
	var columns string
	const all = `SELECT group_concat('typeof("' || name || '")', '||') FROM pragma_table_info($1)`
	if err := db.QueryRowContext(t.Context(), all, table).Scan(&columns); err != nil || strings.Count(columns, "typeof") < 8 {
		t.Fatal(columns, err)
	}
	return fmt.Sprintf(`SELECT count(DISTINCT %s) - 1 FROM %s`, columns, table)
}

func TestFillCheck(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		fill  servers.Fill
		users int
		good  bool
	}{
		{servers.Fill{User: 10, Total: 20}, 3, true},
		{servers.Fill{User: 10, Total: 100}, 4000, true},
		{servers.Fill{User: 10, Total: 18}, 3, false},
		{servers.Fill{User: 10, Total: 21}, 3, false},
		{servers.Fill{User: 0, Total: 20}, 3, false},
		{servers.Fill{User: 10, Total: 20}, 2, false},
	} {
		if err := tt.fill.Check(tt.users); (err == nil) != tt.good {
			t.Errorf("%+v, %d users: %v", tt.fill, tt.users, err)
		}
	}
}
