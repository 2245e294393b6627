//! Text to program.

use std::collections::HashMap;

use crate::program::{Argument, Buffer, BufferId, Layout, Message, Program, Runs, Source, Step, Weight, WeightId};
use partita_ir::graph::text::{ConstantReader, read_operator, tensor_type};
use partita_ir::graph::{StepSize, TensorId, TensorType};
use partita_ir::text::{ParseError, Reader, TextPlace};
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
    parents: Vec<(usize, TextPlace)>,
}

impl Parser<'_> {
    fn line(&mut self, reader: &mut Reader<'_>, (place, word): (TextPlace, &str)) -> Result<(), ParseError> {
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
            "states" => {
                let most = self.program.inputs.len().min(self.program.outputs.len());
                self.program.states = reader.count_within(0..=most)?;
                return Ok(());
            }
            "send" => {
                let message = self.message(reader, "to")?;
                if let Some(Step::Start { sends, .. } | Step::Exchange { sends, .. }) = self.program.steps.last_mut() {
                    sends.push(message);
                    return Ok(());
                }
            }
            "receive" => {
                let message = self.message(reader, "from")?;
                if let Some(Step::Start { receives, .. } | Step::Exchange { receives, .. }) =
                    self.program.steps.last_mut()
                {
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
                Step::Reference { node: reader.string()?, op: read_operator(reader)?, inputs, outputs }
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
            "start" => Step::Start { sends: Vec::new(), receives: Vec::new() },
            "exchange" => Step::Exchange { sends: Vec::new(), receives: Vec::new() },
            _ => {
                let words = "`buffer`, `weight`, `kernel`, `call`, `reference`, `reorder`, `copy`, `leave`, `start`, `exchange`, \
                     `input`, `output`, or `send` or `receive` in one of these two";
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
        let offset = if reader.take_word("plus") { reader.number()? } else { 0 };
        let step = if reader.take_word("times") { StepSize(reader.number()?) } else { StepSize::ONE };
        let layout = layout(reader)?;
        reader.expect_word("elements")?;
        let elements = reader.count_within(0..=MOST)?;
        let offset_bytes = self::offset(reader)?;
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
        let buffer =
            Buffer { name, tensor, element, offset, step, shape, layout, elements, part_of, replaces, offset_bytes };
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
        self.program.weights.push(Weight {
            name,
            element,
            shape,
            bytes: std::sync::Arc::new(bytes),
            order,
            source: Source::default(),
            offset_bytes,
        });
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
    found.ok_or_else(|| reader.error_at(place, "expected a form of Winograd's algorithm such as \"F(2 x 2, 3 x 3)\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::text::print;
    use partita_ir::graph::text::Constants;

    /// Every declaration and every step.
    const ALL: &str = r#"program device 1 arena 192 weights 80
buffer b0 "x": f32[1,4] plain elements 4 at 0 tensor 0
buffer b1 "a \"part\"": f32[1,8,1,1] blocked 4 elements 8 at 64 tensor 3 part of b3 from 2
buffer b2 "over": i32[4] plain elements 4 at 128 over b0 from 0
buffer b3 "all": f32[16] plain elements 16 at 64
weight w0 "w": f32[4] at 0 order blocked 4 vectors 2 "F(4 x 4, 3 x 3)" = [1.0, -0.5, inf, 1e-45]
weight w1 "b": i8[2] at 64 order plain vectors 1 = [-128, 127]
kernel copy lanes 4 macs 0 "a copy"
input x[4]
weights w[4]
output y[4]
{
  store y[0] = mul(load x[0], load w[0])
}
kernel none lanes 4 macs 0 ""
{
}
call copy (b0, w0, b1) for "n", "m"
call none () for "nothing"
reference (b0, w1) -> (b1, b2) for "r" Unary(Neg)
reorder b1 -> b3
copy w0 from 1 -> b3 from 2 runs 3 of 4 by 5 to 6
exchange
  send b1 bytes 32 to device 0 message 7
  receive b0 bytes 16 from device 2 message 8
leave exit 1 if b0 with b3
leave exit 2 if b0
input 0 b0
output 0 b3
program device 2 arena 0 weights 0
"#;

    #[test]
    fn everything_reads_back() {
        let programs = parse(ALL).unwrap_or_else(|error| panic!("{error}"));
        let show =
            |constants: Constants| -> String { programs.iter().map(|program| print(program, constants)).collect() };
        assert_eq!(show(Constants::Full), ALL);
        assert_eq!(parse(&show(Constants::Full)).as_ref(), Ok(&programs));
        assert_eq!(programs[0].to_string() + &programs[1].to_string(), ALL);
    }

    #[test]
    fn faults_are_named_with_their_place() {
        for (old, new, message) in [
            ("arena 192", "arena -1", "line 1, column 24: expected a whole number that fits, found `-1"),
            ("buffer b1", "buffer b2", "line 3, column 8: expected `b1`, found `b2"),
            ("part of b3", "part of b9", "line 3, column 74: there is no buffer b9"),
            ("over b0", "over b2", "line 4, column 50: the buffer is part of itself"),
            ("elements 16 ", "elements 9999999999999 ", "line 5, column 41: expected a number from 0 to 1099511627776"),
            ("F(4 x 4, 3 x 3)", "F(4 x 4)", "line 6, column 54: expected a form of Winograd"),
            ("[-128, 127]", "[-128, 128]", "line 7, column 59: expected a number, found `128]`"),
            ("[-128, 127]", "[-128]", "line 7, column 52: 1 elements for i8[2]"),
            ("load x[0]", "load z[0]", "line 13, column 25: expected a buffer, found `z`"),
            ("kernel none", "kernel copy", "line 15, column 1: there is a kernel of this name already"),
            ("call copy", "call copies", "line 18, column 6: there is no kernel `copies` above"),
            ("(b0, w0, b1)", "(b0, w0)", "line 18, column 6: expected 3 arguments, found 2"),
            ("(b0, w1)", "(b0, w2)", "line 20, column 16: there is no weight w2 above"),
            ("Unary(Neg)", "Unary(Negative)", "line 20, column "),
            ("exchange\n", "", "line 23, column 3: expected `buffer`, `weight`"),
            ("leave exit 2", "leaves exit 2", "line 27, column 1: expected `buffer`, `weight`"),
            ("output 0 b3", "output 0 w1", "line 29, column 10: expected a buffer or weight such as `b3`, found `w1`"),
        ] {
            assert!(ALL.contains(old), "{old}");
            let error = parse(&ALL.replacen(old, new, 1)).expect_err(new).to_string();
            assert!(error.starts_with(message), "{error} is not {message}");
        }
    }
}
