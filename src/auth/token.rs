//! Bearer tokens: JSON Web Tokens (RFC 7519), signed by an issuer that is configured; with RFC 8725 in mind. What a token says of
//! who may bear it (`cnf`) or what it is (`typ`) is not looked at.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jsonwebtoken::{Algorithm, Validation, dangerous, decode, decode_header};
use serde_json::{Map, Value};

use crate::{
    auth::{
        bindings::IssuerConfig,
        keys::{KeyError, Keys},
    },
    domain::{Role, TenantId, Time, ids::Actor, time},
};

/// The longest token that is looked at, in bytes.
pub const LENGTH_MAX: usize = 8 * 1_024;
/// The most tenants of one token.
const TENANTS_MAX: usize = 1_000;
/// Signatures that are taken: asymmetric ones, so that who can verify cannot sign.
pub(super) const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// Why a token is refused. Says nothing that its bearer does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More bytes than [`LENGTH_MAX`].
    #[error("it is longer than {LENGTH_MAX} bytes")]
    TooLong,
    /// Not a signed JWT.
    #[error("it is not a JSON Web Token that is signed with RS256, ES256 or EdDSA")]
    Malformed,
    /// Nobody whom this server knows has issued it.
    #[error("its issuer is not known here")]
    UnknownIssuer,
    /// The issuer has no such key.
    #[error("its issuer has no such key")]
    UnknownKey,
    /// The issuer's keys could not be had.
    #[error("its issuer's keys are not available")]
    NoKeys,
    /// The signature is not the issuer's.
    #[error("its signature is wrong")]
    BadSignature,
    /// For somebody else.
    #[error("it is for another audience")]
    OtherAudience,
    /// Too late.
    #[error("it has expired")]
    Expired,
    /// Too early.
    #[error("it is not valid yet")]
    NotYetValid,
    /// Without an end, a name, or whatever else it must have.
    #[error("it lacks a claim that it must have, or has one of the wrong kind")]
    Incomplete,
}

/// What a token proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Who has issued it.
    pub issuer: String,
    /// Who bears it.
    pub name: Actor,
    /// What they are.
    pub roles: BTreeSet<Role>,
    /// Scope.
    pub tenants: BTreeSet<TenantId>,
    /// The first moment at which it holds no more, the leeway included.
    pub expires: Time,
}

/// Verifies tokens of all issuers that are configured.
#[derive(Debug, Default)]
pub struct Verifier {
    issuers: BTreeMap<String, Issuer>,
}

#[derive(Debug)]
struct Issuer {
    config: IssuerConfig,
    claimed_roles: BTreeMap<String, BTreeSet<Role>>,
    keys: Arc<Keys>,
}

// === impl Verifier ===

impl Verifier {
    /// Verifies the tokens of these issuers, each with its keys.
    pub fn new(issuers: impl IntoIterator<Item = (IssuerConfig, Arc<Keys>)>) -> Self {
        let issuers = issuers.into_iter().map(|(config, keys)| {
            let claimed_roles = config.claimed_roles();
            (config.issuer.clone(), Issuer { config, claimed_roles, keys })
        });
        Self { issuers: issuers.collect() }
    }

    /// What `token` proves at `now`. Waits only if its key has to be fetched.
    pub async fn verify(&self, token: &str, now: Time) -> Result<Claims, TokenError> {
        if token.len() > LENGTH_MAX {
            return Err(TokenError::TooLong);
        }
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        // Whoever marks something as critical does not want it to be passed over (RFC 7515, 4.1.11).
        if !ALGORITHMS.contains(&header.alg) || header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        // Scope keys to try is all that is taken from the token before it is verified.
        let unproven: Map<String, Value> =
            dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
        let issuer = unproven.get("iss").and_then(Value::as_str);
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
        key: &jsonwebtoken::DecodingKey,
    ) -> Result<Value, TokenError> {
        use jsonwebtoken::errors::ErrorKind;
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.config.issuer]);
        validation.set_audience(&[&self.config.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // By our own clock, below.
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

    /// A token holds from `nbf`, if it says so, up to `exp` (RFC 7519, 4.1.4 and 4.1.5), give or take the leeway.
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
        let name = name.filter(|name| is_persons(name)).and_then(|name| Actor::new(name).ok());
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

/// Whether a name in a token is none of those by which others are known here.
fn is_persons(name: &str) -> bool {
    let is_taken = ["system", "anonymous"].contains(&name)
        || ["spiffe:", "uid:"].iter().any(|scheme| name.starts_with(scheme));
    !is_taken
}

/// A claim by its name, or by a JSON Pointer.
fn claim<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) }
}

/// The texts of a list. What is not a list of texts claims nothing.
fn texts(value: Option<&Value>) -> Vec<&str> {
    let list = value.and_then(Value::as_array);
    list.and_then(|list| list.iter().map(Value::as_str).collect()).unwrap_or_default()
}

/// A `NumericDate` (RFC 7519, 2): seconds since 1970, fractions allowed, and dropped here.
fn numeric_date(value: &Value) -> Option<Time> {
    let whole = value.as_i64().or_else(|| {
        #[expect(clippy::cast_possible_truncation, reason = "what is out of range is refused next")]
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
