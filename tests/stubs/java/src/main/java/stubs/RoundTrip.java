package stubs;

import io.github.supportaccess.v1.AccessCheck;
import io.github.supportaccess.v1.AccessLevel;
import io.github.supportaccess.v1.AgentKind;
import io.github.supportaccess.v1.CheckAccessRequest;
import io.github.supportaccess.v1.SupportAccessGrpc;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import java.util.HexFormat;
import java.util.concurrent.TimeUnit;
import java.util.logging.LogManager;

/**
 * Encodes a request with the generated code and decodes it again. Prints the called method and the
 * encoded request. Then sends the check three times to each target in the arguments, and prints the
 * decisions.
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
    // Netty logs that Unix sockets have no keepalive of TCP.
    LogManager.getLogManager().reset();
    for (String target : arguments) {
      check(target, request.getCheck());
    }
  }

  private static void check(String target, AccessCheck check) {
    ManagedChannel channel =
        Grpc.newChannelBuilder(target, InsecureChannelCredentials.create()).build();
    CheckAccessRequest request = CheckAccessRequest.newBuilder().setCheck(check).build();
    for (int call = 0; call < 3; call++) {
      SupportAccessGrpc.SupportAccessBlockingStub access =
          SupportAccessGrpc.newBlockingStub(channel).withDeadlineAfter(1, TimeUnit.MINUTES);
      System.out.println(access.checkAccess(request).getDecision());
    }
    channel.shutdownNow();
  }
}
