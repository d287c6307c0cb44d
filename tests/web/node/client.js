// A check, and an error, with the Connect client. Arguments: URL, version of HTTP, and codec.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { AccessLevel, AgentKind } from "./supportaccess/v1/grant_pb.js";
import { Decision, SupportAccess } from "./supportaccess/v1/support_access_pb.js";
import { SupportAccessAdmin } from "./supportaccess/v1/support_access_admin_pb.js";

const [baseUrl, httpVersion, codec] = process.argv.slice(2);
const transport = createConnectTransport({
  baseUrl,
  httpVersion,
  useBinaryFormat: codec === "proto",
});

const access = createClient(SupportAccess, transport);
const response = await access.checkAccess({
  check: {
    tenantId: "acme",
    agentId: "ada",
    groupIds: ["support"],
    requiredLevel: AccessLevel.READ_ONLY,
    agentKind: AgentKind.HUMAN,
  },
});
console.log(`DECISION_${Decision[response.decision]}`);

const admin = createClient(SupportAccessAdmin, transport);
const missing = { tenantId: "acme", grantId: "01890000-0000-7000-8000-000000000000" };
try {
  await admin.getGrant(missing);
} catch (error) {
  const failure = ConnectError.from(error);
  console.log(Code[failure.code].replace(/([a-z])([A-Z])/g, "$1_$2").toLowerCase());
  const info = failure.details.find((detail) => detail.type === "google.rpc.ErrorInfo");
  console.log(info.debug.reason);
}
process.exit(0);
