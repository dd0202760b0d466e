package store_test

import (
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"imlb/backend/store"
)

// look opens a database as the package does not: to look at it.
func look(t *testing.T, url string) *sql.DB {
	t.Helper()
	driver := "sqlite"
	if strings.HasPrefix(url, "postgres") {
		driver = "pgx"
	}
	db, err := sql.Open(driver, url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// lines returns the first column of a query's rows, the last one where there are
// several.
func lines(t *testing.T, db *sql.DB, query string) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		var line string
		dest := make([]any, len(columns))
		for i := range dest {
			dest[i] = new(any)
		}
		dest[len(dest)-1] = &line
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		all = append(all, line)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// Whatever has an owner is erased with it: each such table is in the list.
func TestErasureKnowsAllTables(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		defer s.Close()
		a, err := s.CreateAccount(t.Context(), "alice@example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		erased, err := s.EraseAccount(t.Context(), a.User)
		if err != nil {
			t.Fatal(err)
		}
		known := []string{"purges", "peer_index"} // the latter goes with the entries
		for _, e := range erased {
			known = append(known, e.Table)
		}
		query := `SELECT DISTINCT c.table_name::text FROM information_schema.columns c
			LEFT JOIN pg_inherits i ON i.inhrelid = c.table_name::regclass
			WHERE c.table_schema = 'public' AND c.column_name = 'owner' AND i.inhrelid IS NULL`
		if !strings.HasPrefix(url, "postgres") {
			query = `SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) p WHERE m.type = 'table' AND p.name = 'owner'`
		}
		tables := lines(t, look(t, url), query)
		if len(tables) < 5 {
			t.Errorf("only %v have an owner", tables)
		}
		for _, table := range tables {
			if !slices.Contains(known, table) {
				t.Errorf("rows of %s stay when their owner is deleted", table)
			}
		}
	})
}

// fill gives alice (owner 1) a long timeline and others short ones. Each thousandth
// entry is carol's.
func fill(t *testing.T, db *sql.DB, postgres bool) {
	t.Helper()
	series := `WITH RECURSIVE g (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM g WHERE n < 60000)
		INSERT INTO entries (owner, seq, time, peer, sent, resource, stanza, hidden)
		SELECT CASE WHEN n <= 59000 THEN 1 ELSE n % 20 + 2 END, n, n * 1000,
			CASE WHEN n % 1000 = 0 THEN 'carol' ELSE 'bob' END, `
	end := `0, '', x'00', 0 FROM g`
	if postgres {
		end = `false, '', '\x00', false FROM g`
	}
	for _, statement := range []string{series + end, `ANALYZE`} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}

// A page is found by an index and read in its order, whatever the size of the
// archive: forwards and backwards, of all and of one contact.
func TestArchiveSeeks(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		defer s.Close()
		db := look(t, url)
		postgres := strings.HasPrefix(url, "postgres")
		fill(t, db, postgres)
		explain := "EXPLAIN QUERY PLAN "
		if postgres {
			explain = "EXPLAIN (COSTS OFF) "
		}
		for _, one := range []struct{ name, peer, order, sqlite, postgres string }{
			{"first page", "", "seq", "sqlite_autoindex_entries_1 (owner=? AND seq>? AND seq<?)", "pkey"},
			{"last page", "", "seq DESC", "sqlite_autoindex_entries_1 (owner=? AND seq>? AND seq<?)", "pkey"},
			{"first page of a contact", "carol", "seq", "p USING PRIMARY KEY (owner=? AND peer=? AND seq>? AND seq<?)", "peer"},
			{"last page of a contact", "carol", "seq DESC", "p USING PRIMARY KEY (owner=? AND peer=? AND seq>? AND seq<?)", "peer"},
		} {
			r := store.Range{After: 3000, Before: 58000, Peer: one.peer, Newest: one.order != "seq", Limit: 50}
			plan := strings.Join(lines(t, db, explain+"SELECT seq, stanza"+s.FindQuery(1, r)), "\n")
			want := one.sqlite
			if postgres {
				want = one.postgres
			}
			if !strings.Contains(plan, want) || strings.Contains(plan, "Sort") || strings.Contains(plan, "TEMP B-TREE") || strings.Contains(plan, "Seq Scan") {
				t.Errorf("%s:\n%s", one.name, plan)
			}
		}
	})
}

// Retention asks for the first entry of a timeline, and for a hidden one, by seeks: it
// does not read timelines from which nothing goes.
func TestRetentionSeeks(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		defer s.Close()
		for i := range 22 {
			if _, err := s.CreateAccount(t.Context(), fmt.Sprintf("user%d", i), nil); err != nil {
				t.Fatal(err)
			}
		}
		db := look(t, url)
		postgres := strings.HasPrefix(url, "postgres")
		fill(t, db, postgres)
		query := strings.NewReplacer("$1", "1", "$2", "0", "$3", "1000").Replace(store.SelectTrimStates)
		explain, partition := "EXPLAIN QUERY PLAN ", "e"
		wants := []string{"sqlite_autoindex_entries_1 (owner=? AND seq>?)", "entries_hidden (owner=? AND seq<?)"}
		if postgres { // only the partition of the long timeline is worth an index
			explain, partition = "EXPLAIN (COSTS OFF) ", lines(t, db, `SELECT tableoid::regclass::text FROM entries WHERE owner = 1 LIMIT 1`)[0]
			wants = []string{partition + "_pkey", partition + "_owner_seq_idx"}
		}
		plan := strings.Join(lines(t, db, explain+query), "\n")
		for _, want := range wants {
			if !strings.Contains(plan, want) {
				t.Errorf("no %s in\n%s", want, plan)
			}
		}
		if strings.Contains(plan, "Seq Scan on "+partition+" ") || strings.Contains(plan, "SCAN "+partition) {
			t.Error(plan)
		}
	})
}

