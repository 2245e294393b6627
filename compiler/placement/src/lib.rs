//! From a graph to programs that fit the devices: partition, shard, schedule, lower and plan memory, again where the
//! memory plan needs more than the partition thought, and patch by patch or by row streaming where whole activations
//! are too large.
//!
//! [`fit()`] finds the plan that is taken: plans compete (`contest`) by the figures that are reported ([`score`]),
//! which are known before programs are made ([`Prospect`]), with memory as the objective also by row streaming
//! (`row_streaming`, `memory_objective`), and what does not fit is asked again or computed in patches (`patching`).
//! [`place`] carries out a given partition, [`outlook()`] says what one would come to without making programs,
//! [`routes`] lets several networks share their weights, [`survival`] adds what the loss of a device takes, and
//! [`plan_file`] writes all of that down.
//!
//! [`Failure`] and [`Clock`] are those of every stage from here on. May import the graph, files, targets and clusters,
//! plans and programs; deliberately absent: data, training, the folder that is written, the command line.

mod clock;
mod contest;
mod failure;
mod fit;
mod memory_objective;
mod options;
mod outlook;
mod patching;
mod placed;
pub mod plan_file;
mod prospect;
#[cfg(test)]
mod published_tests;
pub mod routes;
mod row_streaming;
pub mod score;
pub mod survival;
#[cfg(test)]
mod tests;

pub use clock::Clock;
pub use failure::{Failure, internal};
pub use fit::{fit, fit_known};
pub use options::PlacementOptions;
pub use outlook::{Outlook, outlook};
pub use placed::{Known, Placed, peak_ram_bytes, place, place_like, ram_bytes};
pub use prospect::{Carried, Prospect, Verdict};
pub use routes::Route;
