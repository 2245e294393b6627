//! Kernel IR: one loop nest per (operator, shapes, target), every extent, stride and offset a constant.
//!
//! A kernel works on vectors of [`Kernel::lanes`] lanes of 32 bits: `f32`, or whole numbers, which may be four bytes each
//! ([`LaneType`]; `verify` knows the type of every value). Its body is structured: loops over affine ranges, mutable
//! vector variables (the accumulators of a register tile), loads, stores and arithmetic. Addresses are affine in the
//! loop variables, in elements from the start of a buffer; `verify` proves every access inside its buffer. There is no
//! other control flow, so each back end is a short translation:
//!
//! - `emit::rust_source` spells it as Rust, with one prelude per instruction set (AVX-512, AVX2, SSE2, scalar lanes);
//! - `emit::object` builds it with Cranelift for AArch64;
//! - `eval` interprets it, bounds-checked, for tests.
//!
//! `lower` makes kernels from operators, `split` shares them among threads, `unroll` writes short loops out twice, `visit`
//! walks over them, `text` prints and reads them, `layout` says how tensors lie. May import single operators and targets; deliberately
//! absent: schedules, and code for a machine, which `partita-program` makes.

use partita_rt::kernels::Winograd;

use partita_config::tuned::Choice;
use partita_ir::graph::ElementType;

pub mod eval;
pub mod layout;
pub mod lower;
pub mod split;
pub mod text;
pub mod unroll;
pub mod verify;
pub mod visit;

/// A loop variable of a kernel. Index into [`Kernel::loops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LoopVar(pub u32);

/// A mutable vector variable. Index into [`Kernel::variable_names`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variable(pub u32);

/// A parameter of a kernel. Index into [`Kernel::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(pub u32);

/// `constant + sum of coefficient * loop variable`, terms sorted by variable, no zero coefficients.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Affine {
    /// The part that no variable changes.
    pub constant: i64,
    /// Coefficient of each variable.
    pub terms: Vec<(LoopVar, i64)>,
}

impl Affine {
    /// A constant.
    pub fn constant(constant: i64) -> Affine {
        Affine { constant, terms: Vec::new() }
    }

    /// `coefficient * var`
    pub fn term(var: LoopVar, coefficient: i64) -> Affine {
        Affine::constant(0).plus_term(var, coefficient)
    }

    /// `self + coefficient * var`
    pub fn plus_term(mut self, var: LoopVar, coefficient: i64) -> Affine {
        match self.terms.binary_search_by_key(&var, |(other, _)| *other) {
            Ok(position) => {
                self.terms[position].1 += coefficient;
                if self.terms[position].1 == 0 {
                    self.terms.remove(position);
                }
            }
            Err(position) if coefficient != 0 => self.terms.insert(position, (var, coefficient)),
            Err(_) => {}
        }
        self
    }

    /// `self + coefficient * other`
    pub fn plus_affine(mut self, other: &Affine, coefficient: i64) -> Affine {
        self.constant += coefficient * other.constant;
        other.terms.iter().fold(self, |sum, (var, inner)| sum.plus_term(*var, coefficient * inner))
    }

    /// `self + constant`
    pub fn plus(mut self, constant: i64) -> Affine {
        self.constant += constant;
        self
    }

    /// What it comes to; `loops` are the values of all loop variables.
    pub fn value(&self, loops: &[i64]) -> i64 {
        self.constant + self.terms.iter().map(|(var, coefficient)| coefficient * loops[var.0 as usize]).sum::<i64>()
    }
}

/// End of a loop range. Rounding of a quotient is towards plus infinity (`Low`) so that `max(0, ceil(a / d))` and
/// `min(n, ceil(a / d))` both describe half-open ranges of taps that stay inside an input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bound {
    /// A known number.
    Constant(i64),
    /// `max(low, ceil(affine / divisor))`: begin of a clipped range.
    Max(i64, Affine, i64),
    /// `min(high, ceil(affine / divisor))`: end of a clipped range.
    Min(i64, Affine, i64),
}

