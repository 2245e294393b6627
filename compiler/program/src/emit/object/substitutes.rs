//! Instructions of AArch64 that Cranelift does not have. In place of each it is given one with the same operands, marked as
//! if it came from some place in the source; in the machine code the marked instruction becomes the one that was meant.
//!
//! Encodings: Arm Architecture Reference Manual, C4.1.66 (loads), C4.1.69 (Advanced SIMD).

use cranelift_codegen::ir::SourceLoc;

/// What is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Substitute {
    /// `prfm pldl1keep`: a load of 64 bits whose value nobody uses.
    Prefetch,
    /// `sdot`: `fmla` of four lanes, with a vector or with one lane of it.
    Dot,
    /// `fcvtl` of four halves: `fcvtl` of two singles.
    Widen,
    /// `fcvtns` of four singles, to the nearest whole numbers: `fcvtzs`.
    Nearest,
    /// `fcvtn` of four singles: `fcvtn` of two doubles.
    Narrow,
    /// `smlal` of eight bytes: `bsl`, which changes its first operand, too.
    ProductsLow,
    /// `smlal2`, likewise.
    ProductsHigh,
    /// `smlal` of four numbers of 16 bits: `bsl`.
    WordsLow,
    /// `smlal2`, likewise.
    WordsHigh,
    /// `sadalp` of eight numbers of 16 bits: `bsl` with one operand twice.
    AddTwos,
}

/// The registers that an address on the stack begins with: what is loaded from there is a register that was spilled.
const STACK_BASES: [u32; 2] = [29, 31];

const ALL: [Substitute; 10] = [
    Substitute::Prefetch,
    Substitute::Dot,
    Substitute::Widen,
    Substitute::Nearest,
    Substitute::Narrow,
    Substitute::ProductsLow,
    Substitute::ProductsHigh,
    Substitute::WordsLow,
    Substitute::WordsHigh,
    Substitute::AddTwos,
];

/// Far from anything that counts lines.
const FIRST_MARK: u32 = 0x7e7c_0000;

impl Substitute {
    /// The place in the source that marks it. Marks are two apart: Cranelift keeps places relative to the first one of a
    /// function, where -1 stands for none.
    pub fn mark(self) -> SourceLoc {
        SourceLoc::new(FIRST_MARK + 2 * self as u32)
    }

    /// What a place marks.
    pub fn marked(place: SourceLoc) -> Option<Substitute> {
        ALL.into_iter().find(|substitute| substitute.mark() == place)
    }

    /// The instruction that is meant by one of those that stand for it.
    fn of(self, word: u32) -> Option<u32> {
        // Between marked instructions the register allocator may have put its own.
        if self == Substitute::Prefetch && STACK_BASES.contains(&(word >> 5 & 31)) {
            return None;
        }
        // Mask, what it finds, what comes in its place, and which bits stay.
        let forms: &[(u32, u32, u32, u32)] = match self {
            // Offsets as multiples of eight, in bytes, and in a register; the register that is loaded becomes the hint 0.
            Substitute::Prefetch => &[
                (0xffc0_0000, 0xf940_0000, 0xf980_0000, 0x003f_ffe0),
                (0xffe0_0c00, 0xf840_0000, 0xf880_0000, 0x001f_ffe0),
                (0xffe0_0c00, 0xf860_0800, 0xf8a0_0800, 0x001f_f3e0),
            ],
            // By vector, and by one lane, whose number lies in the same bits.
            Substitute::Dot => &[
                (0xffe0_fc00, 0x4e20_cc00, 0x4e80_9400, 0x001f_03ff),
                (0xffc0_f400, 0x4f80_1000, 0x4f80_e000, 0x003f_0bff),
            ],
            Substitute::Widen => &[(0xffff_fc00, 0x0e61_7800, 0x0e21_7800, 0x0000_03ff)],
            Substitute::Nearest => &[(0xffff_fc00, 0x4ea1_b800, 0x4e21_a800, 0x0000_03ff)],
            Substitute::Narrow => &[(0xffff_fc00, 0x0e61_6800, 0x0e21_6800, 0x0000_03ff)],
            Substitute::ProductsLow => &[(0xffe0_fc00, 0x6e60_1c00, 0x0e20_8000, 0x001f_03ff)],
            Substitute::ProductsHigh => &[(0xffe0_fc00, 0x6e60_1c00, 0x4e20_8000, 0x001f_03ff)],
            Substitute::WordsLow => &[(0xffe0_fc00, 0x6e60_1c00, 0x0e60_8000, 0x001f_03ff)],
            Substitute::WordsHigh => &[(0xffe0_fc00, 0x6e60_1c00, 0x4e60_8000, 0x001f_03ff)],
            Substitute::AddTwos => &[(0xffe0_fc00, 0x6e60_1c00, 0x4e60_6800, 0x0000_03ff)],
        };
        let form = forms.iter().find(|(mask, found, ..)| word & mask == *found);
        form.map(|(_, _, meant, kept)| meant | word & kept)
    }
}

