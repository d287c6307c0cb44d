//! A server, and the transcript of the tenant's calls to it.

use std::{collections::HashMap, fs, sync::Arc, time::Duration};

use chrono::DateTime;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use support_access::{
    api::proto::{
        DESCRIPTORS,
        v1::{
            CheckAccessRequest, DecisionReason, Grant, Lock, WaitEnforcedRequest,
            support_access_admin_client::SupportAccessAdminClient,
            support_access_client::SupportAccessClient,
        },
    },
    domain::{Clock, EventKind, clock::ManualClock, time::from_micros},
    server::{self, Listeners, Running},
    store::{Store, memory::MemoryStore},
};
use tempfile::TempDir;
use tonic::{
    Request, Response, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::{OTHER, TENANT, member::Member, requests::access_check};
use crate::server::{
    harness::{channel, config, eventually},
    identity::issuer::{AUDIENCE, Issuer, NAME, claims},
};

/// The start of the clock, in seconds since 1970.
const START: i64 = 1_800_000_000;
/// The precision of times that depend on when a node has renewed its lease, in seconds.
const PRECISION: f64 = 10.0;
/// Headers that differ between any two calls.
const HEADERS_OF_CALL: [&str; 2] = ["date", "x-request-id"];

pub(super) type Admin = SupportAccessAdminClient<InterceptedService<Channel, Bearer>>;
pub(super) type Checks = SupportAccessClient<InterceptedService<Channel, Bearer>>;

/// Adds a token to every request.
#[derive(Debug, Clone)]
pub(super) struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A server, and the results of earlier calls that later calls use.
pub(super) struct World {
    pub(super) running: Running,
    pub(super) clock: Arc<ManualClock>,
    pub(super) store: Arc<Store>,
    pub(super) member: Member,
    /// The administrator of the tenant.
    pub(super) admin: Admin,
    pub(super) explain: Checks,
    /// The administrator of the other tenant.
    pub(super) other: Admin,
    /// An operator of the vendor.
    pub(super) vendor: Admin,
    /// A gateway.
    pub(super) checks: Checks,
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
    /// The keys of the issuer.
    _dir: TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(from_micros(START * 1_000_000).unwrap()));
        let store = Store::new(Arc::new(MemoryStore::new(clock.clone())));
        let (dir, issuer) = (TempDir::new().unwrap(), Issuer::new());
        let keys = dir.path().join("jwks.json");
        fs::write(&keys, issuer.jwks()).unwrap();
        let mut config = config();
        config.common.auth = toml::from_str(&format!(
            r#"
            [[issuers]]
            issuer = "{NAME}"
            audience = "{AUDIENCE}"
            keys = "{}"
            [issuers.roles]
            tenant_admin = ["access-admin"]
            operator = ["vendor-operator"]
            gateway = ["vendor-gateway"]
            "#,
            keys.display()
        ))
        .unwrap();
        let listeners = Listeners::bind(&config.common, config.web_listen.as_ref()).unwrap();
        let running = server::start(config, listeners, store.clone(), clock.clone()).await.unwrap();
        let member = Member::new(&store);
        member.join().await;
        let channel = channel(&running).await;
        let bearer = |name, role, tenants: &[&str]| {
            let mut claims = claims(name, role, tenants);
            claims["exp"] = Value::from(START * 2);
            let token = format!("Bearer {}", issuer.signer.sign(&claims));
            Bearer(token.parse().unwrap())
        };
        let own = bearer("ada", "access-admin", &[TENANT]);
        let other = bearer("bob", "access-admin", &[OTHER]);
        let vendor = bearer("olga", "vendor-operator", &[]);
        let gateway = bearer("gateway", "vendor-gateway", &[]);
        let admin = |bearer| SupportAccessAdminClient::with_interceptor(channel.clone(), bearer);
        let checks = |bearer| SupportAccessClient::with_interceptor(channel.clone(), bearer);
        Self {
            running,
            clock,
            store,
            member,
            admin: admin(own.clone()),
            explain: checks(own),
            other: admin(other),
            vendor: admin(vendor),
            checks: checks(gateway),
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
            _dir: dir,
        }
    }

    /// Lets time pass, until the server has a new lease and has recorded every expiry. The other
    /// member is absent meanwhile, so that no lease of it expires.
    pub(super) async fn pass(&mut self, span: Duration) {
        self.member.leave().await;
        // The enforcement of the first lifted lock is not recorded. So the wait reads the
        // membership, and the server knows that the member has left.
        let tenant_id = Some(TENANT.to_owned());
        let consistency_token = self.tokens[1].clone();
        let request = WaitEnforcedRequest { tenant_id, consistency_token };
        self.admin.wait_enforced(request).await.unwrap();
        self.clock.pass(span);
        let (checks, store, clock) = (self.checks.clone(), &self.store, &self.clock);
        eventually(async || {
            let check = Some(access_check(TENANT));
            let request = CheckAccessRequest { check, consistency_token: String::new() };
            let result = checks.clone().check_access(request).await;
            // An error is possible: the keys of the issuer must be read again, too.
            let is_fresh =
                result.is_ok_and(|result| result.into_inner().reason() != DecisionReason::Stale);
            let next = store.queries().next_expiry().await.unwrap();
            is_fresh && next.is_none_or(|next| next > clock.now())
        })
        .await;
        self.member.join().await;
    }

    /// Waits until the enforcement of every change of the tenant is recorded, which happens shortly
    /// after the response.
    pub(super) async fn wait_for_records(&self) {
        let events = self.store.log().events_after(0, usize::MAX).await.unwrap();
        let own = |tenant_id: &str| tenant_id == TENANT;
        for event in events {
            let is_own = event.tenant_id.as_ref().is_some_and(|id| own(id.as_str()));
            let is_enforced = matches!(
                event.kind,
                EventKind::Extended { .. }
                    | EventKind::Revoked { .. }
                    | EventKind::Locked { .. }
                    | EventKind::PolicyUpdated { .. }
            );
            if is_own && is_enforced {
                let record = async || self.store.history().enforced(event.revision).await.unwrap();
                eventually(async || record().await.is_some()).await;
            }
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
                let headers = headers(response.metadata());
                let message = response.into_inner();
                let line = self.normalized(to_json(name, &message));
                self.transcript.push(format!("{line} {headers}"));
                Some(message)
            }
            Err(status) => {
                let (code, details) = (status.code(), status.get_error_details());
                let headers = headers(status.metadata());
                let line = format!("{code:?}: {}: {details:?} {headers}", status.message());
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
                        let name = self.name(&token);
                        (key, Value::from(name))
                    }
                    // Records and checkpoints are JSON themselves.
                    ("records", Value::Array(lines)) => {
                        let lines = lines.into_iter().map(|line| self.parsed(&line));
                        (key, Value::Array(lines.collect()))
                    }
                    ("checkpoint", line) => {
                        let mut checkpoint = self.parsed(&line);
                        checkpoint["time"] = rounded(&checkpoint["time"]);
                        (key, checkpoint)
                    }
                    ("elapsed" | "complete_by", value) => (key, rounded(&value)),
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

/// A time or duration in multiples of [`PRECISION`].
fn rounded(value: &Value) -> Value {
    let text = value.as_str().unwrap();
    let seconds: f64 = match text.strip_suffix('s') {
        Some(seconds) => seconds.parse().unwrap(),
        None => {
            DateTime::parse_from_rfc3339(text).unwrap().timestamp().to_string().parse().unwrap()
        }
    };
    Value::from((seconds / PRECISION).round())
}

/// The headers and trailers of a response, without those of the call.
fn headers(metadata: &MetadataMap) -> String {
    let mut headers = metadata.clone().into_headers();
    for name in HEADERS_OF_CALL {
        headers.remove(name);
    }
    format!("{headers:?}")
}

fn replace_uuids(text: &str, mut name: impl FnMut(&str) -> String) -> String {
    const LENGTH: usize = 36;
    let mut replaced = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(uuid) = rest.get(..LENGTH).filter(|part| Uuid::try_parse(part).is_ok()) {
            replaced += &name(uuid);
            rest = &rest[LENGTH..];
        } else {
            replaced.push(c);
            rest = &rest[c.len_utf8()..];
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
