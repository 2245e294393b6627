//! Vector arithmetic, loads and stores, as Cranelift's instructions.

use cranelift_codegen::ir::{self, Endianness, InstBuilder, MemFlagsData, SourceLoc, Type, Value, types};

use super::Translator;
use super::narrow::{MOST_TOGETHER, Narrowing, loaded_together, taken_apart};
use super::substitutes::Substitute;
use partita_ir::graph::ElementType;
use partita_kernel::{Affine, Arithmetic, Buffer, Bytes, Expression, Factors, Function, Half, Joining, Variable};

impl Translator<'_> {
    /// All lanes the same number.
    pub(super) fn constant(&mut self, number: f32) -> Value {
        let known = self.scopes.iter().rev().take(2).find_map(|scope| scope.constants.get(&number.to_bits()));
        if let Some(value) = known {
            return *value;
        }
        let scalar = self.builder.ins().f32const(number);
        let value = self.builder.ins().splat(types::F32X4, scalar);
        if let Some(scope) = self.scopes.last_mut() {
            scope.constants.insert(number.to_bits(), value);
        }
        value
    }

    pub(super) fn load(&mut self, kind: Type, buffer: Buffer, at: &Affine) -> Value {
        let (address, offset) = self.address(buffer, at);
        self.builder.ins().load(kind, flags(), address, offset)
    }

    /// Four numbers as they are stored.
    fn load_stored(&mut self, buffer: Buffer, at: &Affine) -> Value {
        let words = match self.storages[buffer.0 as usize] {
            ElementType::F16 => return self.load_f16(buffer, at),
            ElementType::I8 => {
                let bytes = self.load_bytes(buffer, at);
                let halves = self.builder.ins().swiden_low(bytes);
                self.builder.ins().swiden_low(halves)
            }
            ElementType::U8 => {
                let bytes = self.load_bytes(buffer, at);
                let halves = self.builder.ins().uwiden_low(bytes);
                self.builder.ins().uwiden_low(halves)
            }
            ElementType::I16 => {
                let four = self.load(types::I64, buffer, at);
                let halves = self.builder.ins().scalar_to_vector(types::I64X2, four);
                let halves = self.bits(types::I16X8, halves);
                self.builder.ins().swiden_low(halves)
            }
            _ => return self.load(types::F32X4, buffer, at),
        };
        self.builder.ins().fcvt_from_sint(types::F32X4, words)
    }

    /// Four bytes, in the first lanes.
    fn load_bytes(&mut self, buffer: Buffer, at: &Affine) -> Value {
        let four = self.load(types::F32, buffer, at);
        let bytes = self.builder.ins().scalar_to_vector(types::F32X4, four);
        self.bits(types::I8X16, bytes)
    }

    /// One number as it is stored.
    fn load_element(&mut self, buffer: Buffer, at: &Affine) -> Value {
        let storage = self.storages[buffer.0 as usize];
        let (address, offset) = self.address(buffer, at);
        let ins = self.builder.ins();
        let whole = match storage {
            ElementType::I8 => ins.sload8(types::I32, flags(), address, offset),
            ElementType::U8 => ins.uload8(types::I32, flags(), address, offset),
            ElementType::I16 => ins.sload16(types::I32, flags(), address, offset),
            _ => return ins.load(types::F32, flags(), address, offset),
        };
        self.builder.ins().fcvt_from_sint(types::F32, whole)
    }

    /// Stores four numbers as they are to be stored.
    pub(super) fn store(&mut self, buffer: Buffer, at: &Affine, value: Value) {
        let storage = self.storages[buffer.0 as usize];
        let stored = match storage {
            ElementType::I8 | ElementType::U8 => {
                let halves = self.halves(value);
                let bytes = match storage {
                    ElementType::I8 => self.builder.ins().snarrow(halves, halves),
                    _ => self.builder.ins().unarrow(halves, halves),
                };
                let words = self.bits(types::F32X4, bytes);
                self.builder.ins().extractlane(words, 0)
            }
            ElementType::I16 => {
                let halves = self.halves(value);
                let pairs = self.bits(types::I64X2, halves);
                self.builder.ins().extractlane(pairs, 0)
            }
            _ => value,
        };
        let (address, offset) = self.address(buffer, at);
        self.builder.ins().store(flags(), stored, address, offset);
    }

    /// Whole numbers in 16 bits each, all of them twice.
    fn halves(&mut self, value: Value) -> Value {
        let words = self.builder.ins().fcvt_to_sint_sat(types::I32X4, value);
        self.builder.ins().snarrow(words, words)
    }

    /// Stores the first numbers as they are to be stored.
    pub(super) fn store_partial(&mut self, buffer: Buffer, at: &Affine, count: u32, value: Value) {
        let storage = self.storages[buffer.0 as usize];
        let value = match storage {
            ElementType::I8 | ElementType::U8 | ElementType::I16 => {
                self.builder.ins().fcvt_to_sint_sat(types::I32X4, value)
            }
            _ => value,
        };
        for lane in 0..count {
            let element = self.builder.ins().extractlane(value, lane as u8);
            let (address, offset) = self.address(buffer, &at.clone().plus(i64::from(lane)));
            let ins = self.builder.ins();
            match storage {
                ElementType::I8 | ElementType::U8 => ins.istore8(flags(), element, address, offset),
                ElementType::I16 => ins.istore16(flags(), element, address, offset),
                _ => ins.store(flags(), element, address, offset),
            };
        }
    }

    /// Stores neighbouring vectors, the first of which lies at `at`.
    pub(super) fn store_together(&mut self, buffer: Buffer, at: &Affine, values: &[&Expression]) {
        let element = self.storages[buffer.0 as usize];
        let parts: Vec<(Narrowing, &Expression)> = values.iter().map(|value| taken_apart(value)).collect();
        let narrowing = parts[0].0;
        let is_byte = matches!(element, ElementType::I8 | ElementType::U8);
        if !is_byte || parts.iter().any(|(other, _)| *other != narrowing) {
            let values: Vec<Value> = values.iter().map(|value| self.expression(value)).collect();
            for (index, value) in values.into_iter().enumerate() {
                self.store(buffer, &at.clone().plus(4 * index as i64), value);
            }
            return;
        }
        if let Some((from, first)) = loaded_together(values)
            && self.storages[from.0 as usize] == element
        {
            let bytes = self.load(types::I8X16, from, first);
            return self.store_bytes(buffer, at, MOST_TOGETHER, bytes);
        }
        let words: Vec<Value> = parts.into_iter().map(|(_, rest)| self.whole(rest, narrowing.rounds)).collect();
        let bytes = self.bytes(&words, narrowing, element);
        self.store_bytes(buffer, at, values.len(), bytes);
    }

    /// The whole numbers next to real ones, or those that they are.
    fn whole(&mut self, value: &Expression, rounds: bool) -> Value {
        if let (Expression::Unary(Function::FromWhole, whole), false) = (value, rounds) {
            let whole = self.expression(whole);
            return self.bits(types::I32X4, whole);
        }
        let value = self.expression(value);
        match rounds {
            true => self.marked(Substitute::Nearest, |this| this.builder.ins().fcvt_to_sint_sat(types::I32X4, value)),
            false => self.builder.ins().fcvt_to_sint_sat(types::I32X4, value),
        }
    }

    /// Up to four vectors of whole numbers as bytes, one after the other.
    fn bytes(&mut self, words: &[Value], narrowing: Narrowing, element: ElementType) -> Value {
        let mut halves: Vec<Value> =
            words.chunks(2).map(|pair| self.builder.ins().snarrow(pair[0], pair[pair.len() - 1])).collect();
        if narrowing.offset != 0.0 {
            let offset = self.all(types::I16, narrowing.offset);
            halves = halves.into_iter().map(|half| self.builder.ins().ssub_sat(half, offset)).collect();
        }
        let (first, last) = (halves[0], halves[halves.len() - 1]);
        let (mut bytes, ends) = match element {
            ElementType::I8 => (self.builder.ins().snarrow(first, last), [-128.0, 127.0]),
            _ => (self.builder.ins().unarrow(first, last), [0.0, 255.0]),
        };
        let Some(bounds) = narrowing.bounds else { return bytes };
        let [low, high] = bounds.map(|bound| (bound - narrowing.offset).clamp(ends[0], ends[1]));
        if low > ends[0] {
            let low = self.all(types::I8, low);
            let ins = self.builder.ins();
            bytes = if element == ElementType::I8 { ins.smax(bytes, low) } else { ins.umax(bytes, low) };
        }
        if high < ends[1] {
            let high = self.all(types::I8, high);
            let ins = self.builder.ins();
            bytes = if element == ElementType::I8 { ins.smin(bytes, high) } else { ins.umin(bytes, high) };
        }
        bytes
    }

    /// All lanes the same whole number.
    fn all(&mut self, lane: Type, number: f32) -> Value {
        let bits = number as i64 & ((1 << lane.bits()) - 1);
        let number = self.builder.ins().iconst(lane, bits);
        let lanes = 128 / lane.bits();
        match lane.by(lanes) {
            Some(vector) => self.builder.ins().splat(vector, number),
            None => number,
        }
    }

    /// Stores four bytes of each of so many vectors.
    fn store_bytes(&mut self, buffer: Buffer, at: &Affine, vectors: usize, bytes: Value) {
        let mut stored = Vec::with_capacity(2);
        if vectors == MOST_TOGETHER {
            stored.push((0, bytes));
        } else if vectors >= 2 {
            let pairs = self.bits(types::F64X2, bytes);
            stored.push((0, self.builder.ins().extractlane(pairs, 0)));
        }
        if vectors % 2 == 1 {
            let words = self.bits(types::F32X4, bytes);
            stored.push((vectors - 1, self.builder.ins().extractlane(words, vectors as u8 - 1)));
        }
        for (vector, value) in stored {
            let (address, offset) = self.address(buffer, &at.clone().plus(4 * vector as i64));
            self.builder.ins().store(flags(), value, address, offset);
        }
    }

    /// Four numbers of 16 bits.
    fn load_f16(&mut self, buffer: Buffer, at: &Affine) -> Value {
        let four = self.load(types::I64, buffer, at);
        let halves = self.builder.ins().scalar_to_vector(types::I64X2, four);
        let halves = self.bits(types::F32X4, halves);
        let wide = self.marked(Substitute::Widen, |this| this.builder.ins().fvpromote_low(halves));
        self.bits(types::F32X4, wide)
    }

    /// An instruction that Cranelift does not have, in place of the one that `build` makes.
    pub(super) fn marked<T>(&mut self, substitute: Substitute, build: impl FnOnce(&mut Self) -> T) -> T {
        self.builder.set_srcloc(substitute.mark());
        let value = build(self);
        self.builder.set_srcloc(SourceLoc::default());
        value
    }

    fn bits(&mut self, kind: Type, value: Value) -> Value {
        let little = MemFlagsData::new().with_endianness(Endianness::Little);
        self.builder.ins().bitcast(kind, little, value)
    }

    fn variable(&mut self, variable: Variable) -> Value {
        self.builder.use_var(self.vectors[variable.0 as usize])
    }

    pub(super) fn expression(&mut self, value: &Expression) -> Value {
        match value {
            Expression::Variable(variable) => self.variable(*variable),
            Expression::Constant(value) => self.constant(*value),
            Expression::Load(buffer, at) => self.load_stored(*buffer, at),
            Expression::LoadPartial(buffer, at, count) => {
                let zero = self.builder.ins().f32const(0.0);
                let zeros = self.builder.ins().splat(types::F32X4, zero);
                self.gather(zeros, *buffer, at, 1, *count)
            }
            Expression::LoadStrided(buffer, at, stride) => {
                let first = self.load_element(*buffer, at);
                let all = self.builder.ins().splat(types::F32X4, first);
                self.gather(all, *buffer, at, *stride, 4)
            }
            Expression::Broadcast(buffer, at) => {
                let element = self.load_element(*buffer, at);
                self.builder.ins().splat(types::F32X4, element)
            }
            Expression::Lane(variable, lane) => {
                let vector = self.variable(*variable);
                self.lane(vector, *lane as u8)
            }
            // Whole numbers and bytes are the bits of `f32`, so that `fmla` can stand for `sdot`.
            Expression::Whole(number) => self.constant(f32::from_bits(*number as u32)),
            Expression::LoadBytes(buffer, at) => self.load(types::F32X4, *buffer, at),
            Expression::BroadcastBytes(buffer, at) => {
                let four = self.load(types::F32, *buffer, at);
                self.builder.ins().splat(types::F32X4, four)
            }
            Expression::DotBytes(first, a, b, c) => {
                let (a, b, c) = (self.expression(a), self.expression(b), self.expression(c));
                self.dot_bytes(*first, a, b, c)
            }
            Expression::Join(joining, a, b) => {
                let (a, b) = (self.expression(a), self.expression(b));
                self.join(*joining, a, b)
            }
            Expression::AddProducts(factors, a, b, c) => {
                let (a, b, c) = (self.expression(a), self.expression(b), self.expression(c));
                let meant = match factors {
                    Factors::Bytes(Half::Low) => Substitute::ProductsLow,
                    Factors::Bytes(Half::High) => Substitute::ProductsHigh,
                    Factors::Words(Half::Low) => Substitute::WordsLow,
                    Factors::Words(Half::High) => Substitute::WordsHigh,
                };
                self.marked(meant, |this| this.builder.ins().bitselect(c, a, b))
            }
            Expression::MulAdd(a, b, c) => {
                let (a, b, c) = (self.expression(a), self.expression(b), self.expression(c));
                self.builder.ins().fma(a, b, c)
            }
            Expression::Binary(function, a, b) => {
                let (a, b) = (self.expression(a), self.expression(b));
                match function {
                    Arithmetic::Add => self.builder.ins().fadd(a, b),
                    Arithmetic::Sub => self.builder.ins().fsub(a, b),
                    Arithmetic::Mul => self.builder.ins().fmul(a, b),
                    Arithmetic::Div => self.builder.ins().fdiv(a, b),
                    // They answer NaN if either is NaN.
                    Arithmetic::Max => self.builder.ins().fmax(a, b),
                    Arithmetic::Min => self.builder.ins().fmin(a, b),
                }
            }
            Expression::Unary(function, a) => {
                let a = self.expression(a);
                self.unary(*function, a)
            }
            Expression::SumLanes(a) => {
                let a = self.expression(a);
                self.fold(a, &mut |this, a, b| this.builder.ins().fadd(a, b))
            }
            Expression::MaxLanes(a) => {
                let a = self.expression(a);
                self.fold(a, &mut |this, a, b| this.builder.ins().fmax(a, b))
            }
        }
    }

    /// `c`, plus the products of the four bytes of each lane; those of `b` are signed.
    fn dot_bytes(&mut self, first: Bytes, mut a: Value, b: Value, mut c: Value) -> Value {
        if first == Bytes::Unsigned {
            // Less 128 in every byte, and 128 times the other factor: 127 times, and once.
            for bytes in [0x7f7f_7f7f, 0x0101_0101] {
                let constant = self.constant(f32::from_bits(bytes));
                c = self.marked(Substitute::Dot, |this| this.builder.ins().fma(constant, b, c));
            }
            let sign = self.constant(f32::from_bits(0x8080_8080));
            a = self.builder.ins().bxor(a, sign);
        }
        self.marked(Substitute::Dot, |this| this.builder.ins().fma(a, b, c))
    }

    fn unary(&mut self, function: Function, a: Value) -> Value {
        match function {
            Function::Neg => self.builder.ins().fneg(a),
            Function::Abs => self.builder.ins().fabs(a),
            Function::Sqrt => self.builder.ins().sqrt(a),
            Function::Round | Function::RoundSmall => self.builder.ins().nearest(a),
            Function::FromWhole => {
                let whole = self.bits(types::I32X4, a);
                self.builder.ins().fcvt_from_sint(types::F32X4, whole)
            }
            Function::TransposeBytes => {
                let bytes = self.bits(types::I8X16, a);
                let order = self.transposition;
                let moved = order.map_or(bytes, |order| self.builder.ins().swizzle(bytes, order));
                self.bits(types::F32X4, moved)
            }
            Function::WidenLow | Function::WidenHigh => {
                let bytes = self.bits(types::I8X16, a);
                let words = match function {
                    Function::WidenLow => self.builder.ins().swiden_low(bytes),
                    _ => self.builder.ins().swiden_high(bytes),
                };
                self.bits(types::F32X4, words)
            }
            Function::Half => {
                let pair = self.bits(types::F64X2, a);
                let halves = self.marked(Substitute::Narrow, |this| this.builder.ins().fvdemote(pair));
                let wide = self.marked(Substitute::Widen, |this| this.builder.ins().fvpromote_low(halves));
                self.bits(types::F32X4, wide)
            }
            Function::PowerOfTwo => {
                let whole = self.builder.ins().fcvt_to_sint_sat(types::I32X4, a);
                let bias = self.builder.ins().iconst(types::I32, 127);
                let bias = self.builder.ins().splat(types::I32X4, bias);
                let exponent = self.builder.ins().iadd(whole, bias);
                let bits = self.builder.ins().ishl_imm_u(exponent, 23);
                let little = MemFlagsData::new().with_endianness(Endianness::Little);
                self.builder.ins().bitcast(types::F32X4, little, bits)
            }
        }
    }

    /// Whole numbers of several widths, as the bits of `f32`.
    fn join(&mut self, joining: Joining, a: Value, b: Value) -> Value {
        let joined = match joining {
            Joining::Products(half) => {
                let [a, b] = [a, b].map(|bytes| self.bits(types::I8X16, bytes));
                let [a, b] = [a, b].map(|bytes| match half {
                    Half::Low => self.builder.ins().swiden_low(bytes),
                    Half::High => self.builder.ins().swiden_high(bytes),
                });
                self.builder.ins().imul(a, b)
            }
            Joining::AddTwos => return self.marked(Substitute::AddTwos, |this| this.builder.ins().bitselect(a, b, b)),
            Joining::AddNeighbours => {
                let [a, b] = [a, b].map(|lanes| self.bits(types::I32X4, lanes));
                self.builder.ins().iadd_pairwise(a, b)
            }
        };
        self.bits(types::F32X4, joined)
    }

    /// Replaces the first `count` lanes by elements that lie `stride` apart.
    fn gather(&mut self, mut vector: Value, buffer: Buffer, at: &Affine, stride: i64, count: u32) -> Value {
        for lane in 0..count {
            let element = self.load_element(buffer, &at.clone().plus(i64::from(lane) * stride));
            vector = self.builder.ins().insertlane(vector, element, lane as u8);
        }
        vector
    }

    /// One lane in all lanes, as the byte shuffle that Cranelift folds into `fmla` by element.
    fn lane(&mut self, vector: Value, lane: u8) -> Value {
        let little = MemFlagsData::new().with_endianness(Endianness::Little);
        let bytes = self.builder.ins().bitcast(types::I8X16, little, vector);
        let order: Vec<u8> = (0..16).map(|byte| lane * 4 + byte % 4).collect();
        let order = self.builder.func.dfg.immediates.push(ir::ConstantData::from(order.as_slice()));
        let spread = self.builder.ins().shuffle(bytes, bytes, order);
        self.builder.ins().bitcast(types::F32X4, little, spread)
    }

    /// Joins lane i with lane i + 2, then lanes 0 and 1; the result in all lanes.
    fn fold(&mut self, a: Value, join: &mut dyn FnMut(&mut Self, Value, Value) -> Value) -> Value {
        let upper = self.lane_pair(a);
        let halves = join(self, a, upper);
        let second = self.lane(halves, 1);
        let first = self.lane(halves, 0);
        join(self, first, second)
    }

    /// Lanes 2 and 3 twice.
    fn lane_pair(&mut self, vector: Value) -> Value {
        let little = MemFlagsData::new().with_endianness(Endianness::Little);
        let bytes = self.builder.ins().bitcast(types::I8X16, little, vector);
        let order: Vec<u8> = (0..16).map(|byte| 8 + byte % 8).collect();
        let order = self.builder.func.dfg.immediates.push(ir::ConstantData::from(order.as_slice()));
        let moved = self.builder.ins().shuffle(bytes, bytes, order);
        self.builder.ins().bitcast(types::F32X4, little, moved)
    }
}
/// Accesses stay inside their buffers (`kernel::verify`), aligned to an element.
pub(super) fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}
