//! Text to program.

use std::collections::HashMap;

use crate::program::{Argument, Buffer, BufferId, Layout, Message, Program, Runs, Step, Weight, WeightId};
use partita_ir::graph::text::{ConstantReader, tensor_type};
use partita_ir::graph::{TensorId, TensorType};
use partita_ir::text::{ParseError, Place, Reader};
use partita_kernel::lower::WeightOrder;
use partita_kernel::lower::winograd::Forms;

/// Elements and bytes of a device's memory, at most: sums and products of such numbers do not overflow.
const MOST: usize = 1 << 40;

/// Reads programs, each of another device; the inverse of [`super::print`] with all elements written out.
pub fn parse(text: &str) -> Result<Vec<Program>, ParseError> {
    let mut reader = Reader::new(text);
    let mut constants = ConstantReader::default();
    let mut programs = Vec::new();
    while reader.next_line() {
        programs.push(read(&mut reader, &mut constants)?);
    }
    Ok(programs)
}

fn read(reader: &mut Reader<'_>, constants: &mut ConstantReader) -> Result<Program, ParseError> {
    let mut program = Program::default();
    for (word, number) in [
        ("program", None),
        ("device", Some(&mut program.device)),
        ("arena", Some(&mut program.arena_bytes)),
        ("weights", Some(&mut program.weights_bytes)),
    ] {
        reader.expect_word(word)?;
        if let Some(number) = number {
            *number = reader.count_within(0..=MOST)?;
        }
    }
    reader.end_of_line()?;
    let mut parser = Parser { program, constants, kernels: HashMap::new(), parents: Vec::new() };
    while reader.next_line() {
        let ahead = *reader;
        let place = reader.place();
        let word = reader.word("a declaration or a step")?;
        if word == "program" {
            *reader = ahead;
            break;
        }
        if word == "kernel" {
            *reader = ahead;
            parser.kernel(reader)?;
        } else {
            parser.line(reader, (place, word))?;
        }
        reader.end_of_line()?;
    }
    parser.check_parents(reader)?;
    Ok(parser.program)
}

struct Parser<'a> {
    program: Program,
    constants: &'a mut ConstantReader,
    /// Kernels by name.
    kernels: HashMap<String, usize>,
    /// Buffers that are part of another, with the place where that is named: it may be declared further on.
    parents: Vec<(usize, Place)>,
}

