//! Notifications from PostgreSQL, which any replica's commits send: `LISTEN` and `NOTIFY`.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Executor, PgPool, Postgres, postgres::PgListener};
use tokio::time::{Instant, timeout, timeout_at};

use crate::store::{Listener, Notification, StoreError, TIMEOUT, notify::Notifier, sql::Backend};

/// For how long a listener hears nothing before it looks whether its connection is alive. sqlx knows no keepalive, and a server
/// whose machine is gone says nothing, for ever.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long the connection may take to show it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Listens on connections of its own.
#[derive(Debug)]
pub(super) struct Listeners(pub(super) PgPool);

struct PgNotifications {
    listener: PgListener,
    roll_channel: String,
    /// When the connection last showed that it is alive.
    heard: Instant,
    /// When it was first asked to show it since then.
    probed: Option<Instant>,
    /// Whether hints may have been lost.
    is_broken: bool,
}

#[async_trait]
impl Notifier for Listeners {
    /// The statements that write have told the database.
    fn notify(&self, _: Notification) {}

    async fn listen(&self) -> Result<Box<dyn Listener>, StoreError> {
        let connect = async {
            let mut listener = PgListener::connect_with(&self.0).await?;
            // Nobody should wait for a new connection in order to hear that the old one is gone.
            listener.eager_reconnect(false);
            let log_name: String =
                sqlx::query_scalar("SELECT log_name FROM head").fetch_one(&mut listener).await?;
            let log_channel = format!("{}{log_name}", channel!(log));
            let roll_channel = format!("{}{log_name}", channel!(membership));
            listener.listen_all([&*log_channel, &*roll_channel]).await?;
            let heard = Instant::now();
            Ok(PgNotifications { listener, roll_channel, heard, probed: None, is_broken: false })
        };
        let connected = timeout(TIMEOUT, connect).await.map_err(StoreError::unavailable)?;
        Ok(Box::new(connected.map_err(Postgres::store_error)?))
    }

    async fn close(&self) {
        self.0.close().await;
    }
}

impl PgNotifications {
    /// Waits for the next, and looks at the connection whenever it has been silent.
    async fn hear(&mut self) -> Result<Notification, StoreError> {
        loop {
            // By the clock, not by how long this wait has lasted: the caller may come and go.
            let Ok(heard) = timeout_at(self.heard + SILENCE_MAX, self.listener.try_recv()).await
            else {
                self.probe().await?;
                continue;
            };
            self.heard = Instant::now();
            self.probed = None;
            let Some(notification) = heard.map_err(Postgres::store_error)? else {
                return Err(StoreError::unavailable("the connection was cut"));
            };
            let is_roll = notification.channel() == self.roll_channel;
            return Ok(if is_roll { Notification::Membership } else { Notification::Log });
        }
    }

    /// What is heard meanwhile is kept for later. May be given up and begun again, but the time to answer is the same.
    async fn probe(&mut self) -> Result<(), StoreError> {
        let deadline = *self.probed.get_or_insert_with(Instant::now) + PROBE_TIMEOUT;
        let answer = timeout_at(deadline, self.listener.execute("SELECT 1")).await;
        answer.map_err(StoreError::unavailable)?.map_err(Postgres::store_error)?;
        self.heard = Instant::now();
        self.probed = None;
        Ok(())
    }
}

#[async_trait]
impl Listener for PgNotifications {
    async fn next(&mut self) -> Result<Notification, StoreError> {
        if self.is_broken {
            return Err(StoreError::unavailable("the connection was lost before"));
        }
        let heard = self.hear().await;
        self.is_broken = heard.is_err();
        heard
    }
}
