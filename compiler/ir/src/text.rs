//! Reads the text forms of all stages: words, numbers, quoted names and values in RON, line by line, each error at its place.
//!
//! Spaces separate what would run together otherwise, a line end ends what a keyword begins, `;` begins a comment.

use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::DeserializeOwned;

/// Where and why a text is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// In characters, counted from 1.
    pub column: usize,
    /// What was expected and found.
    pub message: String,
}

/// A place in a text, in bytes from its begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextPlace(usize);

/// A text, read from its begin to its end. A copy looks ahead.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the begin of a text.
    pub fn new(text: &'a str) -> Reader<'a> {
        Reader { text, at: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn skip_spaces(&mut self) {
        let rest = self.rest();
        let spaces = rest.find(|c: char| c == '\n' || !c.is_whitespace()).unwrap_or(rest.len());
        self.at += spaces;
    }

    /// Skips line ends, empty lines and lines of comments; whether anything is left.
    pub fn next_line(&mut self) -> bool {
        while self.next_line_or_comment() && self.take(";") {
            self.line();
        }
        !self.rest().is_empty()
    }

    /// The same, but stops at comments, too.
    pub fn next_line_or_comment(&mut self) -> bool {
        self.at = self.text.len() - self.rest().trim_start().len();
        !self.rest().is_empty()
    }

    /// What is left of the line, as it stands there.
    pub fn line(&mut self) -> &'a str {
        let rest = self.rest();
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        self.at += line.len();
        line
    }

    /// Where the next token begins.
    pub fn place(&mut self) -> TextPlace {
        self.skip_spaces();
        TextPlace(self.at)
    }

    /// Whether the next token begins with one of these characters.
    pub fn is_at(&mut self, begins: impl Fn(char) -> bool) -> bool {
        self.skip_spaces();
        self.rest().starts_with(begins)
    }

    /// Takes a sign, such as `(` or `..`, if it is next.
    pub fn take(&mut self, sign: &str) -> bool {
        self.skip_spaces();
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len() } else { 0 };
        found
    }

    /// Takes a word if it is next, whole.
    pub fn take_word(&mut self, word: &str) -> bool {
        self.skip_spaces();
        let found = self.peek_word() == word;
        self.at += if found { word.len() } else { 0 };
        found
    }

    fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        &rest[..rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len())]
    }

    /// Takes a sign that must be next.
    pub fn expect(&mut self, sign: &str) -> Result<(), ParseError> {
        if self.take(sign) { Ok(()) } else { Err(self.expected(&format!("`{sign}`"))) }
    }

    /// Takes a word that must be next.
    pub fn expect_word(&mut self, word: &str) -> Result<(), ParseError> {
        if self.take_word(word) { Ok(()) } else { Err(self.expected(&format!("`{word}`"))) }
    }

    /// Nothing but a comment may follow on the line.
    pub fn end_of_line(&mut self) -> Result<(), ParseError> {
        self.skip_spaces();
        let rest = self.rest();
        if rest.is_empty() || rest.starts_with(['\n', ';']) {
            Ok(())
        } else {
            Err(self.expected("the end of the line"))
        }
    }

    /// Letters, digits and underscores.
    pub fn word(&mut self, what: &str) -> Result<&'a str, ParseError> {
        self.skip_spaces();
        let word = self.peek_word();
        if word.is_empty() {
            return Err(self.expected(what));
        }
        self.at += word.len();
        Ok(word)
    }

    /// A word that may have dashes in it, as names of devices have.
    pub fn name(&mut self, what: &str) -> Result<&'a str, ParseError> {
        self.skip_spaces();
        let rest = self.rest();
        let name = &rest[..rest.find(|c: char| !(c.is_alphanumeric() || "_-".contains(c))).unwrap_or(rest.len())];
        if name.is_empty() {
            return Err(self.expected(what));
        }
        self.at += name.len();
        Ok(name)
    }

    /// Any number, of letters, digits, signs and points.
    pub fn number<T: FromStr>(&mut self) -> Result<T, ParseError> {
        self.skip_spaces();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        let value = rest[..end].parse().map_err(|_| self.expected("a number"))?;
        self.at += end;
        Ok(value)
    }

    /// A whole number without sign.
    pub fn count<T: FromStr>(&mut self) -> Result<T, ParseError> {
        self.skip_spaces();
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let value = rest[..end].parse().map_err(|_| self.expected("a whole number that fits"))?;
        self.at += end;
        Ok(value)
    }

    /// A whole number within a range.
    pub fn count_within(&mut self, range: RangeInclusive<usize>) -> Result<usize, ParseError> {
        let place = self.place();
        let found = self.count()?;
        if range.contains(&found) {
            return Ok(found);
        }
        Err(self.error_at(place, format!("expected a number from {} to {}, found {found}", range.start(), range.end())))
    }

    /// A whole number, with a minus sign or without.
    pub fn integer(&mut self) -> Result<i64, ParseError> {
        let place = self.place();
        let sign = if self.take("-") { -1 } else { 1 };
        let size: u64 = self.count()?;
        i64::try_from(sign * i128::from(size)).map_err(|_| self.error_at(place, "the number is too large"))
    }

    /// A name in quotes, with Rust's escapes.
    pub fn string(&mut self) -> Result<String, ParseError> {
        self.skip_spaces();
        let rest = self.rest();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        match end {
            Some((end, _)) if rest.starts_with('"') => {
                let text = ron::from_str(&rest[..=end]).map_err(|error| self.in_ron("string", &error))?;
                self.at += end + 1;
                Ok(text)
            }
            _ => Err(self.expected("a quoted name")),
        }
    }

    /// A value in RON up to the end of the line.
    pub fn ron<T: DeserializeOwned>(&mut self, what: &str) -> Result<T, ParseError> {
        self.skip_spaces();
        let rest = self.rest();
        let line = &rest[..rest.find('\n').unwrap_or(rest.len())];
        let value = ron::from_str(line).map_err(|error| self.in_ron(what, &error))?;
        self.at += line.len();
        Ok(value)
    }

    fn in_ron(&self, what: &str, error: &ron::error::SpannedError) -> ParseError {
        let begin = self.error_at(TextPlace(self.at), format!("{what}: {}", error.code));
        ParseError { column: begin.column + error.span.start.col.saturating_sub(1), ..begin }
    }

    /// What was expected, and what is next instead.
    pub fn expected(&mut self, what: &str) -> ParseError {
        let place = self.place();
        let found: String = self.rest().chars().take_while(|c| *c != '\n').take(20).collect();
        let found = if found.is_empty() { "the end of the line".to_string() } else { format!("`{found}`") };
        self.error_at(place, format!("expected {what}, found {found}"))
    }

    /// Something is wrong at a place.
    pub fn error_at(&self, TextPlace(at): TextPlace, message: impl Into<String>) -> ParseError {
        let before = &self.text[..at];
        let begin = before.rfind('\n').map_or(0, |end| end + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        ParseError { line, column: before[begin..].chars().count() + 1, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_places() {
        let mut reader = Reader::new("; a comment\n\n  über x[-3..7] \"a \\\"b\\\"\" ; the rest\nlast 1e-3 (1, 2)");
        assert!(reader.next_line());
        assert!(!reader.take_word("übe"));
        assert_eq!(reader.word("a word"), Ok("über"));
        reader.expect_word("x").expect("a word");
        reader.expect("[").expect("a sign");
        assert_eq!(reader.integer(), Ok(-3));
        reader.expect("..").expect("a sign");
        let error = reader.count_within(1..=6).expect_err("7 is too large");
        assert_eq!(error.to_string(), "line 3, column 14: expected a number from 1 to 6, found 7");
        let error = reader.expect(")").expect_err("another sign");
        assert_eq!((error.line, error.column), (3, 15));
        assert!(error.message.starts_with("expected `)`, found `] \"a"), "{error}");
        reader.expect("]").expect("a sign");
        assert_eq!(reader.string().as_deref(), Ok("a \"b\""));
        reader.end_of_line().expect("a comment may follow");
        assert!(reader.next_line());
        reader.expect_word("last").expect("a word");
        assert_eq!(reader.number(), Ok(1e-3));
        assert_eq!(reader.ron("pair"), Ok((1, 2)));
        assert!(!reader.next_line());
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        assert_eq!(Reader::new("-9223372036854775808").integer(), Ok(i64::MIN));
        for text in ["9223372036854775808", "-9223372036854775809", "99999999999999999999", "-", ""] {
            assert!(Reader::new(text).integer().is_err(), "{text}");
        }
        let error = Reader::new("x\n (1, b)").ron::<(u8, u8)>("pair").expect_err("x is no pair");
        assert_eq!(error.line, 1);
    }
}
