//! Inputs made from others at random, always the same ones: what fuzzing does, in a few lines, for short runs in the tests.

/// Pseudo-random numbers (xorshift64).
pub struct Random(u64);

impl Random {
    /// Numbers that follow from a seed.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below a bound, which is 1 at least.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let begin = self.below(length + 1);
        let most = (length - begin).min(if self.below(4) == 0 { length } else { 16 });
        begin..begin + self.below(most + 1)
    }
}

/// Numbers at the edges of what types hold.
const NUMBERS: [&str; 12] = [
    "0",
    "1",
    "-1",
    "7",
    "255",
    "65536",
    "2147483648",
    "4294967295",
    "-9223372036854775808",
    "18446744073709551615",
    "1e999",
    "NaN",
];

/// Longest input that grows.
const MOST_BYTES: usize = 1 << 20;

/// Another input: one of the seeds with a few changes.
pub fn mutated(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        let range = random.range(bytes.len());
        match random.below(8) {
            0 if !range.is_empty() => bytes[range.start] ^= 1 << random.below(8),
            1 if !range.is_empty() => bytes[range.start] = random.below(256) as u8,
            2 => drop(bytes.drain(range)),
            3 if bytes.len() < MOST_BYTES => {
                let copy = bytes[range].to_vec();
                let at = random.below(bytes.len() + 1);
                bytes.splice(at..at, copy);
            }
            4 if bytes.len() < MOST_BYTES => {
                let other = &seeds[random.below(seeds.len())];
                let copy = other[random.range(other.len())].to_vec();
                bytes.splice(range, copy);
            }
            5 => bytes.truncate(range.start),
            // Another number for one in a text, or in the place of anything.
            6 => {
                let begin =
                    bytes[range.start..].iter().position(u8::is_ascii_digit).map_or(range.end, |at| range.start + at);
                let end = begin + bytes[begin..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(begin..end, NUMBERS[random.below(NUMBERS.len())].bytes());
            }
            _ => {
                let fill = [0, 255, b'(', b' '][random.below(4)];
                bytes[range].fill(fill);
            }
        }
    }
    bytes
}
