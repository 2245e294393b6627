//! Element types, shapes and constant data of tensors.

use std::fmt;

use partita_rt::{Bf16, CastTo, F16};
use serde::{Deserialize, Serialize};

/// Type of one element. Device programs multiply in `F32`; the others are moved, compared and counted with as they are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum ElementType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64: inputs, outputs and constants; what is computed at run time is computed in `F32`.
    F64,
    /// IEEE 754 binary16: likewise.
    F16,
    /// bfloat16: likewise.
    BF16,
    /// 64-bit signed integer: ONNX indices and shapes.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 16-bit signed integer.
    I16,
    /// 8-bit signed integer: quantized values.
    I8,
    /// 64-bit unsigned integer.
    U64,
    /// 32-bit unsigned integer.
    U32,
    /// 16-bit unsigned integer.
    U16,
    /// 8-bit unsigned integer: quantized values and raw pixels.
    U8,
    /// One byte: false if 0, else true.
    Bool,
}

impl ElementType {
    /// Every type.
    pub const ALL: [ElementType; 13] = [
        ElementType::F32,
        ElementType::F64,
        ElementType::F16,
        ElementType::BF16,
        ElementType::I64,
        ElementType::I32,
        ElementType::I16,
        ElementType::I8,
        ElementType::U64,
        ElementType::U32,
        ElementType::U16,
        ElementType::U8,
        ElementType::Bool,
    ];

    /// Size of one element in memory and on the wire.
    pub fn size_bytes(self) -> usize {
        match self {
            ElementType::F64 | ElementType::I64 | ElementType::U64 => 8,
            ElementType::F32 | ElementType::I32 | ElementType::U32 => 4,
            ElementType::F16 | ElementType::BF16 | ElementType::I16 | ElementType::U16 => 2,
            ElementType::I8 | ElementType::U8 | ElementType::Bool => 1,
        }
    }

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::F64 => "f64",
            ElementType::F16 => "f16",
            ElementType::BF16 => "bf16",
            ElementType::I64 => "i64",
            ElementType::I32 => "i32",
            ElementType::I16 => "i16",
            ElementType::I8 => "i8",
            ElementType::U64 => "u64",
            ElementType::U32 => "u32",
            ElementType::U16 => "u16",
            ElementType::U8 => "u8",
            ElementType::Bool => "bool",
        }
    }

    /// Inverse of [`ElementType::name`].
    pub fn from_name(name: &str) -> Option<ElementType> {
        ElementType::ALL.into_iter().find(|element| element.name() == name)
    }

    /// Whether elements are real numbers.
    pub fn is_float(self) -> bool {
        matches!(self, ElementType::F32 | ElementType::F64 | ElementType::F16 | ElementType::BF16)
    }

    /// Whether elements are whole numbers.
    pub fn is_integer(self) -> bool {
        !self.is_float() && self != ElementType::Bool
    }
}

/// Element type and shape of a tensor. Every dimension is a known constant; a scalar has rank 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Type of the elements.
    pub element: ElementType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(element: ElementType, shape: impl Into<Vec<usize>>) -> TensorType {
        TensorType { element, shape: shape.into() }
    }

    /// A tensor of `f32`.
    pub fn f32(shape: impl Into<Vec<usize>>) -> TensorType {
        TensorType::new(ElementType::F32, shape)
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements (1 for a scalar). The importer has checked that this does not overflow.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Size in plain row-major layout.
    pub fn size_bytes(&self) -> usize {
        self.element_count() * self.element.size_bytes()
    }
}

impl fmt::Display for TensorType {
    /// `f32[1,3,224,224]`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.element.name())?;
        for (index, dimension) in self.shape.iter().enumerate() {
            if index > 0 {
                write!(f, ",")?;
            }
            write!(f, "{dimension}")?;
        }
        write!(f, "]")
    }
}