impl Bound {
    /// What it comes to; `loops` are the values of all loop variables.
    pub fn value(&self, loops: &[i64]) -> i64 {
        match self {
            Bound::Constant(value) => *value,
            Bound::Max(low, affine, divisor) => ceil_quotient(affine.value(loops), *divisor).max(*low),
            Bound::Min(high, affine, divisor) => ceil_quotient(affine.value(loops), *divisor).min(*high),
        }
    }
}

/// `ceil(value / divisor)` for a positive divisor.
pub fn ceil_quotient(value: i64, divisor: i64) -> i64 {
    value.div_euclid(divisor) + i64::from(value.rem_euclid(divisor) != 0)
}

/// How often a loop from `low` to `high` (exclusive) runs.
pub fn turns(low: i64, high: i64, step: i64) -> usize {
    usize::try_from(ceil_quotient(high - low, step)).unwrap_or(0)
}

/// How a buffer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read; an activation.
    Input,
    /// Only read; packed constants.
    Weights,
    /// Read and written; holds nothing before and after.
    Scratch,
    /// Written; may alias an input only where the kernel says so ([`Kernel::in_place`]).
    Output,
}

impl Access {
    /// All of them.
    pub const ALL: [Access; 4] = [Access::Input, Access::Weights, Access::Scratch, Access::Output];

    /// The word for it in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Access::Input => "input",
            Access::Weights => "weights",
            Access::Scratch => "scratch",
            Access::Output => "output",
        }
    }
}

/// A parameter: a buffer of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BufferDeclaration {
    /// Name in emitted code: an identifier.
    pub name: String,
    /// How it is used.
    pub access: Access,
    /// Number of elements; `verify` proves accesses stay below it.
    pub elements: usize,
    /// How an element is stored: `F32`, `I8`, `U8` or `I16`, of which loads make `f32` and which stores make of whole `f32`
    /// numbers of their range; `F16`, weights that are only loaded whole; or `I32`, weights that are loaded as the whole
    /// numbers that they are.
    pub storage: ElementType,
}

impl BufferDeclaration {
    /// The type of the pointer to it, in Rust.
    pub fn pointer(&self) -> &'static str {
        match (self.access, self.storage) {
            // Memory of no type.
            (Access::Scratch, _) => "*mut f32",
            (Access::Output, ElementType::I8) => "*mut i8",
            (Access::Output, ElementType::U8) => "*mut u8",
            (Access::Output, ElementType::I16) => "*mut i16",
            (Access::Output, _) => "*mut f32",
            (Access::Input | Access::Weights, ElementType::F16) => "*const u16",
            (Access::Input | Access::Weights, ElementType::I8) => "*const i8",
            (Access::Input | Access::Weights, ElementType::U8) => "*const u8",
            (Access::Input | Access::Weights, ElementType::I16) => "*const i16",
            (Access::Input | Access::Weights, ElementType::I32) => "*const i32",
            (Access::Input | Access::Weights, _) => "*const f32",
        }
    }
}

/// A loop variable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LoopDeclaration {
    /// Name in emitted code: an identifier.
    pub name: String,
    /// What of the result its loops run over; none if they run over what is summed, or over what stays in scratch buffers.
    pub role: Option<Role>,
}

