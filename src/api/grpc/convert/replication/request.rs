//! Messages from a follower.

use crate::{
    api::{
        grpc::convert::{
            fields::Parsed,
            replication::{
                parse_duration, parse_position, parse_revision, parse_uuid, parse_version,
                position_message, required, within,
            },
            timestamps::duration,
        },
        proto::replication::v1::{
            self as rpb,
            follow_request::{self as fr, Message},
        },
    },
    domain::NodeId,
    node::message::{Hello, ToUpstream},
};

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
        ToUpstream::Ack(revision) => Message::Acknowledge(fr::Acknowledge { revision }),
        ToUpstream::Leave => Message::Leave(fr::Leave {}),
    };
    rpb::FollowRequest { message: Some(message) }
}

/// Parses the message of a follower.
pub fn parse_request(request: rpb::FollowRequest) -> Parsed<ToUpstream> {
    match required("message", request.message)? {
        Message::Hello(message) => within(parse_hello(message), "hello.").map(ToUpstream::Hello),
        Message::Ping(fr::Ping { sequence }) => Ok(ToUpstream::Ping { seq: sequence }),
        Message::Acknowledge(fr::Acknowledge { revision }) => {
            within(parse_revision("revision", revision), "acknowledge.").map(ToUpstream::Ack)
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
