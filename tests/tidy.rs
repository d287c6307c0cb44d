//! The law of this repository as tests: who may use whom, what is done in one place only, and sizes. What rustc and clippy
//! can hold (function lengths, unsafe code, unwrap) they hold; this is the rest.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/source.rs"]
mod source;

use rules::Finding;
use source::{Source, blank, tracked};

type Rule = fn(&[Source]) -> Vec<Finding>;

fn hold(rule: Rule) {
    let sources = tracked();
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "the sources were not found");
    let findings = rule(&sources);
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

/// Each rule as a test of the repository, and as a test of the rule: what it catches, by file, line and text, and what it
/// lets pass.
macro_rules! laws {
    ($($rule:ident { catches: $catches:expr, passes: $passes:expr $(,)? })*) => {
        $(
            #[test]
            fn $rule() {
                hold(rules::$rule);
            }
        )*

        mod the_rule {
            use super::*;

            $(
                #[test]
                fn $rule() {
                    for (path, line, text) in $catches {
                        let findings = rules::$rule(&[Source::new(path, text)]);
                        let place = format!("{path}:{line}: ");
                        let found = findings.iter().any(|finding| finding.starts_with(&place));
                        assert!(found, "nothing at {place}{text:?}, but {findings:?}");
                    }
                    for (path, text) in $passes {
                        let findings = rules::$rule(&[Source::new(path, text)]);
                        assert!(findings.is_empty(), "{text:?}: {findings:?}");
                    }
                }
            )*
        }
    };
}

laws! {
    rooms_use_only_those_above {
        catches: [
            ("src/domain/grant.rs", 2, "\nuse crate::store::Store;"),
            ("src/store.rs", 3, "use crate::{\n    domain::Grant,\n    api,\n};"),
            ("src/store/sqlite.rs", 1, "fn f() { crate::node::load() }"),
            ("src/store.rs", 1, "use super::service::Grants;"),
            ("src/store/sqlite.rs", 1, "use super::super::service::Grants;"),
            ("src/server/tasks.rs", 1, "pub(in crate::cli) fn f() {}"),
            ("src/cellar.rs", 1, "//! Not a room."),
        ],
        passes: [
            ("src/store.rs", "use crate::{domain::{Grant, api}, store::memory};"),
            ("src/store/sqlite.rs", "use super::service;\nuse crate::domain;"),
            ("src/domain.rs", "// crate::store\nconst A: &str = \"crate::store\";"),
            ("src/cli.rs", "use crate::{domain, store, node, work, auth, api, page, server};"),
            ("src/main.rs", "use support_access::cli;"),
            ("src/service.rs", "use crate::Anything;\nuse other_crate::cli;"),
        ],
    }
    grpc_stays_at_the_doors {
        catches: [
            ("src/work/grant.rs", 1, "use tonic::Status;"),
            ("src/node.rs", 2, "use std::fmt;\nuse prost_types::Timestamp;"),
        ],
        passes: [
            ("src/api/grpc/convert.rs", "use prost::Message;"),
            ("src/work.rs", "let tectonic = 1; // tonic"),
            ("tests/it/main.rs", "use tonic::Status;"),
        ],
    }
    sql_stays_in_the_store {
        catches: [("src/work.rs", 1, "sqlx::query(\"\")"), ("src/main.rs", 1, "use sqlx;")],
        passes: [("src/store/rows.rs", "use sqlx::Row;")],
    }
    status_is_built_in_one_place {
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
    time_comes_from_the_clock {
        catches: [("src/work.rs", 1, "let now = chrono::Utc::now();")],
        passes: [("src/domain/clock.rs", "chrono::Utc::now()"), ("src/work.rs", "clock.now()")],
    }
    tasks_are_spawned_in_one_place {
        catches: [
            ("src/server.rs", 1, "tokio::spawn(async {})"),
            ("src/node.rs", 1, "task::spawn_blocking(f)"),
            ("src/node.rs", 1, "std::thread::spawn(f)"),
        ],
        passes: [("src/server/tasks.rs", "tokio::spawn(f)"), ("src/node.rs", "tasks.spawn(f)")],
    }
    printing_is_done_in_one_place {
        catches: [
            ("src/cli/grant.rs", 2, "\nprintln!(\"a\");"),
            ("src/work.rs", 1, "if a != b { eprint!(\"b\") }"),
        ],
        passes: [
            ("src/cli/output.rs", "println!(\"a\")"),
            ("src/cli/grant.rs", "writeln!(out)?; a.print(); // println!()"),
        ],
    }
    files_are_short {
        catches: [("src/work.rs", 401, &long(401, 0)), ("tests/python/test_a.py", 401, &long(401, 0))],
        passes: [("src/work.rs", &long(400, 200)), ("README.md", &long(900, 0))],
    }
    no_test_is_ignored {
        catches: [
            ("tests/it/main.rs", 2, "#[test]\n#[ignore]\nfn f() {}"),
            ("src/work.rs", 1, "#[ignore = \"slow\"]"),
            ("src/work.rs", 1, "#[cfg_attr(debug_assertions, ignore)]"),
        ],
        passes: [("tests/it/main.rs", "// #[ignore]\nfn ignored() {}")],
    }
    tests_do_not_sleep {
        catches: [
            ("tests/it/main.rs", 2, "fn f() {\n    std::thread::sleep(one); //"),
            ("tests/it/main.rs", 1, "tokio::time::sleep(one).await;"),
            ("tests/python/test_a.py", 1, "time.sleep(1)"),
            ("src/work.rs", 3, "#[cfg(test)]\nmod tests {\n    sleep(one);\n}"),
        ],
        passes: [
            ("tests/it/main.rs", "thread::sleep(one); // between two looks at the condition"),
            ("tests/python/test_a.py", "time.sleep(1)  # until the clock has moved"),
            ("src/work.rs", "time::sleep(backoff).await;"),
            ("tests/simulation/src/link.rs", "sleep(delay).await;"),
            ("tests/it/main.rs", "oversleep(one); fn sleep(a: u8) {}"),
        ],
    }
    no_machine_paths {
        catches: [
            ("README.md", 2, &format!("\nsee /{}/notes", "root")),
            ("deny.toml", 1, &format!("path = \"/{}/main\"", "work")),
            ("scripts/test", 1, &format!("cd /{}/somebody", "home")),
        ],
        passes: [("README.md", "https://example.com/work/a ./root/b src/work/grant.rs $HOME/x")],
    }
}

/// A file of so many lines, and a module of tests at its end.
fn long(lines: usize, tests: usize) -> String {
    let tests = match tests {
        0 => String::new(),
        _ => format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a\n".repeat(tests)),
    };
    "// a\n".repeat(lines) + &tests
}

#[test]
fn comments_and_texts_are_blanked_and_nothing_else() {
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
fn only_a_module_of_tests_at_the_very_end_is_not_counted() {
    let lines = |text: &str| Source::new("src/work.rs", text).lines_before_tests;
    assert_eq!(lines("a\n#[cfg(test)]\nmod tests {\n    b\n}\n"), 1);
    assert_eq!(lines("a\n#[cfg(test)]\nmod tests;\n"), 1);
    assert_eq!(lines("a\n#[cfg(test)]\nmod tests {\n    b\n}\nfn c() {}\n"), 6);
    assert_eq!(lines("a\n#[cfg(test)]\nfn b() {}\nfn c() {}\n"), 4);
}
