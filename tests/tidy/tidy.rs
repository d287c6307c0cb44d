//! The rules of this repository as tests: module order, import cycles, single places, sizes and
//! prose. rustc and clippy enforce the rest (function lengths, unsafe code, unwrap).

#![allow(clippy::expect_used, clippy::print_stdout, reason = "a test fails by panicking")]

mod imports;
mod prose;
mod rules;
mod source;

use source::{Source, blank, tracked};

/// A violation, as `file:line: problem`.
type Finding = String;
type Rule = fn(&[Source]) -> Vec<Finding>;

fn enforce(rule: Rule) {
    let sources = tracked();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the sources were not found");
    let findings = rule(&sources);
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Generates two tests for each rule: the repository obeys the rule, and the rule itself catches
/// the listed violations (file, line, text) and passes the listed files.
macro_rules! rules {
    ($($module:ident::$rule:ident { catches: $catches:expr, passes: $passes:expr $(,)? })*) => {
        $(
            #[test]
            fn $rule() {
                enforce($module::$rule);
            }
        )*

        mod the_rule {
            use super::*;

            $(
                #[test]
                fn $rule() {
                    for (path, line, text) in $catches {
                        let findings = $module::$rule(&[Source::new(path, text)]);
                        let position = format!("{path}:{line}: ");
                        let is_at = |finding: &Finding| finding.starts_with(&position);
                        let is_found = findings.iter().any(is_at);
                        assert!(is_found, "no finding at {position}{text:?}, but {findings:?}");
                    }
                    for (path, text) in $passes {
                        let findings = $module::$rule(&[Source::new(path, text)]);
                        assert!(findings.is_empty(), "{text:?}: {findings:?}");
                    }
                }
            )*
        }
    };
}

rules! {
    imports::modules_import_only_modules_above {
        catches: [
            ("src/domain/grant.rs", 2, "\nuse crate::store::Store;"),
            ("src/store.rs", 3, "use crate::{\n    domain::Grant,\n    api,\n};"),
            ("src/store/sqlite.rs", 1, "fn f() { crate::node::load() }"),
            ("src/store.rs", 1, "use super::service::Grants;"),
            ("src/store/sqlite.rs", 1, "use super::super::service::Grants;"),
            ("src/server/tasks.rs", 1, "pub(in crate::cli) fn f() {}"),
            ("src/cellar.rs", 1, "//! Not a module of the list."),
        ],
        passes: [
            ("src/store.rs", "use crate::{domain::{Grant, api}, store::memory};"),
            ("src/store/sqlite.rs", "use super::service;\nuse crate::domain;"),
            ("src/domain.rs", "// crate::store\nconst A: &str = \"crate::store\";"),
            ("src/cli.rs", "use crate::{domain, store, node, service, auth, api, page, server};"),
            ("src/main.rs", "use support_access::cli;"),
            ("src/service.rs", "use crate::Anything;\nuse other_crate::cli;"),
        ],
    }
    rules::protobuf_stays_in_the_api {
        catches: [
            ("src/service/grant.rs", 1, "use tonic::Status;"),
            ("src/node.rs", 2, "use std::fmt;\nuse prost_types::Timestamp;"),
        ],
        passes: [
            ("src/api/grpc/convert.rs", "use prost::Message;"),
            ("src/service.rs", "let tectonic = 1; // tonic"),
            ("tests/it/main.rs", "use tonic::Status;"),
        ],
    }
    rules::sql_stays_in_the_store {
        catches: [("src/service.rs", 1, "sqlx::query(\"\")"), ("src/main.rs", 1, "use sqlx;")],
        passes: [("src/store/rows.rs", "use sqlx::Row;")],
    }
    rules::domain_reads_no_clock_and_no_tls {
        catches: [
            ("src/domain/clock.rs", 1, "use rustix::time;"),
            ("src/domain/chain/key.rs", 1, "use tokio_rustls::rustls;"),
            ("src/domain.rs", 1, "use parking_lot::Mutex;"),
        ],
        passes: [("src/server/clock.rs", "use rustix::time;")],
    }
    rules::status_is_built_in_one_place {
        catches: [
            ("src/api/grpc/admin.rs", 2, "fn f() {\n    Err(Status::not_found(\"\"))\n}"),
            ("src/cli/client.rs", 1, "tonic::Status::with_error_details(c, m, d)"),
        ],
        passes: [
            ("src/api/grpc/status.rs", "Status::not_found(\"\")"),
            ("src/cli/client.rs", "fn f(status: &Status) { GrantStatus::new(); status.code(); }"),
            ("src/api/http.rs", "#[cfg(test)]\nmod tests {\n    Status::ok(\"\")\n}\n"),
        ],
    }
    rules::documents_name_existing_files {
        catches: [
            ("docs/a.md", 2, "\n| a | `api/gone.rs::works` |"),
            ("README.md", 1, "see `gone.rs`"),
        ],
        passes: [("docs/a.md", "`store/{a,b}.rs` and `a.md` and gone.rs")],
    }
    rules::time_comes_from_the_clock {
        catches: [("src/service.rs", 1, "let now = chrono::Utc::now();")],
        passes: [("src/server/clock.rs", "chrono::Utc::now()"), ("src/service.rs", "clock.now()")],
    }
    rules::tasks_are_spawned_in_one_place {
        catches: [
            ("src/server.rs", 1, "tokio::spawn(async {})"),
            ("src/node.rs", 1, "task::spawn_blocking(f)"),
            ("src/node.rs", 1, "std::thread::spawn(f)"),
        ],
        passes: [("src/server/tasks.rs", "tokio::spawn(f)"), ("src/node.rs", "tasks.spawn(f)")],
    }
    rules::printing_is_done_in_one_place {
        catches: [
            ("src/cli/grant.rs", 2, "\nprintln!(\"a\");"),
            ("src/service.rs", 1, "if a != b { eprint!(\"b\") }"),
        ],
        passes: [
            ("src/cli/output.rs", "println!(\"a\")"),
            ("src/cli/grant.rs", "writeln!(out)?; a.print(); // println!()"),
        ],
    }
    rules::files_are_short {
        catches: [
            ("src/service.rs", 401, &long(401, 0)),
            ("tests/python/test_a.py", 401, &long(401, 0)),
        ],
        passes: [("src/service.rs", &long(400, 200)), ("README.md", &long(900, 0))],
    }
    rules::no_test_is_ignored {
        catches: [
            ("tests/it/main.rs", 2, "#[test]\n#[ignore]\nfn f() {}"),
            ("src/service.rs", 1, "#[ignore = \"slow\"]"),
            ("src/service.rs", 1, "#[cfg_attr(debug_assertions, ignore)]"),
        ],
        passes: [("tests/it/main.rs", "// #[ignore]\nfn ignored() {}")],
    }
    rules::tests_do_not_sleep {
        catches: [
            ("tests/it/main.rs", 2, "fn f() {\n    std::thread::sleep(one); //"),
            ("tests/it/main.rs", 1, "tokio::time::sleep(one).await;"),
            ("tests/python/test_a.py", 1, "time.sleep(1)"),
            ("src/service.rs", 3, "#[cfg(test)]\nmod tests {\n    sleep(one);\n}"),
        ],
        passes: [
            ("tests/it/main.rs", "thread::sleep(one); // between two looks at the condition"),
            ("tests/python/test_a.py", "time.sleep(1)  # until the clock has moved"),
            ("src/service.rs", "time::sleep(backoff).await;"),
            ("tests/it/main.rs", "oversleep(one); fn sleep(a: u8) {}"),
        ],
    }
    rules::no_machine_paths {
        catches: [
            ("README.md", 2, &format!("\nsee /{}/notes", "root")),
            ("deny.toml", 1, &format!("path = \"/{}/main\"", "work")),
            ("scripts/test", 1, &format!("cd /{}/somewhere", "home")),
        ],
        passes: [("README.md", "https://example.com/work/a ./root/b src/work/grant.rs $HOME/x")],
    }
    prose::banned_words_do_not_occur {
        catches: [
            ("src/node.rs", 1, &format!("// A lease for {}.", "nobody")),
            ("src/node.rs", 2, &format!("fn f() {{\n    warn!(\"read it {}\");", "anew")),
            ("proto/a.proto", 1, &format!("// The caller is {} so.", "told")),
            ("docs/a.md", 3, &format!("# A\n\nIt is no {} there.", "more")),
            ("tests/python/test_a.py", 1, &format!("# {} else", "somebody")),
            ("tests/python/test_a.py", 2, &format!("\nassert a, f'it {} b'", "hears")),
            ("tests/python/test_a.py", 1, &format!("\"\"\"It is\n{}.\"\"\"", "doubled")),
            ("helm/a/values.yaml", 1, &format!("# Waits for {}.", "ever")),
        ],
        passes: [
            ("src/node.rs", "// At most 5 nodes, no more than that. We recommend it.\nlet a = 1;"),
            ("docs/a.md", &format!("```console\n$ {}\n```\n`{}`", "nobody", "whoever")),
            ("tests/python/test_a.py", &format!("{} = {}(a, 'b c')", "nobody", "hears")),
        ],
    }
    prose::sentences_begin_with_their_subject {
        catches: [
            ("src/node.rs", 1, &format!("//! A node. {} asks, waits.", "Who")),
            ("src/node.rs", 1, &format!("/// {} is sent.", "What")),
            ("docs/a.md", 1, &format!("## {} a revoke does", "What")),
            ("proto/a.proto", 1, &format!("// The grant.\n// {} several, the last.", "Of")),
        ],
        passes: [
            ("src/node.rs", "// Waits. Whether the node answers.\nlet a = b; // Offers."),
            ("docs/a.md", "```text\nWhat it is\n```"),
        ],
    }
    prose::lines_are_at_most_100_columns {
        catches: [
            ("src/node.rs", 1, &format!("// {}", "a ".repeat(50))),
            ("src/node.rs", 1, &format!("const A: &str = \"{}\";", "a".repeat(90))),
            ("docs/a.md", 1, &"word ".repeat(21)),
        ],
        passes: [
            ("docs/a.md", &format!("| {} |\nhttps://{}", "a ".repeat(60), "a".repeat(100))),
            ("docs/b.md", &format!("```text\n{}\n```", "a ".repeat(60))),
            ("src/node.rs", &format!("// {}", "a".repeat(97))),
            ("tests/a.rs", &format!("const TABLE: &str = \"\n{}\n\";", "a ".repeat(60))),
        ],
    }
    prose::test_names_name_the_component {
        catches: [
            ("tests/it/main.rs", 1, &format!("fn {}_calls_is_rejected() {{}}", "who")),
            ("src/node.rs", 2, &format!("\nfn a_lease_of_{}() {{}}", "nobody")),
        ],
        passes: [("src/node.rs", "fn whole() {}\nfn whoami() {}")],
    }
}

#[test]
fn files_do_not_import_each_other() {
    enforce(imports::files_do_not_import_each_other);
}

#[test]
fn import_cycles_are_found() {
    let file = |path: &str, text: &str| Source::new(path, text);
    let cycle = [
        file("src/node.rs", "mod a;\nmod b;\npub use a::A;"),
        file("src/node/a.rs", "use crate::node::b::B;\npub struct A;"),
        file("src/node/b.rs", "use crate::node::A;\npub struct B;"),
    ];
    let findings = imports::files_do_not_import_each_other(&cycle);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].contains("src/node/a.rs") && findings[0].contains("src/node/b.rs"));
    // A file may use its own submodules, and they may use the file.
    let tree = [
        file("src/node.rs", "mod a;\nuse crate::node::a::A;\npub struct Node;"),
        file("src/node/a.rs", "use crate::node::Node;\npub struct A;"),
    ];
    assert!(imports::files_do_not_import_each_other(&tree).is_empty());
}

