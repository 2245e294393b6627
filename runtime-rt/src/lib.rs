//! The run time of programs emitted by Partita: no_std, no allocator, no panics.
//!
//! - [`kernels`]: a portable reference kernel for every operator;
//! - [`Arena`]: the memory of a program;
//! - [`F16`], [`Bf16`], [`Bool`]: elements that Rust has no type for;
//! - [`node`]: what runs on a device between its program and its links;
//! - [`firmware`], `hosted`: what is around a node without and with an operating system;
//! - [`frame`], [`FramedStream`]: checked frames over any byte stream, for programs that talk to a device;
//! - [`include_model!`]: the module that `partita::Build` wrote.
//!
//! May import nothing of the compiler, and no dependency that a microcontroller cannot carry; what needs an operating system
//! is behind the feature `std`. Deliberately absent: graphs, and reading plans: a program is compiled for one.
#![cfg_attr(not(feature = "std"), no_std)]

mod arena;
mod console;
mod elements;
mod error;
pub mod family;
pub mod firmware;
pub mod frame;
mod framed;
#[cfg(feature = "std")]
pub mod hosted;
pub mod kernels;
mod link_events;
pub mod node;
#[cfg(feature = "noise")]
pub mod noise;
#[cfg(not(feature = "noise"))]
#[path = "noise_absent.rs"]
mod noise;
mod observer;
mod report;
#[cfg(feature = "std")]
mod stream;
#[cfg(feature = "std")]
pub mod team;
mod window;

pub use arena::{Arena, copy_runs, move_runs};
pub use elements::{Bf16, Bool, CastTo, F16, Number, Plain, Scalar, Truth};
pub use error::Error;
pub use family::{Chooser, Family};
pub use framed::{FramedStream, Identity, Turn};
pub use link_events::{LinkEvent, Seen};
pub use observer::Observer;
pub use report::DeviceCosts;
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
