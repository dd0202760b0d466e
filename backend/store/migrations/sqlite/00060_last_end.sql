-- When a session of the owner ended last. It is with the head, since whoever ends sessions
-- and whoever appends lock sessions first and heads after them.

-- +goose Up
ALTER TABLE heads ADD COLUMN ended INTEGER NOT NULL DEFAULT 0; -- 0: never
