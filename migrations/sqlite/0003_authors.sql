-- Who did something, through whom, and whether that was proven. An empty tenant_id is the vendor's own history.

-- The service through which they did, by the name in its certificate, if there was one.
ALTER TABLE events ADD COLUMN via TEXT;
-- 1: that service has only named the actor, and shown no proof of it.
ALTER TABLE events ADD COLUMN is_asserted INTEGER NOT NULL DEFAULT 0
    CHECK (is_asserted IN (0, 1) AND (via IS NOT NULL OR is_asserted = 0));
