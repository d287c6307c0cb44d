//! Authentication and TLS of a server, built from the configuration and refreshed in the
//! background.

use std::{collections::BTreeMap, sync::Arc};

use tracing::{info, warn};

use crate::{
    api::integrations::Integrations,
    auth::{Authenticator, keys::IssuerKeys, token::Verifier},
    domain::Clock,
    server::{
        config::Common,
        error::ServeError,
        tasks::Tasks,
        tls::{Loaded, Tls},
    },
};

/// Authentication and TLS.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) integrations: Arc<Integrations>,
    /// TLS of TCP listeners.
    pub(super) tls: Option<Arc<Tls>>,
}

/// The files and keys that background tasks refresh.
pub(super) struct Refresh {
    keys: Vec<Arc<IssuerKeys>>,
    tls: Option<(Arc<Tls>, Loaded)>,
}

impl Identity {
    /// Reads certificates and key files. Keys at URLs are fetched later, so that an unavailable
    /// issuer does not prevent the start.
    pub(super) fn load(
        config: &Common,
        clock: &Arc<dyn Clock>,
    ) -> Result<(Self, Refresh), ServeError> {
        let auth = &config.auth;
        let tls = match config.tls() {
            Some(files) => {
                let (tls, loaded) = Tls::load(files, auth.issuers.is_some())?;
                Some((Arc::new(tls), loaded))
            }
            None => None,
        };
        let keys = auth.issuers().map(|issuer| {
            let keys = issuer.keys.as_deref();
            let keys = IssuerKeys::of_issuer(&issuer.issuer, keys, Arc::clone(clock));
            keys.map(Arc::new).map_err(ServeError::Auth)
        });
        let mut keys = keys.collect::<Result<Vec<_>, _>>()?;
        let verifier = Verifier::new(auth.issuers().cloned().zip(keys.iter().cloned()));
        let methods = config.is_authenticated().then(|| (auth.bindings(), verifier));
        let authenticator = Arc::new(Authenticator::new(methods, Arc::clone(clock)));
        if authenticator.is_disabled() {
            info!("no authentication is configured: every local caller may do everything");
        }
        if config.insecure {
            warn!("insecure: others on the network can read and use tokens");
        }
        if auth.trust_portal_assertion {
            warn!(
                "trust_portal_assertion: a portal can act as the administrator of any tenant \
                 without proof; the history marks such changes"
            );
        }
        let of_integrations = config.integrations.tokens().map(|(name, token)| {
            let found = token.keys.as_deref();
            let found = IssuerKeys::of_issuer(&token.issuer, found, Arc::clone(clock));
            found.map(|found| (name.clone(), Arc::new(found))).map_err(ServeError::Auth)
        });
        let of_integrations = of_integrations.collect::<Result<BTreeMap<_, _>, _>>()?;
        let integrations = Arc::new(Integrations::new(&config.integrations, &of_integrations));
        keys.extend(of_integrations.into_values());
        let own_tls = tls.as_ref().map(|(tls, _)| Arc::clone(tls));
        Ok((Self { authenticator, integrations, tls: own_tls }, Refresh { keys, tls }))
    }
}

impl Refresh {
    /// Keeps certificates and keys up to date in `tasks`.
    pub(super) fn spawn(self, tasks: &Tasks) {
        for keys in self.keys {
            tasks.spawn("keys of an issuer", keys.run(tasks.stop_token()));
        }
        if let Some((tls, loaded)) = self.tls {
            tasks.spawn("certificates", tls.watch(loaded, tasks.stop_token()));
        }
    }
}
