//! What an inference cost a device: the payload of a report frame.

/// Costs of one inference on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCosts {
    /// Time in steps that compute.
    pub compute_us: u64,
    /// Time in sends and receives.
    pub wait_us: u64,
    /// Payload bytes sent to peers.
    pub sent_bytes: u64,
    /// Payload bytes received from peers.
    pub received_bytes: u64,
}

impl DeviceCosts {
    /// Bytes of a report.
    pub const BYTES: usize = 32;

    /// The report's bytes.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let fields = [self.compute_us, self.wait_us, self.sent_bytes, self.received_bytes];
        for (slot, byte) in bytes.iter_mut().zip(fields.iter().flat_map(|field| field.to_le_bytes())) {
            *slot = byte;
        }
        bytes
    }

    /// Reads a report.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> DeviceCosts {
        let field = |index: usize| {
            let mut value = [0; 8];
            for (slot, byte) in value.iter_mut().zip(bytes.iter().skip(index * 8)) {
                *slot = *byte;
            }
            u64::from_le_bytes(value)
        };
        DeviceCosts { compute_us: field(0), wait_us: field(1), sent_bytes: field(2), received_bytes: field(3) }
    }
}
