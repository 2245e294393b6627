//! Outputs that are inputs of the next inference: states, which stay on their device.
//!
//! They become the last inputs and outputs, in pairs ([`Graph::states`]); everything behind knows them by that.

use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::{Graph, TensorId};

/// Which outputs are states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// This output becomes this input.
    Pair(String, String),
    /// All that names and types say.
    ByName,
}

/// Words in names that say when a state is, not which one.
const TIMES: [&str; 16] = [
    "n", "new", "next", "out", "output", "present", "current", "in", "input", "past", "prev", "previous", "last",
    "old", "init", "initial",
];

/// Makes outputs states.
///
/// Errors: E0144 names what is no output, no input, stands in two pairs, has another type, or would leave the caller nothing.
pub fn keep(graph: &mut Graph, wanted: &[Wanted]) -> Result<(), Diagnostic> {
    let mut pairs: Vec<(TensorId, TensorId)> = Vec::new();
    for one in wanted {
        let found = match one {
            Wanted::Pair(made, kept) => vec![pair(graph, made, kept)?],
            Wanted::ByName => by_name(graph)?,
        };
        for (made, kept) in found {
            if pairs.contains(&(made, kept)) {
                continue;
            }
            if let Some(twice) = [made, kept].into_iter().find(|one| pairs.iter().any(|(a, b)| a == one || b == one)) {
                return Err(refused(format!("`{}` is in two states", name(graph, twice))));
            }
            pairs.push((made, kept));
        }
    }
    let states: Vec<TensorId> = pairs.iter().map(|(_, kept)| *kept).collect();
    let made: Vec<TensorId> = pairs.iter().map(|(made, _)| *made).collect();
    let mut inputs = graph.inputs.clone();
    inputs.retain(|input| !states.contains(input));
    let mut outputs = graph.outputs.to_vec();
    outputs.retain(|output| !made.contains(output));
    for (left, side) in [(&inputs, "input"), (&outputs, "output")] {
        if left.is_empty() {
            return Err(refused(format!(
                "every {side} of the model would be a state, and none is left for the caller"
            )));
        }
    }
    graph.states = pairs.len();
    graph.inputs = [inputs, states].concat();
    graph.outputs = [outputs, made].concat().into();
    Ok(())
}

/// The output and the input of these names.
fn pair(graph: &Graph, made: &str, kept: &str) -> Result<(TensorId, TensorId), Diagnostic> {
    let among = |tensors: &[TensorId], wanted: &str, side: &str| {
        let found = tensors.iter().copied().find(|tensor| graph.tensor(*tensor).name == wanted);
        found.ok_or_else(|| {
            let names: Vec<String> = tensors.iter().map(|tensor| format!("`{}`", name(graph, *tensor))).collect();
            let help = format!("its {side}s are {}", names.join(", "));
            refused(format!("the model has no {side} `{}`", printable(wanted))).help(help)
        })
    };
    let (made, kept) = (among(&graph.outputs, made, "output")?, among(&graph.inputs, kept, "input")?);
    let (found, expected) = (graph.tensor_type(made), graph.tensor_type(kept));
    if found != expected {
        let (made, kept) = (name(graph, made), name(graph, kept));
        return Err(refused(format!("output `{made}` is {found}, and input `{kept}` {expected}: a state is the same")));
    }
    Ok((made, kept))
}

/// Outputs and inputs that say the same apart from when, have the same type, and are the only ones.
fn by_name(graph: &Graph) -> Result<Vec<(TensorId, TensorId)>, Diagnostic> {
    let said = |tensor: TensorId| (stem(&graph.tensor(tensor).name), graph.tensor_type(tensor));
    let mut found = Vec::new();
    for made in graph.outputs.iter().copied() {
        let like: Vec<TensorId> = graph.inputs.iter().copied().filter(|kept| said(*kept) == said(made)).collect();
        let others = graph.outputs.iter().filter(|other| said(**other) == said(made)).count();
        match like[..] {
            [kept] if others == 1 && !said(made).0.is_empty() => found.push((made, kept)),
            _ => {}
        }
    }
    if found.is_empty() {
        let help = "say which output becomes which input: --state OUTPUT=INPUT";
        return Err(refused("no output of the model is called like an input of its type".to_string()).help(help));
    }
    Ok(found)
}

/// What a name says apart from when: `state` of `stateN`, `h` of `hn` and `h_0`, `1.key` of `past_key_values.1.key` and
/// `present.1.key`.
fn stem(name: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut before = ' ';
    for letter in name.chars() {
        let begins = !before.is_alphanumeric() || (before.is_lowercase() && letter.is_uppercase());
        if letter.is_alphanumeric() {
            if begins {
                words.push(String::new());
            }
            words.iter_mut().last().into_iter().for_each(|word| word.extend(letter.to_lowercase()));
        }
        before = letter;
    }
    let of_caches = words.iter().any(|word| word == "past" || word == "present");
    words.retain(|word| !TIMES.contains(&word.as_str()) && !(of_caches && (word == "key_values" || word == "values")));
    if of_caches && words.first().is_some_and(|word| word == "key") && words.len() > 1 && name.contains("key_values") {
        words.remove(0);
    }
    match &mut words[..] {
        // `hn`, `cn`, `h0`, `c0`.
        [only] if only.len() == 2 && only.ends_with(['n', '0']) => only.truncate(1),
        [.., last] if last == "0" && !of_caches => {
            words.pop();
        }
        _ => {}
    }
    words.join(".")
}

