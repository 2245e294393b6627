//! The input as a camera or a microphone gives it: bytes instead of real numbers, channels last, not normalised.
//!
//! What it takes to make the model's input of that becomes part of the graph, as ordinary operators: so the planner decides
//! where it is done, and what travels to other devices may be the bytes.

use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{Activation, BinaryOp, ElementType, Graph, InputForm, Op, TensorId, TensorType, Value};

/// Lets an input come in another form. It keeps its name; its type and shape are the form's.
///
/// Errors: E0145 names what does not fit: an input that the model does not have, one that is no real numbers, has no
/// channels, or has another number of them.
pub fn convert(graph: &mut Graph, form: &InputForm) -> Result<(), Diagnostic> {
    let input = wanted(graph, form)?;
    let taken = graph.tensor_type(input).clone();
    let name = graph.tensor(input).name.clone();
    check(graph, input, form)?;
    let element = form.element.unwrap_or(taken.element);
    let mut shape = taken.shape.clone();
    if form.channels_last {
        shape[1..].rotate_left(1);
    }
    graph.rename_tensor(input, format!("{name}.taken"));
    let given = graph.add_tensor(&name, TensorType::new(element, shape));
    for place in graph.inputs.iter_mut().filter(|place| **place == input) {
        *place = given;
    }
    let mut steps: Vec<(&str, Op, Option<TensorId>, TensorType)> = Vec::new();
    if form.channels_last {
        let rank = taken.shape.len();
        // Channels, which come last, go behind the samples.
        let permutation = [0, rank - 1].into_iter().chain(1..rank - 1).collect();
        let moved = TensorType::new(element, taken.shape.clone());
        steps.push(("channels_first", Op::Transpose { permutation }, None, moved));
    }
    if element != ElementType::F32 {
        steps.push(("real", Op::Cast { to: ElementType::F32 }, None, taken.clone()));
    }
    let scales = [("centred", BinaryOp::Sub, &form.mean, 0.0), ("scaled", BinaryOp::Div, &form.std, 1.0)];
    for (what, op, values, neutral) in scales {
        if values.iter().any(|value| *value != neutral) {
            let constant = graph.add_constant(format!("{name}.{what}.by"), per_channel(values, taken.shape.len()));
            steps.push((what, Op::Binary(op, Activation::None), Some(constant), taken.clone()));
        }
    }
    let last = steps.len().saturating_sub(1);
    let mut so_far = given;
    for (index, (what, op, constant, made)) in steps.into_iter().enumerate() {
        let label = format!("{name}.{what}");
        let result = if index == last { input } else { graph.add_tensor(&label, made) };
        let operands = std::iter::once(so_far).chain(constant).collect();
        graph.add_node(label, op, operands, vec![result]);
        so_far = result;
    }
    Ok(())
}

/// The input that comes in another form.
fn wanted(graph: &Graph, form: &InputForm) -> Result<TensorId, Diagnostic> {
    let names = || {
        let quoted = |input: &TensorId| format!("`{}`", printable(&graph.tensor(*input).name));
        graph.inputs.iter().map(quoted).collect::<Vec<_>>().join(", ")
    };
    let found = match &form.name {
        Some(name) => graph.inputs.iter().copied().find(|input| graph.tensor(*input).name == *name),
        None => <[TensorId; 1]>::try_from(&graph.inputs[..]).ok().map(|[only]| only),
    };
    found.ok_or_else(|| match &form.name {
        Some(name) => {
            refused(format!("the model has no input `{}`", printable(name))).help(format!("its inputs are {}", names()))
        }
        None => refused(format!("the model has {} inputs", graph.inputs.len()))
            .help(format!("say which one with `name`: {}", names())),
    })
}

