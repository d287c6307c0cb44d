//! `history`.

use std::{fs, path::Path, process::Stdio};

use support_access::{
    api::proto::v1,
    domain::chain::{ChainError, VerifyError},
};

use crate::cli::{
    Output, PENDING,
    fake::{Fake, history::HISTORY},
    program, run, run_at,
};

#[test]
fn a_list_names_its_scope() {
    let fake = Fake::default();
    let server = fake.start();
    let stdout = "\
SEQUENCE  TIME (UTC)  EVENT    GRANT OR LOCK  BY     CHANGE                                                      REASON
1         -           GRANTED  g1             alice  support at UNSPECIFIED for - until 2026-12-01 09:00:00 UTC  -
";
    for args in
        [&["acme"][..], &["--limit", "7", "acme"], &["acme", "--grant", "g1"], &["--vendor"]]
    {
        let result = run_at(&server, &[&["history", "list"], args].concat());
        assert_eq!((result.code, result.stdout.as_str()), (0, stdout), "{result:?}");
    }
    let all = run_at(&server, &["history", "list", "--all"]);
    assert!(all.stdout.starts_with("SEQUENCE  TENANT  TIME (UTC)"), "{all:?}");
    let received = fake.0.lock();
    let scopes: Vec<_> =
        received.events.iter().map(|list| (list.scope(), list.tenant_id.as_str())).collect();
    let tenant = (v1::Scope::Tenant, "acme");
    let expected = [tenant, tenant, tenant, (v1::Scope::Vendor, ""), (v1::Scope::All, "")];
    assert_eq!(scopes, expected);
    assert_eq!(received.events[2].grant_id, "g1");
    for args in [&[][..], &["acme", "--vendor"], &["acme", "--limit", "0"], &["--all", "--vendor"]]
    {
        assert_eq!(run(&[&["history", "list"], args].concat()).code, 64, "{args:?}");
    }
}

#[test]
fn wait_repeats_the_request_until_the_timeout_and_states_no_duration() {
    let fake = Fake::default();
    let server = fake.start();
    let result = run_at(&server, &["history", "wait", "acme", "t7"]);
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    let stdout = "Enforced  at every check node (3 acknowledged, 0 lapsed)\n";
    assert_eq!(result.stdout, stdout);
    let waits = || -> Vec<(String, Option<String>)> {
        let received = fake.0.lock();
        let waits = received.waits.iter().cloned();
        waits.map(|wait| (wait.consistency_token, wait.tenant_id)).collect()
    };
    let t7 = ("t7".to_owned(), Some("acme".to_owned()));
    assert_eq!(waits(), [t7.clone(), t7.clone()]);

    let pending = run_at(&server, &["history", "wait", "--vendor", "t8", "--timeout", "300ms"]);
    assert_eq!((pending.code, pending.stderr.as_str()), (3, PENDING));
    assert!(pending.stdout.starts_with("Enforced  NOT YET at every check node"), "{pending:?}");
    assert_eq!(waits(), [t7.clone(), t7, ("t8".to_owned(), None)]);

    let stderr = "error: TOKEN: there is no such event\n\
                  hint: name the tenant whose history contains the change\n";
    let unknown = run_at(&server, &["history", "wait", "acme", "t9"]);
    assert_eq!(unknown, Output::error(4, stderr));
    for args in [&[][..], &["t9"], &["acme", "--vendor", "t9"]] {
        assert_eq!(run(&[&["history", "wait"], args].concat()).code, 64, "{args:?}");
    }
}

