//! Authentication: turns what a connection and a token prove into a [`Caller`].
//!
//! Fails closed: a caller without credentials is rejected, and a caller whose name is bound to no
//! role has no permissions. Without a configured method, every caller is local and has all roles.
//! The configuration accepts such a server only on loopback addresses (`server/config/groups.rs`).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use parking_lot::Mutex;

use crate::domain::{
    Attribution, AuthenticationMethod, Caller, Clock, Party, Role, TenantId, Tenants, Time,
    ids::{Actor, TextError},
    time::between,
    trusted_clock::TrustedClock,
};

pub mod bindings;
pub mod certificate;
pub mod claims;
mod connection;
pub mod http;
pub mod keys;
pub mod token;

pub use connection::{ConnectionInfo, Peer, UnauthenticatedCall};

use bindings::Bindings;
use token::{Claims, TokenError, Verifier};

/// Reason why a call is not authenticated. The message is for the caller, and contains no secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is neither a certificate nor a token.
    #[error("a client certificate or a bearer token is required")]
    Missing,
    /// The certificate has expired since the handshake.
    #[error("the client certificate has expired")]
    CertificateExpired,
    /// The certificate has no usable name.
    #[error(
        "the client certificate contains neither a URI nor a DNS name that can identify a caller"
    )]
    CertificateNameless,
    /// The token is invalid.
    #[error("the bearer token is rejected: {0}")]
    Token(#[from] TokenError),
    /// The asserted name is invalid.
    #[error("the name {0}")]
    Name(#[from] TextError),
    /// The roles violate the separation of duties.
    #[error("{first} and {second} cannot act in one call: {reason}")]
    Conflict {
        /// One role.
        first: Role,
        /// The conflicting role.
        second: Role,
        /// The reason.
        reason: &'static str,
    },
}

/// Authenticates callers.
#[derive(Debug)]
pub struct Authenticator {
    /// `None`: no method is configured.
    methods: Option<Methods>,
    clock: Arc<dyn Clock>,
    /// Judges the wall clock. A credential that has expired stays expired if the wall clock is set
    /// back.
    trusted_clock: Mutex<TrustedClock>,
}

#[derive(Debug)]
struct Methods {
    bindings: Bindings,
    verifier: Verifier,
}

/// The name and roles that one credential proves: a certificate, a user id or a token.
struct Credential {
    name: Actor,
    method: AuthenticationMethod,
    roles: BTreeSet<Role>,
    tenants: BTreeSet<TenantId>,
    identity: String,
    valid_for: Option<Duration>,
    expire_time: Option<Time>,
}

// === impl Authenticator ===

impl Authenticator {
    /// Authenticates with these methods. `None`: every caller is local.
    pub fn new(methods: Option<(Bindings, Verifier)>, clock: Arc<dyn Clock>) -> Self {
        let methods = methods.map(|(bindings, verifier)| Methods { bindings, verifier });
        let trusted_clock = TrustedClock::starting_at(clock.now(), clock.boot_time());
        Self { methods, clock, trusted_clock: Mutex::new(trusted_clock) }
    }

    /// Whether no method is configured, so that every caller is local.
    pub fn is_disabled(&self) -> bool {
        self.methods.is_none()
    }

    /// Whether a user of this host may connect to Unix sockets.
    pub fn allows_user(&self, uid: u32) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.bindings.allows_user(uid))
    }

    /// Authenticates a call without a token. `name` is the actor that the caller asserts.
    pub fn by_connection(&self, peer: &Peer, name: Option<&str>) -> Result<Caller, AuthError> {
        let Some(methods) = &self.methods else { return Ok(Caller::local(name)?) };
        let credential = methods.credential_of(peer, self.now())?;
        methods.caller_without_token(credential.ok_or(AuthError::Missing)?, name)
    }

    /// Authenticates a call with a bearer token (RFC 6750). Waits only if the issuer's keys must be
    /// fetched.
    pub async fn by_token(&self, peer: &Peer, token: &str) -> Result<Caller, AuthError> {
        let Some(methods) = &self.methods else { return Ok(Caller::local(None)?) };
        let now = self.now();
        let of_connection = methods.credential_of(peer, now)?;
        let claims = methods.verifier.verify(token, now).await?;
        let Claims { issuer, name, roles, tenants, expires } = claims;
        let identity = format!("token of {issuer} {name}");
        let valid_for = Some(between(now, expires));
        let of_token = Credential {
            name,
            method: AuthenticationMethod::Token,
            roles,
            tenants,
            identity,
            valid_for,
            expire_time: Some(expires),
        };
        caller_with_token(of_connection, of_token)
    }

    /// The time at which credentials are judged: the later one of wall clock and elapsed time.
    pub fn now(&self) -> Time {
        let at = self.clock.boot_time();
        self.trusted_clock.lock().observe(self.clock.now(), at, at).now.latest
    }
}

