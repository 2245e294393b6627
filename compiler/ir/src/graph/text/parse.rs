//! Text to graph.

use std::collections::HashMap;
use std::str::FromStr;

use crate::graph::infer::element_count;
use crate::graph::{Data, ElementType, Graph, Op, TensorId, TensorType, Value};
use crate::text::{ParseError, Reader, TextPlace};

/// Most elements that `random` and `fill` make for one text.
const MOST_GENERATED: usize = 1 << 24;

/// Reads a graph; the inverse of [`super::print`] with all constants written out.
pub fn parse(text: &str) -> Result<Graph, ParseError> {
    let mut parser = Parser { graph: Graph::new(""), tensors: HashMap::new(), constants: ConstantReader::default() };
    let mut reader = Reader::new(text);
    while reader.next_line() {
        parser.line(&mut reader)?;
        reader.end_of_line()?;
    }
    Ok(parser.graph)
}

struct Parser {
    graph: Graph,
    /// Tensors by the number after `%`.
    tensors: HashMap<u32, TensorId>,
    constants: ConstantReader,
}

impl Parser {
    fn line(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        if reader.take_word("graph") {
            self.graph.name = reader.string()?;
            reader.expect_word("opset")?;
            self.graph.opset = reader.integer()?;
            return Ok(());
        }
        if reader.take_word("input") {
            let (name, tensor_type, define) = declaration(reader)?;
            let id = self.graph.add_input(name, tensor_type);
            return self.define(reader, define, id);
        }
        if reader.take_word("const") {
            let (name, tensor_type, define) = declaration(reader)?;
            reader.expect("=")?;
            let value = self.constants.read(reader, &tensor_type)?;
            let id = self.graph.add_constant(name, value);
            return self.define(reader, define, id);
        }
        if reader.take_word("output") {
            let id = self.operand(reader)?;
            self.graph.outputs.push(id);
            return Ok(());
        }
        if reader.take_word("states") {
            let place = reader.place();
            self.graph.states = reader.count()?;
            let (inputs, outputs) = (self.graph.inputs.len(), self.graph.outputs.len());
            if self.graph.states > inputs.min(outputs) {
                let message = format!("{} states need as many inputs and outputs above", self.graph.states);
                return Err(reader.error_at(place, message));
            }
            return Ok(());
        }
        self.node(reader)
    }

    fn node(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let mut results = vec![declaration(reader)?];
        while reader.take(",") {
            results.push(declaration(reader)?);
        }
        reader.expect("=")?;
        let name = reader.string()?;
        reader.expect("(")?;
        let mut inputs = Vec::new();
        while !reader.take(")") {
            inputs.push(self.operand(reader)?);
            reader.take(",");
        }
        let op = read_operator(reader)?;
        // Only now: a node does not read its own results.
        let mut outputs = Vec::with_capacity(results.len());
        for (name, tensor_type, define) in results {
            let id = self.graph.add_tensor(name, tensor_type);
            self.define(reader, define, id)?;
            outputs.push(id);
        }
        self.graph.add_node(name, op, inputs, outputs);
        Ok(())
    }

    fn define(
        &mut self,
        reader: &Reader<'_>,
        (place, number): (TextPlace, u32),
        id: TensorId,
    ) -> Result<(), ParseError> {
        match self.tensors.insert(number, id) {
            None => Ok(()),
            Some(_) => Err(reader.error_at(place, format!("%{number} is defined twice"))),
        }
    }

    fn operand(&self, reader: &mut Reader<'_>) -> Result<TensorId, ParseError> {
        let place = reader.place();
        reader.expect("%")?;
        let number: u32 = reader.count()?;
        let defined = self.tensors.get(&number).copied();
        defined.ok_or_else(|| reader.error_at(place, format!("%{number} is not defined above")))
    }
}

/// `%3 "y": f32[1,8]`: name, type, and the number with its place.
fn declaration(reader: &mut Reader<'_>) -> Result<(String, TensorType, (TextPlace, u32)), ParseError> {
    let place = reader.place();
    if !reader.take("%") {
        return Err(reader.expected("`graph`, `input`, `const`, `output` or a result such as `%3`"));
    }
    let number = reader.count()?;
    let name = reader.string()?;
    reader.expect(":")?;
    Ok((name, tensor_type(reader)?, (place, number)))
}

