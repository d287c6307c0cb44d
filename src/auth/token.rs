//! Bearer tokens: JSON Web Tokens (RFC 7519) signed by a configured issuer, verified as RFC 8725
//! recommends. The claim `cnf` and the header `typ` are ignored.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, dangerous, decode, decode_header, errors::ErrorKind,
};
use serde_json::{Map, Value};
use tracing::info;

use crate::{
    auth::{
        bindings::IssuerConfig,
        claims,
        keys::{IssuerKeys, KeyError},
    },
    domain::{
        Role, Span, TenantId, Time,
        ids::{Actor, ID_LENGTH_MAX, is_unsafe},
        time,
    },
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

/// An issuer of tokens for one audience, and the verification of these tokens.
#[derive(Debug)]
pub struct TokenIssuer {
    /// The claim `iss`.
    pub name: String,
    /// A value of the claim `aud`.
    pub audience: String,
    /// The tolerated difference of clocks.
    pub leeway: Span,
    /// The keys of the issuer.
    pub keys: Arc<IssuerKeys>,
}

#[derive(Debug)]
struct Issuer {
    config: IssuerConfig,
    claimed_roles: BTreeMap<String, BTreeSet<Role>>,
    tokens: TokenIssuer,
}

// === impl Verifier ===

impl Verifier {
    /// Verifies the tokens of these issuers with their keys.
    pub fn new(issuers: impl IntoIterator<Item = (IssuerConfig, Arc<IssuerKeys>)>) -> Self {
        let issuers = issuers.into_iter().map(|(config, keys)| {
            let claimed_roles = config.claimed_roles();
            let tokens = TokenIssuer {
                name: config.issuer.clone(),
                audience: config.audience.clone(),
                leeway: config.leeway.0,
                keys,
            };
            (config.issuer.clone(), Issuer { config, claimed_roles, tokens })
        });
        Self { issuers: issuers.collect() }
    }

    /// Verifies `token` at the time `now`. Waits only if the key must be fetched.
    pub async fn verify(&self, token: &str, now: Time) -> Result<Claims, TokenError> {
        let (header, name) = read_unverified(token)?;
        let issuer = self.issuers.get(&name).ok_or_else(|| self.unknown(&name))?;
        let (claims, expires) = issuer.tokens.verify_signed(token, &header, now).await?;
        issuer.claims(&claims, expires)
    }

    /// Logs the name of an issuer that is not configured. Most often, only a slash differs.
    fn unknown(&self, name: &str) -> TokenError {
        let shown: String = name.chars().take(ID_LENGTH_MAX).filter(|c| !is_unsafe(*c)).collect();
        let without_slash = name.trim_end_matches('/');
        let similar =
            self.issuers.keys().find(|known| known.trim_end_matches('/') == without_slash);
        info!(issuer = shown, similar, "the issuer of a token is not configured");
        TokenError::UnknownIssuer
    }
}

// === impl TokenIssuer ===

impl TokenIssuer {
    /// The claims of a token of this issuer at the time `now`. Waits only if the key must be
    /// fetched.
    pub async fn verify(&self, token: &str, now: Time) -> Result<Value, TokenError> {
        let (header, name) = read_unverified(token)?;
        if name != self.name {
            return Err(TokenError::UnknownIssuer);
        }
        Ok(self.verify_signed(token, &header, now).await?.0)
    }

    /// The claims, and the end of their validity.
    async fn verify_signed(
        &self,
        token: &str,
        header: &Header,
        now: Time,
    ) -> Result<(Value, Time), TokenError> {
        let key = self.keys.find(header.kid.as_deref(), header.alg).await?;
        let claims = self.verified(token, header.alg, &key)?;
        let expires = self.check_times(&claims, now)?;
        Ok((claims, expires))
    }

    fn verified(
        &self,
        token: &str,
        algorithm: Algorithm,
        key: &DecodingKey,
    ) -> Result<Value, TokenError> {
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[&self.name]);
        validation.set_audience(&[&self.audience]);
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
        let at = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(value) => numeric_date(value).map(Some).ok_or(TokenError::Incomplete),
        };
        let expires = at("exp")?.ok_or(TokenError::Incomplete)?;
        let end = time::after(expires, self.leeway).filter(|end| *end > now);
        let end = end.ok_or(TokenError::Expired)?;
        let latest_start = time::after(now, self.leeway).ok_or(TokenError::NotYetValid)?;
        if at("nbf")?.is_some_and(|start| start > latest_start) {
            return Err(TokenError::NotYetValid);
        }
        Ok(end)
    }
}

// === impl Issuer ===

impl Issuer {
    fn claims(&self, claims: &Value, expires: Time) -> Result<Claims, TokenError> {
        let Self { config, claimed_roles, .. } = self;
        let name = claims::find(claims, &config.name_claim).and_then(Value::as_str);
        let name = name.filter(|name| is_available(name)).and_then(|name| Actor::new(name).ok());
        let name = name.ok_or(TokenError::Incomplete)?;
        let words = match claims::find(claims, &config.role_claim) {
            Some(Value::String(text)) => text.split_whitespace().map(str::to_owned).collect(),
            _ => claims::texts(claims, &config.role_claim),
        };
        let roles = words.iter().filter_map(|word| claimed_roles.get(word)).flatten();
        let tenants = claims::texts(claims, &config.tenant_claim).into_iter().take(TENANTS_MAX);
        Ok(Claims {
            issuer: config.issuer.clone(),
            expires,
            name,
            roles: roles.copied().collect(),
            tenants: tenants
                .filter_map(|id| TenantId::new(&id).ok())
                .filter(|id| config.tenants.as_ref().is_none_or(|own| own.contains(id)))
                .collect(),
        })
    }
}

/// The header of a token, and the name of the issuer, before verification.
fn read_unverified(token: &str) -> Result<(Header, String), TokenError> {
    if token.len() > LENGTH_MAX {
        return Err(TokenError::TooLong);
    }
    let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
    // Critical extensions must not be ignored (RFC 7515, section 4.1.11).
    if !ALGORITHMS.contains(&header.alg) || header.crit.is_some() {
        return Err(TokenError::Malformed);
    }
    let mut claims: Map<String, Value> =
        dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
    match claims.remove("iss") {
        Some(Value::String(name)) => Ok((header, name)),
        _ => Err(TokenError::UnknownIssuer),
    }
}

/// Whether a token may contain this name: it is not reserved for another kind of caller.
fn is_available(name: &str) -> bool {
    let is_reserved = ["system", "anonymous"].contains(&name)
        || ["spiffe:", "uid:"].iter().any(|scheme| name.starts_with(scheme));
    !is_reserved
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
