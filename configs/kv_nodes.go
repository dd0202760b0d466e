package configs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// StoredOverride is an override as it is stored.
type StoredOverride struct {
	Override
	// Version is the ModifyIndex under which it was written, 0 for none.
	Version uint64
}

// Overrides returns what is stored about nodes, by name. Overrides that cannot be
// used are left out; errs says of each why.
func (k *KV) Overrides(ctx context.Context) (overrides map[string]StoredOverride, errs Errors, err error) {
	pairs, _, err := k.client.KV().List(k.nodesPrefix(), consistent(ctx))
	if err != nil {
		return nil, nil, fmt.Errorf("list %s: %w", k.nodesPrefix(), err)
	}
	overrides, errs = readOverrides(k.nodesPrefix(), pairs)
	return overrides, errs, nil
}

// readOverrides reads the overrides under a prefix one by one.
func readOverrides(prefix string, pairs api.KVPairs) (map[string]StoredOverride, Errors) {
	overrides, errs := make(map[string]StoredOverride, len(pairs)), Errors(nil)
	for _, pair := range pairs {
		name := strings.TrimPrefix(pair.Key, prefix)
		if name == "" {
			continue // the folder itself, as some tools make it
		}
		if err := isName(name); err != nil {
			errs = append(errs, &Error{File: pair.Key, Message: err.Error()})
			continue
		}
		o, err := ParseOverride(pair.Key, pair.Value)
		if list, ok := errors.AsType[Errors](err); ok {
			errs = append(errs, list...)
			continue
		}
		overrides[name] = StoredOverride{Override: o, Version: pair.ModifyIndex}
	}
	return overrides, errs
}

// Override returns what is stored about a node; nothing, with version 0, when
// nothing is.
func (k *KV) Override(ctx context.Context, node string) (StoredOverride, error) {
	if err := isName(node); err != nil {
		return StoredOverride{}, fmt.Errorf("node: %w", err)
	}
	key := k.nodesPrefix() + node
	pair, _, err := k.client.KV().Get(key, consistent(ctx))
	if err != nil {
		return StoredOverride{}, fmt.Errorf("read %s: %w", key, err)
	}
	if pair == nil {
		return StoredOverride{}, nil
	}
	o, err := ParseOverride(key, pair.Value)
	return StoredOverride{Override: o, Version: pair.ModifyIndex}, err
}

// SetOverride stores what is said about a node in the place of the version that is
// expected to be there, 0 for none. An override that says nothing is deleted.
func (k *KV) SetOverride(ctx context.Context, node string, o Override, expected uint64) error {
	if err := isName(node); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	key := k.nodesPrefix() + node
	done, err := k.replace(ctx, &api.KVPair{Key: key, ModifyIndex: expected}, o)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	if done {
		return nil
	}
	found, err := k.Override(ctx, node)
	if err != nil {
		return err
	}
	at, err := time.Parse(time.RFC3339, found.At)
	if err != nil { // written by another program
		found.By = ""
	}
	return &ConflictError{
		Key: key, Expected: expected, Found: found.Version, Note: Note{By: found.By, At: at, Comment: found.Comment},
	}
}

func (k *KV) replace(ctx context.Context, pair *api.KVPair, o Override) (bool, error) {
	write := (&api.WriteOptions{}).WithContext(ctx)
	if o.Empty() {
		if pair.ModifyIndex == 0 {
			return true, nil
		}
		done, _, err := k.client.KV().DeleteCAS(pair, write)
		return done, err
	}
	text, err := o.YAML()
	if err != nil {
		return false, err
	}
	pair.Value = text
	done, _, err := k.client.KV().CAS(pair, write)
	return done, err
}
