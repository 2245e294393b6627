//! What the cluster's file and the records beside it say of the devices, and what this compilation wants of them.

use std::path::Path;

use crate::config::learned::Learned;
use crate::config::{self, Cluster};
use crate::diagnostic::Diagnostic;
use crate::emit;
use crate::links::{self, LinkError};
use crate::options::{Numbers, Options};
use crate::partition::Objective;
use crate::placement::{Failure, plan_file};

/// The devices that are compiled for.
pub struct Targets {
    /// The cluster: its links as measured, its devices with settings as wanted, measured and tuned.
    pub cluster: Cluster,
    /// Measurements and records that corrected it.
    pub learned: Vec<Learned>,
    /// What is minimised: what an earlier plan was made for, or else what is wanted. What a plan predicts depends on it.
    pub objective: Objective,
}

impl Targets {
    /// Reads the cluster's file and the records beside it.
    ///
    /// Errors: the files are at fault, or this build makes no programs for a device.
    pub fn read(path: &Path, options: &Options) -> Result<Targets, Failure> {
        let mut cluster = config::cluster_file::read(path)?;
        for device in &cluster.devices {
            if let Some(lacking) = emit::model::lacks(&device.target) {
                let what = "this build of the compiler makes no programs for";
                let (name, target) = (&device.name, &device.target.name);
                let message = format!("{what} `{name}` ({target}): build it with {lacking}");
                return Err(Failure::Environment(anyhow::anyhow!(message)));
            }
        }
        prepares_for_losses(&cluster, options)?;
        let learned = correct(&mut cluster, path, options)?;
        let objective = match &options.plan {
            Some(path) => plan_file::read_objective(path)?,
            None => options.objective,
        };
        for device in &mut cluster.devices {
            if options.exact || objective == Objective::Memory {
                device.settings.winograd = false;
            }
            device.settings.weight_storage = options.weights;
            device.settings.byte_products = options.numbers != Numbers::F32;
        }
        Ok(Targets { cluster, learned, objective })
    }

    /// A cluster as it is.
    pub fn given(cluster: Cluster, objective: Objective) -> Targets {
        Targets { cluster, learned: Vec::new(), objective }
    }
}

/// Refuses what excludes `survive = 1` of the cluster file.
fn prepares_for_losses(cluster: &Cluster, options: &Options) -> Result<(), Failure> {
    let refuse = |what: &str, why: &str| {
        let message = format!("`survive = 1` of the cluster file and {what} exclude each other: {why}");
        Err(Failure::Input(vec![Diagnostic::new("E0183", message).help("leave one of them out")]))
    };
    let sends_fewer_bytes = options.links.error != LinkError::Exact && options.links.error != links::DEFAULT;
    if !cluster.survives {
        Ok(())
    } else if options.variants.is_some() {
        refuse(
            "--variants auto",
            "variants have routes for `[[condition]] missing = [..]`, and for single losses if there is none",
        )
    } else if !options.states.is_empty() {
        refuse("--state", "what a device keeps is lost with it")
    } else if options.objective == Objective::Memory {
        refuse("--objective memory", "plans for losses take more of it")
    } else if sends_fewer_bytes {
        refuse("--link-error", "of several routes all send every number as it is")
    } else {
        Ok(())
    }
}

/// Applies what was measured and tuned on these devices; which files that was.
fn correct(cluster: &mut Cluster, path: &Path, options: &Options) -> Result<Vec<Learned>, Failure> {
    let measured = options.measured.clone().unwrap_or_else(|| config::measured::default_path(path));
    let corrected = config::measured::apply(cluster, &measured, options.measured.is_some())?;
    let mut learned: Vec<Learned> = corrected.into_iter().collect();
    let tuned = options.tuned.clone().unwrap_or_else(|| config::tuned::default_path(path));
    match options.trial {
        Some(_) => config::tuned::try_alternative(cluster, options.trial),
        None => {
            let record = config::tuned::read(&tuned, options.tuned.is_some())?;
            config::tuned::apply(cluster, &record);
            let used = cluster.devices.iter().any(|device| !device.settings.tuning.choices.is_empty());
            learned.extend(used.then(|| Learned::of("tuning record", &tuned, record.origin.as_ref())));
        }
    }
    Ok(learned)
}
