//! The run time of programs emitted by Partita: no_std, no allocator, no panics.
//!
//! - [`kernels`]: a portable reference kernel for every operator;
//! - [`Arena`]: the memory of a program;
//! - [`F16`], [`Bf16`], [`Bool`]: elements that Rust has no type for;
//! - [`frame`], [`FramedStream`], [`PeerLinks`]: checked frames over any byte stream, and the [`Links`] of a program;
//! - [`include_model!`]: the module that `partita::Build` wrote.
#![cfg_attr(not(feature = "std"), no_std)]

mod arena;
mod elements;
mod error;
pub mod family;
pub mod frame;
#[cfg(feature = "std")]
pub mod hosted;
pub mod kernels;
mod link;
mod link_events;
pub mod node;
mod peer_links;
mod report;
mod serve;
#[cfg(feature = "std")]
mod stream;
#[cfg(feature = "std")]
pub mod team;

pub use arena::{Arena, copy_runs};
pub use elements::{Bf16, Bool, CastTo, F16, Number, Plain, Scalar, Truth};
pub use error::Error;
pub use family::{Chooser, Family};
pub use link::{
    FamilyLinks, FramedStream, Identity, Incoming, InferenceLinks, Links, NoLinks, Observer, Outgoing, Turn,
};
pub use link_events::{LinkEvent, Seen};
pub use peer_links::PeerLinks;
pub use report::DeviceCosts;
pub use serve::{Failure, Profiler, Program, serve, serve_family};
#[cfg(feature = "std")]
pub use stream::StdStream;

/// Square root, for kernels in scalar registers.
#[inline]
pub fn square_root(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// The module that `partita::Build` wrote in this application's build script, under its name.
///
/// ```text
/// partita_rt::include_model!("model");
/// static MODEL: Mutex<model::Model> = Mutex::new(model::Model::new());
/// ```
#[macro_export]
macro_rules! include_model {
    ("model") => {
        $crate::include_model!("model" as model);
    };
    ($file:literal as $name:ident) => {
        #[allow(missing_docs, unused, clippy::all)]
        mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    };
}
