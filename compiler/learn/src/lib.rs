//! What calibration samples teach: early exits, and what can go of a network.
//!
//! [`links`] sees to it that links which send fewer bytes do not change answers by more than is allowed. [`exits`] adds
//! exits to a trained classifier, [`variants`] finds smaller routes through it; both learn from [`samples`] of a
//! [`classifier`], and prove what they lose ([`accuracy`], [`confidence`], [`holdout`], [`bits`]). Networks run through
//! [`host::Host`], which the crate that has a whole compiler implements; what is finished is kept in files ([`kept`]) and shown
//! ([`progress`]). May import the graph, passes, data files, targets and
//! clusters, plans, programs, placement, the arithmetic of training and the runtime's kernels; deliberately absent: the command
//! line, the folder that is written, cargo, processes.

pub mod accuracy;
pub mod bits;
pub mod classifier;
pub mod confidence;
pub mod exits;
pub mod fit;
pub mod holdout;
pub mod host;
pub mod kept;
pub mod links;
pub mod progress;
pub mod quantize;
pub mod samples;
pub mod variants;
