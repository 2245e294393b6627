//! What an inference cost a device and where it ended: the payload of a report frame.

/// Costs of one inference on one device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceCosts {
    /// Time in steps that compute.
    pub compute_us: u64,
    /// Time in sends and receives.
    pub wait_us: u64,
    /// Payload bytes sent to peers.
    pub sent_bytes: u64,
    /// Payload bytes received from peers.
    pub received_bytes: u64,
    /// Exit at which the inference ended, and the confidence there; none if it went to the end.
    pub exit: Option<(u32, f32)>,
}

impl DeviceCosts {
    /// Bytes of a report.
    pub const BYTES: usize = 40;

    /// The report's bytes.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        // 0 is no exit.
        let (exit, confidence) = self.exit.map_or((0, 0), |(exit, confidence)| (exit + 1, confidence.to_bits()));
        let exit = u64::from(exit) | u64::from(confidence) << 32;
        let fields = [self.compute_us, self.wait_us, self.sent_bytes, self.received_bytes, exit];
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
        let exit = (field(4) as u32).checked_sub(1).map(|exit| (exit, f32::from_bits((field(4) >> 32) as u32)));
        DeviceCosts { compute_us: field(0), wait_us: field(1), sent_bytes: field(2), received_bytes: field(3), exit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_back() {
        let mut costs = DeviceCosts { compute_us: 1, wait_us: 2, sent_bytes: 3, received_bytes: u64::MAX, exit: None };
        assert_eq!(DeviceCosts::parse(&costs.emit()), costs);
        costs.exit = Some((0, 0.75));
        assert_eq!(DeviceCosts::parse(&costs.emit()), costs);
    }
}
