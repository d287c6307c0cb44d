//! The messages that the generator sends.

use std::{collections::BTreeMap, iter};

use clap::{Args, ValueEnum};
use prost::Message;
use prost_types::{ListValue, Struct, Value, value::Kind};
use support_access::api::proto::v1 as pb;
use tokio_util::bytes::BufMut;

use crate::data::Data;

/// The number of different checks. Changes are all different.
const CHECKS: usize = 4_096;

/// A method that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// `CheckAccess`.
    Check,
    /// `BatchCheckAccess`.
    Batch,
    /// `GrantAccess`.
    Grant,
    /// `CheckResources` of Cerbos.
    Cerbos,
}

/// The questions.
#[derive(Debug, Clone, Args)]
pub struct Question {
    /// The method.
    #[arg(long, default_value = "check")]
    pub method: Method,
    /// The percentage of checks that are allowed.
    #[arg(long, default_value_t = 80)]
    allowed: usize,
    /// The number of checks in a batch.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// The number of groups of the agent.
    #[arg(long, default_value_t = 1)]
    asked_groups: usize,
    /// The beginning of the tenants' names for `GrantAccess`.
    #[arg(long, default_value = "")]
    prefix: String,
    #[command(flatten)]
    data: Data,
}

/// The messages with their prefixes.
#[derive(Debug)]
pub struct Messages {
    question: Question,
    checks: Vec<Vec<u8>>,
}

impl Method {
    /// The path of the method.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Check => "/supportaccess.v1.SupportAccess/CheckAccess",
            Self::Batch => "/supportaccess.v1.SupportAccess/BatchCheckAccess",
            Self::Grant => "/supportaccess.v1.SupportAccessAdmin/GrantAccess",
            Self::Cerbos => "/cerbos.svc.v1.CerbosService/CheckResources",
        }
    }
}

// === impl Question ===

impl Question {
    fn is_allowed(&self, number: usize) -> bool {
        number % 100 < self.allowed
    }

    fn agent(number: usize) -> String {
        format!("agent-{}", number % 1_000)
    }

    fn groups(&self, last: String) -> Vec<String> {
        let others = (1..self.asked_groups).map(|number| format!("without-grants-{number}"));
        others.chain(iter::once(last)).collect()
    }

    /// A check. Denied checks name another group, another tenant or a higher level.
    fn check(&self, number: usize) -> pb::AccessCheck {
        let (mut tenant_id, mut group) = self.data.spread(number);
        let mut level = pb::AccessLevel::ReadOnly;
        if !self.is_allowed(number) {
            match number % 3 {
                0 => "group-of-others".clone_into(&mut group),
                1 => tenant_id.push_str("-unknown"),
                _ => level = pb::AccessLevel::Admin,
            }
        }
        pb::AccessCheck {
            tenant_id,
            agent_id: Self::agent(number),
            group_ids: self.groups(group),
            required_level: level.into(),
            agent_kind: pb::AgentKind::Human.into(),
            on_behalf_of: String::new(),
        }
    }

    fn encoded(&self, number: usize) -> Vec<u8> {
        match self.method {
            Method::Check => framed(&pb::CheckAccessRequest {
                check: Some(self.check(number)),
                ..Default::default()
            }),
            Method::Batch => {
                let numbers = number * self.batch..(number + 1) * self.batch;
                let checks = numbers.map(|number| self.check(number)).collect();
                framed(&pb::BatchCheckAccessRequest { checks, ..Default::default() })
            }
            Method::Grant => framed(&self.change(number)),
            Method::Cerbos => framed(&self.cerbos(number)),
        }
    }

    fn change(&self, number: usize) -> pb::GrantAccessRequest {
        let (tenant_id, group_id) = self.data.grant(number % self.data.grants);
        pb::GrantAccessRequest {
            tenant_id: self.prefix.clone() + &tenant_id,
            group_id,
            access_level: pb::AccessLevel::ReadWrite.into(),
            reason: "The invoices of October are wrong.".to_owned(),
            until_revoked: true,
            ..Default::default()
        }
    }

    /// The same question for Cerbos, which has no data of its own: the caller passes the tenant's
    /// grants.
    fn cerbos(&self, number: usize) -> cerbos::CheckResourcesRequest {
        let check = self.check(number);
        let granted = (0..self.data.grants_per_tenant.min(self.data.groups))
            .map(|number| string(format!("group-{number}")))
            .collect();
        let list = |values| Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let groups = list(check.group_ids.into_iter().map(string).collect());
        let is_admin = check.required_level == pb::AccessLevel::Admin as i32;
        let grants = Struct {
            fields: BTreeMap::from([
                ("groups".to_owned(), list(granted)),
                ("ends".to_owned(), string("2099-01-01T00:00:00Z".to_owned())),
            ]),
        };
        cerbos::CheckResourcesRequest {
            principal: Some(cerbos::Principal {
                id: check.agent_id,
                roles: vec!["agent".to_owned()],
                attr: [("groups".to_owned(), groups)].into(),
            }),
            resources: vec![cerbos::Entry {
                actions: vec![if is_admin { "administer" } else { "enter" }.to_owned()],
                resource: Some(cerbos::Resource {
                    kind: "tenant".to_owned(),
                    id: check.tenant_id,
                    attr: [("grant".to_owned(), Value { kind: Some(Kind::StructValue(grants)) })]
                        .into(),
                }),
            }],
        }
    }
}

// === impl Messages ===

impl Messages {
    /// Prepares the messages.
    pub fn new(question: Question) -> Self {
        let is_prepared = question.method != Method::Grant;
        let checks = if is_prepared {
            (0..CHECKS).map(|number| question.encoded(number)).collect()
        } else {
            Vec::new()
        };
        Self { question, checks }
    }

    /// Passes on the message of a call.
    pub fn with<T>(&self, number: usize, send: impl FnOnce(&[u8]) -> T) -> T {
        match self.checks.get(number % CHECKS) {
            Some(message) => send(message),
            None => send(&self.question.encoded(number)),
        }
    }
}

fn string(text: String) -> Value {
    Value { kind: Some(Kind::StringValue(text)) }
}

/// A message with the prefix of gRPC.
fn framed(message: &impl Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(5 + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len().try_into().expect("messages are short"));
    message.encode(&mut bytes).expect("the buffer grows");
    bytes
}

/// The messages of Cerbos that are needed.
mod cerbos {
    use std::collections::HashMap;

    use prost_types::Value;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct CheckResourcesRequest {
        #[prost(message, optional, tag = "3")]
        pub principal: Option<Principal>,
        #[prost(message, repeated, tag = "4")]
        pub resources: Vec<Entry>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Principal {
        #[prost(string, tag = "1")]
        pub id: String,
        #[prost(string, repeated, tag = "3")]
        pub roles: Vec<String>,
        #[prost(map = "string, message", tag = "4")]
        pub attr: HashMap<String, Value>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Entry {
        #[prost(string, repeated, tag = "1")]
        pub actions: Vec<String>,
        #[prost(message, optional, tag = "2")]
        pub resource: Option<Resource>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Resource {
        #[prost(string, tag = "1")]
        pub kind: String,
        #[prost(string, tag = "3")]
        pub id: String,
        #[prost(map = "string, message", tag = "4")]
        pub attr: HashMap<String, Value>,
    }
}
