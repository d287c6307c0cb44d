//! Rules on prose: comments, documents, Protobuf comments, and texts in string literals.
//!
//! CONTRIBUTING.md states the rules for people. This file enforces those that a program can check.

use std::path::Path;

use crate::{
    Finding,
    source::{Source, is_word},
};

/// Words and phrases with a plainer replacement. Matched at word boundaries, ignoring case.
const BANNED: [&str; 33] = [
    "somebody",
    "nobody",
    "whoever",
    "whomever",
    "anybody",
    "everybody",
    "anew",
    "mend",
    "mends",
    "mended",
    "patience",
    "hung up on",
    "hangs up on",
    "struck off",
    "told apart",
    "is told",
    "are told",
    "was told",
    "be told",
    "told of",
    "for ever",
    "in good time",
    "keeps out",
    "lets in",
    "vouch",
    "vouches",
    "says the",
    "going on with",
    "known here",
    "an own",
    "the own",
    "hears",
    "doubled",
];
/// Banned unless `than` follows, as in "no more than".
const BANNED_WITHOUT_THAN: [&str; 2] = ["no more", "any more"];
/// Words that begin a sentence without naming its subject.
const BANNED_STARTS: [&str; 6] = ["Who", "What", "Whoever", "Whose", "Whom", "Of"];
/// Prefixes of test and function names that hide the component.
const BANNED_NAMES: [&str; 6] = ["who_", "what_", "whoever_", "whose_", "nobody_", "somebody_"];
const BANNED_NAME_PARTS: [&str; 4] = ["_nobody", "_somebody", "_whoever", "_anew"];
const PRONOUNS: [&str; 5] = ["it", "its", "they", "them", "their"];
const COLUMNS_MAX: usize = 100;
/// Pronouns per 10,000 words. The code bases that we compared have 80 to 114.
const PRONOUNS_MAX: usize = 150;
/// Files that quote the banned words on purpose.
const EXEMPT: [&str; 2] = ["tests/tidy/prose.rs", "CONTRIBUTING.md"];

/// A paragraph of prose, and the line on which it starts.
struct Paragraph {
    line: usize,
    text: String,
}

pub(crate) fn banned_words_do_not_occur(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in checked(sources) {
        let literals = literals(source);
        for paragraph in paragraphs(source).iter().chain(&literals) {
            let text = normalized(&paragraph.text);
            let find = |phrase: &str| text.find(&format!(" {phrase} "));
            let always = BANNED.iter().filter(|phrase| find(phrase).is_some());
            let without_than = BANNED_WITHOUT_THAN.iter().filter(|phrase| {
                find(phrase).is_some_and(|at| !text[at + phrase.len() + 2..].starts_with("than "))
            });
            for phrase in always.chain(without_than) {
                findings.push(format!("{}:{}: \"{phrase}\"", source.path, paragraph.line));
            }
        }
    }
    findings
}

pub(crate) fn sentences_begin_with_their_subject(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in checked(sources) {
        for paragraph in paragraphs(source) {
            let text = paragraph.text.trim_start_matches(['#', ' ', '-', '*', '|']);
            for sentence in sentences(text) {
                let first = sentence.split(|c| !is_word(c)).next().unwrap_or("");
                if BANNED_STARTS.contains(&first) {
                    findings.push(format!(
                        "{}:{}: a sentence begins with {first}: {sentence}",
                        source.path, paragraph.line
                    ));
                }
            }
        }
    }
    findings
}

/// Rust, Python, Protobuf and Markdown. In Markdown, tables, code and links may be wider.
pub(crate) fn lines_are_at_most_100_columns(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        if !["rs", "py", "proto", "md"].contains(&extension(source)) {
            continue;
        }
        let is_markdown = extension(source) == "md";
        let mut is_code = false;
        // Lines of tests and of test modules that are inside a literal, such as an expected table.
        let from = if source.is_test() { 0 } else { source.lines_before_tests };
        let is_literal = |index: usize, line: &str| {
            let code = source.code.lines().nth(index).unwrap_or("");
            source.is_rust()
                && index >= from
                && code.trim().is_empty()
                && !line.trim_start().starts_with("//")
        };
        for (index, line) in source.text.lines().enumerate() {
            is_code ^= is_markdown && line.trim_start().starts_with("```");
            let may_be_wide = is_markdown
                && (is_code
                    || line.trim_start().starts_with('|')
                    || line.contains("](")
                    || line.contains("://"))
                || line.contains("go_package");
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !may_be_wide && !is_literal(index, line) {
                findings.push(format!("{}:{}: {columns} columns", source.path, index + 1));
            }
        }
    }
    findings
}

