//! Text to graph.

use std::collections::HashMap;
use std::str::FromStr;

use crate::graph::infer::element_count;
use crate::graph::{Data, ElementType, Graph, Op, TensorId, TensorType, Value};

/// Where and why a text is not a graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ParseError {
    /// Counted from 1.
    pub line: usize,
    /// What was expected and found.
    pub message: String,
}

/// Reads a graph; the inverse of [`super::print`] with all constants written out.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut reader = Reader { graph: Graph::new(""), tensors: HashMap::new() };
    for (index, line) in text.lines().enumerate() {
        let line_text = line.trim();
        if line_text.is_empty() || line_text.starts_with(';') {
            continue;
        }
        let mut cursor = Cursor { rest: line_text };
        reader.line(&mut cursor).map_err(|message| ParseError { line: index + 1, message })?;
    }
    Ok(reader.graph)
}

struct Reader {
    graph: Graph,
    /// Tensors by the number after `%`.
    tensors: HashMap<u32, TensorId>,
}

impl Reader {
    fn line(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        if cursor.take("graph ") {
            self.graph.name = cursor.string()?;
            cursor.expect("opset")?;
            self.graph.opset = cursor.number()?;
            return cursor.end();
        }
        if cursor.take("input ") {
            let (number, name, tensor_type) = cursor.declaration()?;
            let id = self.graph.add_input(name, tensor_type);
            self.define(number, id)?;
            return cursor.end();
        }
        if cursor.take("const ") {
            let (number, name, tensor_type) = cursor.declaration()?;
            cursor.expect("=")?;
            let value = constant(cursor, &tensor_type)?;
            let id = self.graph.add_constant(name, value);
            self.define(number, id)?;
            return cursor.end();
        }
        if cursor.take("output ") {
            let id = self.operand(cursor)?;
            self.graph.outputs.push(id);
            return cursor.end();
        }
        self.node(cursor)
    }

    fn node(&mut self, cursor: &mut Cursor<'_>) -> Result<(), String> {
        let mut outputs = Vec::new();
        loop {
            let (number, name, tensor_type) = cursor.declaration()?;
            let id = self.graph.add_tensor(name, tensor_type);
            self.define(number, id)?;
            outputs.push(id);
            if !cursor.take(",") {
                break;
            }
        }
        cursor.expect("=")?;
        let name = cursor.string()?;
        cursor.expect("(")?;
        let mut inputs = Vec::new();
        while !cursor.take(")") {
            inputs.push(self.operand(cursor)?);
            cursor.take(",");
        }
        let op: Op = ron::from_str(cursor.rest.trim()).map_err(|error| format!("operator: {error}"))?;
        self.graph.add_node(name, op, inputs, outputs);
        Ok(())
    }

    fn define(&mut self, number: u32, id: TensorId) -> Result<(), String> {
        match self.tensors.insert(number, id) {
            None => Ok(()),
            Some(_) => Err(format!("%{number} is defined twice")),
        }
    }

    fn operand(&self, cursor: &mut Cursor<'_>) -> Result<TensorId, String> {
        cursor.expect("%")?;
        let number: u32 = cursor.number()?;
        self.tensors.get(&number).copied().ok_or_else(|| format!("%{number} is not defined above"))
    }
}

/// The rest of a line.
struct Cursor<'a> {
    rest: &'a str,
}

