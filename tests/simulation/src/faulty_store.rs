//! The store of a replica: the one database, behind a faulty link.

use std::{future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, timeout},
};

use crate::{
    database::{Connection, Database, unavailable},
    domain::{
        Ack, Enforced, Epoch, Event, EventKind, Grant, GrantId, GrantTerms, Lock, NodeId, NodeInfo,
        PolicyOverrides, Position, Revision, Sequence, TenantId, Time,
        chain::{ChainHead, Record},
    },
    faulty_transaction::FaultyTransaction,
    link::Link,
    store::{
        ComparePosition, Comparison, EventQuery, Facets, ForgedHistories, GrantQuery,
        HeartbeatResponse, History, HistoryEvent, Listed, Listener, Loaded, LockQuery, Log,
        MemberList, Membership, Notification, Notifications, Queries, Registration, Retained,
        StoreError, Transaction, Transactions,
    },
};

/// Timeout of the client.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct FaultyStore {
    database: Arc<Database>,
    link: Arc<Link>,
    forged_histories: Arc<ForgedHistories>,
    /// The replica.
    node_id: NodeId,
}

struct FaultyListener {
    notifications: mpsc::UnboundedReceiver<Notification>,
    link: Arc<Link>,
}

impl FaultyStore {
    pub(crate) fn new(database: Arc<Database>, link: Arc<Link>, node_id: NodeId) -> Self {
        Self { database, link, node_id, forged_histories: Arc::default() }
    }

    /// Runs a statement at the database, and returns the result. The statement completes even if
    /// the client stops waiting.
    async fn execute<T, F>(
        &self,
        statement: impl FnOnce(Connection) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (response, received) = oneshot::channel();
        let (connection, link) = (self.database.connect(), Arc::clone(&self.link));
        self.database.tasks.spawn(async move {
            link.traverse().await;
            let is_reachable = !link.conditions().is_refused && connection.check().is_ok();
            let after = connection.clone();
            let mut result =
                if is_reachable { statement(connection).await } else { Err(unavailable()) };
            let delivers_after_failure = link.conditions().delivers_after_failure;
            link.traverse().await;
            if after.check().is_err() && !delivers_after_failure {
                result = Err(unavailable());
            }
            if !link.loses_response() {
                let _ = response.send(result);
            }
        });
        match timeout(TIMEOUT, received).await {
            Ok(Ok(result)) => result,
            _ => Err(unavailable()),
        }
    }
}

#[async_trait]
impl Facets for FaultyStore {
    fn forged_histories(&self) -> Arc<ForgedHistories> {
        Arc::clone(&self.forged_histories)
    }

    async fn close(&self) {}
}

#[async_trait]
impl Transactions for FaultyStore {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let begin = |connection: Connection| async move {
            let transaction = connection.database.store.begin().await?;
            connection.check()?;
            Ok((transaction, connection))
        };
        let (transaction, connection) = self.execute(begin).await?;
        Ok(Box::new(FaultyTransaction::new(transaction, connection, Arc::clone(&self.link))))
    }
}

#[async_trait]
impl Log for FaultyStore {
    async fn head(&self) -> Result<Position, StoreError> {
        self.execute(|connection| async move { connection.database.store.log().head().await }).await
    }

    async fn load(
        &self,
        visit: &mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send),
    ) -> Result<Loaded, StoreError> {
        let node_id = self.node_id;
        let load = move |connection: Connection| async move {
            let mut grants = Vec::new();
            let mut collect =
                |tenant_id, terms, retained| grants.push((tenant_id, terms, retained));
            let mut loaded = connection.database.store.log().load(&mut collect).await?;
            connection.database.forgeries.lock().forge(&mut grants, &mut loaded);
            let mut observed = connection.database.checker.observed.lock();
            observed.record_load(node_id, &loaded.accepted_clocks);
            drop(observed);
            Ok((grants, loaded))
        };
        let (grants, loaded) = self.execute(load).await?;
        for (tenant_id, terms, retained) in grants {
            visit(tenant_id, terms, retained);
        }
        Ok(loaded)
    }

    async fn events_after(
        &self,
        revision: Revision,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        // Few events at a time, so that one read rarely returns all events.
        let limit = limit.min(usize::try_from(self.link.random.between(2, 20)).unwrap_or(2));
        let delay = self.link.sample(self.link.conditions().read_delay);
        let read = move |connection: Connection| async move {
            let events = connection.database.store.log().events_after(revision, limit).await?;
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let forgeries = connection.database.forgeries.lock();
            Ok(events.into_iter().map(|event| forgeries.read(event)).collect())
        };
        let events: Vec<Event> = self.execute(read).await?;
        for event in events.iter().filter(|event| event.kind == EventKind::Forged) {
            self.forged_histories.report(event.tenant_id.clone());
        }
        Ok(events)
    }

    async fn replace_epoch(&self) -> Result<Epoch, StoreError> {
        self.execute(
            |connection| async move { connection.database.store.log().replace_epoch().await },
        )
        .await
    }
}

#[async_trait]
impl Queries for FaultyStore {
    async fn grant(
        &self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        let tenant_id = tenant_id.clone();
        let read = move |connection: Connection| async move {
            connection.database.store.queries().grant(&tenant_id, grant_id).await
        };
        self.execute(read).await
    }

    async fn grants(&self, query: &GrantQuery) -> Result<Vec<Listed<Grant>>, StoreError> {
        let query = query.clone();
        self.execute(|connection| async move {
            connection.database.store.queries().grants(&query).await
        })
        .await
    }

