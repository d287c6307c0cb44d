-- Who did something, through whom, and whether that was proven.

ALTER TABLE events
    ADD COLUMN via text COLLATE "C",
    ADD COLUMN is_asserted bigint NOT NULL DEFAULT 0 CHECK (is_asserted IN (0, 1)),
    ADD CHECK (via IS NOT NULL OR is_asserted = 0);

COMMENT ON COLUMN events.tenant_id IS 'Whose history it belongs to; empty: the vendor''s own.';
COMMENT ON COLUMN events.via IS 'The service through which they did, by the name in its certificate, if there was one.';
COMMENT ON COLUMN events.is_asserted IS '1: that service has only named the actor, and shown no proof of it.';
