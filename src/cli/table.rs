//! How answers are laid out for people: tables, and lists of keys and values.

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, ColumnConstraint, ContentArrangement, Table, presets};

use crate::domain::ids::is_unsafe;

/// What the place can show that an answer is printed to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether it is a terminal, whose width tables should fit.
    pub(crate) terminal: bool,
    /// Whether to colour.
    pub(crate) colours: bool,
}

/// What a colour says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// In force, allowed.
    Good,
    /// Denied, wrong.
    Bad,
    /// Worth a look.
    Notice,
    /// Over.
    Faint,
}

/// A text, and its tone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Option<Tone>,
}

/// `text` without what could move a cursor, change a colour, or turn the direction of reading: it may come from somebody
/// who would like to forge what the terminal shows. Line breaks and tabs become spaces.
pub(crate) fn clean(text: &str) -> String {
    let replace = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_unsafe(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(replace).collect()
}

/// Keys and values, a line each, the values below one another.
pub(crate) fn details(look: Look, rows: &[(&str, Cell)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let line = |(key, value): &(&str, Cell)| {
        let text =
            value.tone.map_or_else(|| value.text.clone(), |tone| look.paint(tone, &value.text));
        format!("{key:width$}  {text}\n")
    };
    rows.iter().map(line).collect()
}

/// A table without lines, so that it can be searched and cut. The first column is never broken.
pub(crate) fn table(look: Look, header: &[&str], rows: Vec<Vec<Cell>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if look.colours {
        table.enforce_styling();
    }
    if !look.terminal {
        table.force_no_tty();
    }
    let bold = |text: &&str| {
        let cell = comfy_table::Cell::new(text);
        if look.colours { cell.add_attribute(Attribute::Bold) } else { cell }
    };
    table.set_header(header.iter().map(bold).collect::<Vec<_>>());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| cell.into_comfy(look)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if let Some(first) = table.column_mut(0) {
        first.set_constraint(ColumnConstraint::ContentWidth);
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

// === impl Look ===

impl Look {
    /// `text` in the colour of `tone`, if there are colours.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colours {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Self::Good => AnsiColor::Green.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Notice => AnsiColor::Yellow.on_default(),
            Self::Faint => Style::new().dimmed(),
        }
    }
}

// === impl Cell ===

impl Cell {
    /// A text that may come from anywhere.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref());
        Self { text: if text.is_empty() { "-".into() } else { text }, tone: None }
    }

    pub(crate) fn toned(self, tone: Option<Tone>) -> Self {
        Self { tone, ..self }
    }

    fn into_comfy(self, look: Look) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new_owned(self.text);
        match self.tone.filter(|_| look.colours) {
            None => cell,
            Some(Tone::Good) => cell.fg(comfy_table::Color::DarkGreen),
            Some(Tone::Bad) => cell.fg(comfy_table::Color::DarkRed),
            Some(Tone::Notice) => cell.fg(comfy_table::Color::DarkYellow),
            Some(Tone::Faint) => cell.add_attribute(Attribute::Dim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_left() {
        assert_eq!(
            clean("a\u{1b}[2Jb\u{9b}c\rd\ne\u{202e}f\u{7f}"),
            "a\u{fffd}[2Jb\u{fffd}c d e\u{fffd}f\u{fffd}"
        );
        assert_eq!(clean("Ünïcode 日本 ✓"), "Ünïcode 日本 ✓");
    }

    #[test]
    fn colours_are_used_only_where_there_are_any() {
        let rows = || vec![vec![Cell::new("x").toned(Some(Tone::Good)), Cell::new("")]];
        assert_eq!(table(Look::default(), &["A", "B"], rows()), "A  B\nx  -\n");
        let coloured = table(Look { terminal: false, colours: true }, &["A", "B"], rows());
        assert!(coloured.contains("\u{1b}["), "{coloured:?}");
    }
}
