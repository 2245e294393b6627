//! Interpreter of kernels, bounds-checked: the meaning of the IR, for tests.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::{Deref, DerefMut};

use partita_ir::graph::ElementType;
use partita_rt::F16;

use super::split::Split;
use super::{
    Access, Affine, Arithmetic, Bound, Buffer, Bytes, Expression, Factors, Function, Half, Joining, Kernel, Statement,
    turns,
};

/// Runs a kernel on its buffers, in the order of [`Kernel::buffers`], as one thread.
///
/// A buffer of whole numbers holds them as `f32`. Panics if an access leaves its buffer (`verify` proves that none does), or
/// if what is stored in a buffer of whole numbers is none of its range.
pub fn evaluate(kernel: &Kernel, buffers: &mut [Vec<f32>]) {
    let split = kernel.split.as_ref().map(|split| Split { parts: 1, ..split.clone() });
    evaluate_parts(&Kernel { split, ..kernel.clone() }, buffers);
}

/// The same as all threads that share the kernel, one after the other from barrier to barrier, the last one first.
///
/// Panics if two threads touch an element between two barriers and one of them writes it.
pub fn evaluate_parts(kernel: &Kernel, buffers: &mut [Vec<f32>]) {
    let parts = kernel.split.as_ref().map_or(1, |split| split.parts);
    let mut state = State {
        kernel,
        part: 0,
        lanes: kernel.lanes as usize,
        buffers,
        loops: vec![vec![0; kernel.loops.len()]; parts],
        variables: vec![vec![Lanes::of(0.0, kernel.lanes as usize); kernel.variable_names.len()]; parts],
        touched: RefCell::new(HashMap::new()),
    };
    if let Some(var) = kernel.split.as_ref().and_then(|split| split.part) {
        state.loops.iter_mut().enumerate().for_each(|(part, loops)| loops[var.0 as usize] = part as i64);
    }
    state.together(&kernel.body);
}

struct State<'a> {
    kernel: &'a Kernel,
    /// The thread that runs.
    part: usize,
    lanes: usize,
    buffers: &'a mut [Vec<f32>],
    /// Per thread.
    loops: Vec<Vec<i64>>,
    variables: Vec<Vec<Lanes>>,
    /// Since the last barrier: per buffer and element the thread that touched it, and whether any wrote.
    touched: RefCell<HashMap<(u32, usize), (usize, bool)>>,
}

