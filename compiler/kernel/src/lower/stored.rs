//! Kernels over operands that are stored in few bytes: of a kernel over `f32` one that loads and stores the same numbers as
//! bytes.
//!
//! Families write kernels over `f32`, and need not know how operands are stored: loads widen and stores narrow
//! ([`BufferDeclaration::storage`](crate::BufferDeclaration::storage)). What stands beside the last element of a vector that
//! is loaded in part stays 0, so an operand with an offset cannot be loaded so ([`can_read`]).

use partita_ir::graph::ranges::Range;
use partita_ir::graph::types::are_whole;
use partita_ir::graph::{ElementType, Stored};

use super::build::binary;
use super::{Binding, LoweredNode, Operand};
use crate::visit::{each_expression, each_expression_mut};
use crate::{Arithmetic, Buffer, Expression, Kernel, Statement};

/// Whether a kernel can read one of its buffers, which it takes for `f32`, as it is stored.
pub fn can_read(kernel: &Kernel, buffer: usize, stored: Stored) -> bool {
    let is_whole = matches!(stored.element, ElementType::I8 | ElementType::U8 | ElementType::I16);
    let declared = kernel.buffers[buffer].storage == ElementType::F32;
    // What does the same directly where inputs are too large for Winograd's algorithm reads `f32`.
    stored == Stored::plain(ElementType::F32)
        || is_whole
            && !stored.is_for_links()
            && declared
            && kernel.winograd.is_none()
            && (stored.offset == 0 || !is_cut(&kernel.body, buffer))
}

/// Whether vectors of a buffer are loaded in part.
fn is_cut(statements: &[Statement], buffer: usize) -> bool {
    let mut found = false;
    each_expression(statements, &mut |value| {
        found |= matches!(value, Expression::LoadPartial(Buffer(other), ..) if *other as usize == buffer);
    });
    found
}

/// Whether a kernel reads whole vectors of a buffer, and nothing else of it.
pub fn loads_vectors(kernel: &Kernel, buffer: usize) -> bool {
    let mut found = true;
    each_expression(&kernel.body, &mut |part| match part {
        Expression::LoadPartial(other, ..) | Expression::LoadStrided(other, ..) | Expression::Broadcast(other, _) => {
            found &= other.0 as usize != buffer;
        }
        _ => {}
    });
    found
}

/// Reads a buffer, or writes it, as it is stored ([`can_read`]).
pub fn store(kernel: &mut Kernel, buffer: usize, stored: Stored) {
    kernel.buffers[buffer].storage = stored.element;
    if stored.offset == 0 {
        return;
    }
    let own = Buffer(buffer as u32);
    let offset = stored.offset as f32;
    each_expression_mut(&mut kernel.body, &mut |value| {
        let is_own = match value {
            Expression::Load(other, _) | Expression::LoadStrided(other, ..) | Expression::Broadcast(other, _) => {
                *other == own
            }
            _ => false,
        };
        if is_own {
            let loaded = std::mem::replace(value, Expression::Constant(offset));
            *value = binary(Arithmetic::Add, loaded, Expression::Constant(offset));
        }
    });
    less(&mut kernel.body, own, offset);
}

/// Stores numbers less an offset.
fn less(statements: &mut [Statement], buffer: Buffer, offset: f32) {
    for statement in statements {
        match statement {
            Statement::For { body, .. } => less(body, buffer, offset),
            Statement::Store(other, _, value) | Statement::StorePartial(other, _, _, value) if *other == buffer => {
                let number = std::mem::replace(value, Expression::Constant(offset));
                *value = binary(Arithmetic::Sub, number, Expression::Constant(offset));
            }
            _ => {}
        }
    }
}

/// Keeps whole weights in as few bytes as hold them, and zeros beside them. `inputs` are the node's: where kernels share
/// weights, all of them must find the same.
pub fn store_weights(lowered: &mut LoweredNode, inputs: &[Operand<'_>]) {
    if lowered.kernel.winograd.is_some() {
        return;
    }
    for (position, binding) in lowered.bindings.iter().enumerate() {
        let elements = match binding {
            Binding::Weights { elements, .. } => Some(&elements[..]),
            Binding::SameWeights { from } => inputs.get(*from).and_then(|operand| operand.value),
            Binding::Input(_) | Binding::Scratch(_) | Binding::Output => None,
        };
        if let Some(elements) = elements.filter(|elements| are_whole(elements))
            && lowered.kernel.buffers[position].storage == ElementType::F32
        {
            let ends = elements.iter().fold((0.0f32, 0.0f32), |(low, high), x| (low.min(*x), high.max(*x)));
            let stored = Stored::whole(Range::new(ends.0.into(), ends.1.into()));
            if can_read(&lowered.kernel, position, stored) {
                store(&mut lowered.kernel, position, stored);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::text;

    /// `y = 2 * x` of a vector and of a cut one.
    const DOUBLED: &str = "kernel doubled lanes 4 macs 0 \"\"
input x[6]
output y[6]
{
  store y[0] = mul(load x[0], 2.0)
  store 2 of y[4] = mul(load 2 of x[4], 2.0)
}
";

    #[test]
    fn loads_add_what_stores_take_away() {
        let kernel = text::parse(DOUBLED).expect("the text is a kernel");
        let bytes = Stored::shifted(ElementType::I8, 100);
        assert!(!can_read(&kernel, 0, bytes), "zeros beside cut vectors would become numbers");
        assert!(can_read(&kernel, 0, Stored::plain(ElementType::U8)));
        let mut narrow = kernel.clone();
        store(&mut narrow, 0, Stored::plain(ElementType::U8));
        store(&mut narrow, 1, bytes);
        crate::verify::verify(&narrow).expect("every buffer may be stored so");
        let x = [0.0, 20.0, 40.0, 60.0, 80.0, 113.0];
        let mut buffers = vec![x.to_vec(), vec![0.0; 6]];
        evaluate(&narrow, &mut buffers);
        assert_eq!(buffers[1], x.map(|x| 2.0 * x - 100.0));
        // Weights with an offset are loaded with it.
        let mut weights = kernel;
        weights.body.truncate(1);
        store(&mut weights, 0, Stored::shifted(ElementType::I8, -3));
        assert!(weights.to_string().contains("add(load x[0], -3.0)"), "{weights}");
    }
}
