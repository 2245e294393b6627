//! Files that an earlier `--measure` or `--tune` wrote, as far as a compilation has to say that it used them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// When and on what something was measured; at the head of its file.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Date and time, UTC.
    pub date: String,
    /// Model that was run.
    pub model: String,
    /// Whether emulators ran it: such figures say nothing about devices.
    #[serde(default)]
    pub emulated: bool,
}

impl Origin {
    /// Of measurements that are made now.
    pub fn now(model: &Path, emulated: bool) -> Origin {
        let model = model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Origin { date: date(SystemTime::now()), model: partita_ir::diagnostic::printable(&model), emulated }
    }
}

/// A file that a compilation used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Learned {
    /// `measurements` or `tuning record`.
    pub what: &'static str,
    /// Where it lies.
    pub file: PathBuf,
    /// What it says of itself; if nothing, when it was written.
    pub origin: Origin,
}

impl Learned {
    /// A file that was read.
    pub fn of(what: &'static str, file: &Path, origin: Option<&Origin>) -> Learned {
        let written = || std::fs::metadata(file).and_then(|metadata| metadata.modified()).map_or(String::new(), date);
        let origin = origin.cloned().unwrap_or_else(|| Origin { date: written(), ..Origin::default() });
        Learned { what, file: file.to_path_buf(), origin }
    }
}

impl fmt::Display for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Learned { what, file, origin } = self;
        write!(f, "using {what} `{}` of {}", file.display(), partita_ir::diagnostic::printable(&origin.date))?;
        if !origin.model.is_empty() {
            write!(f, ", made with {}", partita_ir::diagnostic::printable(&origin.model))?;
        }
        write!(f, "{}", if origin.emulated { ", in emulators: they say nothing about devices" } else { "" })
    }
}

/// A time as `2026-11-28 22:50 UTC`.
fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, minutes) = (seconds / 86_400, seconds % 86_400 / 60);
    // Years begin in March here, so that leap days are last; 400 of them are an era.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_251_199, "2024-02-29 23:59 UTC"),
            (1_795_906_260, "2026-11-28 22:51 UTC"),
        ] {
            assert_eq!(date(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
