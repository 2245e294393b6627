//! A family of routes over the same weights: which one an inference takes, by what is known of the links and who is
//! there.
//!
//! The compiler has solved the choice for every condition it was told of; here it is a walk through a short table. The
//! device that holds the input decides; everybody hears of it.

use crate::{LinkEvent, Seen};

/// The routes of a cluster, and when each is taken.
#[derive(Clone, Copy, Debug)]
pub struct Family<'p> {
    /// Names of the routes; the first is the whole network on the whole cluster.
    pub routes: &'p [&'p str],
    /// When each route is taken.
    pub conditions: &'p [Condition<'p>],
    /// Links of the cluster: two devices and the number of their medium.
    pub links: &'p [(u8, u8, u8)],
    /// Whether the device that decides also gets the answer, and so sees how long an inference takes.
    pub closes: bool,
}

/// A situation that the compiler has prepared for.
#[derive(Clone, Copy, Debug)]
pub struct Condition<'p> {
    /// Devices that are gone, ascending.
    pub missing: &'p [u8],
    /// Devices that the route does without, those among them; ascending.
    pub unneeded: &'p [u8],
    /// Payload bytes per second of each medium.
    pub bytes_per_second: &'p [f32],
    /// Route that is best then.
    pub route: u8,
    /// Microseconds that an inference on it should take then.
    pub expected_us: u32,
}

/// Most media that are told apart; further ones count as the last.
const MEDIA: usize = 16;

/// Share of a condition's rate that has to be there for the condition to hold.
const ENOUGH: f32 = 0.75;

/// How often in a row a faster link has to be seen before it is tried.
const BELIEVED: u8 = 2;

/// How much faster.
const FASTER: f32 = 2.0;

/// An inference that takes so many times as long as usual is late.
const LATE: f32 = 1.5;

/// The same for the first on a route, against what the compiler expects.
const LATE_AT_FIRST: f32 = 2.5;

/// How many late answers in a row, without an event that tells why, are put down to the links.
const UNEXPLAINED: u8 = 2;

/// What is left of the longest usual time with each inference.
const FADES: f32 = 0.98;

/// Most routes whose usual times are kept apart.
const ROUTES: usize = 32;

/// Time between two probes of a link that has become slow, at first; it doubles while the link stays slow.
const FIRST_PROBE_US: u64 = 500_000;

/// The same where the last one has seen a faster link.
const CONFIRMING_PROBE_US: u64 = 125_000;

/// The longest such time.
const LAST_PROBE_US: u64 = 4_000_000;

/// What is known of a medium.
#[derive(Clone, Copy, Debug)]
struct Medium {
    /// Rate that is believed, in payload bytes per second.
    rate: f32,
    /// How often in a row a faster rate was seen.
    better: u8,
    /// When the next probe is due, and how long to wait after it.
    probe_at_us: u64,
    wait_us: u64,
}

/// Chooses routes.
#[derive(Debug)]
pub struct Chooser<'p> {
    family: &'p Family<'p>,
    media: [Medium; MEDIA],
    /// One bit per device that cannot be reached.
    lost: [u64; 4],
    /// Longest usual time of an inference on each route, in microseconds; 0 if there was none yet.
    usual_us: [f32; ROUTES],
    /// Whether the last inference took longer than usual.
    late: bool,
    /// How many did in a row without an event that tells why.
    unexplained: u8,
}

