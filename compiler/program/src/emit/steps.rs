//! Steps of a program as lines of Rust.

use partita_rt::kernels::Filtered;

use crate::emit::reference_call::{CallOperand, activation_text, reference_call};
use crate::program::{Argument, BufferId, Layout, Message, Program, Runs, Step};
use partita_ir::graph::{ElementType, TensorType};
use partita_kernel::{Access, Kernel};

/// One step, ready for the template.
#[derive(Clone, Debug, serde::Serialize)]
pub struct StepText {
    /// Short name for profiles: the operator's kind and the node's name, fit for a Rust string.
    pub label: String,
    /// The same with shapes, fit for a line comment.
    pub comment: String,
    /// The statement.
    pub code: String,
}

/// The Rust type of an element in memory; one that any bytes are.
pub fn rust_type(element: ElementType) -> &'static str {
    match element {
        ElementType::F32 => "f32",
        ElementType::F64 => "f64",
        ElementType::F16 => "partita_rt::F16",
        ElementType::BF16 => "partita_rt::Bf16",
        ElementType::I64 => "i64",
        ElementType::I32 => "i32",
        ElementType::I16 => "i16",
        ElementType::I8 => "i8",
        ElementType::U64 => "u64",
        ElementType::U32 => "u32",
        ElementType::U16 => "u16",
        ElementType::U8 => "u8",
        ElementType::Bool => "partita_rt::Bool",
    }
}

/// A model's name as it may stand in emitted comments and strings: printable ASCII without quotes or backslashes.
pub fn tame(name: &str) -> String {
    let mut text: String = name
        .chars()
        .take(80)
        .map(|c| if c.is_ascii_graphic() && !"\"\\{}`".contains(c) || c == ' ' { c } else { '_' })
        .collect();
    if text.is_empty() {
        text.push_str("unnamed");
    }
    text
}

/// Renders every step. `kernel_prefix` stands before the names of kernels that come from an object file.
pub fn steps_text(program: &Program, devices: &[&str], kernel_prefix: &str) -> Vec<StepText> {
    program.steps.iter().map(|step| step_text(program, step, devices, kernel_prefix)).collect()
}

fn step_text(program: &Program, step: &Step, devices: &[&str], kernel_prefix: &str) -> StepText {
    match step {
        Step::Kernel { node, fused, kernel, arguments } => {
            let nodes = [node].into_iter().chain(fused).map(|node| tame(node)).collect::<Vec<_>>().join(" + ");
            let kernel = &program.kernels[*kernel];
            let mut pointers: Vec<String> = arguments.iter().map(|argument| pointer(program, *argument)).collect();
            for (pointer, declared) in pointers.iter_mut().zip(&kernel.buffers) {
                if kernel.split.as_ref().is_some_and(|split| split.part.is_none()) && declared.access == Access::Scratch
                {
                    *pointer = pointer.replacen("pointer(", "pointer::<f32>(", 1);
                    let numbers = (declared.elements * declared.storage.size_bytes()).div_ceil(4);
                    pointer.push_str(&format!(".add(part * {numbers})"));
                }
            }
            let pointers = pointers.join(", ");
            let mut call = match &kernel.split {
                None => format!(
                    "// SAFETY: every range lies in the arena or the weights and is alive now.\n        \
                     unsafe {{ kernels::{kernel_prefix}{}({pointers}) }};",
                    kernel.name
                ),
                Some(_) => format!(
                    "// SAFETY: every range lies in the arena or the weights and is alive now; parts write apart.\n        \
                     team.run(&|part| unsafe {{ kernels::{kernel_prefix}{}({pointers}, part as isize) }});",
                    kernel.name
                ),
            };
            if let Some(filtered) = &kernel.filtered {
                call = filtered_text(program, kernel, filtered, arguments, &call);
            }
            StepText {
                label: format!("kernel {nodes}"),
                comment: format!("{nodes}: {}", tame(&kernel.summary)),
                code: call,
            }
        }
        Step::Reference { node, op, inputs, outputs } => {
            let read: Vec<CallOperand> = inputs.iter().map(|input| read_operand(program, *input)).collect();
            let written: Vec<CallOperand> = outputs.iter().map(|output| write_operand(program, *output)).collect();
            StepText {
                label: format!("reference {}", tame(node)),
                comment: format!("{} ({}), portable kernel", tame(node), partita_ir::graph::text::op_name(op)),
                code: format!(
                    "// SAFETY: inputs and outputs are alive, disjoint ranges of the arena or the weights.\n        \
                     unsafe {{ {} }};",
                    // Lowering has made sure that there is a kernel.
                    reference_call(op, &read, &written).unwrap_or_default()
                ),
            }
        }
        Step::Reorder { from, to } => reorder_text(program, *from, *to),
        Step::Copy { from, to, runs } => copy_text(program, *from, *to, runs),
        Step::Leave { exit, verdict, .. } => StepText {
            label: format!("exit {exit}"),
            comment: format!("the inference ends at exit {exit} if the scores are sure enough"),
            code: format!(
                "// SAFETY: the verdict lies in the arena and nothing writes to it meanwhile.\n        \
                 let verdict = unsafe {{ arena.slice::<f32>({}, 2) }};\n        \
                 if partita_rt::kernels::leaves(verdict) {{\n            \
                 self.exit = Some(({exit}, verdict[1]));\n            \
                 return Ok(());\n        }}",
                program.buffers[verdict.0 as usize].offset_bytes
            ),
        },
        Step::Exchange { sends, receives } => exchange_text(program, sends, receives, devices),
    }
}

