//! Quantities with units, as people write them: `512 KiB`, `100 Mbit/s`, `1 ms`.

/// Splits `100 Mbit/s` into number and unit.
fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

/// Bytes of `512 KiB`, `2 MB`, `64 B`.
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "B" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KiB" => 1024.0,
        "MiB" => 1048576.0,
        "GiB" => 1073741824.0,
        _ => return None,
    };
    let value = number * factor;
    (0.0..9e18).contains(&value).then_some(value as u64)
}

/// Bytes per second of `100 Mbit/s`, `115200 bit/s`, `2 MB/s`.
pub fn bytes_per_second(text: &str) -> Option<f64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "bit/s" => 0.125,
        "kbit/s" => 125.0,
        "Mbit/s" => 125e3,
        "Gbit/s" => 125e6,
        "B/s" => 1.0,
        "kB/s" => 1e3,
        "MB/s" => 1e6,
        "GB/s" => 1e9,
        _ => return None,
    };
    let value = number * factor;
    (value.is_finite() && value > 0.0).then_some(value)
}

/// Milliseconds of `1 ms`, `250 us`, `0.5 s`.
pub fn milliseconds(text: &str) -> Option<f64> {
    let (number, unit) = split(text)?;
    let factor = match unit {
        "us" => 1e-3,
        "ms" => 1.0,
        "s" => 1e3,
        _ => return None,
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_mean_what_they_say() {
        assert_eq!(bytes("512 KiB"), Some(524_288));
        assert_eq!(bytes("2MB"), Some(2_000_000));
        assert_eq!(bytes("12"), None);
        assert_eq!(bytes("-1 B"), None);
        assert_eq!(bytes_per_second("100 Mbit/s"), Some(12_500_000.0));
        assert_eq!(bytes_per_second("115200 bit/s"), Some(14_400.0));
        assert_eq!(bytes_per_second("0 Mbit/s"), None);
        assert_eq!(milliseconds("250 us"), Some(0.25));
        assert_eq!(milliseconds("1 hour"), None);
    }
}
