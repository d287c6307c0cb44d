//! Reads the commands of a document, and compares documented with actual output.

/// Matches any text within a line. On a line of its own, matches any number of lines.
const ANYTHING: char = '…';
/// Replaces values that differ from run to run.
const MASK: &str = "#";

/// A command with the documented output.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The line in the document, from 1.
    pub(crate) line: usize,
    /// The text to type. Several lines if the shell asks for more.
    pub(crate) text: String,
    /// The lines of the output.
    pub(crate) output: Vec<String>,
}

/// The commands in the blocks tagged `console`, in order. A command begins with `$ `. Further lines
/// of the command begin with `> `.
pub(crate) fn commands(document: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut fence: Option<&str> = None;
    for (index, line) in document.lines().enumerate() {
        let number = index + 1;
        match (line.strip_prefix("```"), fence) {
            (Some(tag), None) => fence = Some(tag.trim()),
            (Some(_), Some(_)) => fence = None,
            (None, Some("console")) => {
                if let Some(text) = line.strip_prefix("$ ") {
                    commands.push(Command { line: number, text: text.into(), output: Vec::new() });
                    continue;
                }
                let command = commands.last_mut();
                let command = command
                    .unwrap_or_else(|| panic!("line {number} is before any command: {line}"));
                // A line of a here document may be empty.
                match line.strip_prefix("> ").or((line == ">").then_some("")) {
                    Some(more) if command.output.is_empty() => {
                        command.text.push('\n');
                        command.text.push_str(more);
                    }
                    _ => command.output.push(line.to_owned()),
                }
            }
            _ => {}
        }
    }
    commands
}

/// Whether the output is the documented one. Values that differ from run to run are masked in both:
/// ids, hashes, etags, tokens, dates, times and measured durations. The width of these values
/// determines the space between columns and at the end of a line, which therefore does not count.
pub(crate) fn matches(documented: &[String], actual: &[String]) -> bool {
    let normalize = |lines: &[String]| -> Vec<String> {
        let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        lines[..end].iter().map(|line| mask(line)).collect()
    };
    lines_match(&normalize(documented), &normalize(actual))
}

fn lines_match(documented: &[String], actual: &[String]) -> bool {
    let Some((first, rest)) = documented.split_first() else { return actual.is_empty() };
    if first.trim() == ANYTHING.to_string() {
        return (0..=actual.len()).any(|skipped| lines_match(rest, &actual[skipped..]));
    }
    actual
        .split_first()
        .is_some_and(|(line, later)| line_matches(first, line) && lines_match(rest, later))
}

fn line_matches(documented: &str, actual: &str) -> bool {
    let Some((start, mut pieces)) = documented.split_once(ANYTHING) else {
        return documented == actual;
    };
    let Some(mut rest) = actual.strip_prefix(start) else { return false };
    // The first occurrence of each piece leaves the most for the next pieces.
    while let Some((piece, later)) = pieces.split_once(ANYTHING) {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        pieces = later;
    }
    rest.ends_with(pieces)
}

/// The line with masked values, and at most two spaces between words.
fn mask(line: &str) -> String {
    let mut masked = String::new();
    let mut previous = "";
    let mut spaces = 0;
    for word in line.trim_end().split(' ') {
        if word.is_empty() {
            spaces += 1;
            continue;
        }
        if !masked.is_empty() || spaces > 0 {
            masked.push_str(if spaces > 0 { "  " } else { " " });
        }
        let core = word.trim_matches(['(', ')', ',', '.', ':', ';']);
        if is_varying(core, previous) {
            masked.push_str(&word.replacen(core, MASK, 1));
        } else {
            masked.push_str(word);
        }
        previous = core;
        spaces = 0;
    }
    masked
}

