//! A server, and the transcript of the tenant's calls to it.

use std::{collections::HashMap, sync::Arc};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use support_access::{
    api::proto::{
        DESCRIPTORS,
        v1::{
            Grant, Lock, support_access_admin_client::SupportAccessAdminClient,
            support_access_client::SupportAccessClient,
        },
    },
    domain::{clock::ManualClock, time::from_micros},
    server::{self, Listeners, Running},
    store::memory::MemoryStore,
};
use tonic::{Response, Status, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::server::harness::{channel, config};

/// A server with what both sides remember of their earlier calls.
pub(super) struct World {
    pub(super) running: Running,
    pub(super) clock: Arc<ManualClock>,
    pub(super) admin: SupportAccessAdminClient<Channel>,
    pub(super) checks: SupportAccessClient<Channel>,
    pub(super) grants: Vec<Grant>,
    pub(super) locks: Vec<Lock>,
    pub(super) tokens: Vec<String>,
    pub(super) grant_token: String,
    pub(super) event_token: String,
    pub(super) foreign_grants: Vec<Grant>,
    pub(super) foreign_locks: Vec<Lock>,
    pub(super) vendor_locks: Vec<Lock>,
    pub(super) transcript: Vec<String>,
    names: HashMap<String, usize>,
}

impl World {
    pub(super) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(from_micros(1_800_000_000_000_000).unwrap()));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let config = config();
        let listeners = Listeners::bind(&config.common).unwrap();
        let running = server::start(config, listeners, store, clock.clone()).await.unwrap();
        let channel = channel(&running).await;
        Self {
            running,
            clock,
            admin: SupportAccessAdminClient::new(channel.clone()),
            checks: SupportAccessClient::new(channel),
            grants: Vec::new(),
            locks: Vec::new(),
            tokens: Vec::new(),
            grant_token: String::new(),
            event_token: String::new(),
            foreign_grants: Vec::new(),
            foreign_locks: Vec::new(),
            vendor_locks: Vec::new(),
            transcript: Vec::new(),
            names: HashMap::new(),
        }
    }

    /// Adds a result to the transcript, and returns the response.
    pub(super) fn observe<M: Message>(
        &mut self,
        result: Result<Response<M>, Status>,
        name: &str,
    ) -> Option<M> {
        match result {
            Ok(response) => {
                let message = response.into_inner();
                let line = self.normalized(to_json(name, &message));
                self.transcript.push(line.to_string());
                Some(message)
            }
            Err(status) => {
                let (code, details) = (status.code(), status.get_error_details());
                let line = format!("{code:?}: {}: {details:?}", status.message());
                // The error repeats the id of the request, which the other tenant may have or not.
                self.transcript.push(replace_uuids(&line, |_| "#".to_owned()));
                None
            }
        }
    }

    /// Replaces random values by the order of their first appearance.
    fn normalized(&mut self, value: Value) -> Value {
        match value {
            Value::Object(fields) => fields
                .into_iter()
                .map(|(key, value)| match (key.as_str(), value) {
                    ("consistency_token", Value::String(token)) => {
                        (key, Value::from(if token.is_empty() { "" } else { "TOKEN" }))
                    }
                    // Records and checkpoints are JSON themselves.
                    ("records", Value::Array(lines)) => {
                        let lines = lines.into_iter().map(|line| self.parsed(&line));
                        (key, Value::Array(lines.collect()))
                    }
                    ("checkpoint", line) => {
                        let mut checkpoint = self.parsed(&line);
                        checkpoint["time"] = Value::Null;
                        (key, checkpoint)
                    }
                    // These depend on when the node has renewed its lease, and recorded a result.
                    ("elapsed" | "complete_by", _) => (key, Value::Null),
                    ("hash" | "previous_hash", Value::String(hash)) => {
                        let name = self.name(&hash);
                        (key, Value::from(name))
                    }
                    (_, value) => {
                        let value = self.normalized(value);
                        (key, value)
                    }
                })
                .collect(),
            Value::Array(values) => {
                values.into_iter().map(|value| self.normalized(value)).collect()
            }
            Value::String(text) => Value::from(replace_uuids(&text, |uuid| self.name(uuid))),
            other => other,
        }
    }

    fn parsed(&mut self, line: &Value) -> Value {
        let record = serde_json::from_str(line.as_str().unwrap()).unwrap();
        self.normalized(record)
    }

    fn name(&mut self, value: &str) -> String {
        let next = self.names.len();
        format!("#{}", self.names.entry(value.to_owned()).or_insert(next))
    }
}

fn replace_uuids(text: &str, mut name: impl FnMut(&str) -> String) -> String {
    const LENGTH: usize = 36;
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match rest.get(..LENGTH).filter(|part| Uuid::try_parse(part).is_ok()) {
            Some(uuid) => {
                replaced += &name(uuid);
                rest = &rest[LENGTH..];
            }
            None => {
                replaced.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    replaced
}

fn to_json(name: &str, message: &impl Message) -> Value {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let descriptor = pool.get_message_by_name(&format!("supportaccess.v1.{name}")).unwrap();
    let encoded = message.encode_to_vec();
    let message = DynamicMessage::decode(descriptor, encoded.as_slice()).unwrap();
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    let serializer = serde_json::value::Serializer;
    message.serialize_with_options(serializer, &options).unwrap()
}
