//! Building the programs of a bundle, and saying so.

use std::path::Path;

use partita_learn::progress::say;

use crate::bundle;
use crate::bundle::cargo::{BuildOptions, BuiltDevice};
use crate::cli::{Arguments, Format};
use crate::config::Device;
use crate::driver::Compiled;

/// Builds all programs of a bundle.
pub(super) fn build(arguments: &Arguments, out: &Path, compiled: &Compiled) -> anyhow::Result<Vec<BuiltDevice>> {
    let devices: Vec<&Device> =
        compiled.routed.placed.programs.iter().map(|program| &compiled.cluster.devices[program.device]).collect();
    for device in &devices {
        note(arguments, &format!("building {} for {}", device.name, device.target.name));
    }
    let options = BuildOptions { verbose: arguments.verbose, symbols: arguments.symbols };
    bundle::cargo::build_devices(out, &devices, options)
}

/// The model's name as a folder: letters, digits, `-`, `_`, `.`.
pub(super) fn folder_name(compiled: &Compiled) -> String {
    let name: String = compiled
        .model_name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
        .collect();
    if name.chars().all(|c| c == '.') { "model".to_string() } else { name }
}

/// Progress, on standard error; quiet with -q, and with --format json unless -v.
pub(super) fn note(arguments: &Arguments, message: &str) {
    if !arguments.quiet && (arguments.format == Format::Human || arguments.verbose) {
        say(format_args!("partita: {message}"));
    }
}
