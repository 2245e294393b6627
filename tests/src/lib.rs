//! Shared pieces of the tests: where things are, the `compile` command as a user runs it, and answers to compare.
//!
//! Tests that run foreign architectures need their emulators: `tests/setup` installs them, and without them those tests
//! fail with that advice instead of passing in silence. Only material outside the repository may be absent.

pub mod arrays;
pub mod backend;
pub mod bundle;
pub mod clock;
pub mod command;
pub mod device;
pub mod faults;
pub mod fuzzing;
pub mod kernel_budget;
pub mod machines;
pub mod modules;
pub mod mutate;
pub mod onnx;
pub mod peer;
pub mod place;
pub mod reference;
pub mod relay;
pub mod schema;
pub mod stage;
