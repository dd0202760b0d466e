package configs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/hashicorp/consul/api"
)

// KV is the configuration of one cluster in Consul's key-value store:
//
//	imlb/<cluster>/config          the document of the fronts
//	imlb/<cluster>/nodes/<name>    what an operator says of a node: an Override
//	imlb/<cluster>/history/<time>  the last documents, and who wrote them
//
// All writes are check-and-set: they fail with a *ConflictError when somebody
// else was faster.
type KV struct {
	client  *api.Client
	cluster string
}

// KeptDocuments is how many documents the history holds.
const KeptDocuments = 20

// MaxShared is the largest document that can be shared, in bytes. It is written
// together with its copy in the history, and Consul takes 512 KiB in one
// transaction, in base64.
const MaxShared = 160 << 10

// Note says who changed something, when, and why.
type Note struct {
	By      string
	At      time.Time
	Comment string
}

// Document is a document of the fronts as it is stored.
type Document struct {
	Data []byte
	// Version is the ModifyIndex under which it was written, 0 for none. A later
	// document has a greater one.
	Version uint64
	// Note is zero when the document was not written by this program.
	Note Note
}

// ErrNoDocument is the answer when a cluster has no document in Consul, or not
// the version that was asked for.
var ErrNoDocument = errors.New("there is no such document in Consul")

// ConflictError is the answer to a write that expected something else to be there.
type ConflictError struct {
	Key             string
	Expected, Found uint64 // versions; 0: nothing there
	Note            Note   // who wrote what was found, as far as is known
}

// Error says what was found, and who wrote it.
func (e *ConflictError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s has changed meanwhile: expected %s, found %s", e.Key, versionName(e.Expected), versionName(e.Found))
	if e.Note.By != "" {
		fmt.Fprintf(&b, ", written by %s at %s", e.Note.By, e.Note.At.Format(time.RFC3339))
	}
	if e.Note.Comment != "" {
		fmt.Fprintf(&b, " (%s)", e.Note.Comment)
	}
	return b.String()
}

func versionName(v uint64) string {
	if v == 0 {
		return "nothing"
	}
	return fmt.Sprintf("version %d", v)
}

// NewKV returns the configuration of a cluster. It does not talk to the agent yet.
// What the agent's description leaves out is taken from the environment, as
// Consul's own tools do (CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN …).
func NewKV(agent Consul, cluster string) (*KV, error) {
	if err := isName(cluster); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	client, err := agent.Client()
	if err != nil {
		return nil, err
	}
	return &KV{client: client, cluster: cluster}, nil
}

// Client returns a client of the agent. It does not talk to it yet.
func (c Consul) Client() (*api.Client, error) {
	config := &api.Config{Address: c.Address, TokenFile: c.TokenFile, Datacenter: c.Datacenter}
	if c.TLS != nil {
		config.Address = "https://" + c.Address
		config.TLSConfig = api.TLSConfig{CAFile: c.TLS.CAFile, CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, Address: c.TLS.ServerName}
	}
	client, err := api.NewClient(config)
	if err != nil {
		return nil, fmt.Errorf("prepare the Consul client: %w", err)
	}
	return client, nil
}

// Token returns the ACL token as its file has it now; empty: the one that the client was made
// with. Tokens that expire are replaced there by who hands them out.
func (c Consul) Token() string {
	token, err := ReadSecret(c.TokenFile)
	if err != nil { // the agent says whether the one from before still is good
		return ""
	}
	return token
}

// DocumentKey is where the document lies.
func (k *KV) DocumentKey() string { return "imlb/" + k.cluster + "/config" }

func (k *KV) nodesPrefix() string   { return "imlb/" + k.cluster + "/nodes/" }
func (k *KV) historyPrefix() string { return "imlb/" + k.cluster + "/history/" }

// consistent asks for what was last written, not for what some server remembers.
func consistent(ctx context.Context) *api.QueryOptions {
	return (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx)
}

// Document returns the document that is in force. The error is ErrNoDocument when
// there is none.
func (k *KV) Document(ctx context.Context) (Document, error) {
	pair, _, err := k.client.KV().Get(k.DocumentKey(), consistent(ctx))
	switch {
	case err != nil:
		return Document{}, fmt.Errorf("read %s: %w", k.DocumentKey(), err)
	case pair == nil:
		return Document{}, fmt.Errorf("%s: %w", k.DocumentKey(), ErrNoDocument)
	}
	d := Document{Data: pair.Value, Version: pair.ModifyIndex}
	d.Note, err = k.noteOf(ctx, d.Version)
	return d, err
}

// noteOf returns who wrote the newest document of the history, if it is the one
// with this version.
func (k *KV) noteOf(ctx context.Context, version uint64) (Note, error) {
	keys, err := k.historyKeys(ctx)
	if err != nil || len(keys) == 0 {
		return Note{}, err
	}
	newest := keys[len(keys)-1]
	pair, _, err := k.client.KV().Get(newest, consistent(ctx))
	if err != nil {
		return Note{}, fmt.Errorf("read %s: %w", newest, err)
	}
	if pair == nil {
		return Note{}, nil
	}
	d, err := unarchive(pair)
	if err != nil || d.Version != version {
		return Note{}, err
	}
	return d.Note, nil
}

// historyKeys lists the documents that are kept, the oldest first.
func (k *KV) historyKeys(ctx context.Context) ([]string, error) {
	keys, _, err := k.client.KV().Keys(k.historyPrefix(), "", consistent(ctx))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.historyPrefix(), err)
	}
	slices.Sort(keys)
	return keys, nil
}

