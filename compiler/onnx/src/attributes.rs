//! Typed access to a node's attributes; every error names the node, the attribute and what was expected.

use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::{AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto};

use super::nodes::node_label;
use partita_ir::diagnostic::{Diagnostic, printable};
use partita_ir::graph::infer::InferError;

/// Longest list of numbers in an attribute.
const MAX_ENTRIES: usize = 1 << 16;

/// The attributes of one node.
pub struct Attributes<'a> {
    /// Position in the file.
    pub index: usize,
    /// The node.
    pub node: &'a NodeProto,
}

impl<'a> Attributes<'a> {
    /// A refusal of this node.
    pub fn refuse(&self, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic::new("E0130", format!("{}: {}", node_label(self.index, self.node), message.as_ref()))
    }

    /// An operator that does not fit its inputs.
    pub fn refused(&self, error: &InferError) -> Diagnostic {
        let code = match (error.is_too_large(), error.is_of_elements()) {
            (true, _) => "E0122",
            (_, true) => "E0140",
            (false, false) => "E0130",
        };
        Diagnostic { code, ..self.refuse(error.to_string()) }
    }

    /// A refusal of what is valid ONNX but not supported; such refusals are gathered in one list.
    pub fn unsupported(&self, message: impl AsRef<str>) -> Diagnostic {
        Diagnostic { code: "E0140", ..self.refuse(message) }
    }

    fn find(&self, name: &str, expected: AttributeType) -> Result<Option<&'a AttributeProto>, Diagnostic> {
        let mut found = self.node.attribute.iter().filter(|attribute| attribute.name == name);
        let Some(attribute) = found.next() else { return Ok(None) };
        if found.next().is_some() {
            return Err(self.refuse(format!("attribute `{name}` is given twice")));
        }
        if !attribute.ref_attr_name.is_empty() {
            return Err(self.refuse(format!("attribute `{name}` refers to a function's attribute")));
        }
        match attribute.type_.enum_value() {
            Ok(kind) if kind == expected || kind == AttributeType::UNDEFINED => Ok(Some(attribute)),
            Ok(kind) => Err(self.refuse(format!("attribute `{name}` is {kind:?}, expected {expected:?}"))),
            Err(kind) => Err(self.refuse(format!("attribute `{name}` has unknown type {kind}"))),
        }
    }

    /// An integer.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, Diagnostic> {
        Ok(self.find(name, AttributeType::INT)?.map_or(default, |attribute| attribute.i))
    }

    /// An integer that may be absent.
    pub fn optional_int(&self, name: &str) -> Result<Option<i64>, Diagnostic> {
        Ok(self.find(name, AttributeType::INT)?.map(|attribute| attribute.i))
    }

    /// A truth value: 0 or not.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Diagnostic> {
        Ok(self.int(name, i64::from(default))? != 0)
    }

    /// A number.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, Diagnostic> {
        Ok(self.find(name, AttributeType::FLOAT)?.map_or(default, |attribute| attribute.f))
    }

    /// A number that may be absent.
    pub fn optional_float(&self, name: &str) -> Result<Option<f32>, Diagnostic> {
        Ok(self.find(name, AttributeType::FLOAT)?.map(|attribute| attribute.f))
    }

    /// A list of integers that may be absent.
    pub fn ints(&self, name: &str) -> Result<Option<&'a [i64]>, Diagnostic> {
        let Some(attribute) = self.find(name, AttributeType::INTS)? else { return Ok(None) };
        if attribute.ints.len() > MAX_ENTRIES {
            return Err(self.refuse(format!("attribute `{name}` has {} entries", attribute.ints.len())));
        }
        Ok(Some(&attribute.ints))
    }

    /// A list of integers that may be absent and is as long as the file makes it.
    pub fn long_ints(&self, name: &str) -> Result<Option<&'a [i64]>, Diagnostic> {
        Ok(self.find(name, AttributeType::INTS)?.map(|attribute| attribute.ints.as_slice()))
    }

    /// A list of numbers that may be absent.
    pub fn floats(&self, name: &str) -> Result<Option<&'a [f32]>, Diagnostic> {
        Ok(self.find(name, AttributeType::FLOATS)?.map(|attribute| attribute.floats.as_slice()))
    }

    /// A word.
    pub fn string(&self, name: &str, default: &'static str) -> Result<String, Diagnostic> {
        let Some(attribute) = self.find(name, AttributeType::STRING)? else { return Ok(default.to_string()) };
        String::from_utf8(attribute.s.clone()).map_err(|_| self.refuse(format!("attribute `{name}` is not text")))
    }

    /// A tensor that may be absent.
    pub fn tensor(&self, name: &str) -> Result<Option<&'a TensorProto>, Diagnostic> {
        Ok(self.find(name, AttributeType::TENSOR)?.and_then(|attribute| attribute.t.as_ref()))
    }

    /// A graph that may be absent.
    pub fn graph(&self, name: &str) -> Result<Option<&'a GraphProto>, Diagnostic> {
        Ok(self.find(name, AttributeType::GRAPH)?.and_then(|attribute| attribute.g.as_ref()))
    }

    /// A sparse tensor that may be absent.
    pub fn sparse_tensor(&self, name: &str) -> Result<Option<&'a SparseTensorProto>, Diagnostic> {
        Ok(self.find(name, AttributeType::SPARSE_TENSOR)?.and_then(|attribute| attribute.sparse_tensor.as_ref()))
    }

    /// Words that may be absent.
    pub fn strings(&self, name: &str) -> Result<Option<Vec<String>>, Diagnostic> {
        match self.long_strings(name)? {
            Some(words) if words.len() > MAX_ENTRIES => {
                Err(self.refuse(format!("attribute `{name}` has {} entries", words.len())))
            }
            words => Ok(words),
        }
    }

    /// Words that may be absent, as many as the file has.
    pub fn long_strings(&self, name: &str) -> Result<Option<Vec<String>>, Diagnostic> {
        let Some(attribute) = self.find(name, AttributeType::STRINGS)? else { return Ok(None) };
        let words = attribute.strings.iter().map(|word| String::from_utf8(word.clone()).ok());
        words
            .collect::<Option<Vec<_>>>()
            .map(Some)
            .ok_or_else(|| self.refuse(format!("attribute `{name}` is not text")))
    }

    /// An unsigned list: every entry between `least` and 2^20.
    pub fn sizes(&self, name: &str, least: i64) -> Result<Option<Vec<usize>>, Diagnostic> {
        let Some(entries) = self.ints(name)? else { return Ok(None) };
        entries
            .iter()
            .map(|entry| match usize::try_from(*entry) {
                Ok(size) if *entry >= least && size <= 1 << 20 => Ok(size),
                _ => Err(self.refuse(format!("attribute `{name}` is {entries:?}, expected {least} to 1048576 each"))),
            })
            .collect::<Result<Vec<usize>, _>>()
            .map(Some)
    }

    /// A word that is not among those that are understood.
    pub fn unknown_word(&self, name: &str, found: &str, expected: &[&str]) -> Diagnostic {
        self.unsupported(format!("attribute `{name}` is `{}`, expected {}", printable(found), expected.join(", ")))
    }
}
