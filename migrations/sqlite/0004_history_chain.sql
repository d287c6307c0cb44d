-- The chain of each history, so that nobody can change it unnoticed.

-- Every event's place in the chain of its tenant, or of the vendor. Permanent. The hashes are made by the program, as docs/history.md
-- says: events that an earlier version has written are linked when a later one next writes, or starts.
CREATE TABLE chain (
    revision  INTEGER NOT NULL PRIMARY KEY REFERENCES events (revision), -- the event
    tenant_id TEXT NOT NULL,                                             -- whose chain; empty: the vendor's own
    sequence  INTEGER NOT NULL CHECK (sequence > 0),                     -- its place there: 1, 2, 3 and so on
    hash      BLOB NOT NULL CHECK (length(hash) = 32),                   -- SHA-256 of the event and of the hash before it
    UNIQUE (tenant_id, sequence)
) STRICT;

-- The chains cover the log from its beginning, without a gap. (This also refuses INSERT OR REPLACE.)
CREATE TRIGGER chain_follows_the_log BEFORE INSERT ON chain
WHEN NEW.revision <> (SELECT coalesce(max(revision), 0) + 1 FROM chain)
    OR NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM chain WHERE tenant_id = NEW.tenant_id)
    OR NEW.tenant_id IS NOT (SELECT tenant_id FROM events WHERE revision = NEW.revision)
BEGIN SELECT RAISE(ABORT, 'history is permanent: a link must take the next place'); END;

CREATE TRIGGER chain_is_never_updated BEFORE UPDATE ON chain
BEGIN SELECT RAISE(ABORT, 'history is permanent: links are never updated'); END;

CREATE TRIGGER chain_is_never_deleted BEFORE DELETE ON chain
BEGIN SELECT RAISE(ABORT, 'history is permanent: links are never deleted'); END;
