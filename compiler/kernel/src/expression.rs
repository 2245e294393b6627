//! What is computed on vectors: variables, loads, arithmetic and functions, and the types of lanes.

use crate::{Affine, Buffer};

/// A mutable vector variable. Index into [`Kernel::variable_names`](crate::Kernel::variable_names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variable(pub u32);

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
    /// `c` plus, in every lane, the sum of the products of four bytes of `a` with those of `b`, whole numbers all; the
    /// bytes of
    /// `b` are signed. Only where the target has an instruction for it.
    DotBytes(Bytes, Box<Expression>, Box<Expression>, Box<Expression>),
    /// Whole numbers of several widths ([`Joining`]).
    Join(Joining, Box<Expression>, Box<Expression>),
    /// The numbers of `c`, plus the products of one half of `a` with that of `b`; none may leave 16 bits where they are
    /// such. Only where the target has instructions for them.
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
    /// The larger; NaN if either is NaN. Free of extra instructions on x86 where the first operand is a constant; in a
    /// chain of them the second operand should be what the chain has come to.
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
    /// Four bytes of each of four lanes, transposed: every lane has those that were at its place in each. Of vectors of
    /// four lanes; only where the target has an instruction for it (`tbl` of AArch64).
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
