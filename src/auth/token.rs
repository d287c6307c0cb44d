//! Bearer tokens: JSON Web Tokens (RFC 7519) signed by a configured issuer, verified as RFC 8725
//! recommends. The claim `cnf` and the header `typ` are ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Validation, dangerous, decode, decode_header, errors::ErrorKind,
};
use serde_json::{Map, Value};

use crate::{
    auth::{
        bindings::IssuerConfig,
        keys::{IssuerKeys, KeyError},
    },
    domain::{Role, TenantId, Time, ids::Actor, time},
};

/// Maximum length of a token, in bytes.
pub const LENGTH_MAX: usize = 8 * 1_024;
/// Maximum number of tenants taken from a token.
const TENANTS_MAX: usize = 1_000;
/// Accepted signature algorithms. All are asymmetric: a key that verifies cannot sign.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Reason why a token is rejected. The message reveals nothing that the bearer does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Longer than [`LENGTH_MAX`].
    #[error("it is longer than {LENGTH_MAX} bytes")]
    TooLong,
    /// Not a JWT with an accepted signature algorithm.
    #[error("it is not a JSON Web Token that is signed with RS256, ES256 or EdDSA")]
    Malformed,
    /// No such issuer is configured.
    #[error("its issuer is not configured")]
    UnknownIssuer,
    /// The issuer has no such key.
    #[error("its issuer has no such key")]
    UnknownKey,
    /// The issuer's keys cannot be fetched.
    #[error("its issuer's keys are not available")]
    NoKeys,
    /// The signature does not verify.
    #[error("its signature is wrong")]
    BadSignature,
    /// The claim `aud` does not contain the configured audience.
    #[error("it is for another audience")]
    OtherAudience,
    /// The claim `exp` is in the past.
    #[error("it has expired")]
    Expired,
    /// The claim `nbf` is in the future.
    #[error("it is not valid yet")]
    NotYetValid,
    /// A required claim is missing or invalid.
    #[error("a required claim is missing or invalid")]
    Incomplete,
}

/// The content of a verified token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The claim `iss`.
    pub issuer: String,
    /// The bearer's name.
    pub name: Actor,
    /// The bearer's roles in this service.
    pub roles: BTreeSet<Role>,
    /// The tenants in which the bearer has tenant roles.
    pub tenants: BTreeSet<TenantId>,
    /// The first instant at which the token is no longer valid, including the leeway.
    pub expires: Time,
}

/// Verifies the tokens of all configured issuers.
#[derive(Debug, Default)]
pub struct Verifier {
    issuers: BTreeMap<String, Issuer>,
}

#[derive(Debug)]
struct Issuer {
    config: IssuerConfig,
    claimed_roles: BTreeMap<String, BTreeSet<Role>>,
    keys: Arc<IssuerKeys>,
}

// === impl Verifier ===

impl Verifier {
    /// Verifies the tokens of these issuers with their keys.
    pub fn new(issuers: impl IntoIterator<Item = (IssuerConfig, Arc<IssuerKeys>)>) -> Self {
        let issuers = issuers.into_iter().map(|(config, keys)| {
            let claimed_roles = config.claimed_roles();
            (config.issuer.clone(), Issuer { config, claimed_roles, keys })
        });
        Self { issuers: issuers.collect() }
    }

