//! Sizes as people read them: the one way in which messages and tables print bytes.

/// Units, each 1024 of the one before.
const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];

/// `512 B`, `48 KiB`, `4.71 MiB`: at least three digits count, and whole numbers stand without a fraction.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // What would round to 1024 of a unit is one of the next.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { text.as_str() };
    format!("{text} {}", UNITS[unit])
}

/// What is needed beside what is there, such that the two do not look alike: `64 KiB (65540 B) of 64 KiB (65536 B)` where
/// rounding would hide the difference.
pub fn sizes(needed: u64, available: u64) -> (String, String) {
    let (left, right) = (size(needed), size(available));
    if needed != available && left == right {
        return (format!("{left} ({needed} B)"), format!("{right} ({available} B)"));
    }
    (left, right)
}

#[cfg(test)]
mod tests {
    use super::{size, sizes};

    #[test]
    fn sizes_are_short_and_differ_where_they_do() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (49152, "48 KiB"),
            (4_941_984, "4.71 MiB"),
            (100 << 20, "100 MiB"),
            ((1 << 20) - 1, "1 MiB"),
            (8_589_438_976, "8 GiB"),
            (u64::MAX, "16777216 TiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(sizes(65540, 65536), ("64 KiB (65540 B)".to_string(), "64 KiB (65536 B)".to_string()));
        assert_eq!(sizes(65536, 49152), ("64 KiB".to_string(), "48 KiB".to_string()));
    }
}
