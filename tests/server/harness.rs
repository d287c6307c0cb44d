//! Starts servers, and a store that can be held up.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use support_access::{
    api::proto::v1::{
        AccessLevel, CheckAccessRequest, GrantAccessRequest, grant_access_request::End,
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    domain::{
        Event, Grant, GrantId, RequestId, Revision, SupportPolicy, TenantId, Terms, Tightening,
        Time, clock::SystemClock,
    },
    server::{
        self, Listeners, Running, ServeError,
        config::{Config, ListenAddress, LogFormat},
    },
    store::{
        Change, Entry, EventQuery, GrantQuery, Held, Remembered, Store, StoreError,
        memory::MemoryStore,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint};

/// How long anything may take that should not take long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// On loopback, on free ports.
pub(crate) fn config() -> Config {
    Config {
        listen: vec![ListenAddress::Tcp(loopback())],
        http_listen: loopback(),
        database_url: "memory:".to_owned(),
        max_staleness: Duration::from_secs(2),
        drain_timeout: PATIENCE,
        insecure: false,
        log: "info".to_owned(),
        log_format: LogFormat::Auto,
        max_live_grants_per_tenant: 100,
        catalogue: SupportPolicy::default(),
    }
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) async fn start(config: Config) -> (Running, HeldStore) {
    let store = HeldStore::new();
    (start_on(config, &store).await.unwrap(), store)
}

pub(crate) async fn start_on(config: Config, store: &HeldStore) -> Result<Running, ServeError> {
    let listeners = Listeners::bind(&config).await?;
    server::start(config, listeners, Arc::new(store.clone()), Arc::new(SystemClock)).await
}

/// Stops the server and waits until it has ended.
pub(crate) async fn stop(running: Running) -> Result<(), ServeError> {
    running.stopper().stop();
    in_time(running.wait()).await
}

pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("takes too long")
}

/// Asks again until the answer is yes.
pub(crate) async fn eventually(mut is_so: impl AsyncFnMut() -> bool) {
    in_time(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two questions
        }
    })
    .await;
}

pub(crate) async fn channel(running: &Running) -> Channel {
    connect(&running.grpc[0]).await
}

pub(crate) async fn connect(address: &ListenAddress) -> Channel {
    let uri = match address {
        ListenAddress::Tcp(address) => format!("http://{address}"),
        ListenAddress::Unix(path) => format!("unix:{}", path.display()),
    };
    Endpoint::try_from(uri).unwrap().connect().await.unwrap()
}

pub(crate) async fn access(running: &Running) -> SupportAccessClient<Channel> {
    SupportAccessClient::new(channel(running).await)
}

pub(crate) async fn admin(running: &Running) -> SupportAccessAdminClient<Channel> {
    SupportAccessAdminClient::new(channel(running).await)
}

pub(crate) fn a_check() -> CheckAccessRequest {
    CheckAccessRequest {
        tenant_id: "acme".to_owned(),
        agent_id: "ada".to_owned(),
        group_ids: vec!["support".to_owned()],
        required_level: AccessLevel::ReadOnly.into(),
        at_least_revision: 0,
    }
}

pub(crate) fn a_grant() -> GrantAccessRequest {
    GrantAccessRequest {
        tenant_id: "acme".to_owned(),
        group_id: "support".to_owned(),
        access_level: AccessLevel::ReadOnly.into(),
        reason: "a broken report".to_owned(),
        end: Some(End::UntilRevoked(true)),
        ..GrantAccessRequest::default()
    }
}

/// Status, head and body of the answer to a GET.
pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    in_time(stream.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_owned(), body.to_owned())
}

/// Whether `line` is among the metrics.
pub(crate) async fn has_metric(running: &Running, line: &str) -> bool {
    get(running.http, "/metrics").await.2.lines().any(|it| it == line)
}

pub(crate) async fn wait_for_metric(running: &Running, line: &str) {
    eventually(async || has_metric(running, line).await).await;
}

/// How often `method` of `service` has ended with `code`.
pub(crate) fn rpcs(service: &str, method: &str, code: &str, count: u32) -> String {
    format!(
        "support_access_rpcs_total{{service=\"{service}\",method=\"{method}\",code=\"{code}\"}} \
         {count}"
    )
}

/// A store in memory whose loading and whose changes can be held up.
#[derive(Debug, Clone)]
pub(crate) struct HeldStore {
    inner: Arc<MemoryStore>,
    pub(crate) is_loading_held: watch::Sender<bool>,
    pub(crate) are_changes_held: watch::Sender<bool>,
    /// Changes that are being held up.
    pub(crate) waiting: Arc<AtomicUsize>,
    pub(crate) commits: Arc<AtomicUsize>,
    pub(crate) is_broken: bool,
}

struct CountedChange {
    inner: Box<dyn Change>,
    commits: Arc<AtomicUsize>,
}

impl HeldStore {
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(MemoryStore::new(Arc::new(SystemClock))),
            is_loading_held: watch::Sender::new(false),
            are_changes_held: watch::Sender::new(false),
            waiting: Arc::default(),
            commits: Arc::default(),
            is_broken: false,
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn commits(&self) -> usize {
        self.commits.load(Ordering::SeqCst)
    }
}

async fn released(held: &watch::Sender<bool>) {
    held.subscribe().wait_for(|is_held| !is_held).await.unwrap();
}

#[async_trait]
impl Store for HeldStore {
    async fn begin(&self) -> Result<Box<dyn Change>, StoreError> {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        released(&self.are_changes_held).await;
        let inner = self.inner.begin().await?;
        Ok(Box::new(CountedChange { inner, commits: Arc::clone(&self.commits) }))
    }

    async fn head(&self) -> Result<Revision, StoreError> {
        self.inner.head().await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, Terms, Held) + Send),
    ) -> Result<Revision, StoreError> {
        if self.is_broken {
            return Err(StoreError::Broken("the disk is on fire".into()));
        }
        released(&self.is_loading_held).await;
        self.inner.load(visit).await
    }

    async fn events_after(&self, after: Revision, limit: usize) -> Result<Vec<Event>, StoreError> {
        self.inner.events_after(after, limit).await
    }

    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.inner.grant(tenant_id, grant_id).await
    }

    async fn list_grants(&self, query: &GrantQuery) -> Result<Vec<Grant>, StoreError> {
        self.inner.list_grants(query).await
    }

    async fn list_events(&self, query: &EventQuery) -> Result<Vec<Event>, StoreError> {
        self.inner.list_events(query).await
    }

    async fn tightening(&self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        self.inner.tightening(tenant_id).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.inner.next_expiry().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

#[async_trait]
impl Change for CountedChange {
    fn now(&self) -> Time {
        self.inner.now()
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.inner.grant(tenant_id, grant_id).await
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<Remembered>, StoreError> {
        self.inner.remembered(tenant_id, request_id).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.inner.live_grants(tenant_id, limit).await
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.inner.count_live_grants(tenant_id).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        self.inner.due_grants(now, limit).await
    }

    async fn tightening(&mut self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        self.inner.tightening(tenant_id).await
    }

    async fn append(&mut self, entry: Entry) -> Result<Event, StoreError> {
        self.inner.append(entry).await
    }

    async fn commit(self: Box<Self>) -> Result<Revision, StoreError> {
        let revision = self.inner.commit().await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        Ok(revision)
    }
}
