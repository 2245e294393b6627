//! The models of the papers that Partita builds on, kept apart so that their published figures can be reproduced.
//!
//! Here a network is a chain of layers known only by their sizes, one hub holds the whole tensor between layers, and
//! shares are equal: the world of DeeperThings (Stahl et al., IJPP 49(4), 2021) and of the placement of Disabato, Roveri
//! and Alippi (IEEE TC 2021). The sharding ILP is free of these restrictions; the tests compare both on the same
//! networks.

pub mod chain;
pub mod memory;
pub mod placement;
pub mod tiles;
pub mod traffic;

#[cfg(test)]
mod boards;
#[cfg(test)]
mod hadidi;
#[cfg(test)]
mod tests;