impl<'p> Chooser<'p> {
    /// Everybody is there, and all links are as cluster.toml says.
    pub fn new(family: &'p Family<'p>) -> Chooser<'p> {
        let mut media = [Medium { rate: f32::INFINITY, better: 0, probe_at_us: 0, wait_us: FIRST_PROBE_US }; MEDIA];
        let nominal = family.conditions.first().map_or(&[] as &[f32], |condition| condition.bytes_per_second);
        for (medium, rate) in media.iter_mut().zip(nominal) {
            medium.rate = *rate;
        }
        Chooser { family, media, lost: [0; 4], usual_us: [0.0; ROUTES], late: false, unexplained: 0 }
    }

    /// Takes into account how long an inference took; whether that was longer than usual.
    pub fn took(&mut self, route: u8, microseconds: u64) -> bool {
        let took = microseconds as f32;
        let expected = self.family.conditions.iter().filter(|condition| condition.route == route);
        let expected = expected.map(|condition| condition.expected_us as f32).fold(0.0, f32::max);
        let Some(usual) = self.usual_us.get_mut(usize::from(route)) else { return false };
        // What comes within the time that the compiler expects is not late, however quick others were.
        let in_time = if *usual > 0.0 { (*usual * LATE).max(expected) } else { expected * LATE_AT_FIRST };
        self.late = took > in_time;
        if !self.late {
            *usual = took.max(*usual * FADES);
            self.unexplained = 0;
            return false;
        }
        let usual = usual.max(expected);
        self.unexplained += 1;
        if self.unexplained >= UNEXPLAINED {
            self.doubt_links(usual / took);
        }
        true
    }

    /// Bytes per second that are believed of the link between two devices.
    pub fn rate_of(&self, between: (u8, u8)) -> Option<f32> {
        Some(self.media.get(self.medium_of(between)?)?.rate)
    }

    /// Nobody has seen a slow link, yet answers are late: messages may come in one piece, or many links may be a little
    /// slow. As if all had so much of their rates, until probes show otherwise.
    fn doubt_links(&mut self, part: f32) {
        self.unexplained = 0;
        for medium in &mut self.media {
            (medium.rate, medium.better) = (medium.rate * part, 0);
        }
    }

    /// Says which of the first 64 devices can be reached, one bit each, of those that routes need at all.
    pub fn set_reached(&mut self, devices: u64, needed: u64) {
        if let Some(word) = self.lost.first_mut() {
            *word = needed & !devices;
        }
    }

    fn medium_of(&self, between: (u8, u8)) -> Option<usize> {
        let (low, high) = (between.0.min(between.1), between.0.max(between.1));
        let found = self.family.links.iter().find(|(a, b, _)| (*a, *b) == (low, high))?;
        Some(usize::from(found.2).min(MEDIA - 1))
    }

    /// Takes a link event into account.
    pub fn hear(&mut self, event: &LinkEvent) {
        match event.what {
            Seen::Lost => {
                let device = usize::from(event.between.1);
                if let Some(word) = self.lost.get_mut(device / 64) {
                    *word |= 1 << (device % 64);
                }
            }
            Seen::BytesPerSecond(rate) => {
                let Some(at) = self.medium_of(event.between) else { return };
                let nominal = self.family.conditions.first().and_then(|first| first.bytes_per_second.get(at));
                let nominal = nominal.copied().unwrap_or(f32::INFINITY);
                // A device whose processor is busy elsewhere reads late, and its links look slow. Only where answers
                // are late too is a slow link believed, and then at once.
                let believable = self.late || !self.family.closes;
                let Some(medium) = self.media.get_mut(at) else { return };
                if rate < medium.rate * ENOUGH {
                    medium.better = 0;
                    if believable {
                        medium.rate = rate;
                        self.unexplained = 0;
                    }
                } else if rate >= (medium.rate * FASTER).min(nominal * ENOUGH) && medium.rate < nominal * ENOUGH {
                    medium.better += 1;
                    if medium.better >= BELIEVED {
                        // How fast it really is shows in use.
                        (medium.rate, medium.better) = (nominal, 0);
                    }
                }
            }
        }
    }

    /// The route that is best by what is known; none if too many devices are lost for all of them.
    ///
    /// Of the conditions whose routes need no lost device, those count that differ from what is lost in the fewest
    /// devices. The first among them whose rates are there decides; if there is none, the last, which is the slowest.
    pub fn choose(&self) -> Option<u8> {
        self.choose_among(|_| true)
    }

    /// The same among the routes that `can` be taken.
    pub fn choose_among(&self, can: impl Fn(u8) -> bool) -> Option<u8> {
        let possible = |condition: &&Condition| {
            let unneeded = bits(condition.unneeded);
            can(condition.route) && self.lost.iter().zip(unneeded).all(|(lost, unneeded)| lost & !unneeded == 0)
        };
        let differs = |condition: &Condition| {
            let missing = bits(condition.missing);
            self.lost.iter().zip(missing).map(|(lost, missing)| (lost ^ missing).count_ones()).sum::<u32>()
        };
        let conditions = self.family.conditions;
        let least = conditions.iter().filter(possible).map(differs).min()?;
        let mut slowest = None;
        for condition in conditions.iter().filter(possible).filter(|condition| differs(condition) == least) {
            let rates = condition.bytes_per_second.iter();
            if rates.zip(&self.media).all(|(needed, medium)| medium.rate >= needed * ENOUGH) {
                return Some(condition.route);
            }
            slowest = Some(condition.route);
        }
        slowest
    }

    /// A device whose link to `own` is to be probed now, of those that `is_peer` names: links that have become slow
    /// are, now and then, since a route that sends little says little about them.
    pub fn probe(&mut self, own: usize, is_peer: impl Fn(usize) -> bool, now_us: u64) -> Option<usize> {
        let family = self.family;
        let nominal = family.conditions.first()?.bytes_per_second;
        for (at, (medium, nominal)) in self.media.iter_mut().zip(nominal).enumerate() {
            if medium.rate >= nominal * ENOUGH {
                if !self.late {
                    (medium.wait_us, medium.probe_at_us) = ((medium.wait_us / 2).max(FIRST_PROBE_US), 0);
                }
                continue;
            }
            if medium.probe_at_us == 0 {
                medium.probe_at_us = now_us + medium.wait_us;
            }
            // A second probe soon confirms what a first has seen.
            if medium.better > 0 {
                medium.probe_at_us = medium.probe_at_us.min(now_us + CONFIRMING_PROBE_US);
            }
            if now_us < medium.probe_at_us {
                continue;
            }
            let wait_us = if medium.better > 0 { CONFIRMING_PROBE_US } else { medium.wait_us };
            medium.wait_us = (medium.wait_us * 2).min(LAST_PROBE_US);
            medium.probe_at_us = now_us + wait_us;
            let end = |(a, b, _): &(u8, u8, u8)| match (usize::from(*a) == own, usize::from(*b) == own) {
                (true, _) => Some(usize::from(*b)),
                (_, true) => Some(usize::from(*a)),
                _ => None,
            };
            let ends = family.links.iter().filter(|link| usize::from(link.2).min(MEDIA - 1) == at).filter_map(end);
            let lost = self.lost;
            let reached = |peer: &usize| lost.get(peer / 64).is_some_and(|word| word >> (peer % 64) & 1 == 0);
            match ends.into_iter().find(|peer| is_peer(*peer) && reached(peer)) {
                Some(peer) => return Some(peer),
                // No link of this device is on that medium: only trying again tells.
                None => medium.rate = *nominal,
            }
        }
        None
    }
}

