//! Rules on `use`: the order of modules, and no cycles between files.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Finding,
    source::{Source, is_word},
};

/// The modules of the crate. Each may import the ones before it.
const MODULES: [&str; 9] =
    ["domain", "store", "node", "service", "auth", "api", "page", "server", "cli"];

/// A module imports only modules before it. `lib.rs` and `main.rs` import everything.
pub(crate) fn modules_import_only_modules_above(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_product()) {
        let Some(module) = source.module().filter(|name| !["lib", "main"].contains(name)) else {
            continue;
        };
        let Some(own) = MODULES.iter().position(|name| *name == module) else {
            findings.push(format!("{}:1: {module} is not one of {MODULES:?}", source.path));
            continue;
        };
        for (offset, path) in crate_paths(source) {
            // Any other name is an item of the crate root.
            let Some(other) = MODULES.iter().position(|name| *name == path[0]) else { continue };
            if other > own {
                let line = source.line_at(offset);
                findings
                    .push(format!("{}:{line}: {module} must not import {}", source.path, path[0]));
            }
        }
    }
    findings
}

/// No two files import each other, directly or through further files. A file and its own submodules
/// count as one: they may use each other.
pub(crate) fn files_do_not_import_each_other(sources: &[Source]) -> Vec<Finding> {
    let files: BTreeMap<String, &Source> = sources
        .iter()
        .filter(|source| source.is_product())
        .map(|source| (module_path(&source.path), source))
        .collect();
    let edges: BTreeMap<&str, BTreeSet<&str>> = files
        .iter()
        .map(|(path, source)| (path.as_str(), imported_files(path, source, &files)))
        .collect();
    let mut findings = Vec::new();
    let mut reported: BTreeSet<&str> = BTreeSet::new();
    for file in edges.keys() {
        let cycle: Vec<&str> = reachable(file, &edges)
            .into_iter()
            .filter(|other| reachable(other, &edges).contains(file))
            .collect();
        if cycle.len() > 1 && !cycle.iter().any(|other| reported.contains(other)) {
            reported.extend(&cycle);
            let names: Vec<&str> = cycle.iter().map(|path| files[*path].path.as_str()).collect();
            findings.push(format!("{}:1: import cycle: {}", names[0], names.join(", ")));
        }
    }
    findings
}

/// Files that can be reached from `from` by at least one import.
fn reachable<'a>(from: &str, edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = vec![from];
    while let Some(file) = open.pop() {
        for next in edges.get(file).into_iter().flatten() {
            if found.insert(*next) {
                open.push(next);
            }
        }
    }
    found
}

/// The files that define what `source` imports, except its ancestors and descendants.
fn imported_files<'a>(
    own: &str,
    source: &Source,
    files: &'a BTreeMap<String, &Source>,
) -> BTreeSet<&'a str> {
    crate_paths(source)
        .into_iter()
        .filter(|(offset, _)| source.line_at(*offset) <= source.lines_before_tests)
        .filter_map(|(_, path)| defining_file(&path, files))
        .filter(|file| !is_ancestor(file, own) && !is_ancestor(own, file))
        .collect()
}

fn is_ancestor(ancestor: &str, file: &str) -> bool {
    file == ancestor || file.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with("::"))
}

/// The file of the longest module prefix of `path`. If that file only re-exports the next name, the
/// file behind the re-export.
fn defining_file<'a>(path: &[&str], files: &'a BTreeMap<String, &Source>) -> Option<&'a str> {
    let length = (1..=path.len()).rev().find(|n| files.contains_key(&path[..*n].join("::")))?;
    let (file, source) = files.get_key_value(&path[..length].join("::"))?;
    if let Some(name) = path.get(length)
        && let Some(child) = reexport(source, name)
        && let Some((behind, _)) = files.get_key_value(&format!("{file}::{child}"))
    {
        return Some(behind);
    }
    Some(file)
}

/// The submodule from which `source` re-exports `name`, by `pub use child::name` or
/// `pub use child::{name}`.
fn reexport(source: &Source, name: &str) -> Option<String> {
    let mut rest = source.code.as_str();
    while let Some(at) = rest.find("use ") {
        rest = &rest[at + 4..];
        let statement = &rest[..rest.find(';').unwrap_or(rest.len())];
        let is_own = !["crate::", "std::", "super::"].iter().any(|it| statement.starts_with(it));
        let path = statement.trim_start_matches("self::");
        if is_own
            && let Some((child, items)) = path.split_once("::")
            && items.split(|c| !is_word(c)).any(|item| item == name)
        {
            return Some(child.to_owned());
        }
    }
    None
}

/// `domain::grant` for `src/domain/grant.rs`.
fn module_path(path: &str) -> String {
    path.trim_start_matches("src/").trim_end_matches(".rs").replace('/', "::")
}

/// Every path below the crate root, with its offset: from `crate::…`, from `crate::{…}`, and from
/// `super::…`, each brace expanded.
fn crate_paths(source: &Source) -> Vec<(usize, Vec<&str>)> {
    let own: Vec<&str> =
        source.path.trim_start_matches("src/").trim_end_matches(".rs").split('/').collect();
    let mut paths = Vec::new();
    for prefix in ["crate::", "super::", "self::"] {
        for (at, _) in source.code.match_indices(prefix) {
            if source.code[..at].ends_with(|c: char| is_word(c) || c == ':') {
                continue;
            }
            let mut base = own.clone();
            let mut offset = at;
            if prefix == "crate::" {
                base.clear();
                offset += prefix.len();
            } else {
                while let Some(rest) = source.code[offset..].strip_prefix("super::") {
                    base.pop();
                    offset = source.code.len() - rest.len();
                }
                if source.code[offset..].starts_with("self::") {
                    offset += "self::".len();
                }
            }
            expand(&source.code, offset, &base, &mut paths);
        }
    }
    paths.retain(|(_, path)| !path.is_empty());
    paths
}

/// Adds the path at `offset`, below `base`. A brace adds one path for each item.
fn expand<'a>(
    code: &'a str,
    mut offset: usize,
    base: &[&'a str],
    paths: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let mut path = base.to_vec();
    loop {
        let rest = &code[offset..];
        if rest.starts_with('{') {
            offset += 1;
            loop {
                let skipped = code[offset..].find(|c: char| !c.is_whitespace() && c != ',');
                offset += skipped.unwrap_or(code.len() - offset);
                if !code[offset..].starts_with(|c: char| is_word(c) || c == '{') {
                    // Either the closing brace, or code that is no list of imports.
                    return (offset + 1).min(code.len());
                }
                offset = expand(code, offset, &path, paths);
            }
        }
        let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let start = offset;
        if length > 0 && &rest[..length] != "self" {
            path.push(&rest[..length]);
        }
        offset += length;
        if length > 0 && code[offset..].starts_with("::") {
            offset += 2;
            continue;
        }
        paths.push((start, path));
        // Skip `as name`.
        if let Some(alias) = code[offset..].strip_prefix(" as ") {
            let length = alias.find(|c| !is_word(c)).unwrap_or(alias.len());
            offset = code.len() - alias.len() + length;
        }
        return offset;
    }
}
