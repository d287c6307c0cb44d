-- Locks: whom nobody lets in, whatever is granted.

CREATE TABLE locks (
    create_revision bigint PRIMARY KEY REFERENCES events (revision),
    ended_revision  bigint REFERENCES events (revision) CHECK (ended_revision > create_revision),
    lock_id         text COLLATE "C" NOT NULL UNIQUE CHECK (length(lock_id) = 36),
    tenant_id       text COLLATE "C" NOT NULL,
    side            text COLLATE "C" NOT NULL CHECK (side IN ('tenant', 'vendor')),
    expire_time     bigint,
    body            text COLLATE "C" NOT NULL CHECK (body::json IS NOT NULL),
    CHECK (side = 'vendor' OR tenant_id <> '')
);

COMMENT ON TABLE locks IS 'Every lock, as its last event left it.';
COMMENT ON COLUMN locks.create_revision IS 'The event that made it: its place in lists.';
COMMENT ON COLUMN locks.ended_revision IS 'The event that ended it; NULL while none has.';
COMMENT ON COLUMN locks.lock_id IS 'Its UUID.';
COMMENT ON COLUMN locks.tenant_id IS 'The tenant that is locked; empty: something else is.';
COMMENT ON COLUMN locks.side IS 'Whose lock it is.';
COMMENT ON COLUMN locks.expire_time IS 'The first moment without; NULL: until it is lifted.';
COMMENT ON COLUMN locks.body IS 'The lock, whole, as JSON. Text, to be kept to the byte.';

-- Lists of a tenant's locks and of everybody's, with those that have ended and without: each in the order of an answer.
CREATE INDEX locks_of_tenant ON locks (tenant_id, create_revision);
CREATE INDEX locks_live_of_tenant ON locks (tenant_id, create_revision) WHERE ended_revision IS NULL;
CREATE INDEX locks_live ON locks (create_revision) WHERE ended_revision IS NULL;
-- How many each side has set.
CREATE INDEX locks_live_of_side ON locks (side, tenant_id) WHERE ended_revision IS NULL;
-- What the sweep asks for: the locks that end next.
CREATE INDEX locks_due ON locks (expire_time, create_revision) WHERE ended_revision IS NULL AND expire_time IS NOT NULL;

-- A lock ends once, and nothing else of it ever changes.
CREATE TRIGGER locks_only_end BEFORE UPDATE ON locks
    FOR EACH ROW
    WHEN (OLD.ended_revision IS NOT NULL OR NEW.ended_revision IS NULL OR NEW.create_revision <> OLD.create_revision
        OR NEW.lock_id <> OLD.lock_id OR NEW.tenant_id <> OLD.tenant_id OR NEW.side <> OLD.side
        OR NEW.expire_time IS DISTINCT FROM OLD.expire_time)
    EXECUTE FUNCTION history_is_permanent();
CREATE TRIGGER locks_are_never_deleted BEFORE DELETE OR TRUNCATE ON locks
    FOR EACH STATEMENT EXECUTE FUNCTION history_is_permanent();
