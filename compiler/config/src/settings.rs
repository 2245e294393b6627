//! What a compilation wants of a device's kernels and what records say of them: no part of what the machine is.

use std::sync::Arc;

use super::corrections::{Corrections, Tuning};
use partita_ir::graph::storage::WeightStorage;

/// How kernels of one device are made and priced, beside what its target says.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Convolutions may be done by Winograd's algorithm where the target allows it.
    pub winograd: bool,
    /// Bytes are multiplied where the target can: [`Device::multiplies_stored_bytes`](crate::Device::multiplies_stored_bytes).
    pub byte_products: bool,
    /// How the weights of matrix products are stored, where that loses nothing any more.
    pub weight_storage: WeightStorage,
    /// What measurements say against the target's rates.
    pub corrections: Corrections,
    /// Processor time to send or receive one message, in microseconds, if it was measured.
    pub message_microseconds: Option<f64>,
    /// What measurements say of kernels' alternatives.
    pub tuning: Arc<Tuning>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            winograd: true,
            byte_products: true,
            weight_storage: WeightStorage::F32,
            corrections: Corrections::default(),
            message_microseconds: None,
            tuning: Arc::default(),
        }
    }
}