    async fn events(&self, query: &EventQuery) -> Result<Vec<Listed<HistoryEvent>>, StoreError> {
        let query = query.clone();
        self.execute(|connection| async move {
            connection.database.store.queries().events(&query).await
        })
        .await
    }

    async fn overrides(&self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError> {
        let tenant_id = tenant_id.clone();
        self.execute(|connection| async move {
            connection.database.store.queries().overrides(&tenant_id).await
        })
        .await
    }

    async fn locks(&self, query: &LockQuery) -> Result<Vec<Listed<Lock>>, StoreError> {
        let query = query.clone();
        self.execute(
            |connection| async move { connection.database.store.queries().locks(&query).await },
        )
        .await
    }

    async fn tenants(&self, after: &str, limit: usize) -> Result<Vec<String>, StoreError> {
        let after = after.to_owned();
        let read = move |connection: Connection| async move {
            connection.database.store.queries().tenants(&after, limit).await
        };
        self.execute(read).await
    }

    async fn next_expiry(&self) -> Result<Option<Time>, StoreError> {
        self.execute(
            |connection| async move { connection.database.store.queries().next_expiry().await },
        )
        .await
    }
}

#[async_trait]
impl History for FaultyStore {
    async fn record_enforced(
        &self,
        first: Revision,
        last: Revision,
        time: Time,
        enforced: Enforced,
    ) -> Result<(), StoreError> {
        let record = move |connection: Connection| async move {
            connection.database.store.history().record_enforced(first, last, time, enforced).await
        };
        self.execute(record).await
    }

    async fn enforced(&self, revision: Revision) -> Result<Option<Enforced>, StoreError> {
        let read = move |connection: Connection| async move {
            connection.database.store.history().enforced(revision).await
        };
        self.execute(read).await
    }

    async fn records(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>, StoreError> {
        let tenant_id = tenant_id.cloned();
        let read = move |connection: Connection| async move {
            connection.database.store.history().records(tenant_id.as_ref(), sequence, limit).await
        };
        self.execute(read).await
    }

    async fn compare(&self, from: ComparePosition, limit: usize) -> Result<Comparison, StoreError> {
        self.execute(move |connection| async move {
            connection.database.store.history().compare(from, limit).await
        })
        .await
    }

    async fn chain_head(&self, tenant_id: Option<&TenantId>) -> Result<ChainHead, StoreError> {
        let tenant_id = tenant_id.cloned();
        let read = |connection: Connection| async move {
            connection.database.store.history().chain_head(tenant_id.as_ref()).await
        };
        self.execute(read).await
    }
}

#[async_trait]
impl Membership for FaultyStore {
    async fn register(&self, registration: &Registration) -> Result<(), StoreError> {
        let registration = registration.clone();
        self.execute(|connection| async move { connection.register(&registration).await }).await
    }

    async fn heartbeat(
        &self,
        node_id: NodeId,
        heartbeat: i64,
        position: Option<Position>,
    ) -> Result<Option<HeartbeatResponse>, StoreError> {
        let (link, sent_at) = (Arc::clone(&self.link), Instant::now());
        let response = self.execute(move |connection| async move {
            connection.heartbeat(node_id, heartbeat, position, &link).await
        });
        let response = response.await?;
        if response.is_some() {
            self.database.checker.observed.lock().record_reading(node_id, sent_at);
        }
        Ok(response)
    }

    async fn acknowledge(
        &self,
        node_id: NodeId,
        position: Position,
        ack: Ack,
    ) -> Result<bool, StoreError> {
        self.execute(move |connection| async move {
            connection.acknowledge(node_id, position, ack).await
        })
        .await
    }

    async fn write_followers(
        &self,
        node_id: NodeId,
        followers: &[NodeInfo],
    ) -> Result<(), StoreError> {
        let followers = followers.to_vec();
        self.execute(move |connection| async move {
            connection.write_followers(node_id, &followers).await
        })
        .await
    }

    async fn read_followers(&self) -> Result<Vec<(NodeId, Vec<NodeInfo>)>, StoreError> {
        self.execute(|connection| async move {
            connection.database.store.membership().read_followers().await
        })
        .await
    }

    async fn members(&self) -> Result<MemberList, StoreError> {
        self.execute(|connection| async move { connection.membership().await }).await
    }

    async fn evict(&self, node_id: NodeId, heartbeat: i64) -> Result<bool, StoreError> {
        self.execute(move |connection| async move { connection.evict(node_id, heartbeat).await })
            .await
    }

    async fn record_trusted_time(
        &self,
        time: Time,
        accepted_clock: Revision,
    ) -> Result<(), StoreError> {
        let node_id = self.node_id;
        self.execute(move |connection| async move {
            connection.record_trusted_time(node_id, time, accepted_clock).await
        })
        .await
    }
}

#[async_trait]
impl Notifications for FaultyStore {
    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        let listen = |connection: Connection| async move { Ok(connection.database.listen()) };
        let notifications = self.execute(listen).await?;
        Ok(Box::new(FaultyListener { notifications, link: Arc::clone(&self.link) }))
    }
}

#[async_trait]
impl Listener for FaultyListener {
    async fn next(&mut self) -> Result<Notification, StoreError> {
        loop {
            let notification = self.notifications.recv().await.ok_or_else(unavailable)?;
            if self.link.conditions().is_refused {
                return Err(unavailable());
            }
            if self.link.loses_notification() {
                continue;
            }
            let delay = self.link.sample(self.link.conditions().delay);
            if !delay.is_zero() {
                sleep(delay).await;
            }
            return Ok(notification);
        }
    }
}