impl Cursor<'_> {
    fn take(&mut self, token: &str) -> bool {
        let rest = self.rest.trim_start();
        match rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) { Ok(()) } else { Err(format!("expected `{token}`, found `{}`", self.shown())) }
    }

    fn shown(&self) -> String {
        self.rest.trim_start().chars().take(20).collect()
    }

    fn end(&self) -> Result<(), String> {
        let rest = self.rest.trim();
        if rest.is_empty() || rest.starts_with(';') { Ok(()) } else { Err(format!("unexpected `{}`", self.shown())) }
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let rest = self.rest.trim_start();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || "+-.".contains(c))).unwrap_or(rest.len());
        let value = rest[..end].parse().map_err(|_| format!("expected a number, found `{}`", self.shown()))?;
        self.rest = &rest[end..];
        Ok(value)
    }

    fn string(&mut self) -> Result<String, String> {
        let rest = self.rest.trim_start();
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let closes = *c == '"' && !escaped;
            escaped = *c == '\\' && !escaped;
            closes
        });
        match end {
            Some((end, _)) if rest.starts_with('"') => {
                let text = ron::from_str(&rest[..=end]).map_err(|error| format!("string: {error}"))?;
                self.rest = &rest[end + 1..];
                Ok(text)
            }
            _ => Err(format!("expected a quoted name, found `{}`", self.shown())),
        }
    }

    /// `%3 "y": f32[1,8]`
    fn declaration(&mut self) -> Result<(u32, String, TensorType), String> {
        self.expect("%")?;
        let number = self.number()?;
        let name = self.string()?;
        self.expect(":")?;
        let rest = self.rest.trim_start();
        let end = rest.find(']').ok_or("expected a type such as f32[1,8]")?;
        let (element, dimensions) = rest[..end].split_once('[').ok_or("expected a type such as f32[1,8]")?;
        let element = ElementType::from_name(element).ok_or_else(|| format!("`{element}` is not an element type"))?;
        let shape = dimensions
            .split(',')
            .filter(|dimension| !dimension.trim().is_empty())
            .map(|dimension| dimension.trim().parse().map_err(|_| format!("`{dimension}` is not a dimension")))
            .collect::<Result<Vec<usize>, String>>()?;
        element_count(&shape).map_err(|error| error.to_string())?;
        self.rest = &rest[end + 1..];
        Ok((number, name, TensorType { element, shape }))
    }
}

fn constant(cursor: &mut Cursor<'_>, tensor_type: &TensorType) -> Result<Value, String> {
    let count = tensor_type.element_count();
    if cursor.take("random(") {
        let seed = cursor.number()?;
        cursor.expect(")")?;
        return Ok(crate::graph::values::noise(tensor_type, seed));
    }
    if cursor.take("fill(") {
        let value: f32 = cursor.number()?;
        cursor.expect(")")?;
        let data = Data::F32(vec![value]).cast(tensor_type.element).repeated(count);
        return Ok(Value { shape: tensor_type.shape.clone(), data });
    }
    if cursor.take("digest(") {
        return Err("a constant given by its digest cannot be read back".to_string());
    }
    cursor.expect("[")?;
    fn list<T: FromStr>(cursor: &mut Cursor<'_>) -> Result<Vec<T>, String> {
        let mut elements = Vec::new();
        while !cursor.take("]") {
            elements.push(cursor.number()?);
            cursor.take(",");
        }
        Ok(elements)
    }
    let data = match tensor_type.element {
        ElementType::F32 => Data::F32(list(cursor)?),
        ElementType::F16 | ElementType::BF16 => Data::F32(list(cursor)?).cast(tensor_type.element),
        ElementType::F64 => Data::F64(list(cursor)?),
        ElementType::I64 => Data::I64(list(cursor)?),
        ElementType::I32 => Data::I32(list(cursor)?),
        ElementType::I16 => Data::I16(list(cursor)?),
        ElementType::I8 => Data::I8(list(cursor)?),
        ElementType::U64 => Data::U64(list(cursor)?),
        ElementType::U32 => Data::U32(list(cursor)?),
        ElementType::U16 => Data::U16(list(cursor)?),
        ElementType::U8 => Data::U8(list(cursor)?),
        ElementType::Bool => Data::Bool(list(cursor)?),
    };
    if data.len() != count {
        return Err(format!("{} elements for {tensor_type}", data.len()));
    }
    Ok(Value { shape: tensor_type.shape.clone(), data })
}
