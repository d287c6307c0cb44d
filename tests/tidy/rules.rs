//! The rules. Each looks at all files and names every place that breaks it.

use crate::source::Source;

/// A place that breaks a rule, as `file:line: what is wrong`.
pub(crate) type Finding = String;

/// The rooms, in the order of DESIGN: each may use those before it.
const ROOMS: [&str; 9] =
    ["domain", "store", "node", "service", "auth", "api", "page", "server", "cli"];

const FILE_LINES_MAX: usize = 400;

/// A room uses only the rooms before it; `lib.rs` and `main.rs` stand outside.
pub(crate) fn rooms_use_only_those_above(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_service()) {
        let Some(room) = source.room().filter(|room| !["lib", "main"].contains(room)) else {
            continue;
        };
        let Some(own) = ROOMS.iter().position(|name| *name == room) else {
            findings.push(format!("{}:1: {room} is not one of the rooms {ROOMS:?}", source.path));
            continue;
        };
        for (offset, used) in crate_paths(source) {
            // What is not a room is an item of the crate's root.
            let Some(other) = ROOMS.iter().position(|name| *name == used) else { continue };
            if other > own {
                let line = source.line_at(offset);
                findings.push(format!("{}:{line}: {room} must not use {used}", source.path));
            }
        }
    }
    findings
}

/// The first name of every path from the crate's root: `crate::x`, `crate::{x, y}`, and `super::x` where `super` is the root.
fn crate_paths(source: &Source) -> Vec<(usize, &str)> {
    let supers = "super::".repeat(source.path.matches('/').count());
    ["crate::", &supers]
        .into_iter()
        .flat_map(|prefix| source.code.match_indices(prefix).map(|(at, found)| (at, found.len())))
        .filter(|(at, _)| !source.code[..*at].ends_with(|c: char| is_word(c) || c == ':'))
        .flat_map(|(at, length)| names_at(&source.code[at + length..], at + length))
        .collect()
}

/// The name that `code` begins with, or every first name of the `{…}` it begins with.
fn names_at(code: &str, offset: usize) -> Vec<(usize, &str)> {
    let name = |from: usize| {
        let length = code[from..].find(|c| !is_word(c)).unwrap_or(code.len() - from);
        (offset + from, &code[from..from + length])
    };
    if !code.starts_with('{') {
        return vec![name(0)];
    }
    let mut depth = 0;
    let mut expected = false;
    let mut names = Vec::new();
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if expected && is_word(c) {
            names.push(name(at));
        }
        expected = depth == 1 && (matches!(c, '{' | ',') || (expected && c.is_whitespace()));
    }
    names
}

/// gRPC stays in the rooms that speak it.
pub(crate) fn grpc_stays_at_the_doors(sources: &[Source]) -> Vec<Finding> {
    crates_only_in(sources, &["tonic", "prost"], &["api", "server", "cli"])
}

/// SQL stays in the store.
pub(crate) fn sql_stays_in_the_store(sources: &[Source]) -> Vec<Finding> {
    crates_only_in(sources, &["sqlx"], &["store"])
}

fn crates_only_in(sources: &[Source], crates: &[&str], rooms: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_service()) {
        if source.room().is_some_and(|room| rooms.contains(&room)) {
            continue;
        }
        for (number, line) in source.code_lines() {
            let of = |word: &str| {
                crates.iter().any(|name| {
                    word == *name || word.strip_prefix(name).is_some_and(|t| t.starts_with('_'))
                })
            };
            if let Some(word) = words(line).find(|word| of(word)) {
                findings.push(format!("{}:{number}: {word} only in {rooms:?}", source.path));
            }
        }
    }
    findings
}

/// Errors become `Status` in one place.
pub(crate) fn status_is_built_in_one_place(sources: &[Source]) -> Vec<Finding> {
    // Every way tonic and tonic-types have to make one.
    const MAKERS: &str = "new ok cancelled unknown invalid_argument deadline_exceeded not_found already_exists \
        permission_denied resource_exhausted failed_precondition aborted out_of_range unimplemented internal \
        unavailable data_loss unauthenticated from_error from_header_map with_details with_metadata \
        with_details_and_metadata with_error_details with_error_details_and_metadata \
        with_error_details_vec with_error_details_vec_and_metadata";
    let mut findings = Vec::new();
    for source in service_but(sources, "src/api/grpc/status.rs") {
        for (number, line) in source.service_lines() {
            for (at, found) in line.match_indices("Status::") {
                let maker = line[at + found.len()..].split(|c| !is_word(c)).next().unwrap_or("");
                let is_status = !line[..at].ends_with(is_word);
                if is_status && MAKERS.split_whitespace().any(|name| name == maker) {
                    findings.push(format!("{}:{number}: Status::{maker}", source.path));
                }
            }
        }
    }
    findings
}

