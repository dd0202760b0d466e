-- Whose nodes are here: the cluster of those that started last. Empty: none has said yet.

-- +goose Up
ALTER TABLE belongs ADD COLUMN cluster text NOT NULL DEFAULT '';
