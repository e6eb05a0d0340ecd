//! What commands print: aligned tables and sentences for people, JSON for programs.

use serde_json::Value;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Prints a text and a line end on standard output. A reader that went away (`| head`) ends the process quietly.
pub(crate) fn say(text: impl std::fmt::Display) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a remark on standard error, where it does not mix with what a program reads.
pub(crate) fn remark(text: impl std::fmt::Display) {
    // Nobody is left to be told that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Prints JSON for programs.
pub(crate) fn json(value: &Value) {
    say(serde_json::to_string_pretty(value).unwrap_or_default());
}

/// What an empty cell shows.
const BLANK: &str = "-";

/// Rows under headings, each column as wide as its widest cell.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) fn new<const N: usize>(headings: [&'static str; N]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; an empty cell shows as `-`.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.map(|cell| printable(&cell)).to_vec());
    }

    /// Leaves out those of these columns that no row fills.
    pub(crate) fn without_blank(mut self, columns: &[&str]) -> Self {
        for at in (0..self.headings.len()).rev() {
            let is_named = self.headings.get(at).is_some_and(|heading| columns.contains(heading));
            let is_filled = self.rows.iter().any(|row| row.get(at).is_some_and(|cell| cell != BLANK));
            if is_named && !is_filled {
                // Every row has a cell for each heading.
                self.headings.remove(at);
                self.rows.iter_mut().for_each(|row| drop(row.remove(at)));
            }
        }
        self
    }

    /// The lines, without a line end after the last.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain(self.headings.get(column).map(|heading| heading.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let headings = self.headings.iter().map(|heading| (*heading).to_owned()).collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                let _ = write!(line, "{cell:<width$}  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text.pop();
        text
    }
}

/// A cell without what could move the cursor: versions, tags and reasons come from workloads.
pub(crate) fn printable(text: &str) -> String {
    if text.is_empty() {
        return BLANK.to_owned();
    }
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A member as text: strings bare, `null` and absence empty.
pub(crate) fn text_of(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The members of a list; empty where there is none.
pub(crate) fn items_of<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// `sha256:` and the first 12 digits: enough to tell versions apart by eye.
pub(crate) fn short_version(version: &str) -> String {
    match version.strip_prefix("sha256:").and_then(|digits| digits.get(..12)) {
        Some(digits) => format!("sha256:{digits}"),
        None => version.to_owned(),
    }
}

/// `1 snapshot`, `2 snapshots`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Milliseconds as people say them.
pub(crate) fn span(millis: u64) -> String {
    match millis {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", millis as f64 / 1e3),
        60_000..3_600_000 => format!("{} min", millis / 60_000),
        _ => format!("{:.1} h", millis as f64 / 3.6e6),
    }
}

/// Bytes as people say them.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1_024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

/// A share of all lookups.
pub(crate) fn percent(share: f64) -> String {
    if share == 0.0 { "0 %".to_owned() } else { format!("{:.1} %", share * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_do_not_end_in_blanks() {
        let mut table = Table::new(["NAME", "N", "LAST"]);
        table.row(["orders-api".into(), "1".into(), String::new()]);
        table.row(["x".into(), "22".into(), "y".into()]);
        assert_eq!(table.render(), "NAME        N   LAST\norders-api  1   -\nx           22  y");
    }

    #[test]
    fn a_column_that_no_row_fills_can_be_left_out() {
        let mut table = Table::new(["NAME", "REGION", "AGE"]);
        table.row(["a".into(), String::new(), String::new()]);
        table.row(["b".into(), "eu".into(), String::new()]);
        assert_eq!(table.without_blank(&["REGION", "AGE"]).render(), "NAME  REGION\na     -\nb     eu");
    }

    #[test]
    fn a_workload_cannot_write_to_the_terminal() {
        assert_eq!(printable("1.0\u{1b}[2J\n"), "1.0\u{fffd}[2J\u{fffd}");
    }

    #[test]
    fn numbers_are_said_as_people_say_them() {
        assert_eq!(
            [span(40), span(1_500), span(90_000), span(5_400_000)],
            ["40 ms", "1.5 s", "1 min", "1.5 h"]
        );
        assert_eq!([size(552), size(13_312), size(8 << 20)], ["552 B", "13.0 KiB", "8.0 MiB"]);
        assert_eq!([percent(0.0), percent(0.3333), percent(1.0)], ["0 %", "33.3 %", "100.0 %"]);
        assert_eq!(short_version("sha256:0123456789abcdef0123"), "sha256:0123456789ab");
        assert_eq!(short_version("odd"), "odd");
        assert_eq!([counted(1, "time"), counted(0, "time")], ["1 time", "0 times"]);
    }
}