/// Whether the form can be that of this input.
fn check(graph: &Graph, input: TensorId, form: &InputForm) -> Result<(), Diagnostic> {
    let (name, taken) = (printable(&graph.tensor(input).name), graph.tensor_type(input));
    let refuse = |what: String| refused(format!("input `{name}` is {taken}: {what}"));
    if graph.is_output(input) {
        return Err(refuse("it is an output as well, and comes out as it goes in".to_string()));
    }
    let changes = form.element.is_some_and(|element| element != taken.element) || form.channels_last || form.scales();
    if !changes {
        return Err(refuse("that is how it comes already".to_string()).help("leave [input] out"));
    }
    if taken.element != ElementType::F32 {
        return Err(refuse("only real numbers are made of others".to_string()).help("leave [input] out"));
    }
    if form.channels_last && taken.rank() < 3 {
        return Err(refuse("`layout = \"nhwc\"` needs channels and space".to_string()));
    }
    for (key, values) in [("mean", &form.mean), ("std", &form.std)] {
        let channels = taken.shape.get(1).copied().unwrap_or(1);
        if values.len() != 1 && values.len() != channels {
            let found = format!("`{key}` has {} values, and the model takes {channels} channels", values.len());
            return Err(refuse(found).help("write one value, or one per channel"));
        }
    }
    Ok(())
}

/// One value for all of a tensor of this rank, or one per index of axis 1.
fn per_channel(values: &[f32], rank: usize) -> Value {
    let shape = match values {
        [_] => Vec::new(),
        _ => [values.len()].into_iter().chain(std::iter::repeat_n(1, rank.saturating_sub(2))).collect(),
    };
    Value::f32(shape, values.to_vec())
}

fn refused(message: String) -> Diagnostic {
    Diagnostic::new("E0145", format!("[input]: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::Data;
    use partita_ir::graph::eval::evaluate;
    use partita_ir::graph::text::{Constants, parse, print};
    use partita_ir::graph::verify::verify;

    const TEXT: &str = r#"graph "case" opset 17
input %0 "picture": f32[1,3,1,2]
input %1 "other": f32[2]
%2 "y": f32[1,3,1,2] = "twice"(%0, %1) Binary(Mul,None)
output %2
"#;

    fn camera() -> InputForm {
        InputForm {
            name: Some("picture".to_string()),
            element: Some(ElementType::U8),
            channels_last: true,
            mean: vec![1.0, 2.0, 3.0],
            std: vec![2.0],
        }
    }

    fn converted(form: &InputForm) -> Result<Graph, String> {
        let mut graph = parse(TEXT).expect("the text is a graph");
        convert(&mut graph, form).map_err(|refusal| refusal.to_string())?;
        verify(&graph).expect("it is a graph still");
        Ok(graph)
    }

    #[test]
    fn bytes_of_a_camera_become_what_the_model_takes() {
        let graph = converted(&camera()).expect("it fits");
        let text = print(&graph, Constants::Full);
        assert!(text.contains(r#""picture": u8[1,1,2,3]"#), "{text}");
        assert_eq!(print(&parse(&text).expect("it reads back"), Constants::Full), text);
        let picture = Value { shape: vec![1, 1, 2, 3], data: Data::U8(vec![1, 4, 5, 255, 0, 3]) };
        let results = evaluate(&graph, &[picture, Value::f32(vec![2], vec![1.0, 10.0])]).expect("it is computed");
        assert_eq!(results[0].as_f32(), Some(&[0.0, 1270.0, 1.0, -10.0, 1.0, 0.0][..]));
    }

    #[test]
    fn no_step_is_there_for_nothing() {
        let form = InputForm { element: None, channels_last: false, mean: vec![0.0], ..camera() };
        assert_eq!(converted(&form).expect("it fits").node_count(), 2);
        let form = InputForm { channels_last: false, mean: vec![0.0], std: vec![1.0], ..camera() };
        assert_eq!(converted(&form).expect("it fits").node_count(), 2);
    }

    #[test]
    fn forms_that_do_not_fit_are_refused() {
        let nothing = InputForm { element: None, channels_last: false, mean: vec![0.0], std: vec![1.0], ..camera() };
        for (form, expected) in [
            (InputForm { name: None, ..camera() }, "2 inputs"),
            (InputForm { name: Some("image".to_string()), ..camera() }, "no input `image`"),
            (InputForm { mean: vec![1.0, 2.0], ..camera() }, "`mean` has 2 values, and the model takes 3 channels"),
            (InputForm { name: Some("other".to_string()), ..camera() }, "needs channels and space"),
            (nothing, "how it comes already"),
        ] {
            let refusal = converted(&form).expect_err("it does not fit");
            assert!(refusal.contains(expected) && refusal.contains("E0145"), "{refusal}");
        }
    }
}