/// What of the result a loop runs over. Loops of one role that lie beside each other can be shared among threads together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Samples, or matrices of a batched product.
    Batch,
    /// Groups of channels of a convolution.
    Group,
    /// Vectors of channels, or of a product's columns; or tiles of several such.
    Channels,
    /// Vectors of a tile, or of a row's elements.
    Vector,
    /// Depth of a volume.
    Depth,
    /// Blocks of rows that are transformed together for Winograd's algorithm.
    BlockRow,
    /// Blocks of columns, likewise.
    BlockColumn,
    /// Rows of tiles within such a block.
    TileRow,
    /// Columns of tiles within such a block.
    TileColumn,
    /// Strips of rows that are pooled together.
    Strip,
    /// Rows of an image, a product or a normalisation.
    Row,
    /// Rows of a pool's result within a strip.
    PooledRow,
    /// Columns of an image.
    Column,
    /// Elements of a plane.
    Position,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 14] = [
        Role::Batch,
        Role::Group,
        Role::Channels,
        Role::Vector,
        Role::Depth,
        Role::BlockRow,
        Role::BlockColumn,
        Role::TileRow,
        Role::TileColumn,
        Role::Strip,
        Role::Row,
        Role::PooledRow,
        Role::Column,
        Role::Position,
    ];

    /// The word for it in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Role::Batch => "batch",
            Role::Group => "group",
            Role::Channels => "channels",
            Role::Vector => "vector",
            Role::Depth => "depth",
            Role::BlockRow => "block_row",
            Role::BlockColumn => "block_column",
            Role::TileRow => "tile_row",
            Role::TileColumn => "tile_column",
            Role::Strip => "strip",
            Role::Row => "row",
            Role::PooledRow => "pooled_row",
            Role::Column => "column",
            Role::Position => "position",
        }
    }

    /// The role of that name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// What the lanes of a vector hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LaneType {
    /// Real numbers.
    F32,
    /// Signed whole numbers, or four bytes.
    I32,
}

impl LaneType {
    /// The word for it in messages.
    pub fn name(self) -> &'static str {
        match self {
            LaneType::F32 => "f32",
            LaneType::I32 => "i32",
        }
    }
}

/// How the bytes of the first factor of [`Expression::DotBytes`] are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bytes {
    /// From -128 to 127: `sdot` of AArch64.
    Signed,
    /// From 0 to 255: `vpdpbusd` of AVX-512 VNNI and AVX-VNNI.
    Unsigned,
}

impl Bytes {
    /// Both.
    pub const ALL: [Bytes; 2] = [Bytes::Signed, Bytes::Unsigned];

    /// The word for products with such in the text form.
    pub fn product_name(self) -> &'static str {
        match self {
            Bytes::Signed => "dot",
            Bytes::Unsigned => "dot_unsigned",
        }
    }
}

/// Half of a vector of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half {
    /// The first eight.
    Low,
    /// The last eight.
    High,
}

impl Half {
    /// Both.
    pub const ALL: [Half; 2] = [Half::Low, Half::High];
}

/// What [`Expression::AddProducts`] multiplies: the factors of one half of two vectors, all signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Factors {
    /// Bytes, to numbers of 16 bits: `smlal`, `smlal2` of AArch64.
    Bytes(Half),
    /// Numbers of 16 bits, to whole numbers: the same.
    Words(Half),
}

impl Factors {
    /// All of them.
    pub const ALL: [Factors; 4] =
        [Factors::Bytes(Half::Low), Factors::Bytes(Half::High), Factors::Words(Half::Low), Factors::Words(Half::High)];

    /// The word for their products, added to others, in the text form.
    pub fn sum_name(self) -> &'static str {
        match self {
            Factors::Bytes(Half::Low) => "add_products_low",
            Factors::Bytes(Half::High) => "add_products_high",
            Factors::Words(Half::Low) => "add_words_low",
            Factors::Words(Half::High) => "add_words_high",
        }
    }
}

/// Operations on two vectors of whole numbers, of four lanes; only where the target has instructions for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Joining {
    /// Products of the signed bytes of one half, eight numbers of 16 bits: `smull`, `smull2` of AArch64.
    Products(Half),
    /// In every lane of 32 bits, that of the first and both numbers of 16 bits of the second: `sadalp`.
    AddTwos,
    /// Sums of neighbouring lanes, those of the first, then those of the second: `addp`.
    AddNeighbours,
}

impl Joining {
    /// All of them.
    pub const ALL: [Joining; 4] =
        [Joining::Products(Half::Low), Joining::Products(Half::High), Joining::AddTwos, Joining::AddNeighbours];

    /// The word for it in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Joining::Products(Half::Low) => "products_low",
            Joining::Products(Half::High) => "products_high",
            Joining::AddTwos => "add_twos",
            Joining::AddNeighbours => "add_neighbours",
        }
    }
}