impl State<'_> {
    /// All threads, up to every barrier one after the other.
    fn together(&mut self, statements: &[Statement]) {
        let parts = self.loops.len();
        if !statements.iter().any(has_barrier) {
            for part in (0..parts).rev() {
                self.part = part;
                self.block(statements);
                self.forget_own_scratch();
            }
            return;
        }
        for statement in statements {
            match statement {
                Statement::Barrier => self.touched.borrow_mut().clear(),
                Statement::For { var, low, high, step, body, .. } if has_barrier(statement) => {
                    let (mut value, end) = (self.bound(low), self.bound(high));
                    while value < end {
                        self.loops.iter_mut().for_each(|loops| loops[var.0 as usize] = value);
                        self.together(body);
                        value += step;
                    }
                }
                other => self.together(std::slice::from_ref(other)),
            }
        }
    }

    /// Scratch that every thread has for itself holds nothing for the next.
    fn forget_own_scratch(&mut self) {
        if self.kernel.split.as_ref().is_some_and(|split| split.part.is_none()) {
            for (buffer, declared) in self.buffers.iter_mut().zip(&self.kernel.buffers) {
                if declared.access == Access::Scratch {
                    buffer.fill(f32::NAN);
                }
            }
        }
    }

    /// Notes that the thread touches an element.
    fn touch(&self, buffer: Buffer, element: usize, write: bool) {
        let Some(split) = self.kernel.split.as_ref().filter(|split| split.parts > 1) else { return };
        let declared = &self.kernel.buffers[buffer.0 as usize];
        if matches!(declared.access, Access::Input | Access::Weights)
            || declared.access == Access::Scratch && split.part.is_none()
        {
            return;
        }
        let mut touched = self.touched.borrow_mut();
        let (part, wrote) = touched.entry((buffer.0, element)).or_insert((self.part, write));
        assert!(
            *part == self.part || !*wrote && !write,
            "threads {part} and {} meet at element {element} of `{}`",
            self.part,
            declared.name
        );
        *wrote |= write;
    }

    fn block(&mut self, statements: &[Statement]) {
        for statement in statements {
            match statement {
                Statement::For { var, low, high, step, body, .. } => {
                    let (low, end) = (self.bound(low), self.bound(high));
                    let (mut value, end) = match &self.kernel.split {
                        Some(split) if split.loops.contains(var) => {
                            let range = Split::range(split.parts, self.part, turns(low, end, *step));
                            (low + range.start as i64 * step, end.min(low + range.end as i64 * step))
                        }
                        _ => (low, end),
                    };
                    while value < end {
                        self.loops[self.part][var.0 as usize] = value;
                        self.block(body);
                        value += step;
                    }
                }
                Statement::Assign(variable, value) => {
                    self.variables[self.part][variable.0 as usize] = self.expression(value);
                }
                Statement::Store(buffer, at, value) => self.store(*buffer, at, self.lanes, value),
                Statement::StorePartial(buffer, at, count, value) => self.store(*buffer, at, *count as usize, value),
                Statement::Prefetch(..) | Statement::Barrier | Statement::Comment(_) => {}
            }
        }
    }

    fn store(&mut self, buffer: Buffer, at: &Affine, count: usize, value: &Expression) {
        let lanes = self.expression(value);
        let first = self.affine(at);
        (first..first + count).for_each(|element| self.touch(buffer, element, true));
        let declared = &self.kernel.buffers[buffer.0 as usize];
        if let Some((low, high)) = whole_numbers(declared.storage) {
            let fits = |x: &f32| x.is_nan() || x.fract() == 0.0 && (low..=high).contains(x);
            let wrong = lanes[..count].iter().find(|x| !fits(x));
            assert!(wrong.is_none(), "`{}` cannot hold {wrong:?} of {at:?}", declared.name);
        }
        self.buffers[buffer.0 as usize][first..first + count].copy_from_slice(&lanes[..count]);
    }

    fn affine(&self, affine: &Affine) -> usize {
        usize::try_from(affine.value(&self.loops[self.part])).expect("verify excludes negative offsets")
    }

    fn bound(&self, bound: &Bound) -> i64 {
        bound.value(&self.loops[self.part])
    }

    /// Elements that lie `stride` apart in so many lanes, zeros in the others.
    fn load(&self, buffer: Buffer, first: usize, stride: usize, count: usize) -> Lanes {
        let source = &self.buffers[buffer.0 as usize];
        (0..count.min(self.lanes)).for_each(|lane| self.touch(buffer, first + lane * stride, false));
        let element = |lane: usize| match self.kernel.buffers[buffer.0 as usize].storage {
            ElementType::I32 => whole(source[first + lane * stride] as i32),
            _ => source[first + lane * stride],
        };
        (0..self.lanes).map(|lane| if lane < count { element(lane) } else { 0.0 }).collect()
    }

    /// Four bytes per lane, of lanes that lie `stride` apart.
    fn load_bytes(&self, buffer: Buffer, first: usize, stride: usize) -> Lanes {
        let source = &self.buffers[buffer.0 as usize];
        (0..4 + (self.lanes - 1) * stride).for_each(|byte| self.touch(buffer, first + byte, false));
        // Of whatever sign: the bits are the same.
        let byte = |at: usize| source[at] as i32 as u8;
        let four = |at: usize| f32::from_le_bytes([byte(at), byte(at + 1), byte(at + 2), byte(at + 3)]);
        (0..self.lanes).map(|lane| four(first + lane * stride)).collect()
    }

    fn expression(&self, value: &Expression) -> Lanes {
        match value {
            Expression::Variable(variable) => self.variables[self.part][variable.0 as usize],
            Expression::Constant(value) => Lanes::of(*value, self.lanes),
            Expression::Load(buffer, at) => self.load(*buffer, self.affine(at), 1, self.lanes),
            Expression::LoadPartial(buffer, at, count) => self.load(*buffer, self.affine(at), 1, *count as usize),
            Expression::LoadStrided(buffer, at, stride) => {
                self.load(*buffer, self.affine(at), usize::try_from(*stride).expect("strides are positive"), self.lanes)
            }
            Expression::Broadcast(buffer, at) => self.load(*buffer, self.affine(at), 0, self.lanes),
            Expression::Lane(variable, lane) => {
                Lanes::of(self.variables[self.part][variable.0 as usize][*lane as usize], self.lanes)
            }
            Expression::Whole(number) => Lanes::of(whole(*number), self.lanes),
            Expression::LoadBytes(buffer, at) => self.load_bytes(*buffer, self.affine(at), 4),
            Expression::BroadcastBytes(buffer, at) => self.load_bytes(*buffer, self.affine(at), 0),
            Expression::DotBytes(first, a, b, c) => {
                let (a, b, c) = (self.expression(a), self.expression(b), self.expression(c));
                dot_bytes(*first, &a, &b, &c)
            }
            Expression::Join(joining, a, b) => {
                let (a, b) = (self.expression(a), self.expression(b));
                join(*joining, &a, &b)
            }
            Expression::AddProducts(factors, a, b, c) => {
                let (a, b, c) = (self.expression(a), self.expression(b), self.expression(c));
                match factors {
                    Factors::Bytes(half) => products(*half, &a, &b, &c),
                    Factors::Words(part) => {
                        let [a, b] = [&a, &b].map(|lanes| half(*part, lanes.iter().flat_map(|lane| twos_of(*lane))));
                        let lanes = a.iter().zip(&b).zip(c.iter());
                        lanes.map(|((a, b), c)| whole((c.to_bits() as i32).wrapping_add(a * b))).collect()
                    }
                }
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
                    Arithmetic::Max => larger(a, b),
                    Arithmetic::Min => -larger(-a, -b),
                };
                self.expression(a).iter().copied().zip(self.expression(b).iter().copied()).map(apply).collect()
            }
            Expression::Unary(function, a) => unary(*function, &self.expression(a)),
            Expression::SumLanes(a) => self.fold(a, |a, b| a + b),
            Expression::MaxLanes(a) => self.fold(a, larger),
        }
    }

    /// Folds lane i with lane i + half, halving until one is left.
    fn fold(&self, value: &Expression, join: impl Fn(f32, f32) -> f32) -> Lanes {
        let mut lanes = self.expression(value);
        let mut half = self.lanes / 2;
        while half > 0 {
            for lane in 0..half {
                lanes[lane] = join(lanes[lane], lanes[lane + half]);
            }
            half /= 2;
        }
        Lanes::of(lanes[0], self.lanes)
    }
}