/// A set of devices, a bit for each.
fn bits(devices: &[u8]) -> [u64; 4] {
    let mut words = [0; 4];
    for device in devices {
        if let Some(word) = words.get_mut(usize::from(device / 64)) {
            *word |= 1 << (device % 64);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn condition(missing: &'static [u8], bytes_per_second: &'static [f32], route: u8) -> Condition<'static> {
        Condition { missing, unneeded: missing, bytes_per_second, route, expected_us: 1000 }
    }

    static FAMILY: Family = Family {
        routes: &["base", "slow", "slower", "without 2"],
        conditions: &[
            condition(&[], &[1000.0], 0),
            condition(&[], &[100.0], 1),
            condition(&[], &[10.0], 2),
            condition(&[2], &[1000.0], 3),
        ],
        links: &[(0, 1, 0), (0, 2, 0), (1, 2, 0)],
        closes: false,
    };

    fn saw(rate: f32) -> LinkEvent {
        LinkEvent { between: (1, 0), what: Seen::BytesPerSecond(rate) }
    }

    #[test]
    fn slow_links_are_believed_at_once_and_fast_ones_the_second_time() {
        let mut chooser = Chooser::new(&FAMILY);
        assert_eq!(chooser.choose(), Some(0));
        chooser.hear(&saw(300.0));
        assert_eq!(chooser.choose(), Some(1), "300 is enough for 100, not for 1000");
        chooser.hear(&saw(2.0));
        assert_eq!(chooser.choose(), Some(2), "slower than all conditions: the slowest");
        chooser.hear(&saw(990.0));
        assert_eq!(chooser.choose(), Some(2));
        chooser.hear(&saw(5.0));
        chooser.hear(&saw(990.0));
        chooser.hear(&saw(990.0));
        assert_eq!(chooser.choose(), Some(0));
    }

    #[test]
    fn a_slow_link_is_not_believed_while_answers_are_in_time() {
        static CLOSED: Family = Family { closes: true, ..FAMILY };
        let mut chooser = Chooser::new(&CLOSED);
        for _ in 0..5 {
            chooser.took(0, 1100);
            chooser.hear(&saw(2.0));
            assert_eq!(chooser.choose(), Some(0), "a busy processor, not a slow link");
        }
        chooser.took(0, 9000);
        chooser.hear(&saw(20.0));
        assert_eq!(chooser.choose(), Some(2));
        chooser.took(2, 500);
        for _ in 0..2 {
            assert_eq!(chooser.choose(), Some(2));
            chooser.hear(&saw(60.0));
        }
        assert_eq!(chooser.choose(), Some(0), "much faster: it is tried");
        chooser.took(0, 5000);
        chooser.hear(&saw(90.0));
        assert_eq!(chooser.choose(), Some(1), "in use it turns out as it is");
        let mut first = Chooser::new(&CLOSED);
        first.took(0, 3000);
        first.hear(&saw(20.0));
        assert_eq!(first.choose(), Some(2), "late from the beginning");
    }

    #[test]
    fn answers_that_stay_late_are_put_down_to_the_links() {
        static CLOSED: Family = Family { closes: true, ..FAMILY };
        let mut chooser = Chooser::new(&CLOSED);
        chooser.took(0, 1000);
        for late_us in [9000, 1000, 9000] {
            chooser.took(0, late_us);
            assert_eq!(chooser.choose(), Some(0), "one may have many reasons");
        }
        chooser.took(0, 9000);
        assert_eq!(chooser.choose(), Some(1));
        assert_eq!(chooser.probe(0, |_| true, 1), None);
        assert_eq!(chooser.probe(0, |_| true, 1 + FIRST_PROBE_US), Some(1), "whether it is so is soon looked at");
        for _ in 0..2 {
            chooser.hear(&saw(990.0));
        }
        assert_eq!(chooser.choose(), Some(0));
    }

    #[test]
    fn a_lost_device_leaves_routes_without_it() {
        let mut chooser = Chooser::new(&FAMILY);
        chooser.hear(&LinkEvent { between: (0, 2), what: Seen::Lost });
        assert_eq!(chooser.choose(), Some(3));
        chooser.hear(&LinkEvent { between: (0, 1), what: Seen::Lost });
        assert_eq!(chooser.choose(), None);
    }

    #[test]
    fn a_route_that_does_without_more_serves_where_nothing_was_prepared() {
        static ALONE: Family = Family {
            conditions: &[
                condition(&[], &[1000.0], 0),
                Condition { missing: &[], unneeded: &[1, 2], ..condition(&[], &[10.0], 1) },
            ],
            ..FAMILY
        };
        let mut chooser = Chooser::new(&ALONE);
        assert_eq!(chooser.choose(), Some(0));
        chooser.hear(&LinkEvent { between: (0, 1), what: Seen::Lost });
        assert_eq!(chooser.choose(), Some(1));
    }

    #[test]
    fn slow_links_are_probed_less_and_less_often() {
        let mut chooser = Chooser::new(&FAMILY);
        assert_eq!(chooser.probe(0, |_| true, 1), None, "nothing is slow");
        chooser.hear(&saw(10.0));
        let mut expected = [501, 1001, 2001, 4001, 8001, 12001, 16001].iter();
        for millisecond in 1..20_000u64 {
            if chooser.probe(0, |_| true, millisecond * 1000) == Some(1) {
                assert_eq!(expected.next(), Some(&millisecond));
                chooser.hear(&saw(10.0));
            }
        }
        assert_eq!(expected.next(), None);
        // The first that sees a fast link has another follow soon, and that one is believed.
        assert_eq!(chooser.probe(0, |_| true, 20_001_000), Some(1));
        chooser.hear(&saw(990.0));
        let confirming = (20_002..).find(|millisecond| chooser.probe(0, |_| true, millisecond * 1000) == Some(1));
        assert_eq!(confirming, Some(20_002 + CONFIRMING_PROBE_US / 1000));
        assert_eq!(chooser.choose(), Some(2));
        chooser.hear(&saw(990.0));
        assert_eq!(chooser.choose(), Some(0));
    }
}
