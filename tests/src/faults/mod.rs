//! The fault laboratory: emitted processes with cables between them that can be cut ([`crate::relay`]), a client that keeps
//! account of every input ([`stream`]), and faults that are done to them again and again ([`trial`]).

pub mod cluster;
pub mod stream;
pub mod trial;
