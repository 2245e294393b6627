//! What devices learn of their links and tell each other.

/// Something about the link between two devices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkEvent {
    /// Numbers of the devices; the first has seen it.
    pub between: (u8, u8),
    /// What it has seen.
    pub what: Seen,
}

/// What a device has seen of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen {
    /// Payload came at this rate.
    BytesPerSecond(f32),
    /// The other device cannot be reached.
    Lost,
}