// === impl Methods ===

impl Methods {
    fn credential_of(&self, peer: &Peer, now: Time) -> Result<Option<Credential>, AuthError> {
        let (name, roles, method, kind, expire_time) = match peer {
            Peer::Unknown => return Ok(None),
            Peer::Certificate(certificate) => {
                if certificate.not_after <= now {
                    return Err(AuthError::CertificateExpired);
                }
                let name = self.bindings.name_of_certificate(&certificate.names);
                let name = name.and_then(|name| Actor::new(name).ok());
                let name = name.filter(|name| *name != Attribution::system().actor);
                let name = name.ok_or(AuthError::CertificateNameless)?;
                let roles = self.bindings.roles_of_certificate(&certificate.names);
                let expire_time = Some(certificate.not_after);
                (name, roles, AuthenticationMethod::Certificate, "certificate", expire_time)
            }
            Peer::User(uid) => {
                let roles = self.bindings.roles_of_user(*uid);
                if roles.is_empty() {
                    return Ok(None);
                }
                let name = Actor::new(&format!("uid:{uid}"))?;
                (name, roles, AuthenticationMethod::UnixUser, "user", None)
            }
        };
        check_conflicts(&roles)?;
        let identity = format!("{kind} {name}");
        let (tenants, valid_for) = (BTreeSet::new(), expire_time.map(|time| between(now, time)));
        Ok(Some(Credential { name, method, roles, tenants, identity, valid_for, expire_time }))
    }

    /// The caller on a connection without a token. A trusted portal may name the administrator for
    /// whom it acts.
    fn caller_without_token(
        &self,
        credential: Credential,
        asserted: Option<&str>,
    ) -> Result<Caller, AuthError> {
        let Credential { name, method, roles, identity, valid_for, expire_time, .. } = credential;
        let identity = identity.into();
        if let Some(asserted) = asserted
            && roles.contains(&Role::Portal)
            && self.bindings.trust_portal_assertion
        {
            let actor = Caller::local(Some(asserted))?.author.actor;
            let author = Attribution { actor, via: Some(name), is_asserted: true };
            let roles = BTreeSet::from([Role::TenantAdmin]);
            let tenants = Tenants::All;
            let caller =
                Caller { author, method, roles, tenants, identity, valid_for, expire_time };
            return Ok(caller);
        }
        let tenants = Tenants::These(BTreeSet::new());
        let author = Attribution::direct(name);
        Ok(Caller { author, method, roles, tenants, identity, valid_for, expire_time })
    }
}

/// The bearer of a token. Roles of the connection and of the token are never combined. A portal
/// forwards tokens of tenants only.
fn caller_with_token(
    of_connection: Option<Credential>,
    of_token: Credential,
) -> Result<Caller, AuthError> {
    if let Some(connection) = &of_connection {
        let own = connection.roles.iter().find(|role| **role != Role::Portal);
        if let (Some(first), Some(second)) = (own, of_token.roles.first()) {
            let reason = "a caller has the roles of its certificate or of its token, not both";
            return Err(AuthError::Conflict { first: *first, second: *second, reason });
        }
        let vendor_role = of_token.roles.iter().find(|role| role.party() == Party::Vendor);
        if let (true, Some(second)) = (connection.roles.contains(&Role::Portal), vendor_role) {
            let reason = "a portal acts for tenants only";
            return Err(AuthError::Conflict { first: Role::Portal, second: *second, reason });
        }
    }
    let Credential { name, method, roles, tenants, identity, valid_for, expire_time } = of_token;
    check_conflicts(&roles)?;
    let via = of_connection.map(|connection| connection.name);
    let author = Attribution { actor: name, via, is_asserted: false };
    let tenants = Tenants::These(tenants);
    let identity = identity.into();
    Ok(Caller { author, method, roles, tenants, identity, valid_for, expire_time })
}

/// Enforces the separation of duties for a caller with several names. The configuration rejects
/// only conflicts of one name.
fn check_conflicts(roles: &BTreeSet<Role>) -> Result<(), AuthError> {
    match bindings::conflict(roles) {
        Some((first, second, reason)) => Err(AuthError::Conflict { first, second, reason }),
        None => Ok(()),
    }
}
