//! A follower controlled by a test.

use support_access::{
    api::proto::{
        replication::v1::{
            FollowRequest, FollowResponse,
            follow_request::{Acknowledge, Hello, Message, Ping},
            follow_response::{Message as Response, Pong},
            replication_client::ReplicationClient,
        },
        v1::{GrantAccessRequest, ListCheckNodesRequest, check_nodes_client::CheckNodesClient},
    },
    server::Running,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::server::harness::{admin, channel, with_timeout};

/// The client side of a replication stream.
pub(crate) struct Follower {
    pub(crate) node_id: Uuid,
    pub(crate) requests: mpsc::Sender<FollowRequest>,
    pub(crate) responses: Streaming<FollowResponse>,
}

impl Follower {
    /// Opens a stream and sends a hello, without a position.
    pub(crate) async fn new(channel: Channel) -> Self {
        let mut follower = Self::silent(channel).await;
        follower.send(follower.hello()).await;
        follower
    }

    /// Opens a stream and sends nothing.
    pub(crate) async fn silent(channel: Channel) -> Self {
        let (requests, receiver) = mpsc::channel(10_000);
        let mut client = ReplicationClient::new(channel);
        let responses = client.follow(ReceiverStream::new(receiver)).await.unwrap().into_inner();
        Self { node_id: Uuid::new_v4(), requests, responses }
    }

    pub(crate) fn hello(&self) -> Message {
        Message::Hello(Hello {
            protocol_version: 1,
            node_id: self.node_id.as_bytes().to_vec(),
            version: "9.9".to_owned(),
            position: None,
            lease_age: None,
        })
    }

    pub(crate) async fn send(&mut self, message: Message) {
        // Fails if the stream has ended.
        let _ = self.requests.send(FollowRequest { message: Some(message) }).await;
    }

    pub(crate) async fn receive(&mut self) -> Option<Response> {
        let response = with_timeout(self.responses.message()).await.unwrap();
        response.map(|response| response.message.unwrap())
    }

    /// Sends a ping, and receives until the pong.
    pub(crate) async fn pong(&mut self, sequence: i64) -> Pong {
        self.send(Message::Ping(Ping { sequence })).await;
        loop {
            if let Response::Pong(pong) = self.receive().await.unwrap() {
                return pong;
            }
        }
    }

    /// Receives a snapshot or changes up to `revision`, and acknowledges the revision.
    pub(crate) async fn keep_up(&mut self, revision: i64) {
        loop {
            let received = match self.receive().await.unwrap() {
                Response::Changes(changes) => changes.changes.last().map(|change| change.revision),
                Response::SnapshotEnd(end) => end.position.map(|position| position.revision),
                _ => None,
            };
            if received.is_some_and(|received| received >= revision) {
                return self.send(ack(revision)).await;
            }
        }
    }

    /// Receives until the stream ends. Returns the code and the reason of the end.
    pub(crate) async fn end(&mut self) -> (Code, String) {
        loop {
            match with_timeout(self.responses.message()).await {
                Ok(Some(_)) => {}
                Ok(None) => return (Code::Ok, String::new()),
                Err(status) => return (status.code(), reason(&status)),
            }
        }
    }
}

pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

pub(crate) fn ack(revision: i64) -> Message {
    Message::Acknowledge(Acknowledge { revision })
}

pub(crate) fn ping(sequence: i64) -> Message {
    Message::Ping(Ping { sequence })
}

pub(crate) fn followers(count: u32) -> String {
    format!("support_access_followers {count}")
}

/// Grants access, and returns the grant and the revision of its event, the last in the log.
pub(crate) async fn grant(running: &Running, request: GrantAccessRequest) -> (String, i64) {
    let response = admin(running).await.grant_access(request).await.unwrap();
    (response.into_inner().grant.unwrap().grant_id, head_revision(running).await)
}

pub(crate) async fn head_revision(running: &Running) -> i64 {
    let mut client = CheckNodesClient::new(channel(running).await);
    let response = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap();
    response.into_inner().head_revision
}
