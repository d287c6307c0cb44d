//! The state that one administrator expects, from acknowledged and unanswered changes.

use rand::{RngExt, rngs::StdRng};
use support_access::api::proto::v1::{
    ExtendAccessRequest, Grant, GrantAccessRequest, GrantState, ListGrantsRequest,
    RevokeAccessRequest, support_access_admin_client::SupportAccessAdminClient,
};
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};

use crate::crash::requests::grant_request;

pub(crate) type Admin = SupportAccessAdminClient<Channel>;

/// The expected grants of one administrator's tenant.
#[derive(Debug)]
pub(crate) struct ExpectedState {
    pub(crate) tenant_id: String,
    grants: Vec<ExpectedGrant>,
    next_request: usize,
    /// A grant request without a response. The grant may exist.
    unanswered: Option<GrantAccessRequest>,
}

/// The expected state of one grant.
#[derive(Debug)]
struct ExpectedGrant {
    /// The grant as in the last response.
    acknowledged: Grant,
    /// The etag of every response. An etag identifies an event.
    etags: Vec<String>,
    /// Whether a revocation or extension has no response, so the change may have happened.
    is_uncertain: bool,
}

impl ExpectedState {
    pub(crate) fn new(tenant_id: &str) -> Self {
        let tenant_id = tenant_id.into();
        Self { tenant_id, grants: vec![], next_request: 0, unanswered: None }
    }

    /// Returns the number of acknowledged changes.
    pub(crate) fn acknowledged(&self) -> usize {
        self.grants.iter().map(|expected| expected.etags.len()).sum()
    }

    /// Returns the tenant and etag of each acknowledged change.
    pub(crate) fn etags(&self) -> impl Iterator<Item = (String, String)> {
        let etags = self.grants.iter().flat_map(|expected| expected.etags.iter().cloned());
        etags.map(|etag| (self.tenant_id.clone(), etag))
    }

    /// Makes changes until the server has ended, and counts each change in `progress`.
    pub(crate) async fn make_changes(
        &mut self,
        admin: &mut Admin,
        random: &mut StdRng,
        progress: &watch::Sender<usize>,
    ) {
        while self.change(admin, random).await.is_ok() {
            progress.send_modify(|count| *count += 1);
        }
    }

    async fn change(&mut self, admin: &mut Admin, random: &mut StdRng) -> Result<(), Status> {
        let active: Vec<usize> = (0..self.grants.len())
            .filter(|index| self.grants[*index].acknowledged.state == i32::from(GrantState::Active))
            .filter(|index| !self.grants[*index].is_uncertain)
            .collect();
        if active.is_empty() || random.random_ratio(1, 2) {
            return self.grant(admin).await;
        }
        let index = active[random.random_range(0..active.len())];
        if random.random_ratio(1, 3) {
            let hours = random.random_range(1..1_000);
            self.extend(admin, index, hours).await
        } else {
            self.revoke(admin, index).await
        }
    }

    async fn grant(&mut self, admin: &mut Admin) -> Result<(), Status> {
        let request = GrantAccessRequest {
            request_id: format!("request-{}", self.next_request),
            ..grant_request(&self.tenant_id)
        };
        self.next_request += 1;
        self.unanswered = Some(request.clone());
        let granted = admin.grant_access(request).await.map_err(transport_error)?.into_inner();
        self.unanswered = None;
        self.add(granted.grant.unwrap());
        Ok(())
    }

    fn add(&mut self, grant: Grant) {
        let etags = vec![grant.etag.clone()];
        self.grants.push(ExpectedGrant { acknowledged: grant, etags, is_uncertain: false });
    }

    async fn extend(&mut self, admin: &mut Admin, index: usize, hours: i64) -> Result<(), Status> {
        let expected = &mut self.grants[index];
        let duration = prost_types::Duration { seconds: hours * 3_600, nanos: 0 };
        let request = ExtendAccessRequest {
            tenant_id: self.tenant_id.clone(),
            grant_id: expected.acknowledged.grant_id.clone(),
            duration: Some(duration),
            ..Default::default()
        };
        expected.is_uncertain = true;
        expected.update(
            admin.extend_access(request).await.map_err(transport_error)?.into_inner().grant,
        );
        Ok(())
    }

    async fn revoke(&mut self, admin: &mut Admin, index: usize) -> Result<(), Status> {
        let expected = &mut self.grants[index];
        let request = RevokeAccessRequest {
            tenant_id: self.tenant_id.clone(),
            grant_id: expected.acknowledged.grant_id.clone(),
            ..Default::default()
        };
        expected.is_uncertain = true;
        expected.update(
            admin.revoke_access(request).await.map_err(transport_error)?.into_inner().grant,
        );
        Ok(())
    }

    /// Compares the expected state with a restarted server, and resolves unanswered changes.
    pub(crate) async fn verify(&mut self, admin: &mut Admin) {
        if let Some(request) = self.unanswered.take() {
            // The request id makes the grant idempotent, whether or not the first attempt was
            // committed.
            let first = admin.grant_access(request.clone()).await.unwrap().into_inner();
            let second = admin.grant_access(request).await.unwrap().into_inner();
            assert_eq!(first, second, "a retry returns the same response");
            self.add(first.grant.unwrap());
        }
        let found = self.all_grants(admin).await;
        assert_eq!(found.len(), self.grants.len(), "no grant is missing or duplicated");
        for expected in &mut self.grants {
            let current =
                found.iter().find(|grant| grant.grant_id == expected.acknowledged.grant_id);
            let current = current.expect("an acknowledged grant exists");
            if expected.is_uncertain && current.etag != expected.acknowledged.etag {
                expected.update(Some(current.clone()));
            }
            expected.is_uncertain = false;
            assert_eq!(*current, expected.acknowledged, "the grant is unchanged");
        }
    }

    async fn all_grants(&self, admin: &mut Admin) -> Vec<Grant> {
        let mut grants = Vec::new();
        let mut page_token = String::new();
        loop {
            let tenant_id = self.tenant_id.clone();
            let request =
                ListGrantsRequest { tenant_id, page_token, page_size: 100, ..Default::default() };
            let page = admin.list_grants(request).await.unwrap().into_inner();
            grants.extend(page.grants);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return grants;
            }
        }
    }
}

impl ExpectedGrant {
    fn update(&mut self, grant: Option<Grant>) {
        let grant = grant.unwrap();
        assert_ne!(grant.etag, self.acknowledged.etag);
        self.etags.push(grant.etag.clone());
        self.acknowledged = grant;
        self.is_uncertain = false;
    }
}

/// Asserts that a killed server can cause this failure.
fn transport_error(status: Status) -> Status {
    // Only errors from the transport have a source. Errors from the server have none.
    let is_transport = std::error::Error::source(&status).is_some()
        || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
    assert!(is_transport, "the failure must come from the transport: {status:?}");
    status
}
