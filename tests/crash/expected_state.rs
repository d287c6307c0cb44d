//! What one administrator asked for, what was acknowledged, and what is not known.

use rand::{RngExt, rngs::StdRng};
use support_access::api::proto::v1::{
    AccessLevel, ExtendAccessRequest, Grant, GrantAccessRequest, GrantState, ListGrantsRequest,
    RevokeAccessRequest, support_access_admin_client::SupportAccessAdminClient,
};
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};

pub(crate) type Admin = SupportAccessAdminClient<Channel>;

/// One administrator's own books.
#[derive(Debug)]
pub(crate) struct ExpectedState {
    pub(crate) tenant_id: String,
    grants: Vec<Line>,
    next_request: usize,
    /// A grant that was asked for and never answered.
    unanswered: Option<GrantAccessRequest>,
}

/// One grant.
#[derive(Debug)]
struct Line {
    /// As the last acknowledged answer had it.
    acknowledged: Grant,
    /// The etag of every answer. It identifies an event.
    etags: Vec<String>,
    /// A revocation or extension was sent, and never answered.
    is_uncertain: bool,
}

impl ExpectedState {
    pub(crate) fn new(tenant_id: &str) -> Self {
        let tenant_id = tenant_id.into();
        Self { tenant_id, grants: vec![], next_request: 0, unanswered: None }
    }

    /// How many changes were acknowledged.
    pub(crate) fn acknowledged(&self) -> usize {
        self.grants.iter().map(|line| line.etags.len()).sum()
    }

    /// The tenant and etag of all changes that were acknowledged.
    pub(crate) fn etags(&self) -> impl Iterator<Item = (String, String)> {
        let etags = self.grants.iter().flat_map(|line| line.etags.iter().cloned());
        etags.map(|etag| (self.tenant_id.clone(), etag))
    }

    /// Makes changes until the server is gone, and says after each that it was made.
    pub(crate) async fn work(
        &mut self,
        admin: &mut Admin,
        random: &mut StdRng,
        progress: &watch::Sender<usize>,
    ) {
        while self.change(admin, random).await.is_ok() {
            progress.send_modify(|made| *made += 1);
        }
    }

    async fn change(&mut self, admin: &mut Admin, random: &mut StdRng) -> Result<(), Status> {
        let open: Vec<usize> = (0..self.grants.len())
            .filter(|index| self.grants[*index].acknowledged.state == i32::from(GrantState::Active))
            .filter(|index| !self.grants[*index].is_uncertain)
            .collect();
        if open.is_empty() || random.random_ratio(1, 2) {
            return self.grant(admin).await;
        }
        let index = open[random.random_range(0..open.len())];
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
            tenant_id: self.tenant_id.clone(),
            group_id: "support".into(),
            access_level: AccessLevel::ReadOnly.into(),
            until_revoked: true,
            ..Default::default()
        };
        self.next_request += 1;
        self.unanswered = Some(request.clone());
        let granted = admin.grant_access(request).await.map_err(gone)?.into_inner();
        self.unanswered = None;
        self.enter(granted.grant.unwrap());
        Ok(())
    }

    fn enter(&mut self, grant: Grant) {
        let etags = vec![grant.etag.clone()];
        self.grants.push(Line { acknowledged: grant, etags, is_uncertain: false });
    }

    async fn extend(&mut self, admin: &mut Admin, index: usize, hours: i64) -> Result<(), Status> {
        let line = &mut self.grants[index];
        let duration = prost_types::Duration { seconds: hours * 3_600, nanos: 0 };
        let request = ExtendAccessRequest {
            tenant_id: self.tenant_id.clone(),
            grant_id: line.acknowledged.grant_id.clone(),
            duration: Some(duration),
            ..Default::default()
        };
        line.is_uncertain = true;
        line.keep(admin.extend_access(request).await.map_err(gone)?.into_inner().grant);
        Ok(())
    }

    async fn revoke(&mut self, admin: &mut Admin, index: usize) -> Result<(), Status> {
        let line = &mut self.grants[index];
        let request = RevokeAccessRequest {
            tenant_id: self.tenant_id.clone(),
            grant_id: line.acknowledged.grant_id.clone(),
            ..Default::default()
        };
        line.is_uncertain = true;
        line.keep(admin.revoke_access(request).await.map_err(gone)?.into_inner().grant);
        Ok(())
    }

    /// Compares the books with what a restarted server says, and settles what was uncertain.
    pub(crate) async fn audit(&mut self, admin: &mut Admin) {
        if let Some(request) = self.unanswered.take() {
            // Whether or not it was made before, it is made once.
            let again = admin.grant_access(request.clone()).await.unwrap().into_inner();
            let twice = admin.grant_access(request).await.unwrap().into_inner();
            assert_eq!(again, twice, "the first answer is given again");
            self.enter(again.grant.unwrap());
        }
        let found = self.all_grants(admin).await;
        assert_eq!(found.len(), self.grants.len(), "no grant is missing, and none is double");
        for line in &mut self.grants {
            let now = found.iter().find(|grant| grant.grant_id == line.acknowledged.grant_id);
            let now = now.expect("an acknowledged grant is there");
            if line.is_uncertain && now.etag != line.acknowledged.etag {
                line.keep(Some(now.clone()));
            }
            line.is_uncertain = false;
            assert_eq!(*now, line.acknowledged, "as it was acknowledged");
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

impl Line {
    fn keep(&mut self, grant: Option<Grant>) {
        let grant = grant.unwrap();
        assert_ne!(grant.etag, self.acknowledged.etag);
        self.etags.push(grant.etag.clone());
        self.acknowledged = grant;
        self.is_uncertain = false;
    }
}

/// The only failure that a killed server may cause.
fn gone(status: Status) -> Status {
    // What the connection says has its cause behind it; what the server says does not.
    let is_transport = std::error::Error::source(&status).is_some()
        || matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
    assert!(is_transport, "an answer that is not one of a dead server: {status:?}");
    status
}
