//! Proof that a kernel stays inside its buffers, reads only variables that have a value, computes with lanes of
//! the types that operations are for, and, shared among threads, writes
//! no element of an output twice.
//!
//! Accesses are affine, so their extremes lie at the ends of the loops. Loops whose variable decides another loop's
//! bounds (clipped windows) are walked value by value; all others are taken as intervals.

use std::collections::HashSet;

use super::split::is_disjoint;
use super::{
    Access, Affine, Bound, Buffer, BufferDeclaration, Expression, Function, Kernel, LaneType, LoopVar, Statement,
    Variable, ceil_quotient,
};
use partita_ir::graph::ElementType;

/// What is wrong with a kernel; always a bug of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("kernel `{kernel}`: {rule}")]
pub struct VerifyError {
    /// Name of the kernel.
    pub kernel: String,
    /// What should hold, and what was found.
    pub rule: String,
}

/// Checks a kernel.
pub fn verify(kernel: &Kernel) -> Result<(), VerifyError> {
    let mut deciding = HashSet::new();
    collect_deciding(&kernel.body, &mut deciding);
    let mut checker = Checker {
        kernel,
        deciding,
        ranges: vec![None; kernel.loops.len()],
        assigned: vec![None; kernel.variable_names.len()],
    };
    if ![4, 8, 16].contains(&kernel.lanes) {
        return Err(checker.broken(format!("has {} lanes", kernel.lanes)));
    }
    if let Some(split) = &kernel.split
        && let Some(part) = split.part
    {
        *checker.range(part)? = Some((0, split.parts as i64 - 1));
    }
    let loops = kernel.loops.iter().map(|declared| &declared.name);
    let identifiers = loops.chain(&kernel.variable_names).chain(kernel.buffers.iter().map(|buffer| &buffer.name));
    for name in identifiers.chain([&kernel.name]) {
        let legal = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !legal {
            return Err(checker.broken(format!("`{name}` is not an identifier")));
        }
    }
    checker.block(&kernel.body)?;
    match &kernel.split {
        Some(split) if !is_disjoint(kernel, split) => {
            Err(checker.broken("two threads write the same element of an output".to_string()))
        }
        _ => Ok(()),
    }
}

/// Loop variables that bounds refer to.
fn collect_deciding(statements: &[Statement], found: &mut HashSet<LoopVar>) {
    for statement in statements {
        if let Statement::For { low, high, body, .. } = statement {
            for bound in [low, high] {
                if let Bound::Max(_, affine, _) | Bound::Min(_, affine, _) = bound {
                    found.extend(affine.terms.iter().map(|(var, _)| *var));
                }
            }
            collect_deciding(body, found);
        }
    }
}

struct Checker<'a> {
    kernel: &'a Kernel,
    deciding: HashSet<LoopVar>,
    /// Smallest and largest value of each loop variable here; none outside its loop.
    ranges: Vec<Option<(i64, i64)>>,
    /// What each variable holds, once it has a value.
    assigned: Vec<Option<LaneType>>,
}