    /// Verifies `token` at the time `now`. Waits only if the key must be fetched.
    pub async fn verify(&self, token: &str, now: Time) -> Result<Claims, TokenError> {
        if token.len() > LENGTH_MAX {
            return Err(TokenError::TooLong);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Critical extensions must not be ignored (RFC 7515, section 4.1.11).
        if !ALGORITHMS.contains(&header.alg) || header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        // Before verification, only the issuer is read, to select its keys.
        let unverified: Map<String, Value> =
            dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
        let issuer = unverified.get("iss").and_then(Value::as_str);
        let issuer = issuer.and_then(|name| self.issuers.get(name));
        let issuer = issuer.ok_or(TokenError::UnknownIssuer)?;
        let key = issuer.keys.find(header.kid.as_deref(), header.alg).await?;
        let claims = issuer.verified(token, header.alg, &key)?;
        let expires = issuer.check_times(&claims, now)?;
        issuer.claims(&claims, expires)
    }
}

// === impl Issuer ===

impl Issuer {
    fn verified(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<Value, TokenError> {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // `check_times` compares the times with this service's clock.
        validation.validate_exp = false;
        let verified = decode::<Value>(token, key, &validation);
        verified.map(|token| token.claims).map_err(|error| match error.kind() {
            ErrorKind::InvalidSignature => TokenError::BadSignature,
            ErrorKind::InvalidAudience => TokenError::OtherAudience,
            ErrorKind::InvalidIssuer => TokenError::UnknownIssuer,
            ErrorKind::MissingRequiredClaim(_) => TokenError::Incomplete,
            _ => TokenError::Malformed,
        })
    }

    /// Checks `nbf` and `exp` (RFC 7519, sections 4.1.4 and 4.1.5) with the leeway. Returns the end
    /// of the validity.
    fn check_times(&self, claims: &Value, now: Time) -> Result<Time, TokenError> {
        let leeway = self.config.leeway.0;
        let at = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or(TokenError::Incomplete),
        };
        let expires = at("exp")?.ok_or(TokenError::Incomplete)?;
        let end = time::after(expires, leeway).filter(|end| *end > now);
        let end = end.ok_or(TokenError::Expired)?;
        let latest_start = time::after(now, leeway).ok_or(TokenError::NotYetValid)?;
        if at("nbf")?.is_some_and(|start| start > latest_start) {
            return Err(TokenError::NotYetValid);
        }
        Ok(end)
    }

    fn claims(&self, claims: &Value, expires: Time) -> Result<Claims, TokenError> {
        let Self { config, claimed_roles, .. } = self;
        let name = claim(claims, &config.name_claim).and_then(Value::as_str);
        let name = name.filter(|name| is_available(name)).and_then(|name| Actor::new(name).ok());
        let name = name.ok_or(TokenError::Incomplete)?;
        let claimed = claim(claims, &config.role_claim);
        let words = match claimed {
            Some(Value::String(text)) => text.split_whitespace().collect(),
            other => texts(other),
        };
        let roles = words.into_iter().filter_map(|word| claimed_roles.get(word)).flatten();
        let tenants = match claim(claims, &config.tenant_claim) {
            Some(Value::String(text)) => vec![text.as_str()],
            other => texts(other),
        };
        let tenants = tenants.into_iter().take(TENANTS_MAX);
        Ok(Claims {
            issuer: config.issuer.clone(),
            expires,
            name,
            roles: roles.copied().collect(),
            tenants: tenants
                .filter_map(|id| TenantId::new(id).ok())
                .filter(|id| config.tenants.as_ref().is_none_or(|own| own.contains(id)))
                .collect(),
        })
    }
}

/// Whether a token may contain this name: it is not reserved for another kind of caller.
fn is_available(name: &str) -> bool {
    let is_reserved = ["system", "anonymous"].contains(&name)
        || ["spiffe:", "uid:"].iter().any(|scheme| name.starts_with(scheme));
    !is_reserved
}

/// A claim by its name or by a JSON pointer.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) }
}

/// The strings of a list. Empty, if `value` is not a list of strings.
fn texts(value: Option<&Value>) -> Vec<&str> {
    let list = value.and_then(Value::as_array);
    list.and_then(|list| list.iter().map(Value::as_str).collect()).unwrap_or_default()
}

/// A `NumericDate` (RFC 7519, section 2): seconds since 1970. Drops fractions.
fn numeric_date(value: &Value) -> Option<Time> {
    let whole = value.as_i64().or_else(|| {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "`from_parts` rejects the result if it is out of range"
        )]
        value.as_f64().filter(|number| number.is_finite()).map(|number| number as i64)
    });
    time::from_parts(whole?, 0)
}

impl From<KeyError> for TokenError {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Unknown => Self::UnknownKey,
            KeyError::Unavailable => Self::NoKeys,
        }
    }
}
