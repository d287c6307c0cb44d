// Encodes a request with the generated code and decodes it again. Prints the called method and the
// encoded request.

import { deepStrictEqual } from "node:assert";
import { AccessLevel, AgentKind } from "./generated/supportaccess/v1/grant.js";
import {
  CheckAccessRequest,
  SupportAccessService,
} from "./generated/supportaccess/v1/support_access.js";

const request: CheckAccessRequest = {
  check: {
    tenantId: "acme",
    agentId: "dana",
    groupIds: ["billing", "größe"],
    requiredLevel: AccessLevel.ACCESS_LEVEL_READ_WRITE,
    agentKind: AgentKind.AGENT_KIND_SERVICE,
    onBehalfOf: "erin",
  },
  consistencyToken: "token",
};
const encoded = CheckAccessRequest.encode(request).finish();
deepStrictEqual(CheckAccessRequest.decode(encoded), request);
console.log(SupportAccessService.checkAccess.path.replace(/^\//, ""));
console.log(Buffer.from(encoded).toString("hex"));
