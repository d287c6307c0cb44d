//! The table `[authzen]` of the configuration file.

use std::collections::BTreeMap;

use http::Uri;
use serde::{Deserialize, Serialize};

use crate::domain::{AccessLevel, AgentKind, GroupId, ids::ID_LENGTH_MAX};

/// Maximum number of entries of a list or a table.
const ENTRIES_MAX: usize = 100;

/// The names of `AuthZEN` clients for agents, tenants and levels.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthZenConfig {
    /// The URL of this service for clients. `None`: no metadata is served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The groups of a subject that states none.
    pub default_groups: Vec<GroupId>,
    /// The type of the resources that are tenants.
    pub resource_type: String,
    /// The types of the subjects that are agents, and the kind of each.
    pub subject_types: BTreeMap<String, AgentKind>,
    /// The names of actions, and the level that each requires.
    pub actions: BTreeMap<String, AccessLevel>,
}

// === impl AuthZenConfig ===

impl AuthZenConfig {
    /// The problems of the table, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if self.url.as_deref().is_some_and(|url| !is_origin(url)) {
            problems.push("url must be https://HOST or https://HOST:PORT, without a path".into());
        }
        for (key, count) in [
            ("default_groups", self.default_groups.len()),
            ("subject_types", self.subject_types.len()),
            ("actions", self.actions.len()),
        ] {
            if count > ENTRIES_MAX {
                problems.push(format!("{key} must have at most {ENTRIES_MAX} entries"));
            }
        }
        for (key, is_empty) in
            [("subject_types", self.subject_types.is_empty()), ("actions", self.actions.is_empty())]
        {
            if is_empty {
                problems.push(format!("{key} must not be empty; remove it to get the defaults"));
            }
        }
        let of_subjects = self.subject_types.keys().map(|name| ("subject_types", name));
        let of_actions = self.actions.keys().map(|name| ("actions", name));
        for (key, name) in
            of_subjects.chain(of_actions).chain([("resource_type", &self.resource_type)])
        {
            if !(1..=ID_LENGTH_MAX).contains(&name.chars().count()) {
                let problem = format!("{key} must have names of 1 to {ID_LENGTH_MAX} characters");
                problems.push(problem);
            }
        }
        problems
    }
}

impl Default for AuthZenConfig {
    fn default() -> Self {
        let kinds = [
            ("user", AgentKind::Human),
            ("ai_agent", AgentKind::Ai),
            ("service", AgentKind::Service),
        ];
        let levels = [
            ("read", AccessLevel::ReadOnly),
            ("write", AccessLevel::ReadWrite),
            ("admin", AccessLevel::Admin),
        ];
        Self {
            url: None,
            default_groups: Vec::new(),
            resource_type: "tenant".into(),
            subject_types: kinds.map(|(name, kind)| (name.into(), kind)).into(),
            actions: levels.map(|(name, level)| (name.into(), level)).into(),
        }
    }
}

fn is_origin(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let has_path = uri.path_and_query().is_some_and(|path| path != "/") || url.ends_with('/');
    uri.scheme_str() == Some("https") && uri.authority().is_some() && !has_path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_url(url: &str) -> AuthZenConfig {
        AuthZenConfig { url: Some(url.into()), ..AuthZenConfig::default() }
    }

    #[test]
    fn the_url_is_an_https_origin() {
        for url in ["https://access.example", "https://access.example:8443", "https://[::1]:1"] {
            assert_eq!(with_url(url).problems(), [""; 0], "{url}");
        }
        let wrong = [
            "",
            "access.example",
            "http://access.example",
            "https://access.example/",
            "https://access.example/a",
            "https://access.example?a",
        ];
        for url in wrong {
            let problems = with_url(url).problems();
            assert!(problems.concat().starts_with("url must be https://HOST"), "{url}");
        }
    }

    #[test]
    fn empty_and_long_names_are_problems() {
        let names = |name: &str| AuthZenConfig {
            resource_type: name.into(),
            actions: [(name.to_owned(), AccessLevel::Admin)].into(),
            ..AuthZenConfig::default()
        };
        assert_eq!(names("enter").problems(), [""; 0]);
        for name in ["", &"a".repeat(ID_LENGTH_MAX + 1)] {
            assert_eq!(names(name).problems().len(), 2, "{name:?}");
        }
        let empty = AuthZenConfig { actions: BTreeMap::new(), ..AuthZenConfig::default() };
        assert_eq!(empty.problems().len(), 1);
    }
}