#[test]
fn an_export_has_all_pages_up_to_its_checkpoint() {
    let fake = Fake::default();
    let server = fake.start();
    let dir = tempfile::tempdir().unwrap();
    let result = run_at(&server, &["history", "export", "acme"]);
    assert_eq!((result.code, result.stderr.as_str()), (0, ""));
    assert_eq!(
        result.stdout.lines().count(),
        HISTORY + 1,
        "later events are left for the next export"
    );
    let exports: Vec<i64> =
        fake.0.lock().exports.iter().map(|export| export.after_sequence).collect();
    assert_eq!(exports, [0], "one stream has all pages");
    let checkpoint = run_at(&server, &["history", "checkpoint", "acme"]);
    assert_eq!(checkpoint.code, 0);
    assert_eq!(result.stdout.lines().next_back(), checkpoint.stdout.lines().next());
    let vendor = run_at(&server, &["history", "export", "--vendor"]);
    assert_eq!((vendor.code, vendor.stderr.as_str()), (0, ""));

    let file = dir.path().join("acme.jsonl");
    fs::write(&file, &result.stdout).unwrap();
    let kept = dir.path().join("checkpoint");
    fs::write(&kept, &checkpoint.stdout).unwrap();
    let verified = verify(&file, &["--checkpoint", kept.to_str().unwrap()]);
    let start = "The history of tenant acme is valid: 2500 events, the last at \
                 2027-01-15T08:00:00.000000Z.\n";
    assert!(verified.stdout.starts_with(start), "{}", verified.stdout);
    assert_eq!((verified.code, verified.stderr.as_str()), (0, ""));
    fs::write(&file, vendor.stdout).unwrap();
    let verified = verify(&file, &[]);
    assert!(
        verified.stdout.starts_with("The history of the vendor is valid: 2500"),
        "{verified:?}"
    );
    let other = verify(&file, &["--expect-tenant", "acme"]);
    assert_eq!(other, Output::error(2, "error: the history belongs to the vendor\n"));
    let mixed = verify(&file, &["--checkpoint", kept.to_str().unwrap()]);
    let mismatch = ChainError::OtherTenant { expected: "acme".into(), found: String::new() };
    let stderr = format!("error: {}\n", VerifyError { line: 1, mismatch });
    assert_eq!(mixed, Output::error(2, &stderr));
}

fn verify(file: &Path, more: &[&str]) -> Output {
    run(&[&["history", "verify", file.to_str().unwrap()], more].concat())
}

#[test]
fn an_export_with_an_invalid_checkpoint_or_without_its_end_is_an_error() {
    let server = Fake::default().start();
    let invalid = "error: the server returned an invalid checkpoint of this history\n";
    let short = "error: the history ends after event 0, but the server's checkpoint is after event \
                 2500\n";
    for (tenant, stderr) in [("corrupt", invalid), ("other", invalid), ("lost", short)] {
        let result = run_at(&server, &["history", "export", tenant]);
        assert_eq!(result, Output::error(1, stderr));
    }
    for args in [
        &["export"][..],
        &["export", ""],
        &["checkpoint"],
        &["export", "acme", "--vendor"],
        &["verify"],
    ] {
        let result = run_at(&server, &[&["history"], args].concat());
        assert_eq!((result.code, result.stdout.as_str()), (64, ""), "{args:?}");
    }
}

#[test]
fn verify_names_the_first_invalid_line() {
    let server = Fake::default().start();
    let dir = tempfile::tempdir().unwrap();
    let whole = run_at(&server, &["history", "export", "acme"]).stdout;
    let lines: Vec<&str> = whole.lines().collect();
    let file = dir.path().join("acme.jsonl");
    let verify_lines = |lines: &[&str]| {
        fs::write(&file, lines.join("\n")).unwrap();
        verify(&file, &[])
    };
    let invalid = |line: u64, mismatch: ChainError| {
        Output::error(2, &format!("error: {}\n", VerifyError { line, mismatch }))
    };
    let changed = lines[6].replace("admin", "mallory");
    let changed = verify_lines(&[&lines[..6], &[changed.as_str()], &lines[7..]].concat());
    assert_eq!(changed, invalid(7, ChainError::Changed));
    let removed = verify_lines(&[&lines[..6], &lines[7..]].concat());
    assert_eq!(removed, invalid(7, ChainError::NotNext { expected: 7, found: 8 }));
    let cut = verify_lines(&[&lines[..6], &lines[HISTORY..]].concat());
    assert_eq!(cut, invalid(7, ChainError::CutShort { expected: 2_500, found: 6 }));
    let long = "x".repeat(5 << 20);
    let long = verify_lines(&[&lines[..6], &[long.as_str()]].concat());
    assert_eq!(long, invalid(7, ChainError::TooLong));
    assert_eq!(verify_lines(&[]), invalid(1, ChainError::Empty));
    let hidden = lines[0].replace("acme", "\u{1b}[31m\u{202e}");
    assert_eq!(verify_lines(&[&hidden]).code, 2);
}

