//! Isolation: a tenant observes nothing of the activity of other tenants and of the vendor.
//!
//! Two servers play the same calls of one tenant. In between, one of them plays random activity of
//! another tenant and of the vendor, too. Every response and every error must be the same. Only values
//! that are random by design may differ: UUIDs and hashes are replaced by the order of their first
//! appearance, and consistency tokens by a constant. Times come from a manual clock, apart from those
//! that depend on a node's lease.

use std::{collections::HashMap, sync::Arc, time::Duration};

use proptest::{collection::vec, prelude::*, test_runner::Config as RunnerConfig};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use support_access::{
    api::proto::{DESCRIPTORS, v1::*},
    domain::{clock::ManualClock, time::from_micros},
    server::{self, Listeners, Running},
    store::memory::MemoryStore,
};
use tonic::{Response, Status, transport::Channel};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::harness::{channel, config, stop};
use support_access_admin_client::SupportAccessAdminClient;
use support_access_client::SupportAccessClient;

const TENANT: &str = "acme";
const OTHER: &str = "globex";

/// A call of the tenant.
#[derive(Debug, Clone)]
enum Call {
    Grant {
        level: i32,
        days: i64,
        agents: usize,
        request: usize,
    },
    Extend {
        grant: usize,
        days: i64,
        has_etag: bool,
        request: usize,
    },
    Revoke {
        grant: usize,
        has_etag: bool,
        request: usize,
    },
    RevokeAll {
        request: usize,
    },
    /// Of an own grant, or of one that only the other tenant has.
    Get {
        grant: usize,
        is_foreign: bool,
    },
    ListGrants {
        size: i32,
        is_oldest_first: bool,
        has_token: bool,
    },
    ListEvents {
        size: i32,
        is_oldest_first: bool,
        has_token: bool,
    },
    Export,
    Checkpoint,
    Policy,
    Update {
        days: i64,
        request: usize,
    },
    Lock {
        target: usize,
        request: usize,
    },
    Unlock {
        lock: usize,
        is_foreign: bool,
    },
    ListLocks {
        include_ended: bool,
        size: i32,
    },
    Wait {
        change: usize,
    },
    Check {
        has_token: bool,
        kind: i32,
    },
    Explain {
        has_agent: bool,
    },
}

/// A call of the other tenant or of the vendor.
#[derive(Debug, Clone)]
enum Foreign {
    Grant {
        agents: usize,
    },
    Extend {
        days: i64,
    },
    Revoke,
    RevokeAll,
    Update {
        days: i64,
    },
    Lock {
        target: usize,
    },
    Unlock,
    /// The vendor locks agents and groups that the tenant does not ask about, in all tenants.
    VendorLock {
        target: usize,
    },
    VendorUnlock,
    Check,
}

fn calls() -> impl Strategy<Value = Call> {
    let index = || 0..4_usize;
    prop_oneof![
        4 => (0..5, 1..100_i64, index(), index()).prop_map(|(level, days, agents, request)| {
            Call::Grant { level, days, agents, request }
        }),
        2 => (index(), 1..100_i64, any::<bool>(), index()).prop_map(
            |(grant, days, has_etag, request)| Call::Extend { grant, days, has_etag, request }
        ),
        2 => (index(), any::<bool>(), index())
            .prop_map(|(grant, has_etag, request)| Call::Revoke { grant, has_etag, request }),
        1 => index().prop_map(|request| Call::RevokeAll { request }),
        2 => (index(), any::<bool>())
            .prop_map(|(grant, is_foreign)| Call::Get { grant, is_foreign }),
        3 => (1..4, any::<bool>(), any::<bool>()).prop_map(|(size, is_oldest_first, has_token)| {
            Call::ListGrants { size, is_oldest_first, has_token }
        }),
        3 => (1..4, any::<bool>(), any::<bool>()).prop_map(|(size, is_oldest_first, has_token)| {
            Call::ListEvents { size, is_oldest_first, has_token }
        }),
        1 => Just(Call::Export),
        1 => Just(Call::Checkpoint),
        1 => Just(Call::Policy),
        1 => (1..100_i64, index()).prop_map(|(days, request)| Call::Update { days, request }),
        2 => (index(), index()).prop_map(|(target, request)| Call::Lock { target, request }),
        2 => (index(), any::<bool>())
            .prop_map(|(lock, is_foreign)| Call::Unlock { lock, is_foreign }),
        1 => (any::<bool>(), 1..4)
            .prop_map(|(include_ended, size)| Call::ListLocks { include_ended, size }),
        2 => index().prop_map(|change| Call::Wait { change }),
        2 => (any::<bool>(), 0..4).prop_map(|(has_token, kind)| Call::Check { has_token, kind }),
        1 => any::<bool>().prop_map(|has_agent| Call::Explain { has_agent }),
    ]
}

