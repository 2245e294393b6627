//! Element types, shapes and constant data of tensors.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Type of one element. Device programs compute in `F32`; the integer types carry indices and shape arithmetic.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum ElementType {
    /// IEEE 754 binary32.
    F32,
    /// 64-bit signed integer: ONNX indices and shapes.
    I64,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer: quantized values.
    I8,
    /// 8-bit unsigned integer: quantized values and raw pixels.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl ElementType {
    /// Size of one element in memory and on the wire.
    pub fn size_bytes(self) -> usize {
        match self {
            ElementType::F32 | ElementType::I32 => 4,
            ElementType::I64 => 8,
            ElementType::I8 | ElementType::U8 | ElementType::Bool => 1,
        }
    }

    /// Name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::I64 => "i64",
            ElementType::I32 => "i32",
            ElementType::I8 => "i8",
            ElementType::U8 => "u8",
            ElementType::Bool => "bool",
        }
    }

    /// Inverse of [`ElementType::name`].
    pub fn from_name(name: &str) -> Option<ElementType> {
        [ElementType::F32, ElementType::I64, ElementType::I32, ElementType::I8, ElementType::U8, ElementType::Bool]
            .into_iter()
            .find(|element| element.name() == name)
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
    I64(Vec<i64>),
    I32(Vec<i32>),
    I8(Vec<i8>),
    U8(Vec<u8>),
    Bool(Vec<bool>),
}

impl Data {
    /// Element type of this data.
    pub fn element(&self) -> ElementType {
        match self {
            Data::F32(_) => ElementType::F32,
            Data::I64(_) => ElementType::I64,
            Data::I32(_) => ElementType::I32,
            Data::I8(_) => ElementType::I8,
            Data::U8(_) => ElementType::U8,
            Data::Bool(_) => ElementType::Bool,
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Data::F32(values) => values.len(),
            Data::I64(values) => values.len(),
            Data::I32(values) => values.len(),
            Data::I8(values) => values.len(),
            Data::U8(values) => values.len(),
            Data::Bool(values) => values.len(),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        debug_assert_eq!(value.shape.iter().product::<usize>(), value.data.len());
        value
    }

    /// A value of `i64` elements.
    pub fn i64(shape: impl Into<Vec<usize>>, elements: Vec<i64>) -> Value {
        let value = Value { shape: shape.into(), data: Data::I64(elements) };
        debug_assert_eq!(value.shape.iter().product::<usize>(), value.data.len());
        value
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
