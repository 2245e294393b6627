//! Variants: what is left of a network when links get slow or devices go away (Khan et al. 2023).
//!
//! `prepare` reads calibration samples and looks at them; `parts` finds what can go (`channels` between two convolutions
//! among it), `segments` cuts the network into pieces from which what is left of any set is put together, `compensation` fits what
//! takes the place of a part, `combined` lets several parts of one piece go together, `scores` measures sets, `search` finds
//! good ones with the help of `surrogate`, `study` does all that on the calibration samples: half of them guide, the others
//! judge (`guided`), and what is judged must keep what the user demands (`demanded`); `studied` is what is known then.
//! `situations` says what may happen, `mapping` how each set is best computed then with the weights that devices hold, and
//! which is taken; `routes` turns that into programs, and `summary` into the types of `report`. The result is a `family` of
//! routes over the same weights: see
//! [`partita_program::program::family`] and `partita_rt::family`.

pub mod channels;
mod combined;
mod compensation;
mod demanded;
pub mod family;
mod fitting;
mod guided;
pub mod mapping;
mod options;
pub mod parts;
mod prepare;
pub mod report;
pub mod routes;
pub mod scores;
pub mod search;
pub mod segments;
pub mod situations;
mod studied;
mod study;
pub mod summary;
mod surrogate;

pub use options::VariantOptions;
pub use prepare::study;
pub use studied::Study;
