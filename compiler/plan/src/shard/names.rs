//! Names for what a rewrite makes.

use std::collections::HashMap;

/// Names that are taken, and with how many numbers each has been made new ones.
#[derive(Default)]
pub(super) struct Names(HashMap<String, usize>);

impl Names {
    /// The name, or the first that is free with a number behind it.
    pub(super) fn unique(&mut self, wanted: String) -> String {
        let Some(mut count) = self.0.get(&wanted).copied() else {
            self.0.insert(wanted.clone(), 0);
            return wanted;
        };
        loop {
            count += 1;
            let name = format!("{wanted}.{count}");
            if !self.0.contains_key(&name) {
                self.0.insert(wanted, count);
                self.0.insert(name.clone(), 0);
                return name;
            }
        }
    }
}
