//! How much a kernel that somebody has written may do: proofs walk through all of its loops and hold all of its buffers.

use partita_kernel::{Bound, Kernel, Statement};

/// Most elements of all buffers together: 1 GiB of f32.
const MOST_ELEMENTS: usize = 1 << 28;

/// Most turns of all loops together, inner ones counted in each turn of those around them.
const MOST_TURNS: i128 = 1 << 26;

/// Refuses a kernel that is beyond what checks can walk through in seconds.
pub fn check(kernel: &Kernel) -> Result<(), String> {
    let elements = kernel.buffers.iter().fold(0usize, |sum, buffer| sum.saturating_add(buffer.elements));
    if elements > MOST_ELEMENTS {
        return Err(format!("`{}` has buffers of {elements} elements, at most {MOST_ELEMENTS}", kernel.name));
    }
    match turns(&kernel.body) {
        Some(turns) if turns <= MOST_TURNS => Ok(()),
        _ => Err(format!("loops of `{}` run more than {MOST_TURNS} times", kernel.name)),
    }
}

/// Turns of all loops, clipped ranges as if they were whole; `None` if there are too many to count.
fn turns(statements: &[Statement]) -> Option<i128> {
    let literal = |bound: &Bound| match bound {
        Bound::Constant(value) | Bound::Max(value, ..) | Bound::Min(value, ..) => i128::from(*value),
    };
    statements.iter().try_fold(0i128, |sum, statement| {
        let Statement::For { low, high, step, body, .. } = statement else { return Some(sum) };
        // Arithmetic on values of loops stays within 64 bits.
        let is_near = |bound: i128| bound.abs() <= MOST_TURNS * MOST_TURNS;
        let (low, high) = (literal(low), literal(high));
        let own = (high - low).max(0) / i128::from((*step).max(1)) + 1;
        let all = own.checked_mul(1 + turns(body)?)?.checked_add(sum)?;
        (is_near(low) && is_near(high) && all <= MOST_TURNS).then_some(all)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(elements: &str, turns: &str) -> Result<(), String> {
        let text = format!(
            "kernel k lanes 4 macs 0 \"a copy\"\ninput x[{elements}]\noutput y[{elements}]\nloops a, b\n{{\n  for a in 0..{turns} step 1 {{\n    \
             for b in 0..4 step 4 {{\n      store y[b] = load x[b]\n    }}\n  }}\n}}\n"
        );
        check(&partita_kernel::text::parse(&text).expect("the text is a kernel"))
    }

    #[test]
    fn loops_and_buffers_are_bounded() {
        assert_eq!(refusal("4", "1000"), Ok(()));
        assert!(refusal("4", "1000000000").expect_err("it would never end").contains("loops of `k`"));
        assert!(refusal("4", "9223372036854775807").expect_err("nor be counted").contains("loops of `k`"));
        assert!(refusal("4294967296", "1").expect_err("it would not fit").contains("8589934592 elements"));
    }
}