impl Parser<'_> {
    fn line(&mut self, reader: &mut Reader<'_>, (place, word): (Place, &str)) -> Result<(), ParseError> {
        match word {
            "buffer" => return self.buffer(reader),
            "weight" => return self.weight(reader),
            "input" => {
                let position = reader.count()?;
                let buffer = self.known_buffer(reader)?;
                self.program.inputs.push((position, buffer));
                return Ok(());
            }
            "output" => {
                let position = reader.count()?;
                let buffer = self.known_buffer(reader)?;
                self.program.outputs.push((position, buffer));
                return Ok(());
            }
            "send" => {
                let message = self.message(reader, "to")?;
                if let Some(Step::Exchange { sends, .. }) = self.program.steps.last_mut() {
                    sends.push(message);
                    return Ok(());
                }
            }
            "receive" => {
                let message = self.message(reader, "from")?;
                if let Some(Step::Exchange { receives, .. }) = self.program.steps.last_mut() {
                    receives.push(message);
                    return Ok(());
                }
            }
            _ => {}
        }
        let step = match word {
            "call" => self.call(reader)?,
            "reference" => {
                let inputs = self.list(reader, Parser::argument)?;
                reader.expect("->")?;
                let outputs = self.list(reader, Parser::known_buffer)?;
                reader.expect_word("for")?;
                Step::Reference { node: reader.string()?, op: reader.ron("operator")?, inputs, outputs }
            }
            "reorder" => {
                let from = self.known_buffer(reader)?;
                reader.expect("->")?;
                Step::Reorder { from, to: self.known_buffer(reader)? }
            }
            "copy" => self.copy(reader)?,
            "leave" => {
                reader.expect_word("exit")?;
                let exit = reader.count()?;
                reader.expect_word("if")?;
                let verdict = self.known_buffer(reader)?;
                let answer = if reader.take_word("with") { Some(self.known_buffer(reader)?) } else { None };
                Step::Leave { exit, verdict, answer }
            }
            "exchange" => Step::Exchange { sends: Vec::new(), receives: Vec::new() },
            _ => {
                let words = "`buffer`, `weight`, `kernel`, `call`, `reference`, `reorder`, `copy`, `leave`, `exchange`, \
                     `input`, `output`, or `send` or `receive` in an exchange";
                return Err(reader.error_at(place, format!("expected {words}, found `{word}`")));
            }
        };
        self.program.steps.push(step);
        Ok(())
    }

    fn kernel(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let place = reader.place();
        let kernel = partita_kernel::text::read(reader)?;
        match self.kernels.insert(kernel.name.clone(), self.program.kernels.len()) {
            None => self.program.kernels.push(kernel),
            Some(_) => return Err(reader.error_at(place, "there is a kernel of this name already")),
        }
        Ok(())
    }

    /// `b3 "y": f32[1,4]`, numbered in order.
    fn declaration(&self, reader: &mut Reader<'_>, wanted: &str) -> Result<(String, TensorType), ParseError> {
        reader.expect_word(wanted)?;
        let name = reader.string()?;
        reader.expect(":")?;
        Ok((name, tensor_type(reader)?))
    }

    fn buffer(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let index = self.program.buffers.len();
        let (name, TensorType { element, shape }) = self.declaration(reader, &format!("b{index}"))?;
        let layout = layout(reader)?;
        reader.expect_word("elements")?;
        let elements = reader.count_within(0..=MOST)?;
        let offset_bytes = offset(reader)?;
        let tensor = if reader.take_word("tensor") { Some(TensorId(reader.count()?)) } else { None };
        let place = reader.place();
        let replaces = reader.take_word("over");
        let mut part_of = None;
        if replaces || reader.take_word("part") {
            if !replaces {
                reader.expect_word("of")?;
            }
            let parent = BufferId(numbered(reader, 'b')?);
            reader.expect_word("from")?;
            part_of = Some((parent, reader.count_within(0..=MOST)?));
            self.parents.push((index, place));
        }
        let buffer = Buffer { name, tensor, element, shape, layout, elements, part_of, replaces, offset_bytes };
        self.program.buffers.push(buffer);
        Ok(())
    }

    /// Every buffer that is part of another is, in the end, part of one that is independent.
    fn check_parents(&self, reader: &Reader<'_>) -> Result<(), ParseError> {
        let buffers = &self.program.buffers;
        // Buffers that lead to an independent one, as far as is known.
        let mut sound: Vec<bool> = buffers.iter().map(|buffer| buffer.part_of.is_none()).collect();
        for (index, place) in &self.parents {
            let mut path = Vec::new();
            let mut at = *index;
            while let Some(false) = sound.get(at) {
                path.push(at);
                at = buffers[at].part_of.map_or(at, |(parent, _)| parent.0 as usize);
                if path.len() > buffers.len() {
                    return Err(reader.error_at(*place, "the buffer is part of itself"));
                }
            }
            if at >= buffers.len() {
                return Err(reader.error_at(*place, format!("there is no buffer b{at}")));
            }
            path.into_iter().for_each(|at| sound[at] = true);
        }
        Ok(())
    }

    fn weight(&mut self, reader: &mut Reader<'_>) -> Result<(), ParseError> {
        let (name, tensor_type) = self.declaration(reader, &format!("w{}", self.program.weights.len()))?;
        let offset_bytes = offset(reader)?;
        let mut order = None;
        if reader.take_word("order") {
            let layout = layout(reader)?;
            reader.expect_word("vectors")?;
            let vectors = reader.count()?;
            let forms = if reader.is_at(|c| c == '"') { Some(forms(reader)?) } else { None };
            order = Some((layout, WeightOrder { vectors, forms }));
        }
        reader.expect("=")?;
        let bytes = self.constants.read(reader, &tensor_type)?.data.to_bytes();
        let TensorType { element, shape } = tensor_type;
        self.program.weights.push(Weight { name, element, shape, bytes, order, offset_bytes });
        Ok(())
    }

    fn call(&self, reader: &mut Reader<'_>) -> Result<Step, ParseError> {
        let place = reader.place();
        let name = reader.word("a kernel")?;
        let unknown = || reader.error_at(place, format!("there is no kernel `{name}` above"));
        let kernel = self.kernels.get(name).copied().ok_or_else(unknown)?;
        let arguments = self.list(reader, Parser::argument)?;
        let wanted = self.program.kernels[kernel].buffers.len();
        if arguments.len() != wanted {
            return Err(reader.error_at(place, format!("expected {wanted} arguments, found {}", arguments.len())));
        }
        reader.expect_word("for")?;
        let node = reader.string()?;
        let mut fused = Vec::new();
        while reader.take(",") {
            fused.push(reader.string()?);
        }
        Ok(Step::Kernel { node, fused, kernel, arguments })
    }

    fn copy(&self, reader: &mut Reader<'_>) -> Result<Step, ParseError> {
        let from = self.argument(reader)?;
        let first = element(reader)?;
        reader.expect("->")?;
        let to = self.known_buffer(reader)?;
        let at = element(reader)?;
        let mut numbers = [0; 4];
        for (word, number) in ["runs", "of", "by", "to"].into_iter().zip(&mut numbers) {
            reader.expect_word(word)?;
            *number = reader.count_within(0..=MOST)?;
        }
        let [count, elements, from_stride, to_stride] = numbers;
        let runs = Runs { count, elements, from_stride, to_stride };
        Ok(Step::Copy { from: (from, first), to: (to, at), runs })
    }

    fn message(&self, reader: &mut Reader<'_>, direction: &str) -> Result<Message, ParseError> {
        let buffer = self.known_buffer(reader)?;
        reader.expect_word("bytes")?;
        let bytes = reader.count_within(0..=MOST)?;
        reader.expect_word(direction)?;
        reader.expect_word("device")?;
        let peer = reader.count()?;
        reader.expect_word("message")?;
        Ok(Message { peer, number: reader.count()?, buffer, bytes })
    }

    /// `(b0, w1)`
    fn list<T>(
        &self,
        reader: &mut Reader<'_>,
        item: impl Fn(&Self, &mut Reader<'_>) -> Result<T, ParseError>,
    ) -> Result<Vec<T>, ParseError> {
        reader.expect("(")?;
        let mut items = Vec::new();
        while !reader.take(")") {
            if !items.is_empty() {
                reader.expect(",")?;
            }
            items.push(item(self, reader)?);
        }
        Ok(items)
    }

    fn argument(&self, reader: &mut Reader<'_>) -> Result<Argument, ParseError> {
        if !reader.is_at(|c| c == 'w') {
            return self.known_buffer(reader).map(Argument::Buffer);
        }
        let place = reader.place();
        let number = numbered(reader, 'w')?;
        match self.program.weights.get(number as usize) {
            Some(_) => Ok(Argument::Weight(WeightId(number))),
            None => Err(reader.error_at(place, format!("there is no weight w{number} above"))),
        }
    }

    fn known_buffer(&self, reader: &mut Reader<'_>) -> Result<BufferId, ParseError> {
        let place = reader.place();
        let number = numbered(reader, 'b')?;
        match self.program.buffers.get(number as usize) {
            Some(_) => Ok(BufferId(number)),
            None => Err(reader.error_at(place, format!("there is no buffer b{number} above"))),
        }
    }
}

