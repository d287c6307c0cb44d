//! `history`: the list, and what can be verified of it.

use std::{fs, path::Path, process::Stdio};

use crate::{
    Said,
    fake::{Fake, history::HISTORY},
    program, run, run_at,
};

#[test]
fn a_tenant_may_be_called_like_a_command() {
    let fake = Fake::default();
    let server = fake.start();
    for args in [
        &["history", "acme"][..],
        &["history", "--limit", "7", "acme"],
        &["history", "--", "export"],
        &["history", "--", "verify"],
        &["history", "help"],
    ] {
        let mut args = args.to_vec();
        args.splice(1..1, ["--server", &server]);
        let said = run(&args);
        assert_eq!((said.code, said.stdout.as_str()), (0, "No events.\n"), "{said:?}");
    }
    let heard: Vec<String> = fake.0.lock().events.iter().map(|it| it.tenant_id.clone()).collect();
    assert_eq!(heard, ["acme", "acme", "export", "verify", "help"]);
    for args in
        [&["history"][..], &["history", "acme", "export"], &["history", "--limit", "0", "acme"]]
    {
        assert_eq!(run_at(&server, args).code, 64, "{args:?}");
    }
}

#[test]
fn an_export_has_all_pages_up_to_its_checkpoint() {
    let fake = Fake::default();
    let server = fake.start();
    let dir = tempfile::tempdir().unwrap();
    let said = run_at(&server, &["history", "export", "acme"]);
    assert_eq!((said.code, said.stderr.as_str()), (0, ""));
    assert_eq!(said.stdout.lines().count(), HISTORY + 1, "what came later is for the next export");
    let exports: Vec<i64> = fake.0.lock().exports.iter().map(|it| it.after_sequence).collect();
    assert_eq!(exports, [0], "one stream has all pages");
    let checkpoint = run_at(&server, &["history", "checkpoint", "acme"]);
    assert_eq!(checkpoint.code, 0);
    assert_eq!(said.stdout.lines().next_back(), checkpoint.stdout.lines().next());
    let vendor = run_at(&server, &["history", "export", "--vendor"]);
    assert_eq!((vendor.code, vendor.stderr.as_str()), (0, ""));

    let file = dir.path().join("acme.jsonl");
    fs::write(&file, &said.stdout).unwrap();
    let kept = dir.path().join("checkpoint");
    fs::write(&kept, &checkpoint.stdout).unwrap();
    let verified = verify(&file, &["--checkpoint", kept.to_str().unwrap()]);
    let start = "The history of tenant acme fits together: 2500 events, the last of 2027-01-15T08:00:00.000000Z.\n";
    assert!(verified.stdout.starts_with(start), "{}", verified.stdout);
    assert_eq!((verified.code, verified.stderr.as_str()), (0, ""));
    fs::write(&file, vendor.stdout).unwrap();
    let verified = verify(&file, &[]);
    assert!(
        verified.stdout.starts_with("The history of the vendor fits together: 2500"),
        "{verified:?}"
    );
    let other = verify(&file, &["--tenant", "acme"]);
    let stderr = "error: it is another history than that of --tenant: the vendor's\n";
    assert_eq!(other, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
    let mixed = verify(&file, &["--checkpoint", kept.to_str().unwrap()]);
    let stderr = "error: line 1: it is of another history: tenant \"\", and not \"acme\"\n";
    assert_eq!(mixed, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
}

fn verify(file: &Path, more: &[&str]) -> Said {
    run(&[&["history", "verify", file.to_str().unwrap()], more].concat())
}

#[test]
fn a_server_that_does_not_keep_its_word_is_noticed() {
    let server = Fake::default().start();
    for (tenant, stderr) in [
        (
            "corrupt",
            "error: the server answered with something that is no checkpoint of this history\n",
        ),
        (
            "other",
            "error: the server answered with something that is no checkpoint of this history\n",
        ),
        (
            "lost",
            "error: the history ends after event 0, although the server's checkpoint has 2500\n",
        ),
    ] {
        let said = run_at(&server, &["history", "export", tenant]);
        assert_eq!(said, Said { code: 1, stdout: String::new(), stderr: stderr.into() });
    }
    for args in [
        &["export"][..],
        &["export", ""],
        &["checkpoint"],
        &["export", "acme", "--vendor"],
        &["verify"],
    ] {
        let said = run_at(&server, &[&["history"], args].concat());
        assert_eq!((said.code, said.stdout.as_str()), (64, ""), "{args:?}");
    }
}

#[test]
fn what_does_not_fit_is_named_and_what_is_not_proven_is_said() {
    let server = Fake::default().start();
    let dir = tempfile::tempdir().unwrap();
    let whole = run_at(&server, &["history", "export", "acme"]).stdout;
    let lines: Vec<&str> = whole.lines().collect();
    let file = dir.path().join("told.jsonl");
    let told = |lines: &[&str]| {
        fs::write(&file, lines.join("\n")).unwrap();
        let said = verify(&file, &[]);
        (said.code, said.stderr)
    };
    let unproven = "warning: nothing proves that the end was not cut off or rewritten: ";
    let same_file = "the checkpoint is in the same file and not signed, so whoever could change the file could change \
                     it, too\n";
    assert_eq!(told(&lines), (0, format!("{unproven}{same_file}")));
    let none = "there is no checkpoint\n";
    assert_eq!(
        told(&lines[..9]),
        (0, format!("{unproven}{none}")),
        "no line's end at the very end is no fault"
    );
    let changed = lines[6].replace("admin", "nobody");
    let fault = |line: usize, text: &str| (1, format!("error: line {line}: {text}\n"));
    let changed = told(&[&lines[..6], &[changed.as_str()], &lines[7..]].concat());
    assert_eq!(changed, fault(7, "it was changed: its hash is not that of what it says"));
    let removed = told(&[&lines[..6], &lines[7..]].concat());
    let text = "it is event 8 of the history where event 7 should stand: a line was removed, inserted, doubled or \
                moved";
    assert_eq!(removed, fault(7, text));
    let cut = told(&[&lines[..6], &lines[HISTORY..]].concat());
    assert_eq!(
        cut,
        fault(7, "the history was cut short: the checkpoint has seen 2500 events, and here are 6")
    );
    let long = "x".repeat(5 << 20);
    let text = "it is longer than 4194304 bytes, as no record is";
    assert_eq!(told(&[&lines[..6], &[long.as_str()]].concat()), fault(7, text));
    assert_eq!(told(&[]), fault(1, "there is nothing: even an empty history has a checkpoint"));
    let unseen = "\u{1b}[31m\u{202e}";
    let escaped = lines[0].replace("acme", unseen);
    assert_eq!(told(&[&escaped]).0, 1);
}

#[test]
fn standard_input_is_verified_too_and_other_files_are_refused() {
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
        let said = verify(file, more);
        assert_eq!((said.code, said.stdout.as_str()), (64, ""), "{said:?}");
        assert!(said.stderr.starts_with("error: "), "{said:?}");
    }
}
