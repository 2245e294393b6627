//! Words that a classifier answers with: numbered, since programs compute with numbers.

use std::collections::HashSet;

use onnx_protobuf::TensorProto;
use onnx_protobuf::tensor_proto::DataType;
use protobuf::Enum;

use super::nodes::{Placed, captured};
use partita_ir::diagnostic::{Diagnostic, printable};

/// Operators that hand words on as they are.
const MOVES: [&str; 6] = ["ArrayFeatureExtractor", "Flatten", "Gather", "Identity", "Reshape", "Squeeze"];

/// How often all nodes are looked at.
const MAX_ROUNDS: usize = 8;

/// Most words that a remark lists.
const MAX_WORDS: usize = 20;

/// The places of words, instead of the only list of words among the constants of a model, where nobody looks at what they
/// are: they are chosen from and returned. What is said of that.
pub fn number(constants: &mut [TensorProto], nodes: &[Placed]) -> Option<Diagnostic> {
    let mut lists = constants.iter_mut().filter(|tensor| tensor.data_type == DataType::STRING.value());
    let (list, None) = (lists.next()?, lists.next()) else { return None };
    let count = list.string_data.len();
    let stated = list.dims.iter().try_fold(1usize, |count, extent| count.checked_mul(usize::try_from(*extent).ok()?));
    if stated != Some(count) || !are_only_moved(&list.name, nodes) {
        return None;
    }
    let words = std::mem::take(&mut list.string_data);
    list.data_type = DataType::INT64.value();
    list.int64_data = (0..count as i64).collect();
    let message = format!("the words of `{}` are numbered: places in its list, from 0 on", printable(&list.name));
    Some(remark(message, words.iter().map(|word| String::from_utf8_lossy(word))))
}

/// Says what numbers stand for that ONNX has words for.
pub fn remark<W: AsRef<str>>(message: String, words: impl ExactSizeIterator<Item = W>) -> Diagnostic {
    let remark = Diagnostic::new("N0136", message);
    let more = if words.len() > MAX_WORDS { ", .." } else { "" };
    let shown: Vec<String> = words.take(MAX_WORDS).map(|word| printable(word.as_ref())).collect();
    if shown.is_empty() { remark } else { remark.note(format!("in order: {}{more}", shown.join(", "))) }
}

/// Whether a tensor, and all that is chosen from it, is read by nothing but [`MOVES`], as what they move.
fn are_only_moved(name: &str, nodes: &[Placed]) -> bool {
    let mut words = HashSet::from([name]);
    // Nodes may stand in any order: once more for as long as there is more, within reason.
    for _ in 0..MAX_ROUNDS {
        let before = words.len();
        for Placed { node, .. } in nodes {
            if node.input.first().is_some_and(|input| words.contains(input.as_str())) {
                words.extend(node.output.iter().map(String::as_str));
            }
            let moves = MOVES.contains(&node.op_type.as_str());
            let read = node.input.iter().skip(usize::from(moves)).any(|input| words.contains(input.as_str()));
            // A graph in a node may read it by its name.
            if read || captured(node).into_iter().any(|name| words.contains(name)) {
                return false;
            }
        }
        if words.len() == before {
            return true;
        }
    }
    false
}
