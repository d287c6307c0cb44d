-- Locks: whom nobody lets in, whatever is granted. An empty tenant_id is the vendor's own history.

-- Every lock, as its last event left it. The newest come first in lists.
CREATE TABLE locks (
    create_revision INTEGER NOT NULL PRIMARY KEY REFERENCES events (revision), -- the event that made it: its place in lists
    ended_revision  INTEGER REFERENCES events (revision) CHECK (ended_revision > create_revision),          -- the event that ended it; NULL while none has
    lock_id         TEXT NOT NULL UNIQUE CHECK (length(lock_id) = 36),         -- its UUID
    tenant_id       TEXT NOT NULL,                                             -- the tenant that is locked; empty: something else is
    side            TEXT NOT NULL CHECK (side IN ('tenant', 'vendor')),        -- whose lock it is
    expire_time     INTEGER,                                                   -- the first moment without; NULL: until it is lifted
    body            TEXT NOT NULL CHECK (json_valid(body)),                    -- the lock, whole
    CHECK (side = 'vendor' OR tenant_id <> '')
) STRICT;

-- Lists of a tenant's locks and of everybody's, with those that have ended and without: each in the order of an answer.
CREATE INDEX locks_of_tenant ON locks (tenant_id, create_revision);
CREATE INDEX locks_live_of_tenant ON locks (tenant_id, create_revision) WHERE ended_revision IS NULL;
CREATE INDEX locks_live ON locks (create_revision) WHERE ended_revision IS NULL;
-- How many each side has set.
CREATE INDEX locks_live_of_side ON locks (side, tenant_id) WHERE ended_revision IS NULL;
-- What the sweep asks for: the locks that end next.
CREATE INDEX locks_due ON locks (expire_time, create_revision) WHERE ended_revision IS NULL AND expire_time IS NOT NULL;

-- A lock ends once, and nothing else of it ever changes. (The trigger on INSERT is for INSERT OR REPLACE, which no other sees.)
CREATE TRIGGER locks_are_never_replaced BEFORE INSERT ON locks
WHEN EXISTS (SELECT 1 FROM locks WHERE create_revision = NEW.create_revision OR lock_id = NEW.lock_id)
BEGIN SELECT RAISE(ABORT, 'history is permanent: locks are never replaced'); END;

CREATE TRIGGER locks_only_end BEFORE UPDATE ON locks
WHEN OLD.ended_revision IS NOT NULL OR NEW.ended_revision IS NULL OR NEW.create_revision <> OLD.create_revision
    OR NEW.lock_id <> OLD.lock_id OR NEW.tenant_id <> OLD.tenant_id OR NEW.side <> OLD.side
    OR NEW.expire_time IS NOT OLD.expire_time
BEGIN SELECT RAISE(ABORT, 'history is permanent: a lock only ends, and only once'); END;

CREATE TRIGGER locks_are_never_deleted BEFORE DELETE ON locks
BEGIN SELECT RAISE(ABORT, 'history is permanent: locks are never deleted'); END;
