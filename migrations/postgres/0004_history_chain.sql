-- The chain of each history, so that nobody can change it unnoticed.

CREATE TABLE chain (
    revision  bigint PRIMARY KEY REFERENCES events (revision),
    tenant_id text COLLATE "C" NOT NULL,
    sequence  bigint NOT NULL CHECK (sequence > 0),
    hash      bytea NOT NULL CHECK (length(hash) = 32),
    UNIQUE (tenant_id, sequence)
);

COMMENT ON TABLE chain IS
    'Every event''s place in the chain of its tenant, or of the vendor. Permanent. The hashes are made by the program, as docs/history.md says: events that an earlier version has written are linked when a later one next writes, or starts.';
COMMENT ON COLUMN chain.revision IS 'The event.';
COMMENT ON COLUMN chain.tenant_id IS 'Whose chain; empty: the vendor''s own.';
COMMENT ON COLUMN chain.sequence IS 'Its place there: 1, 2, 3 and so on.';
COMMENT ON COLUMN chain.hash IS 'SHA-256 of the event and of the hash before it.';

-- The chains cover the log from its beginning, without a gap.
CREATE FUNCTION chain_follows_the_log() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revision <> (SELECT coalesce(max(revision), 0) + 1 FROM chain)
        OR NEW.sequence <> (SELECT coalesce(max(sequence), 0) + 1 FROM chain WHERE tenant_id = NEW.tenant_id)
        OR NEW.tenant_id IS DISTINCT FROM (SELECT tenant_id FROM events WHERE revision = NEW.revision)
    THEN
        RAISE EXCEPTION 'history is permanent: a link must take the next place'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END;
$$;

CREATE TRIGGER chain_follows_the_log BEFORE INSERT ON chain
    FOR EACH ROW EXECUTE FUNCTION chain_follows_the_log();
CREATE TRIGGER chain_is_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON chain
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