impl Checker<'_> {
    fn broken(&self, rule: String) -> VerifyError {
        VerifyError { kernel: self.kernel.name.clone(), rule }
    }

    fn block(&mut self, statements: &[Statement]) -> Result<(), VerifyError> {
        for statement in statements {
            match statement {
                Statement::For { var, low, high, step, unroll, body } => {
                    self.for_loop(*var, (low, high), *step, *unroll, body)?;
                }
                Statement::Assign(variable, value) => {
                    let kind = self.expression(value)?;
                    match self.assigned.get_mut(variable.0 as usize) {
                        Some(assigned) if assigned.is_none_or(|before| before == kind) => *assigned = Some(kind),
                        Some(_) => {
                            let name = &self.kernel.variable_names[variable.0 as usize];
                            return Err(self.broken(format!("`{name}` is given {} after another type", kind.name())));
                        }
                        None => return Err(self.broken(format!("there is no variable {}", variable.0))),
                    }
                }
                Statement::Store(buffer, at, value) => {
                    self.typed(value, LaneType::F32)?;
                    self.access(*buffer, at, i64::from(self.kernel.lanes), true)?;
                }
                Statement::StorePartial(buffer, at, count, value) => {
                    self.partial(*count)?;
                    self.typed(value, LaneType::F32)?;
                    self.access(*buffer, at, i64::from(*count), true)?;
                }
                Statement::Prefetch(buffer, at) => {
                    let is_read = self
                        .kernel
                        .buffers
                        .get(buffer.0 as usize)
                        .is_some_and(|buffer| matches!(buffer.access, Access::Input | Access::Weights));
                    if !is_read {
                        return Err(self.broken("something is fetched early that the kernel writes".to_string()));
                    }
                    self.interval(at)?;
                }
                Statement::Barrier => {}
                Statement::Comment(text) => {
                    if text.contains(['\n', '\r']) {
                        return Err(self.broken("a comment has several lines".to_string()));
                    }
                }
            }
        }
        Ok(())
    }

    fn for_loop(
        &mut self,
        var: LoopVar,
        (low, high): (&Bound, &Bound),
        step: i64,
        unroll: bool,
        body: &[Statement],
    ) -> Result<(), VerifyError> {
        if step < 1 {
            return Err(self.broken(format!("a loop has step {step}")));
        }
        if unroll && !matches!((low, high), (Bound::Constant(_), Bound::Constant(_))) {
            return Err(self.broken("an unrolled loop has bounds that are not constant".to_string()));
        }
        let (first, end) = (self.bound(low)?, self.bound(high)?);
        if first >= end {
            return Ok(());
        }
        let last = first + (end - 1 - first) / step * step;
        // What a loop assigns first may be read after it only if the loop ran; no family needs that.
        let assigned = self.assigned.clone();
        let is_walked = self.deciding.contains(&var);
        let mut value = first;
        while value <= last {
            *self.range(var)? = Some((value, if is_walked { value } else { last }));
            self.assigned.clone_from(&assigned);
            self.block(body)?;
            value = if is_walked { value + step } else { last + 1 };
        }
        *self.range(var)? = None;
        self.assigned = assigned;
        Ok(())
    }

    fn range(&mut self, var: LoopVar) -> Result<&mut Option<(i64, i64)>, VerifyError> {
        let kernel = self.kernel.name.clone();
        let rule = format!("there is no loop variable {}", var.0);
        self.ranges.get_mut(var.0 as usize).ok_or(VerifyError { kernel, rule })
    }

    fn bound(&self, bound: &Bound) -> Result<i64, VerifyError> {
        let exact = |affine: &Affine, divisor: i64| {
            let (low, high) = self.interval(affine)?;
            if low != high || divisor < 1 {
                return Err(self.broken("a loop bound is not decided by the loops around it".to_string()));
            }
            Ok(ceil_quotient(low, divisor))
        };
        match bound {
            Bound::Constant(value) => Ok(*value),
            Bound::Max(low, affine, divisor) => Ok(exact(affine, *divisor)?.max(*low)),
            Bound::Min(high, affine, divisor) => Ok(exact(affine, *divisor)?.min(*high)),
        }
    }

    fn interval(&self, affine: &Affine) -> Result<(i64, i64), VerifyError> {
        let mut ends = Some((affine.constant, affine.constant));
        for (var, coefficient) in &affine.terms {
            let Some(Some((first, last))) = self.ranges.get(var.0 as usize).copied() else {
                return Err(self.broken(format!("loop variable {} is used outside its loop", var.0)));
            };
            ends = ends
                .zip(coefficient.checked_mul(first))
                .zip(coefficient.checked_mul(last))
                .and_then(|(((low, high), a), b)| Some((low.checked_add(a.min(b))?, high.checked_add(a.max(b))?)));
        }
        ends.ok_or_else(|| self.broken("an offset overflows".to_string()))
    }

    /// An access to numbers, and what they become in lanes.
    fn access(&self, buffer: Buffer, at: &Affine, count: i64, write: bool) -> Result<LaneType, VerifyError> {
        let declared = self.inside(buffer, at, count, write)?;
        let is_whole = declared.access == Access::Weights && count == i64::from(self.kernel.lanes);
        match declared.storage {
            ElementType::F32 | ElementType::I8 | ElementType::U8 | ElementType::I16 => Ok(LaneType::F32),
            ElementType::F16 if is_whole => Ok(LaneType::F32),
            ElementType::F16 => {
                Err(self.broken(format!("`{}` is stored in 16 bits, but not loaded whole", declared.name)))
            }
            ElementType::I32 if is_whole => Ok(LaneType::I32),
            ElementType::I32 => {
                Err(self.broken(format!("`{}` is stored in whole numbers, but not loaded whole", declared.name)))
            }
            other => Err(self.broken(format!("`{}` is stored as {}", declared.name, other.name()))),
        }
    }

    /// Bytes that are read as they are.
    fn bytes(&self, buffer: Buffer, at: &Affine, count: i64) -> Result<LaneType, VerifyError> {
        let declared = self.inside(buffer, at, count, false)?;
        match declared.storage {
            ElementType::I8 | ElementType::U8 => Ok(LaneType::I32),
            _ => Err(self.broken(format!("`{}` is not made of bytes", declared.name))),
        }
    }

    fn inside(&self, buffer: Buffer, at: &Affine, count: i64, write: bool) -> Result<&BufferDeclaration, VerifyError> {
        let Some(declared) = self.kernel.buffers.get(buffer.0 as usize) else {
            return Err(self.broken(format!("there is no buffer {}", buffer.0)));
        };
        let (low, high) = self.interval(at)?;
        if low < 0 || high.saturating_add(count) > declared.elements as i64 {
            return Err(self.broken(format!(
                "elements {low} to {} of `{}` are touched, but it has {}",
                high.saturating_add(count),
                declared.name,
                declared.elements
            )));
        }
        if declared.access != Access::Scratch && write != (declared.access == Access::Output) {
            return Err(self.broken(format!("`{}` is used against its declaration", declared.name)));
        }
        Ok(declared)
    }

    fn partial(&self, count: u32) -> Result<(), VerifyError> {
        if count == 0 || count >= self.kernel.lanes {
            return Err(self.broken(format!("{count} of {} lanes are moved", self.kernel.lanes)));
        }
        Ok(())
    }

    fn variable(&self, variable: Variable) -> Result<LaneType, VerifyError> {
        match self.assigned.get(variable.0 as usize) {
            Some(Some(kind)) => Ok(*kind),
            _ => Err(self.broken(format!("variable {} has no value yet", variable.0))),
        }
    }

    /// A value that must be of a type.
    fn typed(&self, value: &Expression, wanted: LaneType) -> Result<LaneType, VerifyError> {
        match self.expression(value)? {
            found if found == wanted => Ok(found),
            found => Err(self.broken(format!("{} is used where {} is expected", found.name(), wanted.name()))),
        }
    }

    fn expression(&self, value: &Expression) -> Result<LaneType, VerifyError> {
        let lanes = i64::from(self.kernel.lanes);
        match value {
            Expression::Variable(variable) => self.variable(*variable),
            Expression::Constant(_) => Ok(LaneType::F32),
            Expression::Whole(_) => Ok(LaneType::I32),
            Expression::Load(buffer, at) => self.access(*buffer, at, lanes, false),
            Expression::LoadPartial(buffer, at, count) => {
                self.partial(*count)?;
                self.access(*buffer, at, i64::from(*count), false)
            }
            Expression::LoadStrided(buffer, at, stride) => {
                self.access(*buffer, at, 1, false)?;
                let Some(last) = (lanes - 1).checked_mul(*stride).and_then(|last| last.checked_add(at.constant)) else {
                    return Err(self.broken(format!("elements lie {stride} apart")));
                };
                self.access(*buffer, &Affine { constant: last, ..at.clone() }, 1, false)
            }
            Expression::Broadcast(buffer, at) => self.access(*buffer, at, 1, false),
            Expression::LoadBytes(buffer, at) => self.bytes(*buffer, at, 4 * lanes),
            Expression::BroadcastBytes(buffer, at) => self.bytes(*buffer, at, 4),
            Expression::Lane(variable, lane) if *lane < self.kernel.lanes => self.variable(*variable),
            Expression::Lane(_, lane) => Err(self.broken(format!("there is no lane {lane}"))),
            Expression::MulAdd(a, b, c) => {
                self.typed(a, LaneType::F32)?;
                self.typed(b, LaneType::F32)?;
                self.typed(c, LaneType::F32)
            }
            Expression::Join(..) | Expression::AddProducts(..) if lanes != 4 => {
                Err(self.broken(format!("halves of {lanes} lanes are multiplied")))
            }
            Expression::Join(_, a, b) => {
                self.typed(a, LaneType::I32)?;
                self.typed(b, LaneType::I32)
            }
            Expression::DotBytes(_, a, b, c) | Expression::AddProducts(_, a, b, c) => {
                self.typed(a, LaneType::I32)?;
                self.typed(b, LaneType::I32)?;
                self.typed(c, LaneType::I32)
            }
            Expression::Binary(_, a, b) => {
                self.typed(a, LaneType::F32)?;
                self.typed(b, LaneType::F32)
            }
            Expression::Unary(Function::FromWhole, a) => {
                self.typed(a, LaneType::I32)?;
                Ok(LaneType::F32)
            }
            Expression::Unary(Function::TransposeBytes | Function::WidenLow | Function::WidenHigh, a) if lanes == 4 => {
                self.typed(a, LaneType::I32)
            }
            Expression::Unary(Function::TransposeBytes | Function::WidenLow | Function::WidenHigh, _) => {
                Err(self.broken(format!("the bytes of {lanes} lanes are moved")))
            }
            Expression::Unary(_, a) | Expression::SumLanes(a) | Expression::MaxLanes(a) => self.typed(a, LaneType::F32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_in_halves_are_only_loaded_whole() {
        let declare =
            |name: &str, access, storage| BufferDeclaration { name: name.to_string(), access, elements: 4, storage };
        let kernel = |access, value| Kernel {
            name: "k".to_string(),
            summary: String::new(),
            lanes: 4,
            buffers: vec![declare("w", access, ElementType::F16), declare("y", Access::Output, ElementType::F32)],
            loops: Vec::new(),
            variable_names: Vec::new(),
            body: vec![Statement::Store(Buffer(1), Affine::constant(0), value)],
            in_place: Vec::new(),
            split: None,
            alternative: None,
            winograd: None,
            macs: 0,
        };
        let first = Affine::constant(0);
        let whole = Expression::Load(Buffer(0), first.clone());
        verify(&kernel(Access::Weights, whole.clone())).expect("a whole vector of weights");
        for (access, value) in [
            (Access::Input, whole),
            (Access::Weights, Expression::Broadcast(Buffer(0), first.clone())),
            (Access::Weights, Expression::LoadPartial(Buffer(0), first.clone(), 2)),
            (Access::Weights, Expression::LoadStrided(Buffer(0), first, 1)),
        ] {
            let error = verify(&kernel(access, value)).expect_err("no back end can do that");
            assert!(error.rule.contains("16 bits"), "{error}");
        }
    }

    #[test]
    fn lanes_hold_what_operations_are_for() {
        let with = |line: &str| {
            let head = "kernel k lanes 4 macs 0 \"\"\ninput x[16] u8\nweights w[16] i8\nweights b[4] i32\noutput y[4]\nvariables s, f";
            let start = "s = dot_unsigned(broadcast bytes x[0], load bytes w[0], load b[0])\n  f = from_whole(s)";
            crate::text::parse(&format!("{head}\n{{\n  {start}\n  {line}\n}}\n")).expect("the text is a kernel")
        };
        verify(&with("store y[0] = add(f, load 2 of x[0])")).expect("every type is right");
        for line in [
            "store y[0] = s",
            "store y[0] = add(f, s)",
            "store y[0] = from_whole(f)",
            "store y[0] = mul_add(f, f, load b[0])",
            "s = dot_unsigned(f, load bytes w[0], s)",
            "s = f",
            "s = transpose_bytes(f)",
            "f = transpose_bytes(s)",
            "f = sum_lanes(whole 3)",
            "s = add_twos(s, f)",
            "f = add_neighbours(s, s)",
            "s = add_products_low(s, s, f)",
            "s = products_high(f, s)",
            "s = widen_low(f)",
            "s = add_words_high(s, f, s)",
        ] {
            let error = verify(&with(line)).expect_err("a type is wrong");
            assert!(error.rule.contains("i32") || error.rule.contains("f32"), "{line}: {error}");
        }
        for line in ["s = load bytes b[0]", "store y[0] = broadcast b[0]"] {
            verify(&with(line)).expect_err("a buffer is of another type");
        }
    }
}
