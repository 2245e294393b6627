//! What a target carries of measurements and of tuning; where it comes from is in `measured` and `tuned`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Measured time divided by what the target file's rates predict.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Corrections {
    /// Of all convolutions and matrix products, of depthwise ones, of copies between devices, of everything else.
    #[serde(default)]
    pub family: BTreeMap<String, f64>,
    /// Of each node, by method.
    #[serde(default)]
    pub node: BTreeMap<String, BTreeMap<String, f64>>,
}

impl Corrections {
    /// The factor for a node under a method; that of its family if it was not measured, else 1.
    pub fn factor(&self, node: &str, method: &str, family: &str) -> f64 {
        let by_method = self.node.get(node);
        let exact = by_method.and_then(|methods| methods.get(method));
        let whole = || by_method.and_then(|methods| methods.get("whole"));
        exact.or_else(whole).copied().unwrap_or_else(|| self.family_factor(family))
    }

    /// The factor for a family; 1 if it was not measured.
    pub fn family_factor(&self, family: &str) -> f64 {
        self.family.get(family).copied().unwrap_or(1.0)
    }
}

/// An alternative for a convolution.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// `direct`, or the form of Winograd's algorithm.
    pub form: String,
    /// Vectors of output channels of a register tile.
    pub vectors: usize,
}

/// What a target knows of its kernels.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuning {
    /// Best alternatives, by shape.
    pub choices: BTreeMap<String, Choice>,
    /// While they are being looked for: every kernel is done in this of its alternatives, in the order of estimates; the first
    /// where there are fewer.
    pub trial: Option<usize>,
}
