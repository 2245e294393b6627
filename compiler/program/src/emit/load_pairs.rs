//! Neighbouring vector loads and stores of AArch64 machine code as `ldp` and `stp`, which Cranelift does not form: one
//! instruction instead of two, and a kernel's inner loop is little else than loads and multiply-adds.
//!
//! Two instructions become one only if they stand next to each other, nothing jumps to the second, and both access
//! vectors of one base register 16 bytes apart. What follows moves up, so every branch is written again. Code with
//! anything else that knows where it lies (literals, jump tables) is left as it is.

/// Machine code with pairs, and where each old instruction (in words) is now; `None` if nothing changes.
pub fn join(code: &[u8]) -> Option<(Vec<u8>, Vec<usize>)> {
    if !code.len().is_multiple_of(4) {
        return None;
    }
    let words: Vec<u32> =
        code.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    let mut is_target = vec![false; words.len() + 1];
    for (at, word) in words.iter().enumerate() {
        if knows_its_place(*word) {
            return None;
        }
        if let Some(branch) = Branch::of(*word) {
            let target = usize::try_from(at as i64 + branch.distance(*word)).ok()?;
            *is_target.get_mut(target)? = true;
        }
    }
    let mut joined: Vec<(usize, u32)> = Vec::with_capacity(words.len());
    let mut place = Vec::with_capacity(words.len() + 1);
    let mut at = 0;
    while at < words.len() {
        let pair = words.get(at + 1).filter(|_| !is_target[at + 1]).and_then(|next| pair(words[at], *next));
        place.push(joined.len());
        if pair.is_some() {
            place.push(joined.len());
        }
        joined.push((at, pair.unwrap_or(words[at])));
        at += if pair.is_some() { 2 } else { 1 };
    }
    place.push(joined.len());
    if joined.len() == words.len() {
        return None;
    }
    let mut bytes = Vec::with_capacity(joined.len() * 4);
    for (now, (before, word)) in joined.iter().enumerate() {
        let word = match Branch::of(*word) {
            Some(branch) => {
                let target = place[(*before as i64 + branch.distance(*word)) as usize];
                branch.with_distance(*word, target as i64 - now as i64)
            }
            None => *word,
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    Some((bytes, place))
}

/// A branch relative to itself: how many bits its distance has, in words, and where they begin.
struct Branch {
    bits: u32,
    shift: u32,
}

impl Branch {
    /// `b`, `b.cond`, `cbz`, `cbnz`, `tbz`, `tbnz` (Arm Architecture Reference Manual, C4.1.66). A `bl` has a relocation.
    fn of(word: u32) -> Option<Branch> {
        if word & 0xfc00_0000 == 0x1400_0000 {
            Some(Branch { bits: 26, shift: 0 })
        } else if word & 0xff00_0000 == 0x5400_0000 || word & 0x7e00_0000 == 0x3400_0000 {
            Some(Branch { bits: 19, shift: 5 })
        } else if word & 0x7e00_0000 == 0x3600_0000 {
            Some(Branch { bits: 14, shift: 5 })
        } else {
            None
        }
    }

    fn mask(&self) -> u32 {
        ((1 << self.bits) - 1) << self.shift
    }

    fn distance(&self, word: u32) -> i64 {
        let unused = 32 - self.bits;
        i64::from(((((word & self.mask()) >> self.shift) << unused) as i32) >> unused)
    }

    /// Distances only shrink, so they fit.
    fn with_distance(&self, word: u32, distance: i64) -> u32 {
        word & !self.mask() | ((distance as u32) << self.shift) & self.mask()
    }
}

/// Loads of literals, `adr`, and jumps to registers, which may be jump tables.
fn knows_its_place(word: u32) -> bool {
    word & 0x3b00_0000 == 0x1800_0000 || word & 0x9f00_0000 == 0x1000_0000 || word & 0xffff_fc1f == 0xd61f_0000
}

/// A load or store of a 16-byte vector.
struct VectorAccess {
    is_load: bool,
    /// Multiples of 16 bytes.
    offset: i64,
    base: u32,
    register: u32,
}

impl VectorAccess {
    /// `ldr q`, `str q` with an unsigned offset; `ldur q`, `stur q`.
    fn of(word: u32) -> Option<VectorAccess> {
        let (base, register) = (word >> 5 & 31, word & 31);
        let (is_load, offset) = match (word & 0xffc0_0000, word & 0xffe0_0c00) {
            (0x3dc0_0000, _) => (true, i64::from(word >> 10 & 0xfff)),
            (0x3d80_0000, _) => (false, i64::from(word >> 10 & 0xfff)),
            (_, unscaled @ (0x3cc0_0000 | 0x3c80_0000)) => {
                let bytes = i64::from((((word >> 12 & 0x1ff) << 23) as i32) >> 23);
                if bytes % 16 != 0 {
                    return None;
                }
                (unscaled == 0x3cc0_0000, bytes / 16)
            }
            _ => return None,
        };
        Some(VectorAccess { is_load, offset, base, register })
    }
}

/// One instruction that does what both do.
fn pair(first: u32, second: u32) -> Option<u32> {
    let (first, second) = (VectorAccess::of(first)?, VectorAccess::of(second)?);
    let (low, high) = if first.offset < second.offset { (&first, &second) } else { (&second, &first) };
    let fits = first.is_load == second.is_load
        && first.base == second.base
        && high.offset == low.offset + 1
        && (-64..64).contains(&low.offset)
        && !(first.is_load && first.register == second.register);
    let code = if first.is_load { 0xad40_0000 } else { 0xad00_0000 };
    let offset = ((low.offset as u32) & 0x7f) << 15;
    fits.then_some(code | offset | high.register << 10 | low.base << 5 | low.register)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn joined(words: &[u32]) -> Option<Vec<u32>> {
        let (code, _) = join(&bytes(words))?;
        Some(code.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect())
    }

    const RET: u32 = 0xd65f_03c0;
    /// `ldr q1, [x0]`, `ldr q2, [x0, #16]`, `ldp q1, q2, [x0]`
    const FIRST: u32 = 0x3dc0_0001;
    const SECOND: u32 = 0x3dc0_0402;
    const BOTH: u32 = 0xad40_0801;

    #[test]
    fn neighbours_become_pairs_in_either_order() {
        assert_eq!(joined(&[FIRST, SECOND, RET]), Some(vec![BOTH, RET]));
        assert_eq!(joined(&[SECOND, FIRST, RET]), Some(vec![BOTH, RET]));
        // `stur q0, [x1, #-16]`, `str q3, [x1]`: `stp q0, q3, [x1, #-16]`
        assert_eq!(joined(&[0x3c9f_0020, 0x3d80_0023, RET]), Some(vec![0xad3f_8c20, RET]));
    }

    #[test]
    fn what_is_no_pair_stays() {
        // The same register twice, other bases, a gap, a load and a store, too far for a pair.
        for other in [0x3dc0_0401, 0x3dc0_0422, 0x3dc0_0802, 0x3d80_0402] {
            assert_eq!(joined(&[FIRST, other, RET]), None, "{other:x}");
        }
        assert_eq!(joined(&[0x3dc1_0001, 0x3dc1_0402, RET]), None);
        // A literal: nothing may move.
        assert_eq!(joined(&[FIRST, SECOND, 0x9c00_0020, RET]), None);
    }

    #[test]
    fn branches_reach_the_same_instructions() {
        // cbnz x2 over the pair, the pair, back to the pair, back to the start.
        let [over, back, start] = [0xb500_0062, 0xb5ff_ffc2, 0x17ff_fffc];
        assert_eq!(
            joined(&[over, FIRST, SECOND, back, start, RET]),
            Some(vec![0xb500_0042, BOTH, 0xb5ff_ffe2, 0x17ff_fffd, RET])
        );
        // Jumped to: the second load stays alone.
        assert_eq!(joined(&[0xb500_0042, FIRST, SECOND, RET]), None);
    }

    #[test]
    fn any_bytes_are_taken() {
        let mut state = 1u32;
        for length in 0..200 {
            let words: Vec<u32> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state
                })
                .collect();
            join(&bytes(&words));
        }
    }
}