/// A kernel that is called for inputs that are small enough; else the same is done without minimal filtering.
fn filtered_text(
    program: &Program,
    kernel: &Kernel,
    filtered: &Filtered,
    arguments: &[Argument],
    call: &str,
) -> String {
    let operand = |name: &str| {
        let position = kernel.buffers.iter().position(|buffer| buffer.name == name)?;
        Some((*arguments.get(position)?, kernel.buffers.get(position)?.elements))
    };
    let slice = |name: &str| match operand(name) {
        Some((Argument::Buffer(id), elements)) => {
            format!("arena.slice::<f32>({}, {elements})", program.buffers[id.0 as usize].offset_bytes)
        }
        Some((Argument::Weight(id), elements)) => format!(
            "core::slice::from_raw_parts(weight::<f32>({}), {elements})",
            program.weights[id.0 as usize].offset_bytes
        ),
        None => "&[]".to_string(),
    };
    let offset = |name: &str| match operand(name)?.0 {
        Argument::Buffer(id) => Some(program.buffers[id.0 as usize].offset_bytes),
        Argument::Weight(_) => None,
    };
    let residual = match (operand("residual"), offset("residual") == offset("y")) {
        (None, _) => "None".to_string(),
        (Some(_), true) => "InPlace".to_string(),
        (Some(_), false) => format!("Apart({})", slice("residual")),
    };
    let (x, weights, bias) = (slice("x"), slice("weights"), slice("bias"));
    let y = slice("y").replacen("slice", "slice_mut", 1);
    let description = filtered_description(filtered);
    let call = call.replace('\n', "\n    ");
    format!(
        "{{\n        \
         const FILTERED: partita_rt::kernels::Filtered = {description};\n        \
         // SAFETY: the range lies in the arena and is alive now.\n        \
         if FILTERED.is_within(unsafe {{ {x} }}) {{\n            \
         {call}\n        \
         }} else {{\n            \
         // SAFETY: inputs and the output are alive, disjoint ranges of the arena or the weights.\n            \
         unsafe {{ FILTERED.convolve({x}, {weights}, {bias}, partita_rt::kernels::Residual::{residual}, {y}) }};\n        \
         }}\n        \
         }}"
    )
}

