//! Rules on where code belongs, on file sizes and on tests.

use std::path::Path;

use crate::{
    Finding,
    source::{Source, is_word},
};

const FILE_LINES_MAX: usize = 400;

pub(crate) fn protobuf_stays_in_the_api(sources: &[Source]) -> Vec<Finding> {
    crates_only_in(sources, &["tonic", "prost"], &["api", "server", "cli"])
}

pub(crate) fn sql_stays_in_the_store(sources: &[Source]) -> Vec<Finding> {
    crates_only_in(sources, &["sqlx"], &["store"])
}

/// `domain` takes time and keys as arguments.
pub(crate) fn domain_reads_no_clock_and_no_tls(sources: &[Source]) -> Vec<Finding> {
    let outside =
        ["store", "node", "service", "auth", "api", "page", "server", "cli", "lib", "main"];
    crates_only_in(sources, &["rustix", "tokio_rustls", "rustls", "parking_lot"], &outside)
}

fn crates_only_in(sources: &[Source], crates: &[&str], modules: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_product()) {
        if source.module().is_some_and(|module| modules.contains(&module)) {
            continue;
        }
        for (number, line) in source.code_lines() {
            let of = |word: &str| {
                crates.iter().any(|name| {
                    word == *name || word.strip_prefix(name).is_some_and(|t| t.starts_with('_'))
                })
            };
            if let Some(word) = words(line).find(|word| of(word)) {
                findings.push(format!("{}:{number}: {word} only in {modules:?}", source.path));
            }
        }
    }
    findings
}

/// Errors become `Status` in `api/grpc/status.rs`.
pub(crate) fn status_is_built_in_one_place(sources: &[Source]) -> Vec<Finding> {
    // Every constructor of tonic and tonic-types.
    const MAKERS: &str = "new ok cancelled unknown invalid_argument deadline_exceeded not_found \
        already_exists permission_denied resource_exhausted failed_precondition aborted \
        out_of_range unimplemented internal unavailable data_loss unauthenticated from_error \
        from_header_map with_details with_metadata with_details_and_metadata with_error_details \
        with_error_details_and_metadata with_error_details_vec \
        with_error_details_vec_and_metadata";
    let mut findings = Vec::new();
    for source in product_without(sources, "src/api/grpc/status.rs") {
        for (number, line) in source.product_lines() {
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

/// Documents name a source file by the end of its path, and a test as `file.rs::name`.
pub(crate) fn documents_name_existing_files(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for document in sources.iter().filter(|source| has_extension(&source.path, "md")) {
        for (number, line) in (1..).zip(document.text.lines()) {
            for quoted in line.split('`').skip(1).step_by(2) {
                let (path, name) = quoted.split_once("::").unwrap_or((quoted, ""));
                let is_path = has_extension(path, "rs") && !path.contains(['{', '*', ' ']);
                let is_found = |source: &Source| {
                    let rest = source.path.strip_suffix(path);
                    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
                        && source.text.contains(name)
                };
                if is_path && !sources.iter().any(is_found) {
                    findings.push(format!("{}:{number}: {quoted} does not exist", document.path));
                }
            }
        }
    }
    findings
}

pub(crate) fn time_comes_from_the_clock(sources: &[Source]) -> Vec<Finding> {
    let banned = ["Utc::now", "Local::now", "SystemTime::now"];
    containing(product_without(sources, "src/server/clock.rs"), &banned)
}

/// Every task has an owner, which waits for the task at shutdown.
pub(crate) fn tasks_are_spawned_in_one_place(sources: &[Source]) -> Vec<Finding> {
    let banned = ["tokio::spawn", "task::spawn", "tokio::{spawn", "thread::spawn"];
    containing(product_without(sources, "src/server/tasks.rs"), &banned)
}

/// `cli/output.rs` writes to standard output and standard error.
pub(crate) fn printing_is_done_in_one_place(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in product_without(sources, "src/cli/output.rs") {
        for (number, line) in source.product_lines() {
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

pub(crate) fn files_are_short(sources: &[Source]) -> Vec<Finding> {
    sources
        .iter()
        .filter(|source| source.is_rust() || has_extension(&source.path, "py"))
        .filter(|source| source.lines_before_tests > FILE_LINES_MAX)
        .map(|source| {
            let lines = source.lines_before_tests;
            format!("{}:{lines}: {lines} lines, but at most {FILE_LINES_MAX}", source.path)
        })
        .collect()
}

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

/// A test waits for a condition. A line that sleeps states the reason in a comment.
pub(crate) fn tests_do_not_sleep(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let comment = if has_extension(&source.path, "py") { "#" } else { "//" };
        let code = if source.is_rust() { &source.code } else { &source.text };
        let from = if source.is_test() { 0 } else { source.lines_before_tests };
        // The simulation runs in virtual time.
        let is_simulation = source.path.starts_with("tests/simulation/");
        if is_simulation || !(source.is_rust() || has_extension(&source.path, "py")) {
            continue;
        }
        for (index, (code, text)) in code.lines().zip(source.text.lines()).enumerate().skip(from) {
            let sleeps = code.match_indices("sleep(").any(|(at, _)| {
                !code[..at].ends_with(is_word) && !code[..at].trim_end().ends_with("fn")
            });
            let reason = text.split_once("sleep(").and_then(|(_, after)| after.split_once(comment));
            if sleeps && reason.is_none_or(|(_, reason)| reason.trim().is_empty()) {
                findings.push(format!(
                    "{}:{}: sleeps without a stated reason",
                    source.path,
                    index + 1
                ));
            }
        }
    }
    findings
}

pub(crate) fn no_machine_paths(sources: &[Source]) -> Vec<Finding> {
    // Composed, because this file must obey the rule, too.
    let banned = ["work", "root", "home", "Users"].map(|folder| format!("/{folder}/"));
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in source.text.lines().enumerate() {
            for path in &banned {
                // Only at the start of a path: `a/work/b` is relative.
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

fn product_without<'a>(
    sources: &'a [Source],
    exempt: &'static str,
) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |source| source.is_product() && source.path != exempt)
}

fn has_extension(path: &str, extension: &str) -> bool {
    Path::new(path).extension().is_some_and(|found| found == extension)
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}
