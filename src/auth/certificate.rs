//! The fields of an X.509 certificate (RFC 5280) that this service reads.

use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::domain::{Time, time::from_parts};

/// A parsed certificate. Parsing verifies nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The holder's names: SPIFFE URIs first, then DNS names. The common name is ignored (RFC
    /// 6125).
    pub names: Vec<String>,
    /// The first instant at which the certificate is no longer valid.
    pub not_after: Time,
}

impl Certificate {
    /// Parses a certificate in DER. Returns `None` if `der` is not a certificate.
    pub fn from_der(der: &[u8]) -> Option<Self> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let extension = parsed.subject_alternative_name().ok().flatten();
        let alternatives =
            extension.map(|found| found.value.general_names.as_slice()).unwrap_or_default();
        let uris = alternatives.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with("spiffe://") => Some((*uri).to_owned()),
            _ => None,
        });
        let dns = alternatives.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        let names = uris.chain(dns).collect();
        let not_after = from_parts(parsed.validity().not_after.timestamp(), 0)?;
        Some(Self { names, not_after })
    }
}

/// The earliest expiry of several certificates in DER. Skips documents that are not certificates.
pub fn earliest_expiry<D: AsRef<[u8]>>(certificates: &[D]) -> Option<Time> {
    let parsed = certificates.iter().filter_map(|der| Certificate::from_der(der.as_ref()));
    parsed.map(|certificate| certificate.not_after).min()
}