fn filtered_description(filtered: &Filtered) -> String {
    let Filtered {
        batch,
        channels,
        filters,
        lanes,
        kernel_depth,
        pad,
        input,
        output,
        tile,
        taps,
        vectors,
        pooled,
        activation,
    } = filtered;
    format!(
        "partita_rt::kernels::Filtered {{ batch: {batch}, channels: {channels}, filters: {filters}, lanes: {lanes}, \
         kernel_depth: {kernel_depth}, pad: {pad:?}, input: {input:?}, output: {output:?}, tile: {tile:?}, taps: {taps:?}, \
         vectors: {vectors}, pooled: {pooled}, activation: {} }}",
        activation_text(*activation)
    )
}

fn copy_text(program: &Program, from: (Argument, usize), to: (BufferId, usize), runs: &Runs) -> StepText {
    let destination = &program.buffers[to.0.0 as usize];
    let element = rust_type(destination.element);
    let size = destination.element.size_bytes();
    let source = match from.0 {
        Argument::Buffer(id) => {
            format!("arena.pointer::<{element}>({})", program.buffers[id.0 as usize].offset_bytes + from.1 * size)
        }
        Argument::Weight(id) => {
            format!("weight::<{element}>({})", program.weights[id.0 as usize].offset_bytes + from.1 * size)
        }
    };
    let to_bytes = destination.offset_bytes + to.1 * size;
    let Runs { count, elements, from_stride, to_stride } = runs;
    let call = match count {
        1 => format!("core::ptr::copy_nonoverlapping::<{element}>({source}, arena.pointer({to_bytes}), {elements})"),
        _ => format!(
            "partita_rt::copy_runs::<{element}>({source}, {from_stride}, arena.pointer({to_bytes}), {to_stride}, {elements}, {count})"
        ),
    };
    let name = tame(&destination.name);
    StepText {
        label: format!("copy {name}"),
        comment: format!("copy into {name}"),
        code: format!(
            "// SAFETY: both ranges lie in the arena or the weights and do not overlap.\n        unsafe {{ {call} }};"
        ),
    }
}

fn exchange_text(program: &Program, sends: &[Message], receives: &[Message], devices: &[&str]) -> StepText {
    let name = |message: &Message| tame(&program.buffers[message.buffer.0 as usize].name);
    let offset = |message: &Message| program.buffers[message.buffer.0 as usize].offset_bytes;
    let leaves = |message: &Message| format!("{} goes to {}", name(message), devices[message.peer]);
    let comes = |message: &Message| format!("{} comes from {}", name(message), devices[message.peer]);
    let sent = |message: &Message| format!("unsafe {{ arena.slice({}, {}) }}", offset(message), message.bytes);
    let received = |message: &Message| format!("unsafe {{ arena.slice_mut({}, {}) }}", offset(message), message.bytes);
    match (sends, receives) {
        ([send], []) => StepText {
            label: format!("send {} to {}", name(send), devices[send.peer]),
            comment: leaves(send),
            code: format!(
                "// SAFETY: the range lies in the arena and nothing writes to it meanwhile.\n        \
                 links.send({}, {}, {})?;",
                send.peer,
                send.number,
                sent(send)
            ),
        },
        ([], [receive]) => StepText {
            label: format!("receive {} from {}", name(receive), devices[receive.peer]),
            comment: comes(receive),
            code: format!(
                "// SAFETY: the range lies in the arena and nothing else uses it meanwhile.\n        \
                 links.receive({}, {}, {})?;",
                receive.peer,
                receive.number,
                received(receive)
            ),
        },
        _ => {
            let mut code = String::from(
                "// SAFETY: the ranges lie in the arena; what is received overlaps nothing else that is used here.\n        \
                 links.exchange(\n            &[\n",
            );
            let mut list = |messages: &[Message],
                            kind: &str,
                            payload: &dyn Fn(&Message) -> String,
                            what: &dyn Fn(&Message) -> String| {
                for message in messages {
                    let (peer, number) = (message.peer, message.number);
                    code.push_str(&format!(
                        "                // {}\n                partita_rt::{kind} {{ peer: {peer}, message: {number}, payload: {} }},\n",
                        what(message),
                        payload(message)
                    ));
                }
                code.push_str("            ],\n");
                if kind == "Outgoing" {
                    code.push_str("            &mut [\n");
                }
            };
            list(sends, "Outgoing", &sent, &leaves);
            list(receives, "Incoming", &received, &comes);
            code.push_str("        )?;");
            StepText {
                label: format!("exchange: {} leave, {} come", sends.len(), receives.len()),
                comment: "everybody at the same time".to_string(),
                code,
            }
        }
    }
}

