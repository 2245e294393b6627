//! Early exits, added to a trained classifier after the fact (Sponner et al. 2024): the backbone stays as it is.
//!
//! `add` does everything in order: `candidates` finds places, or `existing_exits` those that the model has; `dataset` is what
//! all of it works on, with `split`, which says which samples teach and which judge; `features` runs all of them through the
//! backbone once, and [`partita_train`] trains small classifiers on what that gives; those that convolve learn in `training`
//! from a `stream` of samples that `augment` changes each time; `study` lets heads compete, `calibrate` says how sure each is,
//! `reuse` lets later ones count on what earlier ones have said, `propose` finds exits and thresholds that are worth having
//! together (`judge` says what they do to samples), `choose` says which of that is proven to keep the limits, `co_optimize`
//! decides, together with the mapping to devices, `insert` adds exits to the graph, `dequantize` takes whole numbers off
//! answers meanwhile and does them to every exit's in the end, `report` and `tables` are what
//! is known in the end. From there on an exit is nodes like any others, and one that decides
//! ([`partita_ir::graph::op::Decide`]).

mod add;
mod augment;
mod calibrate;
pub mod candidates;
pub mod choose;
mod co_optimize;
mod dataset;
mod dequantize;
pub mod existing_exits;
pub mod features;
mod insert;
mod judge;
mod kept_heads;
mod options;
mod propose;
pub mod report;
mod reuse;
mod split;
mod stream;
mod study;
pub mod tables;
mod training;

pub use add::add;
pub use options::ExitOptions;
pub use report::{CalibrationReport, ExitReport, ExitsReport};
