//! Which attributes and how many operands each operator takes in each version: what is not among them is refused by name.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::attributes::Attributes;
use partita_ir::diagnostic::{Diagnostic, printable};

/// Made by `tests/conformance/make_signatures.py`.
const TEXT: &str = include_str!("signatures.txt");

/// What an operator takes from one version on.
struct Signature {
    since: i64,
    /// `None` for any number.
    most_operands: Option<usize>,
    attributes: Vec<&'static str>,
}

fn table() -> &'static HashMap<&'static str, Vec<Signature>> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Signature>>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: HashMap<&str, Vec<Signature>> = HashMap::new();
        for line in TEXT.lines().filter(|line| !line.starts_with('#')) {
            let mut words = line.split(' ');
            let (Some(name), Some(since), Some(most)) = (words.next(), words.next(), words.next()) else { continue };
            let signature = Signature {
                since: since.parse().unwrap_or(1),
                most_operands: most.parse().ok(),
                attributes: words.collect(),
            };
            table.entry(name).or_default().push(signature);
        }
        table
    })
}

/// Refuses attributes and operands that the operator does not have in this version.
pub fn check(attributes: &Attributes<'_>, opset: i64) -> Result<(), Diagnostic> {
    let node = attributes.node;
    if !matches!(node.domain.as_str(), "" | "ai.onnx") {
        return Ok(());
    }
    let Some(versions) = table().get(node.op_type.as_str()) else { return Ok(()) };
    let Some(signature) = versions.iter().rev().find(|version| version.since <= opset).or(versions.first()) else {
        return Ok(());
    };
    for attribute in &node.attribute {
        let name = attribute.name.as_str();
        if signature.attributes.contains(&name) {
            continue;
        }
        let known = match signature.attributes[..] {
            [] => "it has none".to_string(),
            _ => format!("it has {}", signature.attributes.join(", ")),
        };
        let others: Vec<String> = versions
            .iter()
            .filter(|version| version.attributes.contains(&name))
            .map(|version| version.since.to_string())
            .collect();
        let mut diagnostic = attributes.refuse(format!(
            "attribute `{}` is not known to {} at opset {opset}; {known}",
            printable(name),
            printable(&node.op_type)
        ));
        if !others.is_empty() {
            diagnostic = diagnostic.note(format!("versions of the operator that know it: {}", others.join(", ")));
        }
        return Err(diagnostic);
    }
    let operands = node.input.iter().rposition(|name| !name.is_empty()).map_or(0, |last| last + 1);
    if let Some(most) = signature.most_operands.filter(|most| operands > *most) {
        return Err(attributes.refuse(format!("has {operands} inputs, at opset {opset} it takes at most {most}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::table;
    use crate::ops::OPERATORS;

    /// Attributes that change no result, and why.
    const WITHOUT_EFFECT: &[(&str, &str)] = &[
        ("momentum", "BatchNormalization: statistics of training"),
        ("seed", "Dropout: training"),
        ("ratio", "Dropout: training"),
        ("storage_order", "MaxPool: order of the indices, which are not supported"),
        ("saturate", "Cast, QuantizeLinear: 8-bit floats, which are not supported"),
        ("round_mode", "Cast: 8-bit floats, which are not supported"),
        ("precision", "QuantizeLinear: precision of the division, f32 here"),
        ("stash_type", "normalisations: precision of statistics, f32 here; Range: 16-bit floats"),
        ("value_string", "Constant: strings are not supported"),
        ("value_strings", "Constant: strings are not supported"),
        ("sorted", "TopK: any order will do where it is 0"),
        ("num_outputs", "Split: the outputs are counted"),
        ("consumed_inputs", "before opset 7: which operands may be overwritten"),
        ("output_sequence", "recurrent layers before opset 7: whether the sequence is a result, which its name says"),
    ];

    /// No attribute that the standard knows is passed over: a converter reads it, or it is listed above.
    #[test]
    fn every_known_attribute_is_read() {
        let mut folders = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
        let mut sources: Vec<String> = Vec::new();
        while let Some(folder) = folders.pop() {
            for entry in
                std::fs::read_dir(folder).expect("a folder of ours").map(|entry| entry.expect("it is there").path())
            {
                match entry.is_dir() {
                    true => folders.push(entry),
                    // This file names what has no effect.
                    false if entry.ends_with("signatures.rs") => {}
                    false => sources.push(std::fs::read_to_string(entry).expect("a file of ours")),
                }
            }
        }
        let mut passed_over = Vec::new();
        for operator in OPERATORS.iter().filter(|name| !name.contains('.')) {
            // What only onnxruntime knows says itself what it reads.
            for version in table().get(operator).into_iter().flatten() {
                for attribute in &version.attributes {
                    let quoted = format!("\"{attribute}\"");
                    let is_read = sources.iter().any(|source| source.contains(&quoted));
                    if !is_read && !WITHOUT_EFFECT.iter().any(|(name, _)| name == attribute) {
                        passed_over.push(format!("{operator}-{}: {attribute}", version.since));
                    }
                }
            }
        }
        assert!(passed_over.is_empty(), "{}", passed_over.join("\n"));
    }
}
