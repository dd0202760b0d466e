-- What finds the entries of one contact. It is not an index, since that costs each message as much
-- as its entries do: those of a timeline come to it many at a time.

-- +goose Up
-- +goose StatementBegin
CREATE TABLE peer_index (
    owner INTEGER NOT NULL,
    peer  TEXT    NOT NULL,
    seq   INTEGER NOT NULL,
    PRIMARY KEY (owner, peer, seq)
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd
INSERT INTO peer_index (owner, peer, seq) SELECT owner, peer, seq FROM entries ORDER BY owner, peer, seq;

ALTER TABLE heads ADD COLUMN indexed INTEGER NOT NULL DEFAULT 0; -- number of the last entry that is in peer_index
UPDATE heads SET indexed = head;

DROP INDEX entries_by_peer;

-- +goose StatementBegin
CREATE TRIGGER entries_removed AFTER DELETE ON entries BEGIN
    DELETE FROM peer_index WHERE owner = old.owner AND peer = old.peer AND seq = old.seq;
END;
-- +goose StatementEnd
