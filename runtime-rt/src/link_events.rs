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

impl LinkEvent {
    /// Bytes of one event.
    pub const BYTES: usize = 8;

    /// Its bytes: the two devices, 1 for a loss, 0, and the rate as a little-endian `f32`.
    pub fn emit(&self) -> [u8; Self::BYTES] {
        let (lost, rate) = match self.what {
            Seen::BytesPerSecond(rate) => (0, rate),
            Seen::Lost => (1, 0.0),
        };
        let [a, b, c, d] = rate.to_le_bytes();
        [self.between.0, self.between.1, lost, 0, a, b, c, d]
    }

    /// Reads an event; rates that cannot be are none.
    pub fn parse(bytes: &[u8; Self::BYTES]) -> Option<LinkEvent> {
        let [first, second, lost, _, a, b, c, d] = *bytes;
        let rate = f32::from_le_bytes([a, b, c, d]);
        let what = match lost {
            0 if rate.is_finite() && rate >= 0.0 => Seen::BytesPerSecond(rate),
            1 => Seen::Lost,
            _ => return None,
        };
        Some(LinkEvent { between: (first, second), what })
    }
}

/// Events that wait to be told; when there is no room, the oldest go.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: [Option<LinkEvent>; 16],
}

impl Queue {
    /// Adds an event.
    pub(crate) fn push(&mut self, event: LinkEvent) {
        if self.waiting.iter().all(Option::is_some) {
            let _ = self.pop();
        }
        if let Some(free) = self.waiting.iter_mut().find(|slot| slot.is_none()) {
            *free = Some(event);
        }
    }

    /// Takes the oldest.
    pub(crate) fn pop(&mut self) -> Option<LinkEvent> {
        let oldest = self.waiting.first_mut()?.take();
        self.waiting.rotate_left(1);
        oldest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_back() {
        for what in [Seen::BytesPerSecond(12.5), Seen::Lost] {
            let event = LinkEvent { between: (3, 250), what };
            assert_eq!(LinkEvent::parse(&event.emit()), Some(event));
        }
        assert_eq!(LinkEvent::parse(&[0, 1, 2, 0, 0, 0, 0, 0]), None);
        assert_eq!(LinkEvent::parse(&[0, 1, 0, 0, 0, 0, 0xc0, 0x7f]), None, "a rate that is no number");
    }

    #[test]
    fn the_oldest_events_come_first_and_go_first() {
        let mut queue = Queue::default();
        for number in 0..20 {
            queue.push(LinkEvent { between: (number, 0), what: Seen::Lost });
        }
        let told: Option<(u8, u8)> = queue.pop().map(|event| event.between);
        assert_eq!(told, Some((4, 0)));
        assert_eq!(core::iter::from_fn(|| queue.pop()).count(), 15);
        assert_eq!(queue.pop(), None);
    }
}
