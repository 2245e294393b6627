//! How an input is handed in, where that is not as the model takes it: what cameras and microphones give.

use super::ElementType;

/// What the program makes the model's input of, itself. Elements become `(x - mean) / std` in `f32`.
#[derive(Clone, Debug, PartialEq)]
pub struct InputForm {
    /// The input; none if the model has only one.
    pub name: Option<String>,
    /// Element type in which it comes; none for the model's own.
    pub element: Option<ElementType>,
    /// Whether channels come last (`[N, H, W, C]`, `[N, L, C]`), while the model takes them first.
    pub channels_last: bool,
    /// Subtracted: one value for all elements, or one per channel, which is axis 1 of what the model takes.
    pub mean: Vec<f32>,
    /// Divided by, likewise; none of them 0.
    pub std: Vec<f32>,
}

impl InputForm {
    /// Whether elements are anything else than numbers of another type.
    pub fn scales(&self) -> bool {
        self.mean.iter().any(|mean| *mean != 0.0) || self.std.iter().any(|std| *std != 1.0)
    }
}