#[test]
fn pronouns_are_rare() {
    let findings = prose::pronouns_are_rare(&tracked());
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// A file with `lines` lines, and a test module of `tests` lines at the end.
fn long(lines: usize, tests: usize) -> String {
    let tests = match tests {
        0 => String::new(),
        _ => format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a\n".repeat(tests)),
    };
    "// a\n".repeat(lines) + &tests
}

#[test]
fn comments_and_literals_are_blanked() {
    let cases = [
        ("a // b\nc", "a     \nc"),
        ("a /* b /* c */ d */ e", "a                   e"),
        (r#"f("a\"b", 'x', '\'', b'"')"#, "f(      ,    ,     , b   )"),
        ("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)"),
        ("r#\"a\"b\"# + br\"c\" + or\"d\"", "         +       + or   "),
    ];
    for (text, code) in cases {
        assert_eq!(blank(text), code, "{text}");
    }
}

#[test]
fn literals_are_read_without_prefixes_and_quotes() {
    let contents = |path: &str, text: &str| -> Vec<String> {
        Source::new(path, text).literals().into_iter().map(|(_, content)| content).collect()
    };
    let rust = "f(\"b\\\"c\", r#\"d\"e\"#, 'f') // \"g\"\n/* \"h\" */ br\"i\"";
    assert_eq!(contents("a.rs", rust), ["b\\\"c", "d\"e", "f", "i"]);
    let python = "f(b'c', rf\"d'e\") # 'g'\n\"\"\"h \"i\"\nj\"\"\" + buffer['k\\'l']";
    assert_eq!(contents("a.py", python), ["c", "d'e", "h \"i\"\nj", "k\\'l"]);
}

#[test]
fn only_a_trailing_test_module_is_not_counted() {
    let lines = |text: &str| Source::new("src/service.rs", text).lines_before_tests;
    assert_eq!(lines("a\n#[cfg(test)]\nmod tests {\n    b\n}\n"), 1);
    assert_eq!(lines("a\n#[cfg(test)]\nmod tests;\n"), 1);
    assert_eq!(lines("a\n#[cfg(test)]\nmod tests {\n    b\n}\nfn c() {}\n"), 6);
    assert_eq!(lines("a\n#[cfg(test)]\nfn b() {}\nfn c() {}\n"), 4);
}