fn foreign() -> impl Strategy<Value = Foreign> {
    prop_oneof![
        4 => (0..4_usize).prop_map(|agents| Foreign::Grant { agents }),
        1 => (1..90_i64).prop_map(|days| Foreign::Extend { days }),
        2 => Just(Foreign::Revoke),
        1 => Just(Foreign::RevokeAll),
        1 => (1..90_i64).prop_map(|days| Foreign::Update { days }),
        1 => (0..4_usize).prop_map(|target| Foreign::Lock { target }),
        1 => Just(Foreign::Unlock),
        1 => (0..2_usize).prop_map(|target| Foreign::VendorLock { target }),
        1 => Just(Foreign::VendorUnlock),
        1 => Just(Foreign::Check),
    ]
}

/// A server with what both sides remember of their earlier calls.
struct World {
    running: Running,
    clock: Arc<ManualClock>,
    admin: SupportAccessAdminClient<Channel>,
    checks: SupportAccessClient<Channel>,
    grants: Vec<Grant>,
    locks: Vec<Lock>,
    tokens: Vec<String>,
    grant_token: String,
    event_token: String,
    foreign_grants: Vec<Grant>,
    foreign_locks: Vec<Lock>,
    vendor_locks: Vec<Lock>,
    transcript: Vec<String>,
    names: HashMap<String, usize>,
}

