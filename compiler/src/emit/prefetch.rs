//! Prefetching on AArch64, for which Cranelift has no instruction: a marked load whose result nobody uses stands in for
//! it, and its machine code becomes `prfm`, which has the same forms of addresses and waits for nothing.

/// Mark of the loads that stand for prefetches, as a place in the source.
pub const MARK: u32 = 0x7e7c_0001;

/// `pldl1keep`: into the first-level cache, to stay.
const HINT: u32 = 0;

/// Rewrites the marked loads; `ranges` are the bytes of code that each of them became, with what computes its address.
pub fn rewrite(code: &mut [u8], ranges: impl Iterator<Item = (u32, u32)>) {
    for (start, end) in ranges {
        let Some(words) = code.get_mut(start as usize..end as usize) else { continue };
        for word in words.chunks_exact_mut(4) {
            let found = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            if let Some(hint) = hint(found) {
                word.copy_from_slice(&hint.to_le_bytes());
            }
        }
    }
}

/// `ldr x`, `ldur x` and `ldr x` with a register as `prfm` and `prfum` (Arm Architecture Reference Manual, C4.1.66).
fn hint(word: u32) -> Option<u32> {
    let operation = if word & 0xffc0_0000 == 0xf940_0000 {
        0xf980_0000 | word & 0x003f_ffe0
    } else if word & 0xffe0_0c00 == 0xf840_0000 {
        0xf880_0000 | word & 0x001f_ffe0
    } else if word & 0xffe0_0c00 == 0xf860_0800 {
        0xf8a0_0000 | word & 0x001f_ffe0
    } else {
        return None;
    };
    Some(operation | HINT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_become_hints_with_the_same_address() {
        // ldr x9, [x3, #1024]; ldur x9, [x3, #-8]; ldr x9, [x3, x4]
        let loads = [0xf942_0069_u32, 0xf85f_8069, 0xf864_6869];
        // prfm pldl1keep, [x3, #1024]; prfum pldl1keep, [x3, #-8]; prfm pldl1keep, [x3, x4]
        let hints = [0xf982_0060_u32, 0xf89f_8060, 0xf8a4_6860];
        let mut code: Vec<u8> = loads.iter().flat_map(|word| word.to_le_bytes()).collect();
        let kept = code.clone();
        rewrite(&mut code, [(4, 8), (8, 12)].into_iter());
        assert_eq!(code[..4], kept[..4], "what is not marked stays a load");
        rewrite(&mut code, std::iter::once((0, 12)));
        let expected: Vec<u8> = hints.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(code, expected);
        // Arithmetic that prepares an address stays.
        let mut add = 0x8b04_0069_u32.to_le_bytes();
        rewrite(&mut add, std::iter::once((0, 4)));
        assert_eq!(add, 0x8b04_0069_u32.to_le_bytes());
    }
}
