//! Models by the reference kernels alone: imported, simplified and evaluated in this process.

use std::path::Path;

use partita::graph::{Value, eval};
use partita::onnx::{ImportOptions, import};
use partita::{data, passes};

use crate::arrays::relative_difference;

/// Largest difference of any output from the arrays in `reference`, relative to the output's largest element.
///
/// Panics if the model cannot be imported, simplified or evaluated.
pub fn difference(model: &Path, reference: &Path) -> f64 {
    let mut graph = import(model, &ImportOptions::default()).unwrap_or_else(|diagnostics| {
        let text: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        panic!("importing {}:\n{}", model.display(), text.join("\n"))
    });
    passes::simplify(&mut graph, &mut |_, _, _| {}).expect("the model can be simplified");
    let arrays = data::read_npz(reference).expect("the reference is readable");
    let array = |name: &str| {
        let found = arrays.iter().find(|(other, _)| other == name);
        &found.unwrap_or_else(|| panic!("{} has no array `{name}`", reference.display())).1
    };
    let inputs: Vec<_> = graph.inputs.iter().map(|input| array(&graph.tensor(*input).name).clone()).collect();
    let outputs = eval::evaluate(&graph, &inputs).expect("the model can be evaluated");
    graph.outputs.iter().zip(&outputs).fold(0.0, |worst: f64, (output, found)| {
        let expected = array(&graph.tensor(*output).name);
        assert_eq!(found.shape, expected.shape);
        worst.max(relative_difference(&data::to_f32(&found.data), &data::to_f32(&expected.data)))
    })
}

/// How many of the test samples the reference kernels answer rightly.
///
/// Panics if the example cannot be read.
pub fn right_answers(example: &Path) -> usize {
    let graph = import(&example.join("model.onnx"), &ImportOptions::default());
    let graph = graph.expect("the example imports");
    let arrays = data::read_npz(&example.join("test.npz")).expect("the example has samples");
    let array = |wanted: &str| &arrays.iter().find(|(name, _)| name == wanted).expect("an array").1;
    let (pixels, labels) = (data::to_f32(&array("x").data), data::to_f32(&array("y").data));
    let shape = graph.shape(graph.inputs[0]).to_vec();
    let samples = pixels.chunks_exact(shape.iter().product());
    let is_right = |(sample, label): (&[f32], &f32)| {
        let input = Value::f32(shape.clone(), sample.to_vec());
        let scores = eval::evaluate(&graph, &[input]).expect("it is computed").swap_remove(0);
        let scores = data::to_f32(&scores.data);
        let best = (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b]));
        best == Some(*label as usize)
    };
    samples.zip(&labels).filter(|pair| is_right(*pair)).count()
}
