//! "Did you mean": the known word that an unknown one was meant to be.

use super::printable;

/// Longest word that is compared; nobody mistypes a longer one.
const MAX_CHARS: usize = 64;

/// Longest list of names that is shown whole, in bytes.
const MOST_NAMES: usize = 2000;

/// The nearest of the known words, if few letters are wrong, missing or swapped.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > MAX_CHARS {
        return None;
    }
    let allowed = (length / 3).clamp(1, 3);
    let folded = fold(word);
    let near = |known: &&str| {
        let close = known.chars().count().abs_diff(length) <= allowed;
        let distance = if close { strsim::osa_distance(&folded, &fold(known)) } else { usize::MAX };
        // A word of one or two letters resembles any other.
        (distance <= allowed && distance < length.max(1)).then_some(distance)
    };
    known.into_iter().filter_map(|known| Some((near(&known)?, known))).min().map(|(_, known)| known)
}

/// Case, and what separates the parts of a name, are not what makes two words differ.
fn fold(word: &str) -> String {
    word.to_lowercase().replace(['_', ' '], "-")
}

/// The help line for an unknown word: the nearest known one, or all of them.
pub fn did_you_mean(word: &str, what: &str, known: &[&str]) -> String {
    let all = || known.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(", ");
    match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? {what}: {}", all()),
        None => format!("{what}: {}", all()),
    }
}

/// The help line for a parser's own words, such as: unknown field `a`, expected one of `b`, `c`.
pub fn did_you_mean_field(said: &str) -> Option<String> {
    let words: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
    let (unknown, known) = words.split_first().filter(|_| said.starts_with("unknown field"))?;
    nearest(unknown, known.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}

/// A parser's own words: what they quote of a file is shortened, the names that it expects are not.
pub fn parser_words(said: &str) -> String {
    // A file may hold these words, too: what is no list of names is shortened like the rest.
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-_` ,".contains(c);
    let list =
        said.rsplit_once(", expected one of ").filter(|(_, list)| list.len() < MOST_NAMES && list.chars().all(is_name));
    let (quoted, expected) = list.unwrap_or((said, ""));
    let quoted = quoted.lines().map(printable).collect::<Vec<_>>().join(", ");
    if expected.is_empty() { quoted } else { format!("{quoted}, expected one of {expected}") }
}

#[cfg(test)]
mod tests {
    use super::{did_you_mean, did_you_mean_field, nearest, parser_words};

    #[test]
    fn what_a_parser_expects_is_listed_whole() {
        let known = (0..20).map(|index| format!("`key-{index}`")).collect::<Vec<_>>().join(", ");
        let said = format!("unknown field `{}`, expected one of {known}", "x".repeat(200));
        let shown = parser_words(&said);
        assert!(shown.ends_with(&format!(", expected one of {known}")), "{shown}");
        assert!(shown.len() < said.len() && shown.contains('…'), "{shown}");
        assert_eq!(parser_words("invalid\nnumber"), "invalid, number");
        assert!(!parser_words("unknown field `x, expected one of \u{1b}[2J`").contains('\u{1b}'));
    }

    #[test]
    fn small_slips_are_recognised_and_others_are_not() {
        let targets = ["host", "raspberry-pi-3", "raspberry-pi-4", "cortex-m4f"];
        assert_eq!(nearest("raspbery-pi-4", targets), Some("raspberry-pi-4"));
        assert_eq!(nearest("Raspberry_Pi_3", targets), Some("raspberry-pi-3"));
        assert_eq!(nearest("hots", targets), Some("host"));
        assert_eq!(nearest("hbu", ["cam", "hub"]), Some("hub"));
        assert_eq!(nearest("esp32", targets), None);
        assert_eq!(nearest("wifi", ["tcp", "uart"]), None);
        assert_eq!(nearest("x", ["a", "b"]), None);
        assert_eq!(nearest("", ["a"]), None);
        assert_eq!(nearest(&"a".repeat(1 << 20), ["a"]), None);
        assert_eq!(did_you_mean("hbu", "devices", &["cam", "hub"]), "did you mean `hub`? devices: `cam`, `hub`");
        let said = "unknown field `bandwith`, expected one of `between`, `bandwidth`";
        assert_eq!(did_you_mean_field(said).as_deref(), Some("did you mean `bandwidth`?"));
        assert_eq!(did_you_mean_field("missing field `bandwith`"), None);
    }
}