/// Elements of a tensor whose value is known, row-major.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the element type of the same name")]
pub enum Data {
    F32(Vec<f32>),
    F64(Vec<f64>),
    F16(Vec<F16>),
    BF16(Vec<Bf16>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    I16(Vec<i16>),
    I8(Vec<i8>),
    U64(Vec<u64>),
    U32(Vec<u32>),
    U16(Vec<u16>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

/// The expression for the elements of some data, whatever their type; with `=> Self`, it gives data of the same type.
#[macro_export]
macro_rules! on_elements {
    ($data:expr, $elements:ident => Self($body:expr)) => {
        match $data {
            $crate::graph::Data::F32($elements) => $crate::graph::Data::F32($body),
            $crate::graph::Data::F64($elements) => $crate::graph::Data::F64($body),
            $crate::graph::Data::F16($elements) => $crate::graph::Data::F16($body),
            $crate::graph::Data::BF16($elements) => $crate::graph::Data::BF16($body),
            $crate::graph::Data::I64($elements) => $crate::graph::Data::I64($body),
            $crate::graph::Data::I32($elements) => $crate::graph::Data::I32($body),
            $crate::graph::Data::I16($elements) => $crate::graph::Data::I16($body),
            $crate::graph::Data::I8($elements) => $crate::graph::Data::I8($body),
            $crate::graph::Data::U64($elements) => $crate::graph::Data::U64($body),
            $crate::graph::Data::U32($elements) => $crate::graph::Data::U32($body),
            $crate::graph::Data::U16($elements) => $crate::graph::Data::U16($body),
            $crate::graph::Data::U8($elements) => $crate::graph::Data::U8($body),
            $crate::graph::Data::Bool($elements) => $crate::graph::Data::Bool($body),
        }
    };
    ($data:expr, $elements:ident => $body:expr) => {
        match $data {
            $crate::graph::Data::F32($elements) => $body,
            $crate::graph::Data::F64($elements) => $body,
            $crate::graph::Data::F16($elements) => $body,
            $crate::graph::Data::BF16($elements) => $body,
            $crate::graph::Data::I64($elements) => $body,
            $crate::graph::Data::I32($elements) => $body,
            $crate::graph::Data::I16($elements) => $body,
            $crate::graph::Data::I8($elements) => $body,
            $crate::graph::Data::U64($elements) => $body,
            $crate::graph::Data::U32($elements) => $body,
            $crate::graph::Data::U16($elements) => $body,
            $crate::graph::Data::U8($elements) => $body,
            $crate::graph::Data::Bool($elements) => $body,
        }
    };
}

/// The same for numbers only; `$other` is what it gives for truth values.
#[macro_export]
macro_rules! on_numbers {
    ($data:expr, $elements:ident => Self($body:expr), $other:expr) => {
        match $data {
            $crate::graph::Data::F32($elements) => $crate::graph::Data::F32($body),
            $crate::graph::Data::F64($elements) => $crate::graph::Data::F64($body),
            $crate::graph::Data::F16($elements) => $crate::graph::Data::F16($body),
            $crate::graph::Data::BF16($elements) => $crate::graph::Data::BF16($body),
            $crate::graph::Data::I64($elements) => $crate::graph::Data::I64($body),
            $crate::graph::Data::I32($elements) => $crate::graph::Data::I32($body),
            $crate::graph::Data::I16($elements) => $crate::graph::Data::I16($body),
            $crate::graph::Data::I8($elements) => $crate::graph::Data::I8($body),
            $crate::graph::Data::U64($elements) => $crate::graph::Data::U64($body),
            $crate::graph::Data::U32($elements) => $crate::graph::Data::U32($body),
            $crate::graph::Data::U16($elements) => $crate::graph::Data::U16($body),
            $crate::graph::Data::U8($elements) => $crate::graph::Data::U8($body),
            $crate::graph::Data::Bool(_) => $other,
        }
    };
}

pub use crate::{on_elements, on_numbers};

/// Data of an element type that is known at run time only; `$body` gives a vector of the right type.
macro_rules! data_of {
    ($element:expr, $body:expr) => {
        match $element {
            $crate::graph::ElementType::F32 => $crate::graph::Data::F32($body),
            $crate::graph::ElementType::F64 => $crate::graph::Data::F64($body),
            $crate::graph::ElementType::F16 => $crate::graph::Data::F16($body),
            $crate::graph::ElementType::BF16 => $crate::graph::Data::BF16($body),
            $crate::graph::ElementType::I64 => $crate::graph::Data::I64($body),
            $crate::graph::ElementType::I32 => $crate::graph::Data::I32($body),
            $crate::graph::ElementType::I16 => $crate::graph::Data::I16($body),
            $crate::graph::ElementType::I8 => $crate::graph::Data::I8($body),
            $crate::graph::ElementType::U64 => $crate::graph::Data::U64($body),
            $crate::graph::ElementType::U32 => $crate::graph::Data::U32($body),
            $crate::graph::ElementType::U16 => $crate::graph::Data::U16($body),
            $crate::graph::ElementType::U8 => $crate::graph::Data::U8($body),
            $crate::graph::ElementType::Bool => $crate::graph::Data::Bool($body),
        }
    };
}

/// An element of a constant: its data, and its bytes on the wire (little-endian).
pub trait Element: Copy + Default + PartialEq + std::fmt::Debug {
    /// The elements of some data, if they are of this type.
    fn of(data: &Data) -> Option<&[Self]>;

    /// Data of such elements.
    fn data(elements: Vec<Self>) -> Data;

    /// Adds its bytes.
    fn put(self, bytes: &mut Vec<u8>);

    /// The element that these bytes are, as many as [`ElementType::size_bytes`] says.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! elements_of_primitives {
    ($($variant:ident $primitive:ident;)*) => {$(
        impl Element for $primitive {
            fn of(data: &Data) -> Option<&[$primitive]> {
                match data {
                    Data::$variant(elements) => Some(elements),
                    _ => None,
                }
            }

            fn data(elements: Vec<$primitive>) -> Data {
                Data::$variant(elements)
            }

            fn put(self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_le_bytes());
            }

            fn take(bytes: &[u8]) -> $primitive {
                bytes.try_into().map(<$primitive>::from_le_bytes).unwrap_or_default()
            }
        }
    )*};
}

elements_of_primitives! {
    F32 f32;
    F64 f64;
    I64 i64;
    I32 i32;
    I16 i16;
    I8 i8;
    U64 u64;
    U32 u32;
    U16 u16;
    U8 u8;
}

macro_rules! elements_by_bits {
    ($($variant:ident $name:ident $bits:ident, $to:expr, $from:expr;)*) => {$(
        impl Element for $name {
            fn of(data: &Data) -> Option<&[$name]> {
                match data {
                    Data::$variant(elements) => Some(elements),
                    _ => None,
                }
            }

            fn data(elements: Vec<$name>) -> Data {
                Data::$variant(elements)
            }

            fn put(self, bytes: &mut Vec<u8>) {
                $bits::put($to(self), bytes);
            }

            fn take(bytes: &[u8]) -> $name {
                $from($bits::take(bytes))
            }
        }
    )*};
}

elements_by_bits! {
    F16 F16 u16, |half: F16| half.0, F16;
    BF16 Bf16 u16, |half: Bf16| half.0, Bf16;
    Bool bool u8, u8::from, |byte| byte != 0;
}

impl Data {
    /// Element type of this data.
    pub fn element(&self) -> ElementType {
        match self {
            Data::F32(_) => ElementType::F32,
            Data::F64(_) => ElementType::F64,
            Data::F16(_) => ElementType::F16,
            Data::BF16(_) => ElementType::BF16,
            Data::I64(_) => ElementType::I64,
            Data::I32(_) => ElementType::I32,
            Data::I16(_) => ElementType::I16,
            Data::I8(_) => ElementType::I8,
            Data::U64(_) => ElementType::U64,
            Data::U32(_) => ElementType::U32,
            Data::U16(_) => ElementType::U16,
            Data::U8(_) => ElementType::U8,
            Data::Bool(_) => ElementType::Bool,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        on_elements!(self, elements => elements.len())
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements if they are of type `T`.
    pub fn elements<T: Element>(&self) -> Option<&[T]> {
        T::of(self)
    }

    /// The elements as they lie in memory and on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len() * self.element().size_bytes());
        on_elements!(self, elements => elements.iter().for_each(|element| element.put(&mut bytes)));
        bytes
    }

    /// Inverse of [`Data::to_bytes`]; bytes that are no whole element are left out.
    pub fn from_bytes(element: ElementType, bytes: &[u8]) -> Data {
        let parts = bytes.chunks_exact(element.size_bytes());
        data_of!(element, parts.map(Element::take).collect())
    }

    /// How many elements are NaN, and how many infinite.
    pub fn not_finite(&self) -> (usize, usize) {
        fn count<T: Copy + CastTo<f64>>(elements: &[T]) -> (usize, usize) {
            elements.iter().fold((0, 0), |(nan, infinite), element| {
                let x: f64 = element.cast();
                (nan + usize::from(x.is_nan()), infinite + usize::from(x.is_infinite()))
            })
        }
        match self {
            Data::F32(elements) => count(elements),
            Data::F64(elements) => count(elements),
            Data::F16(elements) => count(elements),
            Data::BF16(elements) => count(elements),
            _ => (0, 0),
        }
    }

    /// As many elements with the value of the only one that this data holds.
    pub fn repeated(&self, count: usize) -> Data {
        on_elements!(self, elements => Self(elements.first().map_or(Vec::new(), |element| vec![*element; count])))
    }

    /// Elements of another type, as ONNX Cast says.
    pub fn cast(&self, to: ElementType) -> Data {
        on_elements!(self, elements => data_of!(to, elements.iter().map(|element| element.cast()).collect()))
    }
}

/// Whether all elements are whole numbers, as those of quantized models are.
pub fn are_whole(elements: &[f32]) -> bool {
    elements.iter().all(|element| element.fract() == 0.0)
}

/// A tensor with its value: an ONNX initializer, a folded constant, or an evaluated result.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// As many elements as `shape` says, row-major.
    pub data: Data,
}

impl Value {
    /// A value of `f32` elements.
    pub fn f32(shape: impl Into<Vec<usize>>, elements: Vec<f32>) -> Value {
        let value = Value { shape: shape.into(), data: Data::F32(elements) };
        assert_eq!(value.shape.iter().product::<usize>(), value.data.len());
        value
    }

    /// A value of `i64` elements.
    pub fn i64(shape: impl Into<Vec<usize>>, elements: Vec<i64>) -> Value {
        let value = Value { shape: shape.into(), data: Data::I64(elements) };
        assert_eq!(value.shape.iter().product::<usize>(), value.data.len());
        value
    }

    /// Zeros, or false.
    pub fn zeros(tensor_type: &TensorType) -> Value {
        let zeros = Data::F32(vec![0.0; tensor_type.element_count()]);
        Value { shape: tensor_type.shape.clone(), data: zeros.cast(tensor_type.element) }
    }

    /// The value of a tensor that has no elements.
    pub fn empty(tensor_type: TensorType) -> Value {
        let data = data_of!(tensor_type.element, Vec::new());
        Value { shape: tensor_type.shape, data }
    }

    /// Element type and shape.
    pub fn tensor_type(&self) -> TensorType {
        TensorType::new(self.data.element(), self.shape.clone())
    }

    /// The elements if they are `f32`.
    pub fn as_f32(&self) -> Option<&[f32]> {
        match &self.data {
            Data::F32(elements) => Some(elements),
            _ => None,
        }
    }

    /// The elements if they are `i64`.
    pub fn as_i64(&self) -> Option<&[i64]> {
        match &self.data {
            Data::I64(elements) => Some(elements),
            _ => None,
        }
    }
}
