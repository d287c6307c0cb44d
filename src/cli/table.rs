//! Tables, and lists of keys and values.

use std::iter;

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::domain::ids::is_unsafe;

/// The space between two columns.
const GAP: usize = 2;
/// The smallest width to which a text column is shortened. A narrower column is omitted.
const TEXT_WIDTH_MIN: usize = 20;

/// The properties of the output stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The width that tables should fit into. `None`: no maximum.
    pub(crate) width: Option<usize>,
    /// Whether to use colors.
    pub(crate) has_colors: bool,
}

/// The meaning of a color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Highlight {
    /// Active, allowed, complete.
    Good,
    /// Denied, failed.
    Bad,
    /// Deserves attention.
    Warning,
    /// Ended.
    Dim,
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    header: &'static str,
    /// If the table is too wide, columns with the highest rank are omitted first. Rank 0 is kept.
    rank: u8,
    shape: Shape,
}

/// How a column fits into a narrow terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Neither shortened nor wrapped: ids and times.
    Fixed,
    /// Shortened.
    Text,
    /// Wrapped between words.
    Wrapped,
}

/// A text with an optional highlight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    highlight: Option<Highlight>,
}

/// Replaces characters that could control a terminal, because the text may come from an untrusted
/// source. Line breaks and tabs become spaces.
pub(crate) fn clean(text: &str) -> String {
    let replace = |c: char| match c {
        '\n' | '\r' | '\t' => ' ',
        c if is_unsafe(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(replace).collect()
}

/// Keys and values, one pair per line, with aligned values.
pub(crate) fn details(layout: Layout, rows: &[(&str, Cell)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let line = |(key, value): &(&str, Cell)| {
        format!("{key:width$}  {}\n", layout.paint_if(value.highlight, &value.text))
    };
    rows.iter().map(line).collect()
}

/// A table without lines, for search and copy. Each row has a cell for each column.
pub(crate) fn table(layout: Layout, columns: &[Column], rows: &[Vec<Cell>]) -> String {
    let shown = shown_columns(layout, columns, &natural_widths(columns, rows));
    let headers: Vec<Cell> = columns.iter().map(|column| Cell::new(column.header)).collect();
    let bold = if layout.has_colors { Style::new().bold() } else { Style::new() };
    let header = to_lines(Layout { has_colors: false, ..layout }, &shown, columns, &headers);
    let header = header.trim_end();
    let rows = rows.iter().map(|row| to_lines(layout, &shown, columns, row));
    iter::once(format!("{bold}{header}{bold:#}\n")).chain(rows).collect()
}

fn natural_widths(columns: &[Column], rows: &[Vec<Cell>]) -> Vec<usize> {
    let width = |(index, column): (usize, &Column)| {
        let cells = rows.iter().filter_map(|row| row.get(index));
        cells.map(|cell| cell.text.width()).max().unwrap_or(0).max(column.header.len())
    };
    columns.iter().enumerate().map(width).collect()
}

/// The indexes and widths of the columns that fit into the layout.
fn shown_columns(layout: Layout, columns: &[Column], natural: &[usize]) -> Vec<(usize, usize)> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let Some(limit) = layout.width else {
        return shown.into_iter().map(|index| (index, natural[index])).collect();
    };
    let smallest = |index: usize| match columns[index].shape {
        Shape::Fixed => natural[index],
        Shape::Text | Shape::Wrapped => natural[index].min(TEXT_WIDTH_MIN),
    };
    let needed = |shown: &[usize]| -> usize {
        shown.iter().map(|index| smallest(*index) + GAP).sum::<usize>().saturating_sub(GAP)
    };
    while needed(&shown) > limit
        && let Some(last) = shown.iter().copied().max_by_key(|index| columns[*index].rank)
        && columns[last].rank > 0
    {
        shown.retain(|index| *index != last);
    }
    let mut spare = limit.saturating_sub(needed(&shown));
    let widen = |index: usize| {
        let extra = (natural[index] - smallest(index)).min(spare);
        spare -= extra;
        (index, smallest(index) + extra)
    };
    shown.into_iter().map(widen).collect()
}

/// A row as one line, or as several lines if a cell is wrapped.
fn to_lines(layout: Layout, shown: &[(usize, usize)], columns: &[Column], row: &[Cell]) -> String {
    let fit = |(index, width): &(usize, usize)| {
        let text = row.get(*index).map_or("", |cell| cell.text.as_str());
        let lines = match columns[*index].shape {
            Shape::Fixed => vec![text.to_owned()],
            Shape::Text => vec![shorten(text, *width)],
            Shape::Wrapped => wrap(text, *width),
        };
        let highlight = row.get(*index).and_then(|cell| cell.highlight);
        (lines, *width, highlight)
    };
    let cells: Vec<_> = shown.iter().map(fit).collect();
    let height = cells.iter().map(|(lines, ..)| lines.len()).max().unwrap_or_default();
    let line = |number: usize| {
        let mut text = String::new();
        let mut column_end = 0;
        let mut text_end = 0;
        for (lines, width, highlight) in &cells {
            if let Some(part) = lines.get(number).filter(|part| !part.is_empty()) {
                text += &" ".repeat(column_end - text_end);
                text += &layout.paint_if(*highlight, part);
                text_end = column_end + part.width();
            }
            column_end = (column_end + width).max(text_end) + GAP;
        }
        text + "\n"
    };
    (0..height).map(line).collect()
}

/// `text`, or the start and an ellipsis if the text is too wide.
fn shorten(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut short = String::new();
    let mut used = 1; // the ellipsis
    for c in text.chars() {
        used += c.width().unwrap_or_default();
        if used > width {
            break;
        }
        short.push(c);
    }
    short.trim_end().to_owned() + "…"
}

/// Breaks `text` between words. A word that is too wide has a separate line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.width() + 1 + word.width() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

// === impl Layout ===

impl Layout {
    /// `text` in the color of `highlight`, if there are colors.
    pub(crate) fn paint(self, highlight: Highlight, text: &str) -> String {
        if !self.has_colors {
            return text.to_owned();
        }
        let style = match highlight {
            Highlight::Good => AnsiColor::Green.on_default(),
            Highlight::Bad => AnsiColor::Red.on_default().bold(),
            Highlight::Warning => AnsiColor::Yellow.on_default(),
            Highlight::Dim => Style::new().dimmed(),
        };
        format!("{style}{text}{style:#}")
    }

    fn paint_if(self, highlight: Option<Highlight>, text: &str) -> String {
        highlight.map_or_else(|| text.to_owned(), |highlight| self.paint(highlight, text))
    }
}

// === impl Column ===

impl Column {
    /// A column that is neither shortened nor wrapped.
    pub(crate) const fn fixed(header: &'static str, rank: u8) -> Self {
        Self { header, rank, shape: Shape::Fixed }
    }

    /// A column that is shortened on a narrow terminal.
    pub(crate) const fn text(header: &'static str, rank: u8) -> Self {
        Self { header, rank, shape: Shape::Text }
    }

    /// A column that is wrapped between words on a narrow terminal.
    pub(crate) const fn wrapped(header: &'static str, rank: u8) -> Self {
        Self { header, rank, shape: Shape::Wrapped }
    }
}

// === impl Cell ===

impl Cell {
    /// A cell with the text, cleaned. An empty text becomes `-`.
    pub(crate) fn new(text: impl AsRef<str>) -> Self {
        let text = clean(text.as_ref());
        Self { text: if text.is_empty() { "-".into() } else { text }, highlight: None }
    }

    pub(crate) fn highlighted(self, highlight: impl Into<Option<Highlight>>) -> Self {
        Self { highlight: highlight.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 4] = [
        Column::fixed("ID", 0),
        Column::fixed("STATE", 1),
        Column::text("REASON", 2),
        Column::fixed("BY", 3),
    ];

    fn rows() -> Vec<Vec<Cell>> {
        let texts = [
            ["0123456789", "ACTIVE", "The invoices show the wrong total", "maria"],
            ["9876543210", "REVOKED", "日本", ""],
        ];
        texts.map(|row| row.map(Cell::new).into()).into()
    }

    fn at_width(width: usize) -> String {
        table(Layout { width: Some(width), has_colors: false }, &COLUMNS, &rows())
    }

    #[test]
    fn characters_that_control_a_terminal_are_replaced() {
        assert_eq!(
            clean("a\u{1b}[2Jb\u{9b}c\rd\ne\u{202e}f\u{7f}"),
            "a\u{fffd}[2Jb\u{fffd}c d e\u{fffd}f\u{fffd}"
        );
        assert_eq!(clean("Ünïcode 日本 ✓"), "Ünïcode 日本 ✓");
    }

    #[test]
    fn a_table_without_a_maximum_width_shows_everything() {
        let expected = "\
ID          STATE    REASON                             BY
0123456789  ACTIVE   The invoices show the wrong total  maria
9876543210  REVOKED  日本                               -
";
        assert_eq!(table(Layout::default(), &COLUMNS, &rows()), expected);
        assert_eq!(at_width(61), expected);
    }

    #[test]
    fn a_narrow_table_shortens_texts_then_omits_columns_and_breaks_no_id() {
        let expected = "\
ID          STATE    REASON                       BY
0123456789  ACTIVE   The invoices show the wron…  maria
9876543210  REVOKED  日本                         -
";
        assert_eq!(at_width(55), expected);
        let expected = "\
ID          STATE    REASON
0123456789  ACTIVE   The invoices show t…
9876543210  REVOKED  日本
";
        assert_eq!(at_width(41), expected);
        assert_eq!(at_width(40), "ID          STATE\n0123456789  ACTIVE\n9876543210  REVOKED\n");
        assert_eq!(at_width(3), "ID\n0123456789\n9876543210\n");
    }

    #[test]
    fn a_wrapped_column_is_broken_between_words() {
        let columns = [Column::fixed("ANSWER", 0), Column::wrapped("DETAIL", 0)];
        let rows = [vec![Cell::new("NO"), Cell::new("The access was revoked at noon.")]];
        let expected = "\
ANSWER  DETAIL
NO      The access was
        revoked at noon.
";
        assert_eq!(table(Layout { width: Some(25), has_colors: false }, &columns, &rows), expected);
    }

    #[test]
    fn colors_are_used_only_if_the_layout_has_colors() {
        let rows = [vec![Cell::new("x").highlighted(Highlight::Good), Cell::new("")]];
        let columns = [Column::fixed("A", 0), Column::fixed("B", 0)];
        assert_eq!(table(Layout::default(), &columns, &rows), "A  B\nx  -\n");
        let colored = table(Layout { width: None, has_colors: true }, &columns, &rows);
        assert_eq!(colored, "\u{1b}[1mA  B\u{1b}[0m\n\u{1b}[32mx\u{1b}[0m  -\n");
    }
}
