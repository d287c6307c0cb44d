//! Reading the walk-through, and comparing what it shows with what came out.

/// What stands for anything: an id, a time.
const ANYTHING: char = '…';

/// A command that the reader is asked to type, and what it then shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Command {
    /// The line of the README, from 1.
    pub(crate) line: usize,
    /// What to type, word for word; several lines if the first ends with a backslash.
    pub(crate) text: String,
    /// The lines that follow.
    pub(crate) output: Vec<String>,
}

/// Every command in the blocks tagged `console` under the heading `section`, in order. A line that begins with `$ ` is one;
/// lines that begin with `> ` go on with it.
pub(crate) fn commands(readme: &str, section: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let mut in_section = false;
    let mut fence: Option<&str> = None;
    for (index, line) in readme.lines().enumerate() {
        match (line.strip_prefix("```"), fence) {
            (Some(tag), None) => fence = Some(tag.trim()),
            (Some(_), Some(_)) => fence = None,
            (None, None) if line.starts_with("# ") || line.starts_with("## ") => {
                in_section = line == section;
            }
            (None, Some("console")) if in_section => {
                if let Some(text) = line.strip_prefix("$ ") {
                    let text = text.to_owned();
                    commands.push(Command { line: index + 1, text, output: Vec::new() });
                } else if let Some(command) = commands.last_mut() {
                    // A line of a document may be empty.
                    match line.strip_prefix("> ").or((line == ">").then_some("")) {
                        Some(more) if command.output.is_empty() => {
                            command.text.push('\n');
                            command.text.push_str(more);
                        }
                        _ => command.output.push(line.to_owned()),
                    }
                } else {
                    panic!("README.md:{}: output before any command: {line}", index + 1);
                }
            }
            _ => {}
        }
    }
    commands
}

/// Whether `actual` is what was expected: line by line, without spaces at the ends of lines and empty lines at the end. `…`
/// stands for anything within a line; a line of nothing but `…` stands for any number of lines.
pub(crate) fn matches(expected: &[String], actual: &[String]) -> bool {
    lines_match(without_empty_end(expected), without_empty_end(actual))
}

fn without_empty_end(lines: &[String]) -> &[String] {
    let end = lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
    &lines[..end]
}

fn lines_match(expected: &[String], actual: &[String]) -> bool {
    let Some((first, rest)) = expected.split_first() else { return actual.is_empty() };
    if is_only_anything(first) {
        return (0..=actual.len()).any(|skipped| lines_match(rest, &actual[skipped..]));
    }
    actual.split_first().is_some_and(|(line, later)| {
        line_matches(first.trim_end(), line.trim_end()) && lines_match(rest, later)
    })
}

fn is_only_anything(line: &str) -> bool {
    line.trim() == ANYTHING.to_string()
}

fn line_matches(expected: &str, actual: &str) -> bool {
    let Some((start, mut pieces)) = expected.split_once(ANYTHING) else {
        return expected == actual;
    };
    let Some(mut rest) = actual.strip_prefix(start) else { return false };
    // The earliest place for each piece leaves the most for those that follow.
    while let Some((piece, later)) = pieces.split_once(ANYTHING) {
        let Some(at) = rest.find(piece) else { return false };
        rest = &rest[at + piece.len()..];
        pieces = later;
    }
    rest.ends_with(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(Into::into).collect()
    }

    #[test]
    fn anything_stands_for_anything_within_a_line() {
        let cases = [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "b", false),
            ("", "", true),
            ("a  ", "a", true),
            ("a", "a   ", true),
            ("a …", "a b c", true),
            ("a …", "a ", false), // the space before it is meant, and ends of lines are not
            ("a…", "a", true),
            ("… c", "a b c", true),
            ("a … c", "a b c", true),
            ("a … c", "a c", false),
            ("id … until … (active)", "id 0190-7 until 2026-12-01 09:00 (active)", true),
            ("id … until … (active)", "id 0190-7 until 2026-12-01 09:00 (revoked)", false),
            ("a…a", "a", false),
            ("a…b…b", "a b", false),
            ("│ … │ ACTIVE │", "│ 0190 │ ACTIVE │", true),
            ("a… | c", "a\nb | c", false),
        ];
        for (expected, actual, is_match) in cases {
            let found = matches(&lines(expected), &lines(actual));
            assert_eq!(found, is_match, "{expected:?} {actual:?}");
        }
    }

    #[test]
    fn a_line_of_it_stands_for_any_lines() {
        let cases = [
            ("…", "", true),
            ("…", "a\nb", true),
            ("a\n…\nd", "a\nd", true),
            ("a\n…\nd", "a\nb\nc\nd", true),
            ("a\n…\nd", "a\nb\nc", false),
            ("a\n…", "b", false),
            ("", "a", false),
            ("a", "", false),
            ("a\nb", "a", false),
            ("a", "a\nb", false),
            ("a\n\n", "a", true), // before the next command
            ("a\n\nb", "a\nb", false),
        ];
        for (expected, actual, is_match) in cases {
            let found = matches(&lines(expected), &lines(actual));
            assert_eq!(found, is_match, "{expected:?} {actual:?}");
        }
    }

    #[test]
    fn only_the_walk_through_is_read() {
        let readme = "# Name\n```console\n$ before\n```\n## Walk-through\ntext\n```console\n$ one \\\n>   two\nout\n\n$ three\n```\n\
                      ### Part\n```sh\n$ not\n```\n```console\n# no heading\n```\n## After\n```console\n$ after\n```\n";
        let command = |line, text: &str, output: &[&str]| Command {
            line,
            text: text.into(),
            output: output.iter().map(|line| (*line).into()).collect(),
        };
        assert_eq!(
            commands(readme, "## Walk-through"),
            [command(8, "one \\\n  two", &["out", ""]), command(12, "three", &["# no heading"]),]
        );
    }
}
