//! Notifications of PostgreSQL (`LISTEN` and `NOTIFY`), which the commits of every replica send.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{PgPool, Postgres, postgres::PgListener};
use tokio::time::{Instant, timeout, timeout_at};

use crate::store::{
    Listener, Notification, StoreError, TIMEOUT, notify::Notifier, postgres::session::Session,
    sql::Backend,
};

/// How long a connection may be silent before it is probed. sqlx has no keepalive, and a server
/// whose machine disappeared sends no error.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Listens on connections of a separate pool.
#[derive(Debug)]
pub(super) struct Listeners(pub(super) PgPool);

struct ChannelListener {
    listener: PgListener,
    /// The session that listens.
    session: Session,
    membership_channel: String,
    /// When the connection last responded.
    last_response: Instant,
    /// When the current probe started.
    probed_at: Option<Instant>,
    /// Whether notifications may have been lost.
    is_broken: bool,
}

#[async_trait]
impl Notifier for Listeners {
    /// The statements that write notify the listeners.
    fn notify(&self, _: Notification) {}

    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        let connect = async {
            let mut listener = PgListener::connect_with(&self.0).await?;
            // A caller must learn at once that the connection failed. By default, sqlx would first
            // open a new connection.
            listener.eager_reconnect(false);
            let session = Session::of(&mut listener).await?;
            let log_name: String =
                sqlx::query_scalar("SELECT log_name FROM head").fetch_one(&mut listener).await?;
            let log_channel = format!("{}{log_name}", channel!(log));
            let membership_channel = format!("{}{log_name}", channel!(membership));
            listener.listen_all([&*log_channel, &*membership_channel]).await?;
            Ok(ChannelListener {
                listener,
                session,
                membership_channel,
                last_response: Instant::now(),
                probed_at: None,
                is_broken: false,
            })
        };
        let connected = timeout(TIMEOUT, connect).await.map_err(StoreError::unavailable)?;
        Ok(Box::new(connected.map_err(Postgres::store_error)?))
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

impl ChannelListener {
    /// Waits for the next notification, and probes the connection after a silence.
    async fn receive(&mut self) -> Result<Notification, StoreError> {
        loop {
            // Measured from the last response, and not from this call: the caller may cancel calls.
            let deadline = self.last_response + SILENCE_MAX;
            let Ok(received) = timeout_at(deadline, self.listener.try_recv()).await else {
                self.probe().await?;
                continue;
            };
            self.last_response = Instant::now();
            self.probed_at = None;
            let Some(notification) = received.map_err(Postgres::store_error)? else {
                return Err(StoreError::unavailable("the connection was closed"));
            };
            let is_membership = notification.channel() == self.membership_channel;
            return Ok(if is_membership { Notification::Membership } else { Notification::Log });
        }
    }

    /// Notifications that arrive meanwhile are kept. A cancelled probe continues in the next call,
    /// with the same deadline.
    async fn probe(&mut self) -> Result<(), StoreError> {
        let deadline = *self.probed_at.get_or_insert_with(Instant::now) + PROBE_TIMEOUT;
        let response = timeout_at(deadline, self.session.confirm(&mut self.listener)).await;
        response.map_err(StoreError::unavailable)?.map_err(Postgres::store_error)?;
        self.last_response = Instant::now();
        self.probed_at = None;
        Ok(())
    }
}

#[async_trait]
impl Listener for ChannelListener {
    async fn next(&mut self) -> Result<Notification, StoreError> {
        if self.is_broken {
            return Err(StoreError::unavailable("the connection failed earlier"));
        }
        let received = self.receive().await;
        self.is_broken = received.is_err();
        received
    }
}
