//! Parameters of kernels: how they are used, and how their elements are stored.

use partita_ir::graph::ElementType;

/// A parameter of a kernel. Index into [`Kernel::buffers`](crate::Kernel::buffers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Buffer(pub u32);

/// How a buffer is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Only read; an activation.
    Input,
    /// Only read; packed constants.
    Weights,
    /// Read and written; holds nothing before and after.
    Scratch,
    /// Written; may alias an input only where the kernel says so ([`Kernel::in_place`](crate::Kernel::in_place)).
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
    /// How an element is stored: `F32`, `I8`, `U8` or `I16`, of which loads make `f32` and which stores make of whole
    /// `f32` numbers of their range; `F16`, weights that are only loaded whole; or `I32`, weights that are loaded as
    /// the whole numbers that they are.
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
