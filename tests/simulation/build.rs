//! Copies the modules under test, and compiles every mutant of `mutants/` into the copies.
//!
//! A mutant replaces an expression, or a statement without bindings, by a choice between the
//! original and the mutated text. So one compilation contains all mutants, and the sources of the
//! service contain no trace of mutants.

#![allow(clippy::expect_used, reason = "a build fails by panicking")]

use std::{
    collections::BTreeMap,
    env, fs, io,
    ops::Range,
    path::{Path, PathBuf},
};

use serde::Deserialize;

/// The modules under test. All other modules are used as compiled in the service.
const MODULES: [&str; 2] = ["node", "service"];

/// Only the originals are linted, not the copies.
const LINTS: &str = "#[allow(warnings, clippy::all, clippy::pedantic, reason = \"a copy\")]";

/// A rule of the protocol, and the patches that break the rule.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    /// The rule, as one sentence.
    rule: String,
    /// Empty if the simulation itself breaks the rule.
    #[serde(default)]
    patch: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    /// From the root of the repository.
    file: String,
    /// Must occur in the file exactly once.
    original: String,
    mutated: String,
}

/// A patch, and the name of the broken rule.
type NamedPatch<'a> = (&'a str, &'a Patch);

fn main() -> io::Result<()> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let sources = package.join("../../src");
    println!("cargo::rerun-if-changed=mutants");
    let mutants = mutants(&package.join("mutants"))?;
    fs::write(out.join("rules.rs"), rules(&mutants))?;

    let mut patches: BTreeMap<&str, Vec<NamedPatch<'_>>> = BTreeMap::new();
    for (name, mutant) in &mutants {
        for patch in &mutant.patch {
            patches.entry(&patch.file).or_default().push((name, patch));
        }
    }
    for module in MODULES {
        println!("cargo::rerun-if-changed=../../src/{module}.rs");
        println!("cargo::rerun-if-changed=../../src/{module}");
        match fs::remove_dir_all(out.join(module)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        copy(&sources, &out, Path::new(&format!("{module}.rs")), &mut patches)?;
        copy(&sources, &out, Path::new(module), &mut patches)?;
    }
    let unknown: Vec<_> = patches.keys().collect();
    assert!(unknown.is_empty(), "mutants patch files that are not under test: {unknown:?}");
    fs::write(
        out.join("modules.rs"),
        MODULES.map(|it| format!("{LINTS}\npub mod {it};\n")).concat(),
    )
}

/// All mutants, by name.
fn mutants(directory: &Path) -> io::Result<BTreeMap<String, Mutant>> {
    let mut mutants = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_stem().expect("it has a name").to_string_lossy().into_owned();
        let mutant = toml::from_str(&fs::read_to_string(&path)?);
        let mutant = mutant.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        mutants.insert(name, mutant);
    }
    Ok(mutants)
}

/// The enum `Rule`, with one variant for each mutant.
fn rules(mutants: &BTreeMap<String, Mutant>) -> String {
    let lines = |line: fn(&str, &str, &str) -> String| {
        let line = |(name, mutant): (&String, &Mutant)| line(&variant(name), name, &mutant.rule);
        mutants.iter().map(line).collect::<Vec<_>>().concat()
    };
    format!(
        "/// A rule of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {{
{}}}

impl Rule {{
    /// All rules, sorted by name.
    pub const ALL: [Self; {}] = [
{}    ];

    /// The name of the file that breaks the rule.
    pub const fn name(self) -> &'static str {{
        match self {{
{}        }}
    }}

    /// The rule, as one sentence.
    pub const fn text(self) -> &'static str {{
        match self {{
{}        }}
    }}
}}
",
        lines(|variant, _, rule| format!("    /// {rule}\n    {variant},\n")),
        mutants.len(),
        lines(|variant, _, _| format!("        Self::{variant},\n")),
        lines(|variant, name, _| format!("            Self::{variant} => {name:?},\n")),
        lines(|variant, _, rule| format!("            Self::{variant} => {rule:?},\n")),
    )
}

/// `lease_after_apply` as `LeaseAfterApply`.
fn variant(name: &str) -> String {
    let capitalized = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(capitalized).collect()
}

/// Copies a file or a directory, and applies the patches of each file.
fn copy(
    sources: &Path,
    out: &Path,
    relative: &Path,
    patches: &mut BTreeMap<&str, Vec<NamedPatch<'_>>>,
) -> io::Result<()> {
    let from = sources.join(relative);
    if from.is_dir() {
        fs::create_dir_all(out.join(relative))?;
        for entry in fs::read_dir(from)? {
            copy(sources, out, &relative.join(entry?.file_name()), patches)?;
        }
        return Ok(());
    }
    let file = format!("src/{}", relative.display());
    let patches = patches.remove(file.as_str()).unwrap_or_default();
    fs::write(out.join(relative), patched(&file, &fs::read_to_string(from)?, &patches))
}

/// The source, with a choice between original and mutant in place of each patched snippet.
fn patched(file: &str, source: &str, patches: &[NamedPatch<'_>]) -> String {
    let mut snippets: BTreeMap<(usize, usize), Vec<NamedPatch<'_>>> = BTreeMap::new();
    for &(name, patch) in patches {
        let Range { start, end } = snippet(file, source, name, patch);
        snippets.entry((start, end)).or_default().push((name, patch));
    }
    let (mut text, mut copied) = (String::new(), 0);
    for ((start, end), patches) in snippets {
        let names: Vec<_> = patches.iter().map(|(name, _)| *name).collect();
        assert!(copied <= start, "{file}: the snippets of {names:?} and of another mutant overlap");
        text += &source[copied..start];
        text += &choice(&source[start..end], &patches);
        copied = end;
    }
    text + &source[copied..]
}

/// The range of a patch's original snippet.
fn snippet(file: &str, source: &str, name: &str, patch: &Patch) -> Range<usize> {
    let starts: Vec<_> = source.match_indices(&patch.original).map(|(start, _)| start).collect();
    let [start] = starts[..] else {
        panic!(
            "mutants/{name}.toml: this snippet must occur in {file} exactly once, \
            but occurs {} times; adapt the mutant to the source:\n{}",
            starts.len(),
            patch.original
        );
    };
    start..start + patch.original.len()
}

/// The original snippet, or the mutated snippet if the rule of one of the patches is broken.
fn choice(original: &str, patches: &[NamedPatch<'_>]) -> String {
    let mutated: Vec<_> = patches
        .iter()
        .map(|(name, Patch { mutated, .. })| {
            let rule = variant(name);
            format!(
                "if crate::mutants::is_broken(crate::mutants::Rule::{rule}) {{ {mutated} }} else "
            )
        })
        .collect();
    let choice = format!("{}{{ {original} }}", mutated.concat());
    if original.ends_with(';') { choice } else { format!("({choice})") }
}
