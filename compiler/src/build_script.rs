//! Compiling from a build script, so that an application of the user's own carries its device's program.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::driver::{self, Options};
use crate::emit::model::{KernelsPlace, emit_model};
use crate::links::{self, LinkError, LinkOptions};
use crate::partition::Objective;
use crate::passes::states::Wanted;

/// A compilation inside `build.rs`:
///
/// ```no_run
/// fn main() -> anyhow::Result<()> {
///     partita::Build::new("model.onnx").targets("cluster.toml").device("cam").emit()
/// }
/// ```
///
/// The application then says `partita_rt::include_model!("model");`. Cargo runs the script again when the model, the
/// cluster or a target file changes.
#[derive(Clone, Debug)]
pub struct Build {
    model: PathBuf,
    targets: Option<PathBuf>,
    device: Option<String>,
    name: String,
    options: Options,
}

impl Build {
    /// Starts with a model file, relative to the application's manifest.
    pub fn new(model: impl AsRef<Path>) -> Build {
        Build {
            model: model.as_ref().to_path_buf(),
            targets: None,
            device: None,
            name: "model".to_string(),
            options: Options {
                links: LinkOptions { error: links::DEFAULT, ..LinkOptions::exact() },
                ..Options::default()
            },
        }
    }

    /// The cluster file.
    pub fn targets(mut self, cluster: impl AsRef<Path>) -> Build {
        self.targets = Some(cluster.as_ref().to_path_buf());
        self
    }

    /// The device that this application runs on.
    pub fn device(mut self, name: impl Into<String>) -> Build {
        self.device = Some(name.into());
        self
    }

    /// Name of the module, if the application holds several models.
    pub fn name(mut self, name: impl Into<String>) -> Build {
        self.name = name.into();
        self
    }

    /// Shape of an input whose dimensions the model leaves open.
    pub fn shape(mut self, input: impl Into<String>, shape: &[usize]) -> Build {
        self.options.shapes.push((input.into(), shape.to_vec()));
        self
    }

    /// Fixes an input to a value, which is then a constant of the model: one number for all elements, or as many as there
    /// are, with commas between.
    pub fn fix(mut self, input: impl Into<String>, value: impl Into<String>) -> Build {
        self.options.fixed.push((input.into(), value.into()));
        self
    }

    /// Makes an output the input of the next inference: `Model` keeps it, zero at first.
    pub fn state(mut self, output: impl Into<String>, input: impl Into<String>) -> Build {
        self.options.states.push(Wanted::Pair(output.into(), input.into()));
        self
    }

    /// What the plan minimises.
    pub fn objective(mut self, objective: Objective) -> Build {
        self.options.objective = objective;
        self
    }

    /// How much links may change an answer, as a share of its largest element; a thousandth unless said otherwise.
    pub fn link_error(mut self, error: LinkError) -> Build {
        self.options.links.error = error;
        self
    }

    /// Compiles, writes the module and its library into `OUT_DIR`, and tells cargo about both.
    ///
    /// Errors: no cluster or device was named, the device takes no part, the crate is being built for another
    /// architecture than the device's, or anything that the command line would refuse.
    pub fn emit(&self) -> anyhow::Result<()> {
        let out =
            PathBuf::from(std::env::var_os("OUT_DIR").context("OUT_DIR is not set: call this from a build script")?);
        let targets = self.targets.as_deref().context("no cluster: call .targets(\"cluster.toml\")")?;
        println!("cargo:rerun-if-changed={}", self.model.display());
        println!("cargo:rerun-if-changed={}", targets.display());
        let compiled = driver::compile(&self.model, targets, &self.options, &mut ())?;
        for file in compiled.cluster.devices.iter().filter_map(|device| device.target.file.as_ref()) {
            println!("cargo:rerun-if-changed={}", file.display());
        }
        crate::bundle::check_wire(&compiled)?;
        let wanted = self.device.as_deref().context("no device: call .device(\"name\")")?;
        let Some(index) = compiled.cluster.devices.iter().position(|device| device.name == wanted) else {
            let names: Vec<&str> = compiled.cluster.devices.iter().map(|device| device.name.as_str()).collect();
            bail!("`{}` has no device `{wanted}`; it has {}", targets.display(), names.join(", "));
        };
        check_architecture(wanted, &compiled.cluster.devices[index].target.triple)?;
        let Some(position) = compiled.routed.placed.programs.iter().position(|program| program.device == index) else {
            bail!("the plan gives device `{wanted}` nothing to do; leave it out of this cluster");
        };
        let emitted = emit_model(&compiled.device_programs(position), &compiled.model_context(), KernelsPlace::Inline)?;
        let module = out.join(format!("{}.rs", self.name));
        std::fs::write(&module, emitted.model_source).with_context(|| format!("writing `{}`", module.display()))?;
        let library = out.join(format!("lib{}.a", emitted.library));
        std::fs::write(&library, emitted.library_bytes).with_context(|| format!("writing `{}`", library.display()))?;
        println!("cargo:rustc-link-search=native={}", out.display());
        println!("cargo:rustc-link-lib=static:-bundle={}", emitted.library);
        Ok(())
    }
}

fn check_architecture(device: &str, triple: &str) -> anyhow::Result<()> {
    let Ok(building_for) = std::env::var("TARGET") else { return Ok(()) };
    let architecture = |triple: &str| triple.split('-').next().unwrap_or_default().to_string();
    if triple != "host" && architecture(triple) != architecture(&building_for) {
        bail!(
            "device `{device}` is a {triple}, but this crate is being built for {building_for}; \
             build with `--target {triple}`"
        );
    }
    Ok(())
}
