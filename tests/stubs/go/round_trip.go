// Encodes a request with the generated code and decodes it again. Prints the called method and the
// encoded request. Then sends the check three times to each target in the arguments, and prints the
// decisions.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/support-access/support-access/clients/go/supportaccess/v1"
)

func main() {
	request := &supportaccessv1.CheckAccessRequest{
		Check: &supportaccessv1.AccessCheck{
			TenantId:      "acme",
			AgentId:       "dana",
			GroupIds:      []string{"billing", "größe"},
			RequiredLevel: supportaccessv1.AccessLevel_ACCESS_LEVEL_READ_WRITE,
			AgentKind:     supportaccessv1.AgentKind_AGENT_KIND_SERVICE,
			OnBehalfOf:    "erin",
		},
		ConsistencyToken: "token",
	}
	encoded, err := proto.Marshal(request)
	if err != nil {
		log.Fatal(err)
	}
	decoded := &supportaccessv1.CheckAccessRequest{}
	if err := proto.Unmarshal(encoded, decoded); err != nil {
		log.Fatal(err)
	}
	if !proto.Equal(decoded, request) {
		log.Fatalf("decoded %v instead of %v", decoded, request)
	}
	fmt.Println(strings.TrimPrefix(supportaccessv1.SupportAccess_CheckAccess_FullMethodName, "/"))
	fmt.Printf("%x\n", encoded)
	for _, target := range os.Args[1:] {
		check(target, request.Check)
	}
}

func check(target string, check *supportaccessv1.AccessCheck) {
	credentials := grpc.WithTransportCredentials(insecure.NewCredentials())
	channel, err := grpc.NewClient(target, credentials)
	if err != nil {
		log.Fatal(err)
	}
	defer channel.Close()
	access := supportaccessv1.NewSupportAccessClient(channel)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for range 3 {
		request := &supportaccessv1.CheckAccessRequest{Check: check}
		response, err := access.CheckAccess(ctx, request)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(response.Decision)
	}
}
