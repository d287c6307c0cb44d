//! A follower that a test speaks for.

use support_access::{
    api::proto::{
        replication::v1::{
            FollowRequest, FollowResponse,
            follow_request::{Acknowledge, Hello, Message, Ping},
            follow_response::{Message as Told, Pong},
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

use crate::harness::{admin, channel, with_timeout};

/// A check node that says and hears what a test wants.
pub(crate) struct Follower {
    pub(crate) node_id: Uuid,
    pub(crate) says: mpsc::Sender<FollowRequest>,
    pub(crate) hears: Streaming<FollowResponse>,
}

impl Follower {
    /// Follows from the beginning.
    pub(crate) async fn new(channel: Channel) -> Self {
        let mut follower = Self::silent(channel).await;
        follower.say(follower.hello()).await;
        follower
    }

    /// Has not said anything.
    pub(crate) async fn silent(channel: Channel) -> Self {
        let (says, said) = mpsc::channel(10_000);
        let mut client = ReplicationClient::new(channel);
        let hears = client.follow(ReceiverStream::new(said)).await.unwrap().into_inner();
        Self { node_id: Uuid::new_v4(), says, hears }
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

    pub(crate) async fn say(&mut self, message: Message) {
        // A stream that has ended takes no more.
        let _ = self.says.send(FollowRequest { message: Some(message) }).await;
    }

    pub(crate) async fn hear(&mut self) -> Option<Told> {
        with_timeout(self.hears.message()).await.unwrap().map(|it| it.message.unwrap())
    }

    /// Hears until there is an answer to a ping.
    pub(crate) async fn pong(&mut self, sequence: i64) -> Pong {
        self.say(Message::Ping(Ping { sequence })).await;
        loop {
            if let Told::Pong(pong) = self.hear().await.unwrap() {
                return pong;
            }
        }
    }

    /// Hears until changes have come up to `revision`, and acknowledges them.
    pub(crate) async fn keep_up(&mut self, revision: i64) {
        loop {
            if let Told::Changes(changes) = self.hear().await.unwrap()
                && changes.changes.last().is_some_and(|it| it.revision >= revision)
            {
                return self.say(ack(revision)).await;
            }
        }
    }

    /// Hears until the stream ends, and says with which code and reason.
    pub(crate) async fn end(&mut self) -> (Code, String) {
        loop {
            match with_timeout(self.hears.message()).await {
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
    Message::Acknowledge(Acknowledge { revision, nodes: 1, nodes_lapsed: 0 })
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