/// Reads an operator with its attributes, up to the end of the line. Here and not where it is read: what serde makes of all
/// operators is a fifth of a crate.
pub fn read_operator(reader: &mut Reader<'_>) -> Result<Op, ParseError> {
    reader.ron("operator")
}

/// Reads a type such as `f32[1,8]`.
pub fn tensor_type(reader: &mut Reader<'_>) -> Result<TensorType, ParseError> {
    let place = reader.place();
    let name = reader.word("a type such as f32[1,8]")?;
    let unknown = || reader.error_at(place, format!("`{name}` is not an element type"));
    let element = ElementType::from_name(name).ok_or_else(unknown)?;
    reader.expect("[")?;
    let mut shape: Vec<usize> = Vec::new();
    while !reader.take("]") {
        if !shape.is_empty() {
            reader.expect(",")?;
        }
        shape.push(reader.count()?);
    }
    element_count(&shape).map_err(|error| reader.error_at(place, error.to_string()))?;
    Ok(TensorType { element, shape })
}

/// Reads constants of one text.
#[derive(Default)]
pub struct ConstantReader {
    /// Elements that were made and not written out.
    generated: usize,
}

impl ConstantReader {
    /// Elements of a constant of this type: a list, `random(seed)` or `fill(value)`.
    pub fn read(&mut self, reader: &mut Reader<'_>, tensor_type: &TensorType) -> Result<Value, ParseError> {
        let place = reader.place();
        let count = tensor_type.element_count();
        let kind = if reader.take("[") { "" } else { reader.word("a list of elements, `random` or `fill`")? };
        if kind.is_empty() {
            let data = list_of(reader, tensor_type.element)?;
            if data.len() != count {
                return Err(reader.error_at(place, format!("{} elements for {tensor_type}", data.len())));
            }
            return Ok(Value { shape: tensor_type.shape.clone(), data });
        }
        self.generated = self.generated.saturating_add(count);
        if self.generated > MOST_GENERATED {
            let message =
                format!("more than {MOST_GENERATED} elements are to be made; write fewer, or a smaller model");
            return Err(reader.error_at(place, message));
        }
        reader.expect("(")?;
        let value = match kind {
            "random" => crate::graph::values::noise(tensor_type, reader.count()?),
            "fill" => {
                let value: f32 = reader.number()?;
                let data = Data::F32(vec![value]).cast(tensor_type.element).repeated(count);
                Value { shape: tensor_type.shape.clone(), data }
            }
            "digest" => {
                return Err(reader.error_at(place, "a constant given by its digest cannot be read back"));
            }
            _ => return Err(reader.error_at(place, format!("expected `random` or `fill`, found `{kind}`"))),
        };
        reader.expect(")")?;
        Ok(value)
    }
}

fn list_of(reader: &mut Reader<'_>, element: ElementType) -> Result<Data, ParseError> {
    fn list<T: FromStr>(reader: &mut Reader<'_>) -> Result<Vec<T>, ParseError> {
        let mut elements = Vec::new();
        while !reader.take("]") {
            elements.push(reader.number()?);
            reader.take(",");
        }
        Ok(elements)
    }
    Ok(match element {
        ElementType::F32 => Data::F32(list(reader)?),
        ElementType::F16 | ElementType::BF16 => Data::F32(list(reader)?).cast(element),
        ElementType::F64 => Data::F64(list(reader)?),
        ElementType::I64 => Data::I64(list(reader)?),
        ElementType::I32 => Data::I32(list(reader)?),
        ElementType::I16 => Data::I16(list(reader)?),
        ElementType::I8 => Data::I8(list(reader)?),
        ElementType::U64 => Data::U64(list(reader)?),
        ElementType::U32 => Data::U32(list(reader)?),
        ElementType::U16 => Data::U16(list(reader)?),
        ElementType::U8 => Data::U8(list(reader)?),
        ElementType::Bool => Data::Bool(list(reader)?),
    })
}
