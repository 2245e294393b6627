//! How far a long piece of work is: a bar on a terminal, a line now and then where there is none. And what else is said on
//! the way; all of it on standard error, none of it with --quiet.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between two lines.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on this process says nothing of its progress.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Writes a line to standard error. Who does not read it any more misses it: that is no reason to stop.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Says something that is neither a result nor a warning.
pub fn note(text: &str) {
    if !SILENT.load(Ordering::Relaxed) {
        say(format_args!("partita: {text}"));
    }
}

/// Work in steps.
pub struct Progress {
    what: &'static str,
    bar: ProgressBar,
    begin: Instant,
    /// When the last line was written; none on a terminal.
    last_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// So many steps of something.
    pub fn new(steps: u64, what: &'static str) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let drawn = terminal && !SILENT.load(Ordering::Relaxed);
        let target = if drawn { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        if let Ok(style) =
            ProgressStyle::with_template(&format!("partita: {what} {{wide_bar}} {{pos}}/{{len}}, {{eta}} left"))
        {
            bar.set_style(style);
        }
        let begin = Instant::now();
        Progress { what, bar, begin, last_line: (!terminal).then(|| Mutex::new(begin)) }
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
        let Some(last_line) = &self.last_line else { return };
        let now = Instant::now();
        let mut last = last_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if now - *last >= BETWEEN_LINES {
            *last = now;
            note(&line(self.what, self.bar.position(), self.bar.length().unwrap_or(0), now - self.begin));
        }
    }

    /// All of it is done.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// How far it is, and how long the rest takes if it goes on like this.
fn line(what: &str, done: u64, steps: u64, since: Duration) -> String {
    let left = since.as_secs_f64() / done.max(1) as f64 * steps.saturating_sub(done) as f64;
    format!("{what}: {done} of {steps}, {left:.0} s left")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_takes_as_long_as_what_is_done() {
        assert_eq!(line("heads", 25, 100, Duration::from_secs(20)), "heads: 25 of 100, 60 s left");
        assert_eq!(line("heads", 0, 8, Duration::from_secs(3)), "heads: 0 of 8, 24 s left");
    }
}