fn reorder_text(program: &Program, from: BufferId, to: BufferId) -> StepText {
    let (source, destination) = (&program.buffers[from.0 as usize], &program.buffers[to.0 as usize]);
    let (function, block) = match (source.layout, destination.layout) {
        (Layout::Plain, Layout::Blocked(block)) => ("reorder_to_blocked", block),
        (Layout::Blocked(block), _) => ("reorder_from_blocked", block),
        (Layout::Plain, Layout::Plain) => ("reorder_to_blocked", 1),
    };
    let spatial: usize = destination.shape[2..].iter().product();
    let plain_elements = destination.shape.iter().product::<usize>();
    let elements = |layout: Layout, buffer: &crate::program::Buffer| match layout {
        Layout::Plain => plain_elements,
        Layout::Blocked(_) => buffer.elements,
    };
    let name = tame(&source.name);
    StepText {
        label: format!("reorder {name}"),
        comment: format!("{name} from {} to {}", layout_text(source.layout), layout_text(destination.layout)),
        code: format!(
            "// SAFETY: both ranges are alive and do not overlap.\n        \
             unsafe {{ partita_rt::kernels::{function}(arena.slice::<f32>({}, {}), arena.slice_mut::<f32>({}, {}), {}, {}, {spatial}, {block}) }};",
            source.offset_bytes,
            elements(source.layout, source),
            destination.offset_bytes,
            elements(destination.layout, destination),
            destination.shape[0],
            destination.shape[1],
        ),
    }
}

fn layout_text(layout: Layout) -> String {
    match layout {
        Layout::Plain => "plain layout".to_string(),
        Layout::Blocked(block) => format!("channel blocks of {block}"),
    }
}

/// A raw pointer to an operand, for emitted kernels.
fn pointer(program: &Program, argument: Argument) -> String {
    match argument {
        Argument::Buffer(id) => format!("arena.pointer({})", program.buffers[id.0 as usize].offset_bytes),
        Argument::Weight(id) => format!("weight({})", program.weights[id.0 as usize].offset_bytes),
    }
}

fn read_operand(program: &Program, argument: Argument) -> CallOperand {
    match argument {
        Argument::Buffer(id) => {
            let buffer = &program.buffers[id.0 as usize];
            let tensor_type = TensorType::new(buffer.element, buffer.shape.clone());
            let expression = format!(
                "arena.slice::<{}>({}, {})",
                rust_type(buffer.element),
                buffer.offset_bytes,
                tensor_type.element_count()
            );
            CallOperand { expression, tensor_type }
        }
        Argument::Weight(id) => {
            let weight = &program.weights[id.0 as usize];
            let elements = weight.bytes.len() / weight.element.size_bytes();
            let expression = format!(
                "core::slice::from_raw_parts(weight::<{}>({}), {elements})",
                rust_type(weight.element),
                weight.offset_bytes
            );
            CallOperand { expression, tensor_type: TensorType::new(weight.element, weight.shape.clone()) }
        }
    }
}

fn write_operand(program: &Program, id: BufferId) -> CallOperand {
    let buffer = &program.buffers[id.0 as usize];
    let tensor_type = TensorType::new(buffer.element, buffer.shape.clone());
    let expression = format!(
        "arena.slice_mut::<{}>({}, {})",
        rust_type(buffer.element),
        buffer.offset_bytes,
        tensor_type.element_count()
    );
    CallOperand { expression, tensor_type }
}
