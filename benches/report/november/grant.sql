-- The statements of a grant in version b50cc2d of 22 November 2026.
\set tenant random(0, 999)
BEGIN ISOLATION LEVEL READ COMMITTED;
SELECT revision + 1 AS revision, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS clock, (SELECT coalesce(max(revision), 0) FROM chain) AS linked FROM (SELECT revision, time, max_staleness, epoch FROM head WHERE id = 1 FOR UPDATE) AS head \gset
SELECT body FROM tightenings WHERE tenant_id = 'changes-' || :tenant::text;
SELECT count(*) FROM grants WHERE tenant_id = 'changes-' || :tenant::text AND ended_revision IS NULL;
INSERT INTO events (revision, tenant_id, time, actor, via, is_asserted, reason, kind, grant_id, body) VALUES (:revision::bigint, 'changes-' || :tenant::text, :clock::bigint, 'local', NULL, 0, 'The invoices of October are wrong.', 'granted', lpad(:revision::text, 36, '0'), '{"kind":"granted","grant": {"tenant_id":"changes-1","terms": {"grant_id":"01993d5f-5d4b-7c1e-9d0a-3f2b1c4d5e6f","group_id":"support","agent_ids": [],"access_level":"read_only","start_time":"2026-11-22T17.49.57.123456Z","expire_time": null,"revoke_time": null},"reason":"The invoices of October are wrong.","ticket":"","create_time":"2026-11-22T17.49.57.123456Z","creator":"local","revocation": null,"create_revision": 0,"revision": 0}}');
SELECT coalesce((SELECT sequence FROM chain WHERE tenant_id = 'changes-' || :tenant::text ORDER BY sequence DESC LIMIT 1), 0) + 1 AS sequence \gset
INSERT INTO chain (revision, tenant_id, sequence, hash) VALUES (:revision::bigint, 'changes-' || :tenant::text, :sequence::bigint, '\x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f');
INSERT INTO grants (tenant_id, create_revision, revision, grant_id, group_id, agent_ids, access_level, start_time, expire_time, reason, ticket, create_time, creator) VALUES ('changes-' || :tenant::text, :revision::bigint, :revision::bigint, lpad(:revision::text, 36, '0'), 'support', '[]', 1, :clock::bigint, NULL, 'The invoices of October are wrong.', '', :clock::bigint, 'local');
UPDATE head SET revision = :revision::bigint, time = :clock::bigint WHERE id = 1 RETURNING pg_notify('support_access_log_' || epoch, '')::text;
COMMIT;
