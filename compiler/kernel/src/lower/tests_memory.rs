//! For tests: memory in which kernels run, and what lies in it.

use super::Binding;
use crate::layout::Layout;
use crate::{BufferDeclaration, Kernel};
use partita_ir::graph::{TensorType, Value};
use partita_rt::kernels::{reorder_from_blocked, reorder_to_blocked};

/// Elements of a tensor as they lie in a layout, with at least `elements` of them.
pub(super) fn laid_out(value: &Value, layout: Layout, elements: usize) -> Vec<f32> {
    let x = value.as_f32().expect("tests use f32");
    // What lies past the tensor must not matter.
    let mut result = vec![f32::NAN; elements];
    match layout {
        Layout::Plain => result[..x.len()].copy_from_slice(x),
        Layout::Blocked(block) => {
            let spatial = value.shape[2..].iter().product();
            reorder_to_blocked(x, &mut result, value.shape[0], value.shape[1], spatial, block as usize);
            // Lanes past the last channel hold whatever was there before.
            let (channels, block) = (value.shape[1], block as usize);
            let per_sample = channels.div_ceil(block) * spatial * block;
            for (index, element) in result.iter_mut().enumerate() {
                let within = index % per_sample.max(1);
                if within / (spatial * block) * block + within % block >= channels {
                    *element = 1e30;
                }
            }
        }
    }
    result
}

/// Memory for a kernel that is alone: its inputs as `input` says (operand, elements), its weights, and NaN elsewhere.
pub(super) fn memory(bindings: &[Binding], kernel: &Kernel, input: impl Fn(usize, usize) -> Vec<f32>) -> Vec<Vec<f32>> {
    let fill = |(binding, declared): (&Binding, &BufferDeclaration)| match binding {
        Binding::Input(index) => input(*index, declared.elements),
        Binding::Weights { elements, .. } => elements.clone(),
        Binding::SameWeights { .. } => panic!("nothing else has packed them"),
        Binding::Scratch(_) | Binding::Output => vec![f32::NAN; declared.elements],
    };
    bindings.iter().zip(&kernel.buffers).map(fill).collect()
}

/// A result in row-major order, out of the memory in which it lies in some layout.
pub(super) fn row_major(lies: &[f32], layout: Layout, output: &TensorType) -> Vec<f32> {
    let mut found = vec![0.0; output.element_count()];
    match layout {
        Layout::Plain => found.copy_from_slice(&lies[..output.element_count()]),
        Layout::Blocked(block) => {
            let plane = output.shape[2..].iter().product();
            reorder_from_blocked(lies, &mut found, output.shape[0], output.shape[1], plane, block as usize);
        }
    }
    found
}
