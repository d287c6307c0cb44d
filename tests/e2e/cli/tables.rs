//! Tables on terminals of different widths.

use std::path::Path;

use crate::cli::{fake::Fake, run_at, terminal::run_on_terminal};

/// The output of the program on a terminal.
fn on_terminal(columns: u16, server: &str, args: &str) -> String {
    let program = env!("CARGO_BIN_EXE_support-access");
    let command = format!("{program} {args} --server {server}");
    let environment = [("NO_COLOR".to_owned(), "1".to_owned())];
    run_on_terminal(columns, &command, Path::new("/"), &environment, "")
}

#[test]
fn a_narrow_terminal_shows_fewer_columns_and_breaks_no_word() {
    let server = Fake::default().start();
    let args = "list acme --limit 1";
    let full = run_at(&server, &args.split(' ').collect::<Vec<_>>()).stdout;
    assert_eq!(on_terminal(200, &server, args), full);
    assert_eq!(on_terminal(20, &server, &format!("{args} --wide")), full);
    let at_53 = "\
GRANT  STATE   GROUP    START (UTC)  END (UTC)
g0     ACTIVE  support  -            2026-12-01 09:00

The list is longer; --limit shows more.
";
    assert_eq!(on_terminal(53, &server, args), at_53);
    let at_52 = "\
GRANT  STATE   GROUP    END (UTC)
g0     ACTIVE  support  2026-12-01 09:00

The list is longer; --limit shows more.
";
    assert_eq!(on_terminal(52, &server, args), at_52);
    let at_20 = "\
GRANT  STATE
g0     ACTIVE

The list is longer; --limit shows more.
";
    assert_eq!(on_terminal(20, &server, args), at_20);
}

#[test]
fn a_detail_is_wrapped_between_words() {
    let server = Fake::default().start();
    let text = on_terminal(60, &server, "explain acme bob --level admin");
    let expected = "\
CHECKLIST                   ANSWER  DETAIL
The period has not expired  NO      The grant has expired.
";
    assert!(text.contains(expected), "{text}");
    let text = on_terminal(57, &server, "explain acme bob --level admin");
    let expected = "\
CHECKLIST                   ANSWER  DETAIL
The period has not expired  NO      The grant has
                                    expired.
";
    assert!(text.contains(expected), "{text}");
}
