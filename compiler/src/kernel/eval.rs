//! Interpreter of kernels, bounds-checked: the meaning of the IR, for tests.

use super::split::Split;
use super::{Affine, Arithmetic, Bound, Buffer, Expression, Function, Kernel, Statement};

/// Runs a kernel on its buffers, in the order of [`Kernel::buffers`].
///
/// Panics if an access leaves its buffer; `verify` proves that none does.
pub fn evaluate(kernel: &Kernel, buffers: &mut [Vec<f32>]) {
    let whole = Kernel { split: None, ..kernel.clone() };
    evaluate_part(&whole, 0, buffers);
}

/// What one of the threads does that share the kernel; scratch buffers are its own.
pub fn evaluate_part(kernel: &Kernel, part: usize, buffers: &mut [Vec<f32>]) {
    let mut state = State {
        kernel,
        part,
        lanes: kernel.lanes as usize,
        buffers,
        loops: vec![0; kernel.loop_names.len()],
        variables: vec![vec![0.0; kernel.lanes as usize]; kernel.variable_names.len()],
    };
    state.block(&kernel.body);
}

struct State<'a> {
    kernel: &'a Kernel,
    part: usize,
    lanes: usize,
    buffers: &'a mut [Vec<f32>],
    loops: Vec<i64>,
    variables: Vec<Vec<f32>>,
}

impl State<'_> {
    fn block(&mut self, statements: &[Statement]) {
        for statement in statements {
            match statement {
                Statement::For { var, low, high, step, body, .. } => {
                    let (low, end) = (self.bound(low), self.bound(high));
                    let (mut value, end) = match &self.kernel.split {
                        Some(split) if split.loops.contains(var) => {
                            let count = usize::try_from((end - low + step - 1) / step).unwrap_or(0);
                            let range = Split::range(split.parts, self.part, count);
                            (low + range.start as i64 * step, end.min(low + range.end as i64 * step))
                        }
                        _ => (low, end),
                    };
                    while value < end {
                        self.loops[var.0 as usize] = value;
                        self.block(body);
                        value += step;
                    }
                }
                Statement::Assign(variable, value) => self.variables[variable.0 as usize] = self.expression(value),
                Statement::Store(buffer, at, value) => self.store(*buffer, at, self.lanes, value),
                Statement::StorePartial(buffer, at, count, value) => self.store(*buffer, at, *count as usize, value),
                Statement::Comment(_) => {}
            }
        }
    }

    fn store(&mut self, buffer: Buffer, at: &Affine, count: usize, value: &Expression) {
        let lanes = self.expression(value);
        let first = self.affine(at);
        self.buffers[buffer.0 as usize][first..first + count].copy_from_slice(&lanes[..count]);
    }

    fn signed(&self, affine: &Affine) -> i64 {
        let terms = affine.terms.iter().map(|(var, coefficient)| coefficient * self.loops[var.0 as usize]);
        affine.constant + terms.sum::<i64>()
    }

    fn affine(&self, affine: &Affine) -> usize {
        usize::try_from(self.signed(affine)).expect("verify excludes negative offsets")
    }

    fn bound(&self, bound: &Bound) -> i64 {
        let quotient = |affine: &Affine, divisor: i64| {
            let value = self.signed(affine);
            value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
        };
        match bound {
            Bound::Constant(value) => *value,
            Bound::Max(low, affine, divisor) => quotient(affine, *divisor).max(*low),
            Bound::Min(high, affine, divisor) => quotient(affine, *divisor).min(*high),
        }
    }

    fn expression(&self, value: &Expression) -> Vec<f32> {
        let load = |buffer: &Buffer, first: usize, stride: usize, count: usize| -> Vec<f32> {
            let source = &self.buffers[buffer.0 as usize];
            (0..self.lanes).map(|lane| if lane < count { source[first + lane * stride] } else { 0.0 }).collect()
        };
        match value {
            Expression::Variable(variable) => self.variables[variable.0 as usize].clone(),
            Expression::Constant(value) => vec![*value; self.lanes],
            Expression::Load(buffer, at) => load(buffer, self.affine(at), 1, self.lanes),
            Expression::LoadPartial(buffer, at, count) => load(buffer, self.affine(at), 1, *count as usize),
            Expression::LoadStrided(buffer, at, stride) => {
                load(buffer, self.affine(at), usize::try_from(*stride).expect("strides are positive"), self.lanes)
            }
            Expression::Broadcast(buffer, at) => load(buffer, self.affine(at), 0, self.lanes),
            Expression::Lane(variable, lane) => {
                vec![self.variables[variable.0 as usize][*lane as usize]; self.lanes]
            }
            Expression::MulAdd(a, b, c) => {
                let (a, b, c) = (self.expression(a), self.expression(b), self.expression(c));
                (0..self.lanes).map(|lane| a[lane].mul_add(b[lane], c[lane])).collect()
            }
            Expression::Binary(function, a, b) => {
                let apply = |(a, b): (f32, f32)| match function {
                    Arithmetic::Add => a + b,
                    Arithmetic::Sub => a - b,
                    Arithmetic::Mul => a * b,
                    Arithmetic::Div => a / b,
                    Arithmetic::Max => {
                        if a > b {
                            a
                        } else {
                            b
                        }
                    }
                    Arithmetic::Min => {
                        if a < b {
                            a
                        } else {
                            b
                        }
                    }
                };
                self.expression(a).into_iter().zip(self.expression(b)).map(apply).collect()
            }
            Expression::Unary(function, a) => {
                let apply = |a: f32| match function {
                    Function::Neg => -a,
                    Function::Abs => a.abs(),
                    Function::Sqrt => a.sqrt(),
                    Function::Round => a.round_ties_even(),
                    Function::PowerOfTwo => a.exp2(),
                };
                self.expression(a).into_iter().map(apply).collect()
            }
            Expression::SumLanes(a) => self.fold(a, |a, b| a + b),
            Expression::MaxLanes(a) => self.fold(a, |a, b| if a > b { a } else { b }),
        }
    }

    /// Folds lane i with lane i + half, halving until one is left.
    fn fold(&self, value: &Expression, join: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        let mut lanes = self.expression(value);
        let mut half = self.lanes / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] = join(lanes[lane], lanes[lane + half]);
            }
            half /= 2;
        }
        vec![lanes[0]; self.lanes]
    }
}