// History returns the last documents, the newest first.
func (k *KV) History(ctx context.Context) ([]Document, error) {
	pairs, _, err := k.client.KV().List(k.historyPrefix(), consistent(ctx))
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.historyPrefix(), err)
	}
	list := make([]Document, 0, len(pairs))
	for _, pair := range pairs {
		if pair.Key == k.historyPrefix() {
			continue // the folder itself, as some tools make it
		}
		d, err := unarchive(pair)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	slices.SortFunc(list, func(a, b Document) int { return cmp.Compare(b.Version, a.Version) })
	return list, nil
}

// Version returns a document of the history. The error is ErrNoDocument when it
// is not kept.
func (k *KV) Version(ctx context.Context, version uint64) (Document, error) {
	list, err := k.History(ctx)
	if err != nil {
		return Document{}, err
	}
	i := slices.IndexFunc(list, func(d Document) bool { return d.Version == version })
	if i < 0 {
		return Document{}, fmt.Errorf("version %d of %s: %w", version, k.DocumentKey(), ErrNoDocument)
	}
	return list[i], nil
}

// Push puts a document into force in the place of the version that is expected to
// be there, 0 for none, and files a copy in the history in the same transaction.
// It returns the new version. It does not look at what the document says.
func (k *KV) Push(ctx context.Context, data []byte, expected uint64, note Note) (uint64, error) {
	if len(data) > MaxShared {
		return 0, fmt.Errorf("the document has %d bytes; at most %d can be shared in Consul", len(data), MaxShared)
	}
	if err := k.preserve(ctx, expected, note.At); err != nil {
		return 0, err
	}
	keys, err := k.historyKeys(ctx)
	if err != nil {
		return 0, err
	}
	ops := api.KVTxnOps{
		{Verb: api.KVCAS, Key: k.DocumentKey(), Value: data, Index: expected},
		{Verb: api.KVSet, Key: k.historyKey(note.At), Value: archive(data, 0, note)},
	}
	for i := range len(keys) + 1 - KeptDocuments {
		ops = append(ops, &api.KVTxnOp{Verb: api.KVDelete, Key: keys[i]})
	}
	ok, answer, _, err := k.client.KV().Txn(ops, (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case err != nil:
		return 0, fmt.Errorf("write %s: %w", k.DocumentKey(), err)
	case !ok:
		return 0, k.refused(ctx, expected, answer)
	}
	return answer.Results[0].ModifyIndex, nil
}

// refused finds out why a transaction was refused.
func (k *KV) refused(ctx context.Context, expected uint64, answer *api.KVTxnResponse) error {
	found, err := k.Document(ctx)
	if err != nil && !errors.Is(err, ErrNoDocument) {
		return err
	}
	if found.Version != expected {
		return &ConflictError{Key: k.DocumentKey(), Expected: expected, Found: found.Version, Note: found.Note}
	}
	var why []string
	for _, e := range answer.Errors {
		why = append(why, e.What)
	}
	return fmt.Errorf("write %s: Consul refused: %s", k.DocumentKey(), strings.Join(why, "; "))
}

// preserve files the document that is about to be replaced, if it is not in the
// history because another program wrote it.
func (k *KV) preserve(ctx context.Context, expected uint64, now time.Time) error {
	current, err := k.Document(ctx)
	switch {
	case errors.Is(err, ErrNoDocument):
		return nil
	case err != nil:
		return err
	case current.Version != expected, current.Note != Note{}, len(current.Data) > MaxShared:
		return nil
	}
	note := Note{By: "unknown", At: now, Comment: "found there; not written by imlb"}
	pair := &api.KVPair{Key: k.historyKey(now.Add(-time.Microsecond)), Value: archive(current.Data, current.Version, note)}
	if _, err := k.client.KV().Put(pair, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("write %s: %w", pair.Key, err)
	}
	return nil
}

// historyKey sorts by time.
func (k *KV) historyKey(at time.Time) string {
	return k.historyPrefix() + at.UTC().Format("20060102T150405.000000Z")
}

// archived is the head of a document in the history; the document follows as it
// is after a line "---".
type archived struct {
	Version uint64 `yaml:"version,omitempty"` // where it is not the key's own
	By      string `yaml:"by"`
	At      string `yaml:"at"`
	Comment string `yaml:"comment,omitempty"`
}

const archiveRule = "---\n"

func archive(data []byte, version uint64, n Note) []byte {
	head, err := yaml.Marshal(archived{Version: version, By: n.By, At: n.At.UTC().Format(time.RFC3339Nano), Comment: n.Comment})
	if err != nil {
		head = nil // texts and a number can always be written
	}
	return slices.Concat(head, []byte(archiveRule), data)
}

func unarchive(pair *api.KVPair) (Document, error) {
	head, data, ok := bytes.Cut(pair.Value, []byte("\n"+archiveRule))
	var a archived
	if !ok {
		return Document{}, fmt.Errorf("%s: this is no document of the history", pair.Key)
	}
	if err := yaml.Unmarshal(head, &a); err != nil {
		return Document{}, fmt.Errorf("%s: the head cannot be read: %w", pair.Key, err)
	}
	at, err := time.Parse(time.RFC3339Nano, a.At)
	if err != nil {
		return Document{}, fmt.Errorf("%s: the time cannot be read: %w", pair.Key, err)
	}
	return Document{
		Data: data, Version: cmp.Or(a.Version, pair.ModifyIndex), Note: Note{By: a.By, At: at, Comment: a.Comment},
	}, nil
}
