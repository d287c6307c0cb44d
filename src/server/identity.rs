//! How callers prove who they are: put together from the configuration, and kept up to date.

use std::sync::Arc;

use tracing::{info, warn};

use crate::{
    auth::{Authenticator, keys::Keys, token::Verifier},
    domain::Clock,
    server::{
        ServeError,
        config::Security,
        doors::Identity,
        tasks::Tasks,
        tls::{Tls, Watch},
    },
};

/// What tells callers apart, and what it takes to keep that up to date.
pub(super) struct Prepared {
    pub(super) identity: Identity,
    keys: Vec<Arc<Keys>>,
    watch: Option<Watch>,
}

impl Prepared {
    /// Reads certificates and keys. Keys at a URL are fetched later: an issuer that is down keeps no server from starting.
    pub(super) fn new(security: &Security, clock: &Arc<dyn Clock>) -> Result<Self, ServeError> {
        let Security { tls, auth, insecure, .. } = security;
        let (tls, watch) = match tls {
            Some(files) => {
                let (tls, watch) = Tls::load(files.clone(), auth.issuers.is_some())?;
                (Some(Arc::new(tls)), Some(watch))
            }
            None => (None, None),
        };
        let mut keys = Vec::new();
        for issuer in auth.issuers() {
            let own = Keys::new(&issuer.keys, Arc::clone(clock));
            keys.push(Arc::new(own.map_err(ServeError::Auth)?));
        }
        let verifier = Verifier::new(auth.issuers().cloned().zip(keys.iter().cloned()));
        let methods = security.is_authenticated().then(|| (auth.bindings(), verifier));
        let authenticator = Arc::new(Authenticator::new(methods, Arc::clone(clock)));
        if authenticator.is_open() {
            info!("callers are not told apart: whoever is on this host may do everything");
        }
        if *insecure {
            warn!(
                "insecure: tokens may come in without TLS, and whoever reads them on their way can use them"
            );
        }
        if auth.trust_portal_assertion {
            warn!(
                "trust_portal_assertion: a portal can act for any tenant's administrator, without proof; the history marks it"
            );
        }
        Ok(Self { identity: Identity { authenticator, tls }, keys, watch })
    }

    /// Keeps certificates and keys up to date, as `tasks`.
    pub(super) fn keep(self, tasks: &Tasks) -> Identity {
        let Self { identity, keys, watch } = self;
        for keys in keys {
            tasks.spawn("keys of an issuer", keys.run(tasks.stop_token()));
        }
        if let (Some(tls), Some(watch)) = (&identity.tls, watch) {
            tasks.spawn("certificates", Arc::clone(tls).watch(watch, tasks.stop_token()));
        }
        identity
    }
}
