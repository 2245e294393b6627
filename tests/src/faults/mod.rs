//! The fault laboratory: emitted processes with cables between them that can be cut ([`crate::relay`]), a client that keeps
//! account of every input ([`stream`]), faults that are done to them again and again ([`trial`]), and what they do while
//! nothing breaks ([`steady`]).

pub mod cluster;
pub mod steady;
pub mod stream;
pub mod trial;
