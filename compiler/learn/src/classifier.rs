//! What early exits and variants need to know of a model that tells classes apart, and of the samples they learn from.

use crate::samples::Samples;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::{ElementType, Graph, Op};

/// Number of classes of a classifier: its only output is scores or probabilities, `[1, classes]`.
///
/// Errors: E0190, of which `help` says what to do instead.
pub fn classes(graph: &Graph, help: &str) -> Result<usize, Diagnostic> {
    let found = match &graph.outputs[..] {
        [output] => match (graph.shape(*output), graph.tensor_type(*output).element) {
            ([1, classes], ElementType::F32) if *classes >= 2 => return Ok(*classes),
            _ => format!("has an output of type {}", graph.tensor_type(*output)),
        },
        outputs => format!("has {} outputs", outputs.len()),
    };
    let message = format!("a classifier with one output of scores [1, classes] is needed; this model {found}");
    Err(Diagnostic::new("E0190", message).help(help))
}

/// Whether a classifier answers probabilities rather than scores.
pub fn answers_probabilities(graph: &Graph) -> bool {
    let producer = graph.outputs.first().and_then(|output| graph.tensor(*output).producer);
    producer.is_some_and(|producer| matches!(graph.node(producer).op, Op::Softmax { .. }))
}

/// Index of the largest score, the first of equals.
pub fn class(scores: &[f32]) -> usize {
    scores.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, s)| if *s > best.1 { (i, *s) } else { best }).0
}

/// Refuses samples from which nothing can be learned of so many classes.
///
/// Errors: E0192.
pub fn check_samples(samples: &Samples, classes: usize, least: usize) -> Result<(), Diagnostic> {
    let refuse = |message: String, help: &str| Err(Diagnostic::new("E0192", message).help(help));
    let count = samples.inputs.len();
    if count < least {
        let message =
            format!("{count} calibration samples are too few to learn from and to judge by; at least {least}");
        return refuse(message, "give more samples that the model has not been trained on");
    }
    let labels = samples.labels.as_deref().unwrap_or(&[]);
    if let Some((message, help)) = crate::fit::label_fault(labels, classes) {
        return refuse(message, &help);
    }
    if let [first, rest @ ..] = labels
        && rest.iter().all(|label| label == first)
    {
        let message = format!("all {count} calibration samples are of class {first}");
        return refuse(message, "give samples of every class");
    }
    Ok(())
}
