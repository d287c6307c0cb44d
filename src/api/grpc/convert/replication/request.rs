//! Messages from a follower.

use crate::{
    api::{
        grpc::convert::{
            fields::Parsed,
            replication::{
                node_message, out_of_range, parse_duration, parse_node, parse_position,
                parse_revision, parse_uuid, parse_version, position_message, required, within,
            },
            timestamps::duration,
        },
        proto::replication::v1::{
            self as rpb,
            follow_request::{self as fr, Message},
        },
    },
    domain::{Ack, NodeId, NodeInfo},
    node::message::{Hello, REPORT_MAX, ToUpstream},
};

/// The maximum number of nodes in one acknowledgement. Sums of many acknowledgements cannot
/// overflow.
const NODES_MAX: u32 = 100_000;

/// The message to an upstream.
pub fn request(message: ToUpstream) -> rpb::FollowRequest {
    let message = match message {
        ToUpstream::Hello(Hello { protocol, node_id, version, position, lease_age }) => {
            Message::Hello(fr::Hello {
                protocol_version: protocol,
                node_id: node_id.0.as_bytes().to_vec(),
                version,
                position: position.map(position_message),
                lease_age: lease_age.map(duration),
            })
        }
        ToUpstream::Ping { seq } => Message::Ping(fr::Ping { sequence: seq }),
        ToUpstream::Ack(Ack { revision, nodes, nodes_lapsed }) => {
            // The numbers are for display only, so a larger number may be cut to the maximum.
            let [nodes, nodes_lapsed] = [nodes, nodes_lapsed].map(|number| number.min(NODES_MAX));
            Message::Acknowledge(fr::Acknowledge { revision, nodes, nodes_lapsed })
        }
        ToUpstream::Report(nodes) => {
            let check_nodes = nodes.into_iter().map(|node| node_message(node, 0)).collect();
            Message::Report(fr::Report { check_nodes })
        }
        ToUpstream::Leave => Message::Leave(fr::Leave {}),
    };
    rpb::FollowRequest { message: Some(message) }
}

/// Parses the message of a follower.
pub fn parse_request(request: rpb::FollowRequest) -> Parsed<ToUpstream> {
    match required("message", request.message)? {
        Message::Hello(message) => within(parse_hello(message), "hello.").map(ToUpstream::Hello),
        Message::Ping(fr::Ping { sequence }) => Ok(ToUpstream::Ping { seq: sequence }),
        Message::Acknowledge(message) => {
            within(parse_acknowledge(message), "acknowledge.").map(ToUpstream::Ack)
        }
        Message::Report(message) => {
            within(parse_report(message), "report.").map(ToUpstream::Report)
        }
        Message::Leave(fr::Leave {}) => Ok(ToUpstream::Leave),
    }
}

fn parse_hello(message: fr::Hello) -> Parsed<Hello> {
    let fr::Hello { protocol_version, node_id, version, position, lease_age } = message;
    let position = position.map(|position| within(parse_position(position), "position."));
    Ok(Hello {
        protocol: protocol_version,
        node_id: NodeId(parse_uuid("node_id", &node_id)?),
        version: parse_version("version", version)?,
        position: position.transpose()?,
        lease_age: lease_age.map(|age| parse_duration("lease_age", age)).transpose()?,
    })
}

fn parse_acknowledge(message: fr::Acknowledge) -> Parsed<Ack> {
    let fr::Acknowledge { revision, nodes, nodes_lapsed } = message;
    if !(1..=NODES_MAX).contains(&nodes) {
        return Err(out_of_range("nodes", &format!("must be from 1 to {NODES_MAX}")));
    }
    if nodes_lapsed > NODES_MAX {
        return Err(out_of_range("nodes_lapsed", &format!("must be at most {NODES_MAX}")));
    }
    Ok(Ack { revision: parse_revision("revision", revision)?, nodes, nodes_lapsed })
}

fn parse_report(message: fr::Report) -> Parsed<Vec<NodeInfo>> {
    let fr::Report { check_nodes } = message;
    if check_nodes.len() > REPORT_MAX {
        let description =
            format!("must have at most {REPORT_MAX} items, but has {}", check_nodes.len());
        return Err(out_of_range("check_nodes", &description));
    }
    let numbered = check_nodes.into_iter().enumerate();
    let parse = |(index, message)| within(parse_node(message), &format!("check_nodes[{index}]."));
    numbered.map(parse).collect()
}
