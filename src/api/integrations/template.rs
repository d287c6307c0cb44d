//! Templates of paths, such as `/t/{tenant}/**`.
//!
//! A path is rejected if programs may disagree about its segments. Otherwise a client could name
//! one tenant here, and enter another one behind the gateway.

use std::collections::BTreeMap;

use crate::api::integrations::request::InputError;

/// Matches any rest of a path.
const REST: &str = "**";

/// The variables of a path.
pub(super) type Variables<'a> = BTreeMap<&'a str, &'a str>;

/// A template.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    /// Whether further segments may follow.
    has_rest: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    Variable(String),
}

// === impl Template ===

impl Template {
    /// Parses a template. The error is the rest of a sentence about the template.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').ok_or("must start with a slash")?;
        let mut segments = Vec::new();
        let mut parts = path.split('/').peekable();
        while let Some(part) = parts.next() {
            if part == REST && parts.peek().is_none() {
                return Self { segments, has_rest: true }.checked();
            }
            let variable = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            segments.push(match variable {
                Some(name) => Segment::Variable(name.to_owned()),
                None if part.is_empty() && parts.peek().is_none() => break,
                None => Segment::Literal(part.to_owned()),
            });
        }
        Self { segments, has_rest: false }.checked()
    }

    fn checked(self) -> Result<Self, String> {
        let mut names = Vec::new();
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) if text.is_empty() || matches!(&**text, "." | "..") => {
                    return Err("must not contain empty segments, . or ..".into());
                }
                Segment::Literal(text) if text.contains(['{', '}', '*', '%', '?', '#']) => {
                    return Err("must consist of plain segments, variables such as {tenant} as \
                                whole segments, and ** at the end"
                        .into());
                }
                Segment::Literal(_) => {}
                Segment::Variable(name) if name.is_empty() || name.contains(['{', '}']) => {
                    return Err("must name each variable, such as {tenant}".into());
                }
                Segment::Variable(name) if names.contains(&name) => {
                    return Err(format!("must contain the variable {name} only once"));
                }
                Segment::Variable(name) => names.push(name),
            }
        }
        Ok(self)
    }

    pub(super) fn has_variable(&self, name: &str) -> bool {
        let is_named = |segment: &Segment| matches!(segment, Segment::Variable(own) if own == name);
        self.segments.iter().any(is_named)
    }

    /// The variables of a path with these segments. `None`: the path does not match.
    pub(super) fn variables<'a>(&'a self, path: &'a [String]) -> Option<Variables<'a>> {
        let is_long_enough = path.len() >= self.segments.len();
        if !is_long_enough || path.len() > self.segments.len() && !self.has_rest {
            return None;
        }
        let mut variables = Variables::new();
        for (segment, found) in self.segments.iter().zip(path) {
            match segment {
                Segment::Literal(text) if text != found => return None,
                Segment::Literal(_) => {}
                Segment::Variable(name) => {
                    variables.insert(name, found);
                }
            }
        }
        Some(variables)
    }
}

/// The decoded segments of a path, without the query. A slash at the end is ignored.
pub(super) fn segments(path: &str) -> Result<Vec<String>, InputError> {
    let path = path.split(['?', '#']).next().unwrap_or_default();
    let ambiguous = |problem: &str| {
        let message = format!(
            "the path contains {problem}, which programs read differently; normalize paths at the \
             gateway"
        );
        InputError::ambiguous(message)
    };
    let Some(path) = path.strip_prefix('/') else {
        return Err(InputError::invalid("the path does not start with a slash".into()));
    };
    let path = path.strip_suffix('/').unwrap_or(path);
    if path.is_empty() {
        return Ok(Vec::new());
    }
    path.split('/')
        .map(|part| match decoded(part) {
            None => Err(ambiguous("an invalid escape")),
            Some(text) if text.is_empty() => Err(ambiguous("an empty segment")),
            Some(text) if text == "." || text == ".." => Err(ambiguous("a segment . or ..")),
            Some(text) if text.contains(['/', '\\', '%']) || text.contains(char::is_control) => {
                Err(ambiguous("an escaped slash, backslash, percent sign or control character"))
            }
            Some(text) => Ok(text),
        })
        .collect()
}

/// Decodes the escapes of a segment (RFC 3986, section 2.1). `None`: an escape is invalid, or the
/// result is not UTF-8.
fn decoded(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_first_chunk::<2>()?;
        let digits = digits.iter().map(|digit| char::from(*digit).to_digit(16));
        let value = digits.collect::<Option<Vec<u32>>>()?.iter().fold(0, |sum, d| sum * 16 + d);
        bytes.push(u8::try_from(value).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Reason;

    fn tenant(template: &str, path: &str) -> Option<String> {
        let (template, path) = (Template::parse(template).unwrap(), segments(path).unwrap());
        let variables = template.variables(&path)?;
        Some(variables.get("tenant").copied().unwrap_or("none").to_owned())
    }

    #[test]
    fn a_template_matches_whole_segments() {
        for (template, path, expected) in [
            ("/t/{tenant}/**", "/t/acme/users/7?q=/x", Some("acme")),
            ("/t/{tenant}/**", "/t/acme", Some("acme")),
            ("/t/{tenant}/**", "/t/acme/", Some("acme")),
            ("/t/{tenant}/**", "/t", None),
            ("/t/{tenant}/**", "/T/acme", None),
            ("/t/{tenant}", "/t/acme/users", None),
            ("/t/{tenant}/", "/t/acme", Some("acme")),
            ("/t/{tenant}", "/t/a%20b%C3%A9", Some("a bé")),
            ("/t/{tenant}", "/%74/acme", Some("acme")),
            ("/", "/", Some("none")),
            ("/**", "/", Some("none")),
            ("/**", "/a/b", Some("none")),
        ] {
            assert_eq!(tenant(template, path).as_deref(), expected, "{template} {path}");
        }
    }

    #[test]
    fn a_path_that_programs_read_differently_is_ambiguous() {
        for path in [
            "/t/acme/../globex",
            "/t/./acme",
            "/t//acme",
            "//t/acme",
            "/t/acme%2F..%2Fglobex",
            "/t/%2e%2e/globex",
            "/t/acme%5cx",
            "/t/acme\\x",
            "/t/acme%252fx",
            "/t/acme%00",
            "/t/acme%",
            "/t/acme%zz",
            "/t/acme%ff",
        ] {
            assert_eq!(segments(path).unwrap_err().reason, Reason::InputAmbiguous, "{path}");
        }
        for path in ["*", "", "example.com:443", "http://example.com/t/acme"] {
            assert_eq!(segments(path).unwrap_err().reason, Reason::InputInvalid, "{path}");
        }
    }

    #[test]
    fn a_malformed_template_is_rejected() {
        for (template, problem) in [
            ("t/{tenant}", "start with a slash"),
            ("/t//x", "empty segments"),
            ("/t/../x", "empty segments"),
            ("/t/x{tenant}", "whole segments"),
            ("/**/x", "** at the end"),
            ("/t/*", "** at the end"),
            ("/t/%41", "plain segments"),
            ("/t/{}", "name each variable"),
            ("/{tenant}/{tenant}", "only once"),
        ] {
            let error = Template::parse(template).unwrap_err();
            assert!(error.contains(problem), "{template}: {error}");
        }
    }
}