/// Rewrites the code of a marked instruction; what else it was made into, such as the sum of an address, stays.
pub fn rewrite(code: &mut [u8], substitute: Substitute) {
    for bytes in code.chunks_exact_mut(4) {
        let word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        if let Some(meant) = substitute.of(word) {
            bytes.copy_from_slice(&meant.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operands_stay_the_same() {
        let cases = [
            // ldr x9, [x3, #1024]; ldur x9, [x3, #-8]; ldr x9, [x3, x4]
            (
                Substitute::Prefetch,
                [0xf942_0069_u32, 0xf85f_8069, 0xf864_6869],
                [0xf982_0060, 0xf89f_8060, 0xf8a4_6860],
            ),
            // fmla v5.4s, v6.4s, v31.4s; fmla v5.4s, v6.4s, v31.s[3]; fmla v0.4s, v1.4s, v2.s[0]
            (Substitute::Dot, [0x4e3f_ccc5, 0x4fbf_18c5, 0x4f82_1020], [0x4e9f_94c5, 0x4fbf_e8c5, 0x4f82_e020]),
            // fcvtl v5.2d, v6.2s; add x9, x3, x4 stays; so does mov v0.16b, v1.16b
            (Substitute::Widen, [0x0e61_78c5, 0x8b04_0069, 0x4ea1_1c20], [0x0e21_78c5, 0x8b04_0069, 0x4ea1_1c20]),
            // fcvtzs v5.4s, v6.4s; fcvtzs of doubles stays, and so does frintn v5.4s, v6.4s
            (Substitute::Nearest, [0x4ea1_b8c5, 0x4ee1_b8c5, 0x4e21_88c5], [0x4e21_a8c5, 0x4ee1_b8c5, 0x4e21_88c5]),
            // fcvtn v5.2s, v6.2d; what is beside it stays
            (Substitute::Narrow, [0x0e61_68c5, 0x8b04_0069, 0x4ea1_1c20], [0x0e21_68c5, 0x8b04_0069, 0x4ea1_1c20]),
            // bsl v5.16b, v6.16b, v31.16b; mov v0.16b, v1.16b stays
            (Substitute::ProductsLow, [0x6e7f_1cc5, 0x4ea1_1c20, 0x8b04_0069], [0x0e3f_80c5, 0x4ea1_1c20, 0x8b04_0069]),
            (
                Substitute::ProductsHigh,
                [0x6e7f_1cc5, 0x4ea1_1c20, 0x8b04_0069],
                [0x4e3f_80c5, 0x4ea1_1c20, 0x8b04_0069],
            ),
            (Substitute::WordsLow, [0x6e7f_1cc5, 0x4ea1_1c20, 0x8b04_0069], [0x0e7f_80c5, 0x4ea1_1c20, 0x8b04_0069]),
            (Substitute::WordsHigh, [0x6e7f_1cc5, 0x4ea1_1c20, 0x8b04_0069], [0x4e7f_80c5, 0x4ea1_1c20, 0x8b04_0069]),
            // bsl v5.16b, v6.16b, v6.16b
            (Substitute::AddTwos, [0x6e66_1cc5, 0x4ea1_1c20, 0x8b04_0069], [0x4e60_68c5, 0x4ea1_1c20, 0x8b04_0069]),
        ];
        for (substitute, stands, meant) in cases {
            let mut code: Vec<u8> = stands.iter().flat_map(|word| word.to_le_bytes()).collect();
            rewrite(&mut code, substitute);
            let expected: Vec<u8> = meant.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
            assert_eq!(code, expected, "{substitute:?}");
        }
    }

    #[test]
    fn spilled_registers_still_come_back() {
        // ldr x9, [sp, #16]; ldr x9, [x29, #16]; ldur x9, [x29, #-8]
        let spilled: Vec<u8> =
            [0xf940_0be9_u32, 0xf940_0ba9, 0xf85f_83a9].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut code = spilled.clone();
        rewrite(&mut code, Substitute::Prefetch);
        assert_eq!(code, spilled);
    }

    #[test]
    fn marks_are_told_apart() {
        for substitute in ALL {
            assert_eq!(Substitute::marked(substitute.mark()), Some(substitute));
        }
        assert_eq!(Substitute::marked(SourceLoc::default()), None);
    }
}
