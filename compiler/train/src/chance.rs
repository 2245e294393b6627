//! Chance that is the same on every machine.

use rand_xoshiro::SplitMix64;
use rand_xoshiro::rand_core::{Rng, SeedableRng};

/// Seeded chance (splitmix64).
pub struct Chance(SplitMix64);

impl Chance {
    /// The same for the same seed.
    pub fn new(seed: u64) -> Chance {
        Chance(SplitMix64::seed_from_u64(seed))
    }

    /// 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Between 0 and 1.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Of a normal distribution around 0 with deviation 1 (Box and Muller 1958).
    pub fn normal(&mut self) -> f32 {
        let (radius, angle) = (1.0 - self.unit(), std::f32::consts::TAU * self.unit());
        (-2.0 * radius.ln()).sqrt() * angle.cos()
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = (self.bits() % (last as u64 + 1)) as usize;
            items.swap(last, other);
        }
    }
}
