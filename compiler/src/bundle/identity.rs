//! By what the devices of a bundle know each other: `identity/` beside what is emitted. `trusted` has everybody's public key;
//! `NAME.key` is the private one of a device for which the cluster file names none. Nothing of it is part of what is emitted,
//! which is the same for the same input; what was made once stays, and git is told to look away.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::config::{Cluster, Security, System};
use crate::diagnostic::Diagnostic;
use crate::driver::Compiled;
use partita_rt::hosted::identity::{make, read, to_hex};

/// The folder.
pub const FOLDER: &str = "identity";

/// The file of those who are trusted.
pub const TRUSTED: &str = "trusted";

/// Whether the devices of a plan prove who they are. One alone has nobody to talk to.
pub fn is_needed(compiled: &Compiled) -> bool {
    compiled.cluster.security == Security::Noise && compiled.routed.placed.programs.len() > 1
}

/// Whether every device can do what the cluster file asks of it.
///
/// Errors (E0181): which cannot, and what to write.
pub fn check(cluster: &Cluster) -> Result<(), Diagnostic> {
    let weak: Vec<&str> = cluster
        .devices
        .iter()
        .filter(|device| device.target.system == System::CortexM)
        .map(|device| device.name.as_str())
        .collect();
    // Who is alone has nobody to talk to.
    if weak.is_empty() || cluster.security == Security::None || cluster.devices.len() == 1 {
        return Ok(());
    }
    let message = format!(
        "`{}` cannot prove to its peers who it is: firmware has no random source, of which keys of sessions are made",
        weak.join("`, `")
    );
    Err(Diagnostic::new("E0181", message).help(
        "write security = \"none\" in [cluster] if whoever reaches the devices may be believed and may read what they say; \
         that is so of all links then",
    ))
}

/// The private key that was made for a device of a bundle.
pub fn private_key(out: &Path, device: &str) -> PathBuf {
    out.join(FOLDER).join(format!("{device}.key"))
}

/// Makes keys for devices that have none, and says who is trusted. Keys that are there stay.
pub fn write(out: &Path, compiled: &Compiled) -> anyhow::Result<()> {
    if !is_needed(compiled) {
        return Ok(());
    }
    let folder = out.join(FOLDER);
    let context = || format!("making keys in `{}`", folder.display());
    if !folder.is_dir() {
        fs::DirBuilder::new().mode(0o700).create(&folder).with_context(context)?;
    }
    fs::write(folder.join(".gitignore"), "*\n").with_context(context)?;
    let mut trusted = String::new();
    for program in &compiled.routed.placed.programs {
        let device = &compiled.cluster.devices[program.device];
        let path = private_key(out, &device.name);
        let public = match &device.identity {
            Some(public) => *public,
            None if path.exists() => read(&path).map_err(|error| anyhow!(error)).with_context(context)?.public(),
            None => make(&path).map_err(|error| anyhow!(error)).with_context(context)?,
        };
        trusted += &format!("{} {}\n", device.name, to_hex(&public));
    }
    let path = folder.join(TRUSTED);
    fs::write(&path, trusted).with_context(context)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).with_context(context)
}