impl World {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(from_micros(1_800_000_000_000_000).unwrap()));
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let config = config();
        let listeners = Listeners::bind(&config.common).await.unwrap();
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
    fn observe<M: Message>(
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

    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    async fn play(&mut self, call: &Call) {
        let tenant_id = TENANT.to_owned();
        self.transcript.push(format!("{call:?}"));
        match *call {
            Call::Grant { level, days, agents, request } => {
                let message = GrantAccessRequest {
                    tenant_id,
                    access_level: level,
                    duration: Some(self::days(days)),
                    request_id: request_id(request, "grant"),
                    ..grant_request(agents)
                };
                let result = self.admin.grant_access(message).await;
                let response = self.observe(result, "GrantAccessResponse");
                if let Some(GrantAccessResponse { grant, consistency_token }) = response {
                    self.grants.extend(grant);
                    self.tokens.push(consistency_token);
                }
            }
            Call::Extend { grant, days, has_etag, request } => {
                let (grant_id, etag) = self.own_grant(grant);
                let message = ExtendAccessRequest {
                    tenant_id,
                    grant_id,
                    etag: if has_etag { etag } else { String::new() },
                    duration: Some(self::days(days)),
                    request_id: request_id(request, "extend"),
                    ..ExtendAccessRequest::default()
                };
                let result = self.admin.extend_access(message).await;
                if let Some(response) = self.observe(result, "ExtendAccessResponse") {
                    self.tokens.push(response.consistency_token);
                }
            }
            Call::Revoke { grant, has_etag, request } => {
                let (grant_id, etag) = self.own_grant(grant);
                let message = RevokeAccessRequest {
                    tenant_id,
                    grant_id,
                    etag: if has_etag { etag } else { String::new() },
                    request_id: request_id(request, "revoke"),
                    ..RevokeAccessRequest::default()
                };
                let result = self.admin.revoke_access(message).await;
                if let Some(response) = self.observe(result, "RevokeAccessResponse") {
                    self.tokens.extend(response.enforcement.map(|it| it.consistency_token));
                }
            }
            Call::RevokeAll { request } => {
                let request_id = request_id(request, "all");
                let message =
                    RevokeAllAccessRequest { tenant_id, request_id, reason: String::new() };
                let result = self.admin.revoke_all_access(message).await;
                if let Some(response) = self.observe(result, "RevokeAllAccessResponse") {
                    self.tokens.extend(response.enforcement.map(|it| it.consistency_token));
                }
            }
            Call::Get { grant, is_foreign } => {
                let foreign = self.foreign_grants.last().map(|grant| grant.grant_id.clone());
                let unknown = || Uuid::now_v7().to_string();
                let grant_id = match is_foreign {
                    true => foreign.unwrap_or_else(unknown),
                    false => self.own_grant(grant).0,
                };
                let result = self.admin.get_grant(GetGrantRequest { tenant_id, grant_id }).await;
                self.observe(result, "GetGrantResponse");
            }
            Call::ListGrants { size, is_oldest_first, has_token } => {
                let message = ListGrantsRequest {
                    tenant_id,
                    page_size: size,
                    order: order(is_oldest_first),
                    page_token: if has_token { self.grant_token.clone() } else { String::new() },
                    ..ListGrantsRequest::default()
                };
                let result = self.admin.list_grants(message).await;
                if let Some(page) = self.observe(result, "ListGrantsResponse") {
                    self.grant_token = [page.next_page_token, page.resume_token].concat();
                }
            }
            Call::ListEvents { size, is_oldest_first, has_token } => {
                let message = ListEventsRequest {
                    tenant_id,
                    page_size: size,
                    order: order(is_oldest_first),
                    page_token: if has_token { self.event_token.clone() } else { String::new() },
                    ..ListEventsRequest::default()
                };
                let mut result = self.admin.list_events(message).await;
                // Recorded shortly after the response, whatever others do.
                for event in result.iter_mut().flat_map(|page| &mut page.get_mut().events) {
                    event.enforcement = None;
                }
                if let Some(page) = self.observe(result, "ListEventsResponse") {
                    self.event_token = [page.next_page_token, page.resume_token].concat();
                }
            }
            Call::Export => {
                let tenant_id = Some(tenant_id);
                let message = ExportHistoryRequest { tenant_id, after_sequence: 0 };
                let mut stream = self.admin.export_history(message).await.unwrap().into_inner();
                while let Some(page) = stream.message().await.unwrap() {
                    self.observe(Ok(Response::new(page)), "ExportHistoryResponse");
                }
            }
            Call::Checkpoint => {
                let message = GetCheckpointRequest { tenant_id: Some(tenant_id) };
                let result = self.admin.get_checkpoint(message).await;
                self.observe(result, "GetCheckpointResponse");
            }
            Call::Policy => {
                let message = GetSupportPolicyRequest { tenant_id };
                let result = self.admin.get_support_policy(message).await;
                self.observe(result, "GetSupportPolicyResponse");
            }
            Call::Update { days, request } => {
                let request_id = request_id(request, "update");
                let message =
                    UpdateSupportPolicyRequest { tenant_id, request_id, ..update_request(days) };
                let result = self.admin.update_support_policy(message).await;
                self.observe(result, "UpdateSupportPolicyResponse");
            }
            Call::Lock { target, request } => {
                let message = LockAccessRequest {
                    tenant_id: Some(tenant_id),
                    request_id: request_id(request, "lock"),
                    ..lock_request(target)
                };
                let result = self.admin.lock_access(message).await;
                if let Some(response) = self.observe(result, "LockAccessResponse") {
                    self.locks.extend(response.lock);
                    self.tokens.push(response.consistency_token);
                }
            }
            Call::Unlock { lock, is_foreign } => {
                let own = self.locks.get(lock).map(|lock| lock.lock_id.clone());
                let foreign = self.foreign_locks.last().map(|lock| lock.lock_id.clone());
                let lock_id = if is_foreign { foreign } else { own };
                let message = UnlockAccessRequest {
                    tenant_id: Some(tenant_id),
                    lock_id: lock_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
                    reason: "over".to_owned(),
                    ..UnlockAccessRequest::default()
                };
                let result = self.admin.unlock_access(message).await;
                self.observe(result, "UnlockAccessResponse");
            }
            Call::ListLocks { include_ended, size } => {
                let message = ListLocksRequest {
                    tenant_id,
                    include_ended,
                    page_size: size,
                    ..ListLocksRequest::default()
                };
                let result = self.admin.list_locks(message).await;
                self.observe(result, "ListLocksResponse");
            }
            Call::Wait { change } => {
                let token = self.tokens.iter().rev().nth(change).cloned().unwrap_or_default();
                let tenant_id = Some(tenant_id);
                let message = WaitEnforcedRequest { tenant_id, consistency_token: token };
                let result = self.admin.wait_enforced(message).await;
                self.observe(result, "WaitEnforcedResponse");
            }
            Call::Check { has_token, kind } => {
                let token = self.tokens.last().filter(|_| has_token).cloned();
                let message = CheckAccessRequest {
                    check: Some(AccessCheck { agent_kind: kind, ..access_check(TENANT) }),
                    consistency_token: token.unwrap_or_default(),
                };
                let result = self.checks.check_access(message).await;
                self.observe(without_lease(result, |it| Some(it)), "CheckAccessResponse");
            }
            Call::Explain { has_agent } => {
                let mut check = access_check(TENANT);
                if !has_agent {
                    check.agent_id = String::new();
                }
                let message =
                    ExplainAccessRequest { check: Some(check), consistency_token: String::new() };
                let result = self.checks.explain_access(message).await;
                let result = without_lease(result, |it| it.result.as_mut());
                self.observe(result, "ExplainAccessResponse");
            }
        }
    }

    fn own_grant(&self, index: usize) -> (String, String) {
        let grant = self.grants.iter().rev().nth(index);
        let unknown = || (Uuid::now_v7().to_string(), String::new());
        grant.map_or_else(unknown, |grant| (grant.grant_id.clone(), grant.etag.clone()))
    }

    async fn play_foreign(&mut self, call: &Foreign) {
        let tenant_id = OTHER.to_owned();
        let grant = self.foreign_grants.last().cloned().unwrap_or_default();
        match *call {
            Foreign::Grant { agents } => {
                let message = GrantAccessRequest { tenant_id, ..grant_request(agents) };
                let granted = self.admin.grant_access(message).await;
                self.foreign_grants.extend(granted.ok().and_then(|it| it.into_inner().grant));
            }
            Foreign::Extend { days } => {
                let duration = Some(self::days(days));
                let grant_id = grant.grant_id;
                let message =
                    ExtendAccessRequest { tenant_id, grant_id, duration, ..Default::default() };
                drop(self.admin.extend_access(message).await);
            }
            Foreign::Revoke => {
                let grant_id = grant.grant_id;
                let message = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
                drop(self.admin.revoke_access(message).await);
            }
            Foreign::RevokeAll => {
                let message = RevokeAllAccessRequest { tenant_id, ..Default::default() };
                self.admin.revoke_all_access(message).await.unwrap();
            }
            Foreign::Update { days } => {
                let message = UpdateSupportPolicyRequest { tenant_id, ..update_request(days) };
                self.admin.update_support_policy(message).await.unwrap();
            }
            Foreign::Lock { target } => {
                let message =
                    LockAccessRequest { tenant_id: Some(tenant_id), ..lock_request(target) };
                let locked = self.admin.lock_access(message).await.unwrap().into_inner();
                self.foreign_locks.extend(locked.lock);
            }
            Foreign::VendorLock { target } => {
                let [agent_id, group_id] =
                    [["mallory", ""], ["", "billing"]][target].map(str::to_owned);
                let reason = "an incident".to_owned();
                let message =
                    LockAccessRequest { agent_id, group_id, reason, ..Default::default() };
                let locked = self.admin.lock_access(message).await.unwrap().into_inner();
                self.vendor_locks.extend(locked.lock);
            }
            Foreign::Unlock => {
                let lock = self.foreign_locks.pop();
                self.unlock(lock).await;
            }
            Foreign::VendorUnlock => {
                let lock = self.vendor_locks.pop();
                self.unlock(lock).await;
            }
            Foreign::Check => {
                let message = CheckAccessRequest {
                    check: Some(access_check(OTHER)),
                    consistency_token: String::new(),
                };
                self.checks.check_access(message).await.unwrap();
            }
        }
    }

    async fn unlock(&mut self, lock: Option<Lock>) {
        let Some(Lock { tenant_id, lock_id, .. }) = lock else { return };
        let reason = "over".to_owned();
        let message = UnlockAccessRequest { tenant_id, lock_id, reason, ..Default::default() };
        self.admin.unlock_access(message).await.unwrap();
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

/// The rest of a lease depends on when the node has renewed the lease.
fn without_lease<M>(
    mut result: Result<Response<M>, Status>,
    check: impl Fn(&mut M) -> Option<&mut CheckAccessResponse>,
) -> Result<Response<M>, Status> {
    if let Ok(response) = &mut result
        && let Some(check) = check(response.get_mut())
        && check.decision() == Decision::Allowed
    {
        check.valid_for = None;
    }
    result
}

fn order(is_oldest_first: bool) -> i32 {
    let order = if is_oldest_first { ListOrder::OldestFirst } else { ListOrder::NewestFirst };
    order.into()
}

/// A request id that is used again by later calls, or none.
fn request_id(number: usize, name: &str) -> String {
    if number == 0 { String::new() } else { format!("{name} {number}") }
}

fn days(days: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: days * 86_400, nanos: 0 }
}

fn grant_request(agents: usize) -> GrantAccessRequest {
    let agent_ids: Vec<String> = (0..agents).map(|number| format!("agent-{number}")).collect();
    GrantAccessRequest {
        group_id: "support".to_owned(),
        named_agents: (!agent_ids.is_empty()).then_some(NamedAgents { agent_ids }),
        access_level: AccessLevel::ReadWrite.into(),
        duration: Some(days(7)),
        ..GrantAccessRequest::default()
    }
}

fn update_request(max_days: i64) -> UpdateSupportPolicyRequest {
    let max_duration = Some(days(max_days));
    UpdateSupportPolicyRequest {
        policy_overrides: Some(PolicyOverrides { max_duration, ..PolicyOverrides::default() }),
        ..UpdateSupportPolicyRequest::default()
    }
}

fn lock_request(target: usize) -> LockAccessRequest {
    let mut request =
        LockAccessRequest { reason: "an incident".to_owned(), ..LockAccessRequest::default() };
    match target {
        0 => request.agent_id = "agent-0".to_owned(),
        1 => request.group_id = "support".to_owned(),
        2 => request.agent_kind = AgentKind::Human.into(),
        _ => request.everything = true,
    }
    request
}

fn access_check(tenant_id: &str) -> AccessCheck {
    AccessCheck {
        tenant_id: tenant_id.to_owned(),
        agent_id: "agent-0".to_owned(),
        group_ids: vec!["support".to_owned()],
        required_level: AccessLevel::ReadOnly.into(),
        agent_kind: AgentKind::Human.into(),
        on_behalf_of: String::new(),
    }
}

/// The transcript of the tenant's calls.
async fn transcript(script: &[(Call, Vec<Foreign>)], has_foreign_calls: bool) -> Vec<String> {
    let mut world = World::new().await;
    for (call, foreign) in script {
        if has_foreign_calls {
            for call in foreign {
                world.play_foreign(call).await;
            }
        }
        world.play(call).await;
        world.clock.pass(Duration::from_millis(1));
    }
    stop(world.running).await.unwrap();
    world.transcript
}

proptest! {
    #![proptest_config(RunnerConfig { cases: 12, ..RunnerConfig::default() })]

    #[test]
    fn a_tenant_observes_nothing_of_others(
        script in vec((calls(), vec(foreign(), 0..4)), 40..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let (alone, together) = runtime.block_on(async {
            tokio::join!(transcript(&script, false), transcript(&script, true))
        });
        for (alone, together) in alone.iter().zip(&together) {
            prop_assert_eq!(alone, together);
        }
        prop_assert_eq!(alone.len(), together.len());
    }
}
