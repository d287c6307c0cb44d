// Encodes a request with the generated code and decodes it again. Prints the called method and the
// encoded request. Then sends the check three times to each target in the arguments, and prints the
// decisions.

import { deepStrictEqual } from "node:assert";
import { credentials } from "@grpc/grpc-js";
import { AccessLevel, AgentKind } from "./generated/supportaccess/v1/grant.js";
import {
  CheckAccessRequest,
  CheckAccessResponse,
  SupportAccessClient,
  SupportAccessService,
  decisionToJSON,
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

for (const target of process.argv.slice(2)) {
  const access = new SupportAccessClient(target, credentials.createInsecure());
  for (let call = 0; call < 3; call++) {
    const response = await new Promise<CheckAccessResponse>((resolve, reject) => {
      access.checkAccess({ check: request.check, consistencyToken: "" }, (error, response) =>
        error ? reject(error) : resolve(response),
      );
    });
    console.log(decisionToJSON(response.decision));
  }
  access.close();
}
