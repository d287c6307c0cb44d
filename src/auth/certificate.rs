//! What is in a client certificate (RFC 5280) that was verified.

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::domain::{Time, time::from_parts};

/// What is used of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The names of its holder: SPIFFE URIs first, then DNS names. The common name is not one (RFC 6125).
    pub names: Vec<String>,
    /// The first moment at which it holds no more.
    pub not_after: Time,
}

impl Certificate {
    /// Reads a certificate in DER; `None` if it is not one.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let alternatives = parsed.subject_alternative_name().ok().flatten();
        let general = alternatives.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
        let uris = general.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
            _ => None,
        });
        let dns = general.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let names = uris.chain(dns).collect();
        let not_after = from_parts(parsed.validity().not_after.timestamp(), 0)?;
        Some(Self { names, not_after })
    }
}
