//! Checks of the files that a valid configuration names. Starts nothing, and opens no connection.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    api::grpc::upstream::GrpcUpstream,
    auth::keys::IssuerKeys,
    domain::Clock,
    server::{
        clock::SystemClock,
        config::{Common, SidecarConfig},
        tls::Tls,
    },
};

/// The problems of the certificate and key files of a process, a sentence each. Keys at URLs are
/// not fetched.
pub fn check_files(config: &Common) -> Vec<String> {
    let tls = config.tls().and_then(|files| Tls::load(files, false).err());
    let mut problems: Vec<String> = tls.iter().map(ToString::to_string).collect();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    problems.extend(config.auth.issuers().filter_map(|issuer| {
        let keys = issuer.keys.as_deref();
        let problem = IssuerKeys::of_issuer(&issuer.issuer, keys, Arc::clone(&clock)).err()?;
        Some(format!("keys of the issuer {:?}: {problem}", issuer.issuer))
    }));
    problems.extend(config.integrations.tokens().filter_map(|(name, token)| {
        let keys = token.keys.as_deref();
        let problem = IssuerKeys::of_issuer(&token.issuer, keys, Arc::clone(&clock)).err()?;
        Some(format!("keys of the integration {name:?}: {problem}"))
    }));
    problems
}

/// As [`check_files`], including the credentials for upstreams.
pub fn check_sidecar_files(config: &SidecarConfig) -> Vec<String> {
    let credentials = config.credentials();
    let upstreams = config.upstream.iter().flat_map(|url| {
        let upstream = GrpcUpstream::new(url, &credentials);
        upstream.map_or_else(|problem| vec![problem], |upstream| upstream.check_credentials())
    });
    // Upstreams share credentials, so each of them reports the same problems.
    let upstreams: BTreeSet<String> = upstreams.collect();
    let mut problems = check_files(&config.common);
    problems.extend(upstreams);
    problems
}
