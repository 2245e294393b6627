//! Constants of a model with elements that are no finite numbers, or none that devices can compute with.

use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::Data;

/// Most constants that the warning names.
const MOST_NAMED: usize = 8;

/// What was noticed while the model was read.
#[derive(Default)]
pub struct NotFinite {
    named: Vec<String>,
}

impl NotFinite {
    /// Looks at a constant of the model.
    pub fn look_at(&mut self, name: &str, data: &Data) {
        let (nan, infinite) = data.not_finite();
        let count = |number: usize, what: &str| (number > 0).then(|| format!("{number} {what}"));
        let words: Vec<String> = [count(nan, "NaN"), count(infinite, "infinite")].into_iter().flatten().collect();
        if !words.is_empty() {
            self.named.push(format!("`{}`: {} of {} elements", printable(name), words.join(" and "), data.len()));
        }
    }

    /// Looks at what became of a constant that devices compute with as `f32`.
    pub fn look_at_converted(&mut self, name: &str, own: &Data, converted: &Data) {
        let beyond = converted.not_finite().1.saturating_sub(own.not_finite().1);
        if beyond > 0 {
            let (name, count, own) = (printable(name), converted.len(), own.element().name());
            self.named
                .push(format!("`{name}`: {beyond} of {count} elements of {own} are beyond f32 and become infinite"));
        }
    }

    /// A warning that names every one of them.
    pub fn into_warning(self) -> Option<Diagnostic> {
        let constants = match self.named.len() {
            0 => return None,
            1 => "there is 1 constant".to_string(),
            count => format!("there are {count} constants"),
        };
        let warning = Diagnostic::new("W0132", format!("{constants} with elements that are no finite numbers"));
        let more = self.named.len().saturating_sub(MOST_NAMED);
        let warning = self.named.into_iter().take(MOST_NAMED).fold(warning, Diagnostic::note);
        Some(if more > 0 { warning.note(format!("and {more} more")) } else { warning })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::ElementType;

    fn said(look: impl Fn(&mut NotFinite)) -> Option<Diagnostic> {
        let mut found = NotFinite::default();
        look(&mut found);
        found.into_warning()
    }

    #[test]
    fn constants_that_are_no_numbers_are_named() {
        let fine = Data::F32(vec![1.0, f32::MAX]);
        assert_eq!(said(|found| found.look_at("fine", &fine)), None);
        let odd = Data::F32(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY]);
        let warning = said(|found| found.look_at("w\n", &odd)).expect("there is something to say").to_string();
        assert!(warning.starts_with("warning[W0132]: there is 1 constant"), "{warning}");
        assert!(warning.contains(r"`w\n`: 1 NaN and 2 infinite of 3 elements"), "{warning}");
        let warning = said(|found| (0..21).for_each(|_| found.look_at("c", &odd))).expect("there is something to say");
        assert_eq!(warning.notes.len(), MOST_NAMED + 1);
        assert_eq!(warning.notes.last().map(String::as_str), Some("and 13 more"));
    }

    #[test]
    fn large_doubles_are_said_to_be_beyond_f32_and_not_to_be_infinite() {
        let own = Data::F64(vec![1e300, f64::INFINITY, 1.0]);
        let converted = own.cast(ElementType::F32);
        let warning = said(|found| found.look_at_converted("w", &own, &converted)).expect("one is beyond").to_string();
        assert!(warning.contains("`w`: 1 of 3 elements of f64 are beyond f32 and become infinite"), "{warning}");
    }
}