fn name(graph: &Graph, tensor: TensorId) -> String {
    printable(&graph.tensor(tensor).name)
}

fn refused(message: String) -> Diagnostic {
    Diagnostic::new("E0144", format!("--state: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use partita_ir::graph::text::{Constants, parse, print};
    use partita_ir::graph::verify::verify;

    const TEXT: &str = r#"graph "counter" opset 17
input %0 "state": f32[2]
input %1 "x": f32[2]
input %2 "h0": f32[3]
%3 "stateN": f32[2] = "add"(%0, %1) Binary(Add,None)
%4 "hn": f32[3] = "relu"(%2) Unary(Activation(Relu))
%5 "y": f32[2] = "twice"(%3, %3) Binary(Add,None)
output %3
output %5
output %4
"#;

    fn names(graph: &Graph, tensors: &[TensorId]) -> Vec<String> {
        tensors.iter().map(|tensor| name(graph, *tensor)).collect()
    }

    fn counter() -> Graph {
        parse(TEXT).expect("the text is a graph")
    }

    fn given(pairs: &[(&str, &str)]) -> Result<Graph, String> {
        let mut graph = counter();
        let wanted = |(made, kept): &(&str, &str)| Wanted::Pair(made.to_string(), kept.to_string());
        let wanted: Vec<Wanted> = pairs.iter().map(wanted).collect();
        keep(&mut graph, &wanted).map_err(|refusal| refusal.to_string())?;
        verify(&graph).expect("it is a graph still");
        Ok(graph)
    }

    #[test]
    fn states_come_last_and_in_pairs() {
        let graph = given(&[("stateN", "state"), ("hn", "h0")]).expect("both fit");
        assert_eq!(names(&graph, graph.given_inputs()), ["x"]);
        assert_eq!(names(&graph, graph.returned_outputs()), ["y"]);
        let pairs: Vec<[String; 2]> =
            graph.state_pairs().map(|(made, kept)| [name(&graph, made), name(&graph, kept)]).collect();
        assert_eq!(pairs, [["stateN", "state"], ["hn", "h0"]]);
        let text = print(&graph, Constants::Full);
        assert!(text.ends_with("states 2\n"), "{text}");
        assert_eq!(print(&parse(&text).expect("it reads back"), Constants::Full), text);
        assert_eq!(given(&[("hn", "h0")]).expect("one is enough").returned_outputs().len(), 2);
    }

    #[test]
    fn names_say_which_are_states() {
        let mut graph = counter();
        keep(&mut graph, &[Wanted::ByName]).expect("there are two");
        assert_eq!(names(&graph, &graph.inputs), ["x", "state", "h0"]);
        for (a, b) in [
            ("stateN", "state"),
            ("hn", "h0"),
            ("cn", "c"),
            ("new_hidden", "hidden"),
            ("present.1.key", "past_key_values.1.key"),
            ("present_key_2", "past_key_2"),
            ("cache_out_3", "cache_in_3"),
            ("next_state", "prev_state"),
        ] {
            assert_eq!(stem(a), stem(b), "{a} {b}");
        }
        for (a, b) in
            [("present.1.key", "past_key_values.1.value"), ("present.0.key", "past_key_values.1.key"), ("y", "x")]
        {
            assert_ne!(stem(a), stem(b), "{a} {b}");
        }
        assert_eq!((stem("output"), stem("input")), (String::new(), String::new()));
    }

    #[test]
    fn what_is_no_state_is_refused_by_name() {
        for (pairs, text) in [
            (&[("nobody", "state")][..], "no output `nobody`"),
            (&[("stateN", "nobody")][..], "no input `nobody`"),
            (&[("hn", "x")][..], "output `hn` is f32[3], and input `x` f32[2]"),
            (&[("stateN", "state"), ("y", "state")][..], "`state` is in two states"),
            (&[("stateN", "state"), ("hn", "h0"), ("y", "x")][..], "every input of the model would be a state"),
        ] {
            let refusal = given(pairs).err().unwrap_or_default();
            assert!(refusal.contains(text), "{refusal}");
        }
        let mut without = parse(
            "graph \"g\" opset 17\ninput %0 \"x\": f32[2]\n%1 \"y\": f32[2] = \"r\"(%0) Unary(Activation(Relu))\noutput %1\n",
        )
        .expect("the text is a graph");
        let refusal = keep(&mut without, &[Wanted::ByName]).expect_err("nothing is called alike").to_string();
        assert!(refusal.contains("no output of the model is called like an input"), "{refusal}");
    }
}