/// Time comes from the clock.
pub(crate) fn time_comes_from_the_clock(sources: &[Source]) -> Vec<Finding> {
    let banned = ["Utc::now", "Local::now", "SystemTime::now"];
    containing(service_but(sources, "src/domain/clock.rs"), &banned)
}

/// Every task has an owner.
pub(crate) fn tasks_are_spawned_in_one_place(sources: &[Source]) -> Vec<Finding> {
    let banned = ["tokio::spawn", "task::spawn", "tokio::{spawn", "thread::spawn"];
    containing(service_but(sources, "src/server/tasks.rs"), &banned)
}

/// What people and scripts read on standard output is written in one place.
pub(crate) fn printing_is_done_in_one_place(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in service_but(sources, "src/cli/output.rs") {
        for (number, line) in source.service_lines() {
            let banned = ["print", "println", "eprint", "eprintln", "dbg"];
            let macros = line.match_indices('!').map(|(at, _)| &line[..at]);
            for word in
                macros.filter_map(|before| words(before).last().filter(|w| before.ends_with(w)))
            {
                if banned.contains(&word) {
                    findings.push(format!("{}:{number}: {word}!", source.path));
                }
            }
        }
    }
    findings
}

/// A file can be read in one sitting.
pub(crate) fn files_are_short(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|source| source.is_rust() || has_extension(source, "py"))
        .filter(|source| source.lines_before_tests > FILE_LINES_MAX)
        .map(|source| {
            let lines = source.lines_before_tests;
            format!("{}:{lines}: {lines} lines, but at most {FILE_LINES_MAX}", source.path)
        })
        .collect()
}

/// A test that is there is run.
pub(crate) fn no_test_is_ignored(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (number, line) in source.code_lines() {
            let is_attribute = line.contains("#[ignore") || line.contains("#[cfg_attr");
            if is_attribute && words(line).any(|word| word == "ignore") {
                findings.push(format!("{}:{number}: ignored", source.path));
            }
        }
    }
    findings
}

/// A test waits for what it waits for; where it must sleep, the same line says why.
pub(crate) fn tests_do_not_sleep(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.is_simulation()) {
        let comment = if has_extension(source, "py") { "#" } else { "//" };
        let code = if source.is_rust() { &source.code } else { &source.text };
        let from = if source.is_test() { 0 } else { source.lines_before_tests };
        if !(source.is_rust() || has_extension(source, "py")) {
            continue;
        }
        for (index, (code, text)) in code.lines().zip(source.text.lines()).enumerate().skip(from) {
            let sleeps = code.match_indices("sleep(").any(|(at, _)| {
                !code[..at].ends_with(is_word) && !code[..at].trim_end().ends_with("fn")
            });
            let reason = text.split_once("sleep(").and_then(|(_, after)| after.split_once(comment));
            if sleeps && reason.is_none_or(|(_, reason)| reason.trim().is_empty()) {
                findings.push(format!(
                    "{}:{}: sleeps, and does not say why",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    findings
}

/// Nothing tells of the machine it was written on.
pub(crate) fn no_machine_paths(sources: &[Source]) -> Vec<Finding> {
    // Put together here, or this file would break the rule.
    let banned = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            for path in &banned {
                // Only where a path begins: `a/work/b` is somewhere below, and no machine's.
                let begins =
                    |at: usize| !line[..at].ends_with(|c: char| is_word(c) || "./-}$".contains(c));
                if line.match_indices(path.as_str()).any(|(at, _)| begins(at)) {
                    findings.push(format!("{}:{}: {path}", source.path, index + 1));
                }
            }
        }
    }
    findings
}

fn containing<'a>(sources: impl Iterator<Item = &'a Source>, banned: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (number, line) in source.code_lines() {
            let at_word = |(at, _): (usize, &str)| !line[..at].ends_with(is_word);
            for what in banned.iter().filter(|what| line.match_indices(**what).any(at_word)) {
                findings.push(format!("{}:{number}: {what}", source.path));
            }
        }
    }
    findings
}

fn service_but<'a>(
    sources: &'a [Source],
    exempt: &'static str,
) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |source| source.is_service() && source.path != exempt)
}

fn has_extension(source: &Source, extension: &str) -> bool {
    std::path::Path::new(&source.path).extension().is_some_and(|found| found == extension)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}