/// A vector-valued expression. Operands are variables or nested expressions; back ends walk the tree.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// Value of a variable.
    Variable(Variable),
    /// All lanes the same constant.
    Constant(f32),
    /// `lanes` consecutive elements.
    Load(Buffer, Affine),
    /// `count` (1..lanes) consecutive elements; the other lanes are 0. Nothing past them is touched.
    LoadPartial(Buffer, Affine, u32),
    /// `lanes` elements that lie `stride` apart.
    LoadStrided(Buffer, Affine, i64),
    /// One element in all lanes.
    Broadcast(Buffer, Affine),
    /// One lane of a variable in all lanes; on AArch64 this folds into `fmla` by element.
    Lane(Variable, u32),
    /// `a * b + c`. Fused where the target has FMA, else rounded twice.
    MulAdd(Box<Expression>, Box<Expression>, Box<Expression>),
    /// All lanes the same whole number.
    Whole(i32),
    /// `4 * lanes` bytes, four to a lane, as they lie there, the first one lowest.
    LoadBytes(Buffer, Affine),
    /// Four bytes in all lanes.
    BroadcastBytes(Buffer, Affine),
    /// `c` plus, in every lane, the sum of the products of four bytes of `a` with those of `b`, whole numbers all; the bytes of
    /// `b` are signed. Only where the target has an instruction for it.
    DotBytes(Bytes, Box<Expression>, Box<Expression>, Box<Expression>),
    /// Whole numbers of several widths ([`Joining`]).
    Join(Joining, Box<Expression>, Box<Expression>),
    /// The numbers of `c`, plus the products of one half of `a` with that of `b`; none may leave 16 bits where they are such. Only
    /// where the target has instructions for them.
    AddProducts(Factors, Box<Expression>, Box<Expression>, Box<Expression>),
    /// Lane-wise arithmetic.
    Binary(Arithmetic, Box<Expression>, Box<Expression>),
    /// Lane-wise function.
    Unary(Function, Box<Expression>),
    /// Sum of all lanes, in all lanes. Order: pairwise halves (lane i with i + lanes/2, and so on).
    SumLanes(Box<Expression>),
    /// Maximum of all lanes, in all lanes; NaN if one is.
    MaxLanes(Box<Expression>),
}

/// Lane-wise arithmetic of two vectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    /// The larger; NaN if either is NaN. Free of extra instructions on x86 where the first operand is a constant; in a chain
    /// of them the second operand should be what the chain has come to.
    Max,
    /// The smaller; the same holds.
    Min,
}

impl Arithmetic {
    /// All of it.
    pub const ALL: [Arithmetic; 6] =
        [Arithmetic::Add, Arithmetic::Sub, Arithmetic::Mul, Arithmetic::Div, Arithmetic::Max, Arithmetic::Min];

    /// The word for it in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::Add => "add",
            Arithmetic::Sub => "sub",
            Arithmetic::Mul => "mul",
            Arithmetic::Div => "div",
            Arithmetic::Max => "max",
            Arithmetic::Min => "min",
        }
    }
}

/// Lane-wise function of one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Function {
    Neg,
    Abs,
    Sqrt,
    /// The nearest whole number, the even one of two.
    Round,
    /// The same of values below 2^22, or NaN; takes less where there is no instruction for it.
    RoundSmall,
    /// 2 to the power of a whole number from -126 to 127.
    PowerOfTwo,
    /// The `f32` next to a whole number.
    FromWhole,
    /// Four bytes of each of four lanes, transposed: every lane has those that were at its place in each. Of vectors of four
    /// lanes; only where the target has an instruction for it (`tbl` of AArch64).
    TransposeBytes,
    /// The nearest `f16`, the even one of two, as an `f32`.
    Half,
    /// The signed bytes of one half of a vector of four lanes as eight numbers of 16 bits; only where the target has an
    /// instruction for it (`sxtl`, `sxtl2` of AArch64).
    WidenLow,
    WidenHigh,
}

