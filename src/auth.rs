//! Who is calling: what a connection and a token prove, and what that makes of a caller.
//!
//! Closed when in doubt: who proves nothing is refused, and who proves to be somebody that is bound to no role may do nothing.
//! Only where no way to tell callers apart is configured does everybody on this host count as a local caller, who may do
//! everything; such a server cannot be reached from elsewhere (`server/config.rs`).

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::domain::{
    Attribution, AuthenticationMethod, Caller, Clock, Role, TenantId, Tenants, Time,
    ids::{Actor, TextError},
    time::between,
};

pub mod bindings;
pub mod certificate;
pub mod keys;
pub mod token;

use bindings::Bindings;
use certificate::Certificate;
use token::{Claims, TokenError, Verifier};

/// What a connection shows of who is at its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Nothing.
    Unknown,
    /// A client certificate, which was verified.
    Certificate(Certificate),
    /// A user of this host, as its kernel says.
    User(u32),
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// What the connection shows.
    pub peer: Peer,
    /// Where it is from; `None`: this host.
    pub address: Option<IpAddr>,
    /// Whether anybody has called on it that could be told.
    is_known: AtomicBool,
}

/// Why a caller is refused before anybody looks at what it asks for. Displayed, it tells the caller what to mend, and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Neither a certificate nor a token.
    #[error("a client certificate or a bearer token is required")]
    Missing,
    /// The certificate has expired since the connection was made.
    #[error("the client certificate has expired")]
    CertificateExpired,
    /// The certificate has no name that can be somebody.
    #[error("the client certificate has neither a URI nor a DNS name in it that can name a caller")]
    CertificateNameless,
    /// The token is not what it should be.
    #[error("the bearer token is refused: {0}")]
    Token(#[from] TokenError),
    /// The name that was given cannot be one.
    #[error("the name {0}")]
    Name(#[from] TextError),
    /// Roles that nobody may have together.
    #[error("{first} and {second} cannot act in one call: {why}")]
    Conflict {
        /// One role.
        first: Role,
        /// The other.
        second: Role,
        /// Why not.
        why: &'static str,
    },
}

/// Tells who is calling.
#[derive(Debug)]
pub struct Authenticator {
    /// `None`: nothing is configured to tell callers apart.
    methods: Option<Methods>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Methods {
    bindings: Bindings,
    verifier: Verifier,
}

/// Somebody, and what proves it: a certificate, a user id, or a token.
struct Proven {
    name: Actor,
    method: AuthenticationMethod,
    roles: BTreeSet<Role>,
    tenants: BTreeSet<TenantId>,
    identity: String,
    valid_for: Option<Duration>,
    expire_time: Option<Time>,
}

// === impl ConnectionInfo ===

impl ConnectionInfo {
    /// Nobody has called yet.
    pub fn new(peer: Peer, address: Option<IpAddr>) -> Self {
        Self { peer, address, is_known: AtomicBool::new(false) }
    }

    /// Notes that somebody has called who could be told.
    pub fn introduce(&self) {
        // Read first: a line of memory that nobody writes is in every cache.
        if !self.is_known() {
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    /// Whether anybody has.
    pub fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }
}

// === impl Authenticator ===

impl Authenticator {
    /// Tells callers apart by what is bound; `None`: not at all.
    pub fn new(methods: Option<(Bindings, Verifier)>, clock: Arc<dyn Clock>) -> Self {
        let methods = methods.map(|(bindings, verifier)| Methods { bindings, verifier });
        Self { methods, clock }
    }

    /// Whether everybody counts as a local caller.
    pub fn is_open(&self) -> bool {
        self.methods.is_none()
    }

    /// Whether this user of the host may use its Unix sockets.
    pub fn admits_user(&self, uid: u32) -> bool {
        self.methods.as_ref().is_none_or(|methods| methods.bindings.admits_user(uid))
    }

    /// Who calls without a token, and gives itself a name or none.
    pub fn by_connection(&self, peer: &Peer, name: Option<&str>) -> Result<Caller, AuthError> {
        let Some(methods) = &self.methods else { return Ok(Caller::local(name)?) };
        let peer = methods.of_peer(peer, self.clock.now())?;
        methods.by_peer_alone(peer.ok_or(AuthError::Missing)?, name)
    }

    /// Who calls with a bearer token (RFC 6750). Waits only where the issuer's keys have to be fetched to tell.
    pub async fn by_token(&self, peer: &Peer, token: &str) -> Result<Caller, AuthError> {
        let Some(methods) = &self.methods else { return Ok(Caller::local(None)?) };
        let now = self.clock.now();
        let peer = methods.of_peer(peer, now)?;
        let claims = methods.verifier.verify(token, now).await?;
        let Claims { issuer, name, roles, tenants, expires } = claims;
        let identity = format!("token of {issuer} {name}");
        let valid_for = Some(between(now, expires));
        let bearer = Proven {
            name,
            method: AuthenticationMethod::Token,
            roles,
            tenants,
            identity,
            valid_for,
            expire_time: Some(expires),
        };
        forwarded(peer, bearer)
    }
}

// === impl Methods ===

impl Methods {
    fn of_peer(&self, peer: &Peer, now: Time) -> Result<Option<Proven>, AuthError> {
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
                let roles = self.bindings.of_certificate(&certificate.names);
                let expire_time = Some(certificate.not_after);
                (name, roles, AuthenticationMethod::Certificate, "certificate", expire_time)
            }
            Peer::User(uid) => {
                let roles = self.bindings.of_user(*uid);
                if roles.is_empty() {
                    return Ok(None);
                }
                let name = Actor::new(&format!("uid:{uid}"))?;
                (name, roles, AuthenticationMethod::UnixUser, "user", None)
            }
        };
        without_conflict(&roles)?;
        let identity = format!("{kind} {name}");
        let (tenants, valid_for) = (BTreeSet::new(), expire_time.map(|time| between(now, time)));
        Ok(Some(Proven { name, method, roles, tenants, identity, valid_for, expire_time }))
    }

    /// Somebody without a token. A portal that is trusted may name the administrator that it acts for.
    fn by_peer_alone(&self, peer: Proven, named: Option<&str>) -> Result<Caller, AuthError> {
        let Proven { name, method, roles, identity, valid_for, expire_time, .. } = peer;
        let identity = identity.into();
        if let Some(named) = named
            && roles.contains(&Role::Portal)
            && self.bindings.trust_portal_assertion
        {
            let local = Caller::local(Some(named))?;
            let author =
                Attribution { actor: local.author.actor, via: Some(name), is_asserted: true };
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

/// The bearer of a token, on a connection of `peer`. Who has a role by itself cannot borrow another's; a portal has none that it
/// could use.
fn forwarded(peer: Option<Proven>, bearer: Proven) -> Result<Caller, AuthError> {
    if let Some(peer) = &peer {
        let own = peer.roles.iter().find(|role| **role != Role::Portal);
        if let (Some(first), Some(second)) = (own, bearer.roles.first()) {
            let why = "a caller has one set of roles, that of its certificate or that of its token";
            return Err(AuthError::Conflict { first: *first, second: *second, why });
        }
        // A portal forwards the tokens of customers, and of nobody else.
        let vendor = bearer.roles.iter().find(|role| role.side() != Role::TenantAdmin.side());
        if let (true, Some(second)) = (peer.roles.contains(&Role::Portal), vendor) {
            let why = "a portal acts for tenants only";
            return Err(AuthError::Conflict { first: Role::Portal, second: *second, why });
        }
    }
    let Proven { name, method, roles, tenants, identity, valid_for, expire_time } = bearer;
    without_conflict(&roles)?;
    let author = Attribution { actor: name, via: peer.map(|peer| peer.name), is_asserted: false };
    let tenants = Tenants::These(tenants);
    let identity = identity.into();
    Ok(Caller { author, method, roles, tenants, identity, valid_for, expire_time })
}

/// Separation of duties: what the configuration refuses of one name is refused of several names of one caller, too.
fn without_conflict(roles: &BTreeSet<Role>) -> Result<(), AuthError> {
    match bindings::conflict(roles) {
        Some((first, second, why)) => Err(AuthError::Conflict { first, second, why }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
