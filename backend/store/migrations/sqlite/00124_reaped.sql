-- Sessions of dead nodes that have been ended, until their users' contacts have been told.

-- +goose Up
-- +goose StatementBegin
CREATE TABLE reaped (
    session  TEXT    PRIMARY KEY,
    owner    INTEGER NOT NULL,
    resource TEXT    NOT NULL,
    lease    INTEGER NOT NULL, -- of the node that is about to tell them
    state    BLOB    NOT NULL
) STRICT, WITHOUT ROWID;
-- +goose StatementEnd
