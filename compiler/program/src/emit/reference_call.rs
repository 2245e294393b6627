//! Calls of portable reference kernels as Rust text: their parameters are a literal, every shape a constant.

use partita_rt::kernels::Call;

use super::literal::literal;
use partita_ir::graph::call::reference_call;
use partita_ir::graph::op::{Decide, Op};
use partita_ir::graph::types::TensorType;

/// An operand of a call.
pub struct CallOperand {
    /// A Rust expression of type `&[T]` or `&mut [T]`.
    pub expression: String,
    /// Element type and shape.
    pub tensor_type: TensorType,
}

/// The expression that computes an operator with its portable kernel; `None` for element types or forms that have none.
pub fn call_text(op: &Op, inputs: &[CallOperand], outputs: &[CallOperand]) -> Option<String> {
    let (read, written) = (types(inputs), types(outputs));
    let call = reference_call(op, &read, &written)?;
    let texts = |operands: &[CallOperand]| -> Vec<String> {
        operands.iter().map(|operand| operand.expression.clone()).collect()
    };
    let (read, mut written) = (texts(inputs), texts(outputs));
    let arguments = match &call {
        // The last operand is optional.
        Call::Conv(_) => with_optional(read, 3),
        Call::Einsum(_) => with_optional(read, 1),
        Call::Gemm(_) => with_optional(read, 2),
        Call::Concat(_) => vec![format!("&[{}]", read.join(", "))],
        Call::Split(_) => {
            written = vec![format!("&mut [{}]", written.join(", "))];
            read
        }
        Call::Decide(decide) => {
            let Op::Decide(Decide { exit, .. }) = op else { return None };
            // The threshold is the model's, so that it can be moved while the program runs.
            written.push(format!("self.thresholds[{exit}]"));
            written.push(match decide.patience {
                Some(_) => format!("Some(&mut *self.steady[{exit}].as_ptr())"),
                None => "None".to_string(),
            });
            read.into_iter().take(1).collect()
        }
        _ => read,
    };
    Some(format!("{}.run({})", literal(&call), [arguments, written].concat().join(", ")))
}

fn types(operands: &[CallOperand]) -> Vec<&TensorType> {
    operands.iter().map(|operand| &operand.tensor_type).collect()
}

/// As many operands, the last of which a kernel takes as an option.
fn with_optional(mut operands: Vec<String>, position: usize) -> Vec<String> {
    match operands.get_mut(position) {
        Some(last) => *last = format!("Some({last})"),
        None => operands.push("None".to_string()),
    }
    operands
}