/// The widest vectors that any machine has.
const MOST_LANES: usize = 16;

/// The lanes of a vector. Every operation makes one, so they lie in no memory of their own.
#[derive(Clone, Copy)]
struct Lanes {
    values: [f32; MOST_LANES],
    count: usize,
}

impl Lanes {
    /// The same in every lane.
    fn of(value: f32, count: usize) -> Lanes {
        assert!(count <= MOST_LANES, "vectors of {count} lanes");
        Lanes { values: [value; MOST_LANES], count }
    }
}

impl FromIterator<f32> for Lanes {
    fn from_iter<I: IntoIterator<Item = f32>>(lanes: I) -> Lanes {
        let mut all = Lanes::of(0.0, 0);
        for lane in lanes {
            all.values[all.count] = lane;
            all.count += 1;
        }
        all
    }
}

impl Deref for Lanes {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.values[..self.count]
    }
}

impl DerefMut for Lanes {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.count]
    }
}

/// Both numbers of 16 bits of a lane.
fn twos_of(lane: f32) -> [i32; 2] {
    let bits = lane.to_bits();
    [i32::from(bits as i16), i32::from((bits >> 16) as i16)]
}

/// The signed bytes of a lane.
fn bytes_of(lane: f32) -> [i32; 4] {
    lane.to_le_bytes().map(|byte| i32::from(byte as i8))
}

/// One half of numbers.
fn half(part: Half, numbers: impl Iterator<Item = i32>) -> Vec<i32> {
    let all: Vec<i32> = numbers.collect();
    match part {
        Half::Low => all[..all.len() / 2].to_vec(),
        Half::High => all[all.len() / 2..].to_vec(),
    }
}

/// Two numbers of 16 bits in a lane.
fn twos(pair: &[i32]) -> f32 {
    f32::from_bits(u32::from(pair[0] as u16) | u32::from(pair[1] as u16) << 16)
}