#[test]
fn verify_warns_about_the_part_that_is_not_proven() {
    let server = Fake::default().start();
    let dir = tempfile::tempdir().unwrap();
    let whole = run_at(&server, &["history", "export", "acme"]).stdout;
    let lines: Vec<&str> = whole.lines().collect();
    let file = dir.path().join("acme.jsonl");
    let warning = |lines: &[&str]| {
        fs::write(&file, lines.join("\n")).unwrap();
        let result = verify(&file, &[]);
        assert_eq!(result.code, 0, "{result:?}");
        result.stderr
    };
    let start = "warning: nothing proves that the end is complete and not rewritten: ";
    let same_file = "the checkpoint is not signed, and is part of the same file\n";
    assert_eq!(warning(&lines), format!("{start}{same_file}"));
    assert_eq!(warning(&lines[..9]), format!("{start}there is no checkpoint\n"));
}

#[test]
fn verify_accepts_several_files() {
    let server = Fake::default().start();
    let dir = tempfile::tempdir().unwrap();
    let export = |name: &str, args: &[&str]| {
        let path = dir.path().join(name);
        let text = run_at(&server, &[&["history", "export"], args].concat()).stdout;
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (acme, vendor) = (export("acme", &["acme"]), export("vendor", &["--vendor"]));
    let result = run(&["history", "verify", &acme, &vendor]);
    assert_eq!(result.code, 0, "{result:?}");
    let start = format!("{acme}:\nThe history of tenant acme is valid: 2500 events");
    assert!(result.stdout.starts_with(&start), "{result:?}");
    let text = format!("{vendor}:\nThe history of the vendor is valid: 2500 events");
    assert!(result.stdout.contains(&text), "{result:?}");

    let text = fs::read_to_string(&vendor).unwrap().replacen("admin", "mallory", 1);
    fs::write(&vendor, text).unwrap();
    let result = run(&["history", "verify", &acme, &vendor]);
    assert_eq!(result.code, 2);
    assert!(result.stderr.starts_with(&format!("error: {vendor}: line 1: ")), "{result:?}");
}

#[test]
fn standard_input_is_verified_and_unreadable_files_are_rejected() {
    let server = Fake::default().start();
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    fs::write(&whole, run_at(&server, &["history", "export", "acme"]).stdout).unwrap();
    let mut command = program(&["history", "verify", "-"]);
    let status = command
        .stdin(fs::File::open(&whole).unwrap())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert_eq!(status.unwrap().code(), Some(0));
    let (missing, directory) = (dir.path().join("missing"), dir.path());
    for (file, more) in [
        (missing.as_path(), &[][..]),
        (directory, &[]),
        (&whole, &["--checkpoint", whole.to_str().unwrap()]),
        (&whole, &["--checkpoint", missing.to_str().unwrap()]),
        (&whole, &["--public-key", whole.to_str().unwrap()]),
        (&whole, &["--public-key", missing.to_str().unwrap()]),
    ] {
        let result = verify(file, more);
        assert_eq!((result.code, result.stdout.as_str()), (64, ""), "{result:?}");
        assert!(result.stderr.starts_with("error: "), "{result:?}");
    }
}
