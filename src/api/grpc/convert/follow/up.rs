//! What a follower says.

use crate::{
    api::{
        grpc::convert::{
            fields::Parsed,
            follow::{
                node, node_message, position, position_message, revision, span, uuid, version,
                within,
            },
            responses::duration,
        },
        proto::v1::{
            self as pb,
            follow_request::{self as fr, Message},
        },
    },
    domain::{Ack, NodeId, NodeInfo, violation::Violations},
    node::message::{Hello, REPORT_MAX, ToUpstream},
};

/// The most nodes that one acknowledgement may speak for: sums of many stay far below where arithmetic ends.
const NODES_MAX: u32 = 100_000;

/// The message that says `up`.
pub(in crate::api::grpc) fn request(up: ToUpstream) -> pb::FollowRequest {
    let message = match up {
        ToUpstream::Hello(Hello { protocol, node_id, version, held, lease_age }) => {
            Message::Hello(fr::Hello {
                protocol,
                node_id: node_id.0.as_bytes().to_vec(),
                version,
                held: held.map(position_message),
                lease_age: lease_age.map(duration),
            })
        }
        ToUpstream::Ping { seq } => Message::Ping(fr::Ping { sequence: seq }),
        ToUpstream::Ack(Ack { revision, nodes, nodes_lapsed }) => {
            // The word of more than there may be is taken for as many as there may be: the numbers are for people.
            let [nodes, nodes_lapsed] = [nodes, nodes_lapsed].map(|number| number.min(NODES_MAX));
            Message::Ack(fr::Ack { revision, nodes, nodes_lapsed })
        }
        ToUpstream::Report(nodes) => {
            let nodes = nodes.into_iter().map(|node| node_message(node, 0)).collect();
            Message::Report(fr::Report { nodes })
        }
        ToUpstream::Leave => Message::Leave(fr::Leave {}),
    };
    pb::FollowRequest { message: Some(message) }
}

/// What a follower's message says.
pub(in crate::api::grpc) fn up(request: pb::FollowRequest) -> Parsed<ToUpstream> {
    match request.message {
        Some(Message::Hello(message)) => within(hello(message), "hello.").map(ToUpstream::Hello),
        Some(Message::Ping(fr::Ping { sequence })) => Ok(ToUpstream::Ping { seq: sequence }),
        Some(Message::Ack(message)) => within(ack(message), "ack.").map(ToUpstream::Ack),
        Some(Message::Report(message)) => {
            within(report(message), "report.").map(ToUpstream::Report)
        }
        Some(Message::Leave(fr::Leave {})) => Ok(ToUpstream::Leave),
        None => Err(Violations::of("message", "must be hello, ping, ack, report or leave")),
    }
}

fn hello(message: fr::Hello) -> Parsed<Hello> {
    let fr::Hello { protocol, node_id, version, held, lease_age } = message;
    Ok(Hello {
        protocol,
        node_id: NodeId(uuid("node_id", &node_id)?),
        version: self::version("version", version)?,
        held: held.map(|held| within(position(held), "held.")).transpose()?,
        lease_age: lease_age.map(|age| span("lease_age", age)).transpose()?,
    })
}

fn ack(message: fr::Ack) -> Parsed<Ack> {
    let fr::Ack { revision, nodes, nodes_lapsed } = message;
    if !(1..=NODES_MAX).contains(&nodes) {
        return Err(Violations::of("nodes", format!("must be from 1 to {NODES_MAX}")));
    }
    if nodes_lapsed > NODES_MAX {
        return Err(Violations::of("nodes_lapsed", format!("must be at most {NODES_MAX}")));
    }
    Ok(Ack { revision: self::revision("revision", revision)?, nodes, nodes_lapsed })
}

fn report(message: fr::Report) -> Parsed<Vec<NodeInfo>> {
    let fr::Report { nodes } = message;
    if nodes.len() > REPORT_MAX {
        let description = format!("must be at most {REPORT_MAX}, but are {}", nodes.len());
        return Err(Violations::of("nodes", description));
    }
    let numbered = nodes.into_iter().enumerate();
    let parsed = |(index, message)| {
        node(message).map_err(|violations| violations.within(&format!("nodes[{index}].")))
    };
    numbered.map(parsed).collect()
}