/// Numbers of 16 bits, plus the products of the bytes of one half of two vectors. Panics if one leaves 16 bits.
fn products(part: Half, a: &[f32], b: &[f32], sums: &[f32]) -> Lanes {
    let bytes = |lanes: &[f32]| half(part, lanes.iter().flat_map(|lane| bytes_of(*lane)));
    let sums = sums.iter().flat_map(|lane| twos_of(*lane));
    let numbers: Vec<i32> = bytes(a).into_iter().zip(bytes(b)).zip(sums).map(|((a, b), sum)| a * b + sum).collect();
    let wrong = numbers.iter().find(|number| i16::try_from(**number).is_err());
    assert!(wrong.is_none(), "16 bits cannot hold {wrong:?}");
    numbers.chunks(2).map(twos).collect()
}

/// Whole numbers, plus the products of the four bytes of each lane; the second factors are signed.
fn dot_bytes(first: Bytes, a: &[f32], b: &[f32], sums: &[f32]) -> Lanes {
    let read = |first: Bytes, lane: &f32| match first {
        Bytes::Signed => lane.to_le_bytes().map(|byte| i32::from(byte as i8)),
        Bytes::Unsigned => lane.to_le_bytes().map(i32::from),
    };
    let dot = |a: &f32, b: &f32| -> i32 { read(first, a).iter().zip(read(Bytes::Signed, b)).map(|(a, b)| a * b).sum() };
    let lanes = a.iter().zip(b).zip(sums);
    lanes.map(|((a, b), sum)| whole((sum.to_bits() as i32).wrapping_add(dot(a, b)))).collect()
}

fn join(joining: Joining, a: &[f32], b: &[f32]) -> Lanes {
    match joining {
        Joining::Products(half) => products(half, a, b, &Lanes::of(0.0, a.len())),
        Joining::AddTwos => {
            let add = |(sum, twos): (&f32, &f32)| {
                let [low, high] = twos_of(*twos);
                whole((sum.to_bits() as i32).wrapping_add(low + high))
            };
            a.iter().zip(b).map(add).collect()
        }
        Joining::AddNeighbours => {
            let all: Vec<i32> = a.iter().chain(b).map(|lane| lane.to_bits() as i32).collect();
            all.chunks(2).map(|pair| whole(pair[0].wrapping_add(pair[1]))).collect()
        }
    }
}

fn unary(function: Function, a: &[f32]) -> Lanes {
    let widened = |part: Half| {
        let bytes = half(part, a.iter().flat_map(|lane| bytes_of(*lane)));
        bytes.chunks(2).map(twos).collect()
    };
    let each = |apply: fn(f32) -> f32| a.iter().copied().map(apply).collect();
    match function {
        Function::Neg => each(|a| -a),
        Function::Abs => each(f32::abs),
        Function::Sqrt => each(f32::sqrt),
        Function::Round | Function::RoundSmall => each(f32::round_ties_even),
        Function::PowerOfTwo => each(f32::exp2),
        Function::FromWhole => each(|a| (a.to_bits() as i32) as f32),
        Function::Half => each(|a| F16::from_f32(a).to_f32()),
        Function::TransposeBytes => {
            let bytes: Vec<[u8; 4]> = a.iter().map(|lane| lane.to_le_bytes()).collect();
            let four = |lane: usize| f32::from_le_bytes([0, 1, 2, 3].map(|other| bytes[other][lane]));
            (0..a.len()).map(four).collect()
        }
        Function::WidenLow => widened(Half::Low),
        Function::WidenHigh => widened(Half::High),
    }
}

/// A lane that holds a whole number: its bits.
fn whole(number: i32) -> f32 {
    f32::from_bits(number as u32)
}

/// Least and largest number of a type in which whole numbers are stored.
fn whole_numbers(storage: ElementType) -> Option<(f32, f32)> {
    match storage {
        ElementType::I8 => Some((-128.0, 127.0)),
        ElementType::U8 => Some((0.0, 255.0)),
        ElementType::I16 => Some((-32768.0, 32767.0)),
        // Every whole number that is an `f32`.
        ElementType::I32 => Some((-2_147_483_648.0, 2_147_483_520.0)),
        _ => None,
    }
}

/// The larger, or NaN.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

fn has_barrier(statement: &Statement) -> bool {
    match statement {
        Statement::Barrier => true,
        Statement::For { body, .. } => body.iter().any(has_barrier),
        _ => false,
    }
}
