//! Source files as the rules read them: code without comments and literals, and without the tests
//! at the end.

use std::{fs, path::Path, process::Command};

/// One tracked file.
#[derive(Debug)]
pub(crate) struct Source {
    /// From the root of the repository, with `/`.
    pub(crate) path: String,
    /// The file's content.
    pub(crate) text: String,
    /// Rust only: the content with comments and literals blanked out, on the same lines.
    pub(crate) code: String,
    /// Rust only: the number of lines before the test module at the end.
    pub(crate) lines_before_tests: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let code = if is_rust(path) { blank(text) } else { String::new() };
        let lines = || text.lines();
        // Only at the margin, and only if the test module extends to the end of the file.
        let tests = lines().position(|line| line == "#[cfg(test)]").filter(|start| {
            let rest: Vec<&str> = code.lines().skip(start + 1).collect();
            let closing = rest.iter().position(|line| *line == "}");
            rest.first().is_some_and(|line| line.starts_with("mod "))
                && closing.is_none_or(|end| rest[end + 1..].iter().all(|line| line.is_empty()))
        });
        let lines_before_tests = tests.unwrap_or_else(|| lines().count());
        Self { path: path.into(), text: text.into(), code, lines_before_tests }
    }

    pub(crate) fn is_rust(&self) -> bool {
        is_rust(&self.path)
    }

    /// Whether the file is part of the product.
    pub(crate) fn is_product(&self) -> bool {
        self.is_rust() && self.path.starts_with("src/")
    }

    /// Whether the whole file is a test.
    pub(crate) fn is_test(&self) -> bool {
        self.path.starts_with("tests/") || self.path.ends_with("/tests.rs")
    }

    /// The top-level module: `store` for `src/store.rs` and everything in `src/store/`.
    pub(crate) fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let module = inside.split('/').next()?;
        Some(module.strip_suffix(".rs").unwrap_or(module))
    }

    /// For each line, the text of the comment that fills the line.
    pub(crate) fn comments(&self) -> Vec<Option<String>> {
        let is_comment = |(code, text): (&str, &str)| {
            let comment = text.trim_start().strip_prefix("//")?;
            code.trim().is_empty().then(|| comment.trim_start_matches(['/', '!']).to_owned())
        };
        self.code.lines().zip(self.text.lines()).map(is_comment).collect()
    }

    /// Rust and Python: string literals without prefixes and quotes, each with its line.
    pub(crate) fn literals(&self) -> Vec<(usize, String)> {
        let skipped = if self.is_rust() { skipped } else { skipped_in_python };
        let mut literals = Vec::new();
        let (mut at, mut before) = (0, None);
        while let Some(next) = self.text[at..].chars().next() {
            let length = skipped(&self.text[at..], before).max(next.len_utf8());
            let token = &self.text[at..at + length];
            if let Some(content) = content(token) {
                let line = self.text[..at].matches('\n').count() + 1;
                literals.push((line, content.to_owned()));
            }
            before = Some(next);
            at += length;
        }
        literals
    }

    /// Lines of code, numbered from 1, without the tests at the end.
    pub(crate) fn product_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code_lines().take(self.lines_before_tests)
    }

    /// Lines of code, numbered from 1.
    pub(crate) fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// The line that byte `offset` of the code is in.
    pub(crate) fn line_at(&self, offset: usize) -> usize {
        self.code[..offset].matches('\n').count() + 1
    }
}

fn is_rust(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "rs")
}

pub(crate) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Every file that Git tracks, or would track.
pub(crate) fn tracked() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let root = root.as_path();
    let listing = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .expect("git lists the files of the repository");
    assert!(listing.status.success(), "{}", String::from_utf8_lossy(&listing.stderr));
    String::from_utf8(listing.stdout)
        .expect("file names are UTF-8")
        .split_terminator('\0')
        // Deleted files that are still in the index, and binary files, are skipped.
        .filter_map(|path| Some(Source::new(path, &fs::read_to_string(root.join(path)).ok()?)))
        .collect()
}

/// `text` with comments and literals replaced by spaces. Line breaks stay.
pub(crate) fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = skipped(rest, code.chars().last());
        let (token, after) = rest.split_at(skipped.max(next.len_utf8()));
        if skipped > 0 {
            code.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push_str(token);
        }
        rest = after;
    }
    code
}

/// The length in bytes of the comment or literal at the start of `rest`; 0 if `rest` starts with
/// code.
fn skipped(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('"') {
        return quoted(rest, "\"");
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if in_word { 0 } else { raw(rest) }
}

/// As [`skipped`], for Python.
fn skipped_in_python(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with('#') {
        return rest.find('\n').unwrap_or(rest.len());
    }
    let without_prefix = match before {
        Some(c) if is_word(c) => rest,
        _ => rest.trim_start_matches(['b', 'f', 'r', 'u', 'B', 'F', 'R', 'U']),
    };
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|it| without_prefix.starts_with(it));
    quote.map_or(0, |quote| rest.len() - without_prefix.len() + quoted(without_prefix, quote))
}

/// The content of a string literal. `None` for comments and code.
fn content(token: &str) -> Option<&str> {
    let opening = token.find(['"', '\''])?;
    let is_prefix = |c: char| c.is_alphabetic() || c == '#';
    let is_literal = !token.starts_with('#') && token[..opening].chars().all(is_prefix);
    (is_literal && token.len() > 1).then(|| token[opening..].trim_matches(['"', '\'', '#']))
}

/// `r"…"`, `r#"…"#`, or these with a `b` before.
fn raw(rest: &str) -> usize {
    let Some(after) = rest.strip_prefix('b').unwrap_or(rest).strip_prefix('r') else { return 0 };
    let hashes = after.len() - after.trim_start_matches('#').len();
    let Some(content) = after[hashes..].strip_prefix('"') else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = rest.len() - content.len();
    content.find(&end).map_or(rest.len(), |at| opening + at + end.len())
}

fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn quoted(rest: &str, quote: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(quote.len()) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if rest[at..].starts_with(quote) => return at + quote.len(),
            _ => {}
        }
    }
    rest.len()
}

/// The length of a character literal; 0 for a lifetime.
fn character(rest: &str) -> usize {
    let mut after = rest.chars().skip(1);
    match (after.next(), after.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(rest, "'"),
        _ => 0,
    }
}
