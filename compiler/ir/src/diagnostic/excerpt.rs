//! Where in a text something stands: file, line and column, the line itself, and a caret under the part that is meant.

use std::ops::Range;

use unicode_width::UnicodeWidthChar;

use super::shown;

/// Most columns of a line that are shown; of a longer one, those around the part that is meant.
const MAX_COLUMNS: usize = 100;

/// `cluster.toml:4:1`, the line, and carets under the bytes of `span`. Columns count characters, as editors do; the carets
/// stand by the width of what is printed.
pub fn place(text: &str, file_name: &str, span: Range<usize>) -> String {
    let start = floor_boundary(text, span.start);
    let end = floor_boundary(text, span.end).max(start);
    let line_number = text[..start].matches('\n').count() + 1;
    let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
    let line = text[line_start..line_end].strip_suffix('\r').unwrap_or(&text[line_start..line_end]);
    let column = text[line_start..start].chars().count();
    let meant = text[start..end.min(line_end)].chars().count().max(1);
    // Of a long line, a window that begins a little before the part.
    let first = if line.chars().count() <= MAX_COLUMNS { 0 } else { column.saturating_sub(MAX_COLUMNS / 4) };
    let printed: Vec<String> = line.chars().skip(first).take(MAX_COLUMNS).map(shown).collect();
    let before = column - first;
    let width = |parts: &[String]| parts.iter().flat_map(|part| part.chars()).filter_map(char::width).sum::<usize>();
    let dots = if first > 0 { "…" } else { "" };
    let more = if line.chars().count() > first + printed.len() { "…" } else { "" };
    let indent = width(&printed[..before.min(printed.len())]) + dots.chars().count();
    let carets = width(&printed[before.min(printed.len())..(before + meant).min(printed.len())]).max(1);
    format!(
        "{file_name}:{line_number}:{}\n      {dots}{}{more}\n      {}{}",
        column + 1,
        printed.concat(),
        " ".repeat(indent),
        "^".repeat(carets)
    )
}

/// The last boundary between characters that is not behind `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::place;

    /// What stands above the carets.
    fn marked(text: &str, part: &str) -> (String, String) {
        let start = text.find(part).expect("the part is in the text");
        let excerpt = place(text, "f.toml", start..start + part.len());
        let lines: Vec<&str> = excerpt.lines().collect();
        let [head, line, carets] = lines[..] else { panic!("{excerpt}") };
        // All of the test's characters are as wide as they are many, but for the wide ones, which are doubled here.
        let cells: Vec<char> =
            line.chars().flat_map(|c| std::iter::repeat_n(c, if "木漢".contains(c) { 2 } else { 1 })).collect();
        let first = carets.chars().take_while(|c| *c == ' ').count();
        let count = carets.chars().filter(|c| *c == '^').count();
        (head.to_string(), cells[first..first + count].iter().collect())
    }

    #[test]
    fn carets_stand_under_what_is_meant() {
        let text = "a = 1\nbetween = [\"cam\", \"hbu\"]\tx = 'y'\nlast = \"é木漢\" # \"q\"\n";
        assert_eq!(marked(text, "\"hbu\""), ("f.toml:2:19".to_string(), "\"hbu\"".to_string()));
        assert_eq!(marked(text, "'y'"), ("f.toml:2:30".to_string(), "'y'".to_string()));
        assert_eq!(marked(text, "\"q\""), ("f.toml:3:16".to_string(), "\"q\"".to_string()));
        assert_eq!(marked(text, "木漢").1, "木木漢漢");
    }

    #[test]
    fn long_lines_and_odd_spans_are_survived() {
        let text = format!("{}needle{}", "x".repeat(5000), "y".repeat(5000));
        let (head, found) = marked(&text, "needle");
        assert_eq!((head.as_str(), found.as_str()), ("f.toml:1:5001", "needle"));
        assert!(place(&text, "f", 0..text.len()).len() < 800);
        for span in [0..0, std::ops::Range { start: 3, end: 1 }, 2..3, 9..99, 99..100] {
            assert!(place("é\u{1b}[1m\n", "f", span).contains('^'));
        }
        assert!(!place("a\u{1b}[31m\u{202e}b", "f", 0..1).contains(['\u{1b}', '\u{202e}']));
    }
}