/// `b3`
fn numbered(reader: &mut Reader<'_>, letter: char) -> Result<u32, ParseError> {
    let mut ahead = *reader;
    let word = ahead.word("a buffer or weight such as `b3`")?;
    match word.strip_prefix(letter).and_then(|number| number.parse().ok()) {
        Some(number) => {
            *reader = ahead;
            Ok(number)
        }
        None => Err(reader.expected("a buffer or weight such as `b3`")),
    }
}

fn layout(reader: &mut Reader<'_>) -> Result<Layout, ParseError> {
    if reader.take_word("plain") {
        return Ok(Layout::Plain);
    }
    if !reader.take_word("blocked") {
        return Err(reader.expected("a layout, `plain` or `blocked`"));
    }
    Ok(Layout::Blocked(reader.count_within(1..=64)? as u32))
}

/// `at 64`
fn offset(reader: &mut Reader<'_>) -> Result<usize, ParseError> {
    reader.expect_word("at")?;
    reader.count_within(0..=MOST)
}

/// `from 16`
fn element(reader: &mut Reader<'_>) -> Result<usize, ParseError> {
    reader.expect_word("from")?;
    reader.count_within(0..=MOST)
}

fn forms(reader: &mut Reader<'_>) -> Result<Forms, ParseError> {
    let place = reader.place();
    let name = reader.string()?;
    let found = Forms::all().find(|forms| forms.to_string() == name);
    found.ok_or_else(|| reader.error_at(place, "expected a form of minimal filtering such as \"F(2 x 2, 3 x 3)\""))
}