pub(crate) fn test_names_name_the_component(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (number, line) in source.code_lines() {
            let Some((_, after)) = line.split_once("fn ") else { continue };
            let name = after.split(|c| !is_word(c)).next().unwrap_or("");
            let is_banned = BANNED_NAMES.iter().any(|prefix| name.starts_with(prefix))
                || BANNED_NAME_PARTS.iter().any(|part| name.contains(part));
            if is_banned {
                findings.push(format!("{}:{number}: {name}", source.path));
            }
        }
    }
    findings
}

/// Counts pronouns in comments, in Protobuf comments and in documents, and prints the rates.
pub(crate) fn pronouns_are_rare(sources: &[Source]) -> Vec<Finding> {
    let is_kind = |kind: &str, source: &Source| match kind {
        "comments" => source.is_product(),
        "tests" => source.is_rust() && source.is_test(),
        "proto" => extension(source) == "proto",
        _ => extension(source) == "md",
    };
    let mut findings = Vec::new();
    for kind in ["comments", "tests", "proto", "documents"] {
        let (mut words, mut pronouns) = (0, 0);
        for source in sources.iter().filter(|source| is_kind(kind, source)) {
            for paragraph in paragraphs(source) {
                for word in paragraph.text.split(|c: char| !is_word(c) && c != '\'') {
                    words += usize::from(!word.is_empty());
                    pronouns += usize::from(PRONOUNS.contains(&word.to_lowercase().as_str()));
                }
            }
        }
        let rate = pronouns * 10_000 / words.max(1);
        println!("{kind}: {words} words, {pronouns} pronouns, {rate} per 10,000");
        if rate >= PRONOUNS_MAX {
            findings
                .push(format!("{kind}: {rate} pronouns per 10,000 words, limit {PRONOUNS_MAX}"));
        }
    }
    findings
}

fn checked(sources: &[Source]) -> impl Iterator<Item = &Source> {
    sources.iter().filter(|source| !EXEMPT.contains(&source.path.as_str()))
}

fn extension(source: &Source) -> &str {
    Path::new(&source.path).extension().and_then(|it| it.to_str()).unwrap_or("")
}

/// ` text ` in lower case, with every run of other characters as one space.
fn normalized(text: &str) -> String {
    let words: Vec<String> = text
        .split(|c: char| !is_word(c) && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect();
    format!(" {} ", words.join(" "))
}

/// The text before each full stop, question mark or exclamation mark that ends a sentence.
fn sentences(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(". ").flat_map(|part| part.split_inclusive("? ")).map(str::trim)
}

/// Comments and documents as paragraphs. Code in Markdown, and quoted code in text, is left out.
fn paragraphs(source: &Source) -> Vec<Paragraph> {
    let is_comment_of = |marker: &'static str| {
        move |line: &str| {
            let at = line.find(marker)?;
            let before = &line[..at];
            before
                .trim()
                .is_empty()
                .then(|| line[at..].trim_start_matches(['/', '!', '#']).to_owned())
        }
    };
    let lines: Vec<Option<String>> = match extension(source) {
        "rs" => source.comments(),
        "proto" => source.text.lines().map(is_comment_of("//")).collect(),
        "md" => outside_of_code(&source.text),
        "py" | "sh" | "yaml" | "yml" | "toml" | "tpl" => {
            source.text.lines().map(is_comment_of("#")).collect()
        }
        _ => return Vec::new(),
    };
    let mut paragraphs: Vec<Paragraph> = Vec::new();
    let mut is_open = false;
    for (index, line) in lines.into_iter().enumerate() {
        let Some(text) = line.map(|line| without_code(line.trim())).filter(|it| !it.is_empty())
        else {
            is_open = false;
            continue;
        };
        let is_item = text.starts_with(['-', '*', '|', '#']);
        let is_heading = text.starts_with('#');
        match paragraphs.last_mut() {
            Some(last) if is_open && !is_item => {
                last.text.push(' ');
                last.text.push_str(&text);
            }
            _ => paragraphs.push(Paragraph { line: index + 1, text }),
        }
        is_open = !is_heading;
    }
    paragraphs
}

/// String literals of Rust and Python files that contain at least two words. Includes docstrings.
fn literals(source: &Source) -> Vec<Paragraph> {
    if !["rs", "py"].contains(&extension(source)) {
        return Vec::new();
    }
    let literals = source.literals().into_iter().filter(|(_, text)| text.contains(' '));
    literals.map(|(line, text)| Paragraph { line, text }).collect()
}

fn outside_of_code(text: &str) -> Vec<Option<String>> {
    let mut is_code = false;
    let keep = |line: &str| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        (!is_fence && !is_code).then(|| line.to_owned())
    };
    text.lines().map(keep).collect()
}

/// Replaces `` `code` `` by a placeholder.
fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    let replaced = parts.iter().enumerate().map(|(index, part)| match index % 2 {
        1 if index + 1 < parts.len() => "code",
        _ => part,
    });
    replaced.collect()
}
