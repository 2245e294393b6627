//! Files that come from anywhere.
//!
//! [`mod@file`] opens regular files only, [`file_kind`] says what a file is that is not what was wanted, [`npz`] reads and
//! writes archives of arrays, and [`data`] makes values of them. May import the graph's values and messages, and the
//! runtime's numbers; deliberately absent: what the values are for.

pub mod data;
pub mod file;
pub mod file_kind;
pub mod npz;
