//! Program to text.

use std::fmt::{self, Write};

use crate::program::{Argument, Buffer, Layout, Message, Program, Step, Weight};
use partita_ir::graph::text::{Constants, elements, operator};
use partita_ir::graph::{Data, StepSize, TensorType};

/// The text form of a program.
pub fn print(program: &Program, constants: Constants) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write(program, constants, &mut text);
    text
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self, Constants::Summary, f)
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Buffer(buffer) => write!(f, "b{}", buffer.0),
            Argument::Weight(weight) => write!(f, "w{}", weight.0),
        }
    }
}

fn write(program: &Program, constants: Constants, out: &mut dyn Write) -> fmt::Result {
    let Program { device, arena_bytes, weights_bytes, .. } = program;
    writeln!(out, "program device {device} arena {arena_bytes} weights {weights_bytes}")?;
    for (index, buffer) in program.buffers.iter().enumerate() {
        writeln!(out, "buffer b{index} {}", declared(buffer))?;
    }
    for (index, weight) in program.weights.iter().enumerate() {
        let Weight { name, element, shape, bytes, offset_bytes, .. } = weight;
        let tensor_type = TensorType::new(*element, shape.clone());
        let order = weight.order.map_or(String::new(), |(layout, order)| {
            let forms = order.forms.map_or(String::new(), |forms| format!(" {:?}", forms.to_string()));
            format!(" order {} vectors {}{forms}", layout_name(layout), order.vectors)
        });
        let elements = elements(&Data::from_bytes(*element, bytes), constants);
        writeln!(out, "weight w{index} {name:?}: {tensor_type} at {offset_bytes}{order} = {elements}")?;
    }
    for kernel in &program.kernels {
        write!(out, "{kernel}")?;
    }
    for one in &program.steps {
        step(program, one, out)?;
    }
    for (position, buffer) in &program.inputs {
        writeln!(out, "input {position} b{}", buffer.0)?;
    }
    for (position, buffer) in &program.outputs {
        writeln!(out, "output {position} b{}", buffer.0)?;
    }
    if program.states > 0 {
        writeln!(out, "states {}", program.states)?;
    }
    Ok(())
}

fn layout_name(layout: Layout) -> String {
    match layout {
        Layout::Plain => "plain".to_string(),
        Layout::Blocked(block) => format!("blocked {block}"),
    }
}

fn declared(buffer: &Buffer) -> String {
    let Buffer { name, tensor, element, offset, step, shape, layout, elements, part_of, replaces, offset_bytes } =
        buffer;
    let (tensor_type, layout) = (TensorType::new(*element, shape.clone()), layout_name(*layout));
    let tensor = tensor.map_or(String::new(), |tensor| format!(" tensor {}", tensor.0));
    let shared = part_of.map_or(String::new(), |(parent, first)| {
        let relation = if *replaces { "over" } else { "part of" };
        format!(" {relation} b{} from {first}", parent.0)
    });
    let plus = if *offset == 0 { String::new() } else { format!(" plus {offset}") };
    let times = if *step == StepSize::ONE { String::new() } else { format!(" times {:?}", step.0) };
    format!("{name:?}: {tensor_type}{plus}{times} {layout} elements {elements} at {offset_bytes}{tensor}{shared}")
}

fn step(program: &Program, step: &Step, out: &mut dyn Write) -> fmt::Result {
    match step {
        Step::Kernel { node, fused, kernel, arguments } => {
            let nodes: Vec<String> = [node].into_iter().chain(fused).map(|name| format!("{name:?}")).collect();
            let name = &program.kernels[*kernel].name;
            writeln!(out, "call {name} ({}) for {}", joined(arguments.iter().copied()), nodes.join(", "))
        }
        Step::Reference { node, op, inputs, outputs } => {
            let outputs = joined(outputs.iter().map(|output| Argument::Buffer(*output)));
            let inputs = joined(inputs.iter().copied());
            writeln!(out, "reference ({inputs}) -> ({outputs}) for {node:?} {}", operator(op))
        }
        Step::Reorder { from, to } => writeln!(out, "reorder b{} -> b{}", from.0, to.0),
        Step::Copy { from: (from, first), to: (to, at), runs } => writeln!(
            out,
            "copy {from} from {first} -> b{} from {at} runs {} of {} by {} to {}",
            to.0, runs.count, runs.elements, runs.from_stride, runs.to_stride
        ),
        Step::Leave { exit, verdict, answer } => {
            let answer = answer.map_or(String::new(), |answer| format!(" with b{}", answer.0));
            writeln!(out, "leave exit {exit} if b{}{answer}", verdict.0)
        }
        Step::Start { sends, receives } | Step::Exchange { sends, receives } => {
            writeln!(out, "{}", if matches!(step, Step::Start { .. }) { "start" } else { "exchange" })?;
            for (word, direction, messages) in [("send", "to", sends), ("receive", "from", receives)] {
                for Message { peer, number, buffer, bytes } in messages {
                    writeln!(out, "  {word} b{} bytes {bytes} {direction} device {peer} message {number}", buffer.0)?;
                }
            }
            Ok(())
        }
    }
}

fn joined(arguments: impl Iterator<Item = Argument>) -> String {
    arguments.map(|argument| argument.to_string()).collect::<Vec<String>>().join(", ")
}