fn is_varying(word: &str, previous: &str) -> bool {
    let has_form = |form: &str| {
        word.len() == form.len()
            && word.chars().zip(form.chars()).all(|(c, expected)| match expected {
                'x' => c.is_ascii_hexdigit(),
                '0' => c.is_ascii_digit(),
                expected => c == expected,
            })
    };
    let is_hex = word.len() >= 16 && word.chars().all(|c| c.is_ascii_hexdigit());
    let units = ["us", "ms", "s"];
    let is_number =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.');
    let is_measured = units.iter().any(|unit| word.strip_suffix(unit).is_some_and(is_number));
    is_hex
        || is_measured
        || matches!(previous, "Etag" | "Token")
        || has_form("xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx")
        || has_form("0000-00-00")
        || has_form("00:00")
        || has_form("00:00:00")
        || has_form("0000-00-00T00:00:00.000000Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(Into::into).collect()
    }

    fn is_match(documented: &str, actual: &str) -> bool {
        matches(&lines(documented), &lines(actual))
    }

    #[test]
    fn values_that_differ_from_run_to_run_match() {
        let pairs = [
            ("01a21d83-1f2c-7c50-b5a2-0123456789ab", "01a21d84-0000-7c50-b5a2-ffffffffffff"),
            (
                "End  2026-12-01 09:00:00 UTC (before: 2026-11-30 08:00:00 UTC)",
                "End  2027-01-01 10:01:02 UTC (before: 2026-12-30 08:00:00 UTC)",
            ),
            ("after 4ms (1 acknowledged)", "after 1.2s (1 acknowledged)"),
            ("Etag     abc", "Etag     xyz"),
            ("Token    abc", "Token    xyz"),
            ("Valid for  1.9s", "Valid for  2s"),
            (
                "2 events, the last at 2026-12-01T09:00:00.000000Z.",
                "2 events, the last at 2027-12-01T09:00:01.120000Z.",
            ),
            ("START (UTC)       BY", "START (UTC)         BY"),
            ("a", "a   "),
        ];
        for (documented, actual) in pairs {
            assert!(is_match(documented, actual), "{documented:?} {actual:?}");
        }
    }

    #[test]
    fn everything_else_must_be_equal() {
        let pairs = [
            ("a", "ab"),
            ("a", "b"),
            ("Etag     abc", "Etag     -\nToken  a"),
            ("after 4ms (1 acknowledged)", "after 4ms (2 acknowledged)"),
            ("Default duration  7d", "Default duration  8d"),
            ("a b", "a  b"),
            ("  a", "a"),
            ("a\nb", "a"),
            ("a", "a\nb"),
            ("a", ""),
        ];
        for (documented, actual) in pairs {
            assert!(!is_match(documented, actual), "{documented:?} {actual:?}");
        }
    }

    #[test]
    fn an_ellipsis_matches_any_text_within_a_line() {
        let cases = [
            ("a …", "a b c", true),
            ("a…", "a", true),
            ("… c", "a b c", true),
            ("a … c", "a b c", true),
            ("a … c", "a c", false),
            ("id … until … (active)", "id 1 until 2 (active)", true),
            ("id … until … (active)", "id 1 until 2 (revoked)", false),
            ("a…b…b", "a b", false),
            ("a… | c", "a\nb | c", false),
        ];
        for (documented, actual, expected) in cases {
            assert_eq!(is_match(documented, actual), expected, "{documented:?} {actual:?}");
        }
    }

    #[test]
    fn an_ellipsis_on_a_line_of_its_own_matches_any_lines() {
        let cases = [
            ("…", "", true),
            ("…", "a\nb", true),
            ("a\n…\nd", "a\nd", true),
            ("a\n…\nd", "a\nb\nc\nd", true),
            ("a\n…\nd", "a\nb\nc", false),
            ("a\n…", "b", false),
            ("a\n\n", "a", true),
            ("a\n\nb", "a\nb", false),
        ];
        for (documented, actual, expected) in cases {
            assert_eq!(is_match(documented, actual), expected, "{documented:?} {actual:?}");
        }
    }

    #[test]
    fn commands_are_read_from_console_blocks_only() {
        let document = "# Title\n```console\n$ one \\\n>   two\nout\n\n$ three\n```\n\
                        ```sh\n$ not this\n```\n```console\n# not a heading\n```\n";
        let command = |line, text: &str, output: &[&str]| Command {
            line,
            text: text.into(),
            output: output.iter().map(|line| (*line).into()).collect(),
        };
        let expected =
            [command(3, "one \\\n  two", &["out", ""]), command(7, "three", &["# not a heading"])];
        assert_eq!(commands(document), expected);
    }
}