impl Function {
    /// All of them.
    pub const ALL: [Function; 11] = [
        Function::Neg,
        Function::Abs,
        Function::Sqrt,
        Function::Round,
        Function::RoundSmall,
        Function::PowerOfTwo,
        Function::FromWhole,
        Function::TransposeBytes,
        Function::Half,
        Function::WidenLow,
        Function::WidenHigh,
    ];

    /// The word for it in the text form.
    pub fn name(self) -> &'static str {
        match self {
            Function::Neg => "neg",
            Function::Abs => "abs",
            Function::Sqrt => "sqrt",
            Function::Round => "round",
            Function::RoundSmall => "round_small",
            Function::PowerOfTwo => "power_of_two",
            Function::FromWhole => "from_whole",
            Function::TransposeBytes => "transpose_bytes",
            Function::Half => "half",
            Function::WidenLow => "widen_low",
            Function::WidenHigh => "widen_high",
        }
    }
}

impl Expression {
    /// Whether it is known to be a number: then a maximum or minimum need not ask.
    pub fn is_number(&self) -> bool {
        matches!(self, Expression::Constant(value) if !value.is_nan())
    }
}

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `for var in low..high step step { body }`. With `unroll` the back end writes the body out (constant bounds only).
    For {
        /// Counts from `low`.
        var: LoopVar,
        /// First value.
        low: Bound,
        /// End, exclusive.
        high: Bound,
        /// Added each time, positive.
        step: i64,
        /// Write the iterations out.
        unroll: bool,
        /// Executed for each value.
        body: Vec<Statement>,
    },
    /// First or later assignment of a variable.
    Assign(Variable, Expression),
    /// Stores all lanes.
    Store(Buffer, Affine, Expression),
    /// Stores the first `count` lanes (1..lanes).
    StorePartial(Buffer, Affine, u32, Expression),
    /// Asks for the memory around an element, which may lie past the end of the buffer, without waiting for it.
    Prefetch(Buffer, Affine),
    /// Threads that share the kernel wait for each other.
    Barrier,
    /// A line of explanation for the reader of emitted code.
    Comment(String),
}

/// A compiled loop nest.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Identifier, unique in its program: family and shapes, such as `conv_3x3_64x56x56_64`.
    pub name: String,
    /// What it computes, in words, for the emitted doc comment.
    pub summary: String,
    /// Elements of a vector: 4, 8 or 16.
    pub lanes: u32,
    /// Parameters in call order: inputs, then weights, then scratch, then outputs.
    pub buffers: Vec<BufferDeclaration>,
    /// Loop variables; several loops may use one of them, one after the other.
    pub loops: Vec<LoopDeclaration>,
    /// Names of vector variables, identifiers.
    pub variable_names: Vec<String>,
    /// Executed once per call.
    pub body: Vec<Statement>,
    /// Inputs whose memory the output may share exactly (same first element): each element is read before it is
    /// written, and never after.
    pub in_place: Vec<Buffer>,
    /// How threads share it; each has its own part of the scratch buffers.
    pub split: Option<split::Split>,
    /// Where there are several alternatives: what is done, and by which of them, as measurements name them.
    pub alternative: Option<(String, Choice)>,
    /// Of Winograd's algorithm: what the convolution is, to ask whether its inputs are small enough, and to do it directly where
    /// they are not.
    pub winograd: Option<Winograd>,
    /// Multiply-adds per call that the operator itself needs.
    pub macs: u64,
}

impl Kernel {
    /// Whether it rounds the rows of a product to 16 bits, to multiply them as whole numbers.
    pub fn rounds_rows(&self) -> bool {
        let is_bytes = |buffer: &BufferDeclaration| buffer.storage == ElementType::I8;
        self.buffers.iter().any(|buffer| buffer.access == Access::Scratch && is_bytes(buffer))
    }

    /// Whether it multiplies bytes.
    pub fn multiplies_bytes(&self) -> bool {
        let mut found = false;
        visit::each_expression(&self.body, &mut |part| {
            let joins = matches!(part, Expression::Join(Joining::Products(_), ..));
            found |= joins || matches!(part, Expression::DotBytes(..) | Expression::AddProducts(..));
        });
        found
    }
}
