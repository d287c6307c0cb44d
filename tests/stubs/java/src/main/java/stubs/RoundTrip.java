package stubs;

import io.github.supportaccess.v1.AccessCheck;
import io.github.supportaccess.v1.AccessLevel;
import io.github.supportaccess.v1.AgentKind;
import io.github.supportaccess.v1.CheckAccessRequest;
import io.github.supportaccess.v1.SupportAccessGrpc;
import java.util.HexFormat;

/**
 * Encodes a request with the generated code and decodes it again. Prints the called method and the
 * encoded request.
 */
public final class RoundTrip {
  public static void main(String[] arguments) throws Exception {
    CheckAccessRequest request =
        CheckAccessRequest.newBuilder()
            .setCheck(
                AccessCheck.newBuilder()
                    .setTenantId("acme")
                    .setAgentId("dana")
                    .addGroupIds("billing")
                    .addGroupIds("größe")
                    .setRequiredLevel(AccessLevel.ACCESS_LEVEL_READ_WRITE)
                    .setAgentKind(AgentKind.AGENT_KIND_SERVICE)
                    .setOnBehalfOf("erin"))
            .setConsistencyToken("token")
            .build();
    byte[] encoded = request.toByteArray();
    CheckAccessRequest decoded = CheckAccessRequest.parseFrom(encoded);
    if (!decoded.equals(request)) {
      throw new AssertionError("decoded " + decoded + " instead of " + request);
    }
    System.out.println(SupportAccessGrpc.getCheckAccessMethod().getFullMethodName());
    System.out.println(HexFormat.of().formatHex(encoded));
  }
}
