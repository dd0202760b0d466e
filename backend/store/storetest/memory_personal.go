package storetest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"imlb/backend/store"
)

// personal is what an account keeps beside its roster.
type personal struct {
	blocks  store.Blocklist
	private map[string][]byte // by namespace
	vcard   []byte
}

// Blocklist implements store.Blocklists.
func (m *Memory) Blocklist(ctx context.Context, owner store.OwnerID) (store.Blocklist, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil || m.owners[owner] == nil {
		return store.Blocklist{}, err
	}
	return copyBlocklist(m.owners[owner].personal.blocks), nil
}

// UpdateBlocklist implements store.Blocklists.
func (m *Memory) UpdateBlocklist(ctx context.Context, owner store.OwnerID, change func([]string) []string) (store.Blocklist, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return store.Blocklist{}, err
	}
	list := &a.personal.blocks
	after := slices.Compact(slices.Sorted(slices.Values(change(slices.Clone(list.Addresses)))))
	if !slices.Equal(after, list.Addresses) {
		*list = store.Blocklist{Addresses: after, Version: list.Version + 1}
	}
	return copyBlocklist(*list), nil
}

func copyBlocklist(list store.Blocklist) store.Blocklist {
	list.Addresses = slices.Clone(list.Addresses)
	return list
}

// PrivateXML implements store.Personal.
func (m *Memory) PrivateXML(ctx context.Context, owner store.OwnerID) ([]store.PrivateXML, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil || m.owners[owner] == nil {
		return nil, err
	}
	var docs []store.PrivateXML
	private := m.owners[owner].personal.private
	for _, space := range slices.Sorted(maps.Keys(private)) {
		docs = append(docs, store.PrivateXML{Space: space, XML: bytes.Clone(private[space])})
	}
	return docs, nil
}

// PrivateXMLIn implements store.Personal.
func (m *Memory) PrivateXMLIn(ctx context.Context, owner store.OwnerID, space string) (store.PrivateXML, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return store.PrivateXML{}, err
	}
	xml, ok := a.personal.private[space]
	if !ok {
		return store.PrivateXML{}, fmt.Errorf("private XML in %s: %w", space, store.ErrNotFound)
	}
	return store.PrivateXML{Space: space, XML: bytes.Clone(xml)}, nil
}

// SetPrivateXML implements store.Personal.
func (m *Memory) SetPrivateXML(ctx context.Context, owner store.OwnerID, docs []store.PrivateXML, quota store.Quota) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	after := maps.Clone(a.personal.private)
	if after == nil {
		after = make(map[string][]byte)
	}
	for _, doc := range docs {
		after[doc.Space] = bytes.Clone(doc.XML)
		if len(doc.XML) == 0 {
			delete(after, doc.Space)
		}
	}
	total := 0
	for _, xml := range after {
		total += len(xml)
	}
	if quota.Items > 0 && len(after) > quota.Items || quota.Bytes > 0 && total > quota.Bytes {
		return fmt.Errorf("set private XML: %w", store.ErrFull)
	}
	a.personal.private = after
	return nil
}

// VCard implements store.Personal.
func (m *Memory) VCard(ctx context.Context, owner store.OwnerID) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return nil, err
	}
	if len(a.personal.vcard) == 0 {
		return nil, fmt.Errorf("vCard of owner %d: %w", owner, store.ErrNotFound)
	}
	return bytes.Clone(a.personal.vcard), nil
}

// SetVCard implements store.Personal.
func (m *Memory) SetVCard(ctx context.Context, owner store.OwnerID, vcard []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, err := m.byOwner(ctx, owner)
	if err != nil {
		return err
	}
	a.personal.vcard = bytes.Clone(vcard)
	return nil
}