// What older versions left out of archives by looking at it stays out.
func TestMigrationHidesWhatWasLeftOut(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		defer func() { s.Close() }()
		a, err := s.CreateAccount(t.Context(), "alice@example.com", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range []store.Draft{
			{Owner: a.Owner, Peer: "bob@example.com", Sent: true, Stanza: []byte("<message><body>1</body></message>")},
			{Owner: a.Owner, Peer: "bob@example.com", Stanza: []byte("<message><no-permanent-store xmlns='urn:xmpp:hints'/></message>")},
			{Owner: a.Owner, Peer: a.User, Sent: true, Stanza: []byte("<message/>")},
			{Owner: a.Owner, Peer: a.User, Stanza: []byte("<message/>")},
		} {
			if _, err := s.AppendBatch(t.Context(), []store.Append{{Drafts: []store.Draft{d}}}); err != nil {
				t.Fatal(err)
			}
		}
		undo(t, url)
		s.Close()
		s = open(t, url, store.Options{})
		page, err := s.Find(t.Context(), a.Owner, store.Range{Limit: 10})
		if err != nil || len(page) != 2 || page[0].Seq != 1 || page[1].Seq != 4 {
			t.Errorf("found %v, %v", page, err)
		}
	})
}

// Sessions that are there when it is first stored what clients have been told have been told all until then.
func TestMigrationTakesSessionsAsTold(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, url string) {
		s := open(t, url, store.Options{})
		defer func() { s.Close() }()
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		a, err := s.CreateAccount(t.Context(), "alice@example.com", nil)
		check(err)
		check(s.TakeLease(t.Context(), "node-1", "run", time.Hour))
		_, err = s.CreateSession(t.Context(), store.Session{ID: "s1", Owner: a.Owner, Resource: "phone", Node: "node-1"})
		check(err)
		check(s.SaveResumable(t.Context(), "s1", 1, store.Resumable{Hold: time.Minute}))
		for _, contact := range []string{"bob@example.com", "carol@example.com"} {
			_, _, err = s.UpdateRoster(t.Context(), a.Owner, contact, func(it *store.RosterItem) bool { it.InRoster = true; return true })
			check(err)
		}
		undo(t, url)
		s.Close()
		s = open(t, url, store.Options{})
		_, r, err := s.Resume(t.Context(), "s1", a.Owner, "node-1", 0)
		check(err)
		if want := (store.Versions{Roster: 2}); r.Told != want {
			t.Errorf("told up to %+v, want %+v", r.Told, want)
		}
	})
}

// undo takes the migration of the archive back, and those after it.
func undo(t *testing.T, url string) {
	t.Helper()
	db := look(t, url)
	if !strings.HasPrefix(url, "postgres") {
		undoPeerIndex(t, db)
	} else if _, err := db.ExecContext(t.Context(), undoNewest); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		`DROP INDEX entries_hidden`, `ALTER TABLE entries DROP COLUMN hidden`,
		`ALTER TABLE heads DROP COLUMN floor`, `ALTER TABLE heads DROP COLUMN choosy`,
		`ALTER TABLE heads DROP COLUMN ended`,
		`DROP TABLE archive_prefs`, `DROP TABLE jobs`,
		`DROP TABLE blocklists`, `DROP TABLE private_xml`, `DROP TABLE vcards`,
		`DROP INDEX accounts_suspended`, `DROP TABLE account_changes`, `DROP TABLE account_change_counter`,
		`ALTER TABLE accounts DROP COLUMN role`, `ALTER TABLE accounts DROP COLUMN suspended`,
		`ALTER TABLE accounts DROP COLUMN suspend_reason`, `ALTER TABLE accounts DROP COLUMN suspended_until`,
		`ALTER TABLE accounts DROP COLUMN last_login`,
		`DELETE FROM goose_db_version WHERE version_id >= 30`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}

const undoNewest = `ALTER TABLE purges DROP COLUMN name; DROP TABLE belongs; ALTER TABLE resumables DROP COLUMN voided; ` +
	`ALTER TABLE resumables DROP COLUMN roster; ALTER TABLE resumables DROP COLUMN blocklist; DROP TABLE roster_removals; DROP TABLE reaped; ` +
	`ALTER TABLE resumables DROP COLUMN point; ALTER TABLE resumables DROP COLUMN early; ALTER TABLE resumables DROP COLUMN claimed; ` +
	`ALTER TABLE resumables DROP COLUMN taken; ALTER TABLE sessions DROP COLUMN shown`

// undoPeerIndex takes the migration of the table peer_index back, and those after it.
func undoPeerIndex(t *testing.T, db *sql.DB) {
	t.Helper()
	for _, statement := range []string{
		undoNewest,
		`DROP TRIGGER entries_removed`, `DROP TABLE peer_index`, `ALTER TABLE heads DROP COLUMN indexed`,
		`CREATE INDEX entries_by_peer ON entries (owner, peer, seq)`,
		`DELETE FROM goose_db_version WHERE version_id >= 70`,
	} {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}
