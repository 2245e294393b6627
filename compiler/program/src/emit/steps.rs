//! Steps of a program as data for `crate/step.rs.j2`, which holds the text of every statement.

use partita_rt::kernels::Winograd;
use serde::Serialize;

use super::expressions::{element_pointer, float, pointer, rust_type, share_pointer, slice, slice_mut};
use super::literal::literal;
use super::reference_call::{CallOperand, call_text};
use crate::memory::copies_in_place;
use crate::program::{Argument, BufferId, Layout, Message, Program, Runs, Step};
use partita_ir::graph::{ElementType, StepSize, Stored, TensorType};
use partita_kernel::{Access, Kernel};

/// One step, ready for the template.
#[derive(Clone, Debug, Serialize)]
pub struct StepText {
    /// Its number.
    pub number: usize,
    /// Short name for profiles: the operator's kind and the node's name, fit for a Rust string.
    pub label: String,
    /// The same with shapes, fit for a line comment.
    pub comment: String,
    /// What is done.
    pub statement: Statement,
}

/// The statement of a step; texts in it are printed expressions.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Statement {
    /// A call of an emitted kernel.
    Kernel {
        /// Its name.
        function: String,
        /// Pointers to its buffers.
        arguments: Vec<String>,
        /// Whether all threads call it.
        shared: bool,
        /// How the same is done where inputs are too large for it.
        winograd: Option<Box<WinogradText>>,
    },
    /// A call of a portable kernel.
    Reference {
        /// The call.
        call: String,
    },
    /// A tensor into another layout.
    Reorder {
        /// The portable function that does it.
        function: &'static str,
        /// All of the tensor.
        from: String,
        /// The same in the other layout.
        to: String,
        /// Samples.
        batch: usize,
        /// Channels.
        channels: usize,
        /// Elements of one channel of one sample.
        spatial: usize,
        /// Channels of a block.
        block: u32,
    },
    /// A tensor stored in another way.
    Restore {
        /// All of it.
        from: String,
        /// The same as it is to be stored.
        to: String,
        /// The portable function that does it.
        function: &'static str,
        /// What it is told beside them: a factor, a number that is added.
        told: String,
    },
    /// Runs of elements from place to place.
    Copy {
        /// Their type.
        element: &'static str,
        /// Pointer to the first.
        from: String,
        /// Where the first comes to lie in the arena.
        to_bytes: usize,
        /// How many runs.
        count: usize,
        /// Elements of each.
        elements: usize,
        /// Elements from one run's first to the next one's in the source.
        from_stride: usize,
        /// The same in the destination.
        to_stride: usize,
        /// Whether they move inside one memory, run by run.
        in_place: bool,
    },
    /// The end of the inference, if the verdict says so.
    Leave {
        /// Number of the exit.
        exit: usize,
        /// Where the verdict lies in the arena.
        verdict_bytes: usize,
    },
    /// Tensors leave and come: the node's work, not the program's.
    Exchange,
}

/// A convolution that Winograd's kernel does for inputs that are small enough; operands are printed.
#[derive(Clone, Debug, Serialize)]
pub struct WinogradText {
    description: String,
    x: String,
    weights: String,
    bias: String,
    residual: String,
    y: String,
}

/// A model's name as it may stand in emitted comments and strings: printable ASCII without quotes or backslashes.
pub fn sanitize(name: &str) -> String {
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

/// Every step. `kernel_prefix` stands before the names of kernels that come from an object file.
pub fn steps_text(program: &Program, devices: &[&str], kernel_prefix: &str) -> Vec<StepText> {
    let text = |(number, step)| StepText { number, ..step_text(program, step, devices, kernel_prefix) };
    program.steps.iter().enumerate().map(text).collect()
}

fn step_text(program: &Program, step: &Step, devices: &[&str], kernel_prefix: &str) -> StepText {
    match step {
        Step::Kernel { node, fused, kernel, arguments } => {
            let nodes = [node].into_iter().chain(fused).map(|node| sanitize(node)).collect::<Vec<_>>().join(" + ");
            let kernel = &program.kernels[*kernel];
            StepText {
                number: 0,
                label: format!("kernel {nodes}"),
                comment: format!("{nodes}: {}", sanitize(&kernel.summary)),
                statement: Statement::Kernel {
                    function: format!("{kernel_prefix}{}", kernel.name),
                    arguments: kernel_arguments(program, kernel, arguments),
                    shared: kernel.split.is_some(),
                    winograd: kernel
                        .winograd
                        .as_ref()
                        .map(|winograd| Box::new(winograd_text(program, kernel, winograd, arguments))),
                },
            }
        }
        Step::Reference { node, op, inputs, outputs } => {
            let read: Vec<CallOperand> = inputs.iter().map(|input| read_operand(program, *input)).collect();
            let written: Vec<CallOperand> = outputs.iter().map(|output| write_operand(program, *output)).collect();
            StepText {
                number: 0,
                label: format!("reference {}", sanitize(node)),
                comment: format!("{} ({}), portable kernel", sanitize(node), partita_ir::graph::text::op_name(op)),
                // Lowering has made sure that there is a kernel.
                statement: Statement::Reference { call: call_text(op, &read, &written).unwrap_or_default() },
            }
        }
        Step::Reorder { from, to } => reorder_text(program, *from, *to),
        Step::Copy { from, to, runs } => copy_text(program, *from, *to, runs, copies_in_place(program, step)),
        Step::Leave { exit, verdict, .. } => StepText {
            number: 0,
            label: format!("exit {exit}"),
            comment: format!("the inference ends at exit {exit} if the scores are sure enough"),
            statement: Statement::Leave {
                exit: *exit,
                verdict_bytes: program.buffers[verdict.0 as usize].offset_bytes,
            },
        },
        Step::Start { sends, receives } => {
            let text = exchange_text(program, sends, receives, devices);
            let label = format!("start to {}", text.label);
            StepText { comment: format!("{label}, while the next steps compute"), label, ..text }
        }
        Step::Exchange { sends, receives } => exchange_text(program, sends, receives, devices),
    }
}

/// Pointers for a kernel. Where it is called once per thread and not told which one calls, each has its own share of what is
/// scratch.
fn kernel_arguments(program: &Program, kernel: &Kernel, arguments: &[Argument]) -> Vec<String> {
    let unaware = kernel.split.as_ref().is_some_and(|split| split.part.is_none());
    let printed =
        arguments.iter().enumerate().map(|(position, argument)| match (kernel.buffers.get(position), argument) {
            (Some(declared), Argument::Buffer(id)) if unaware && declared.access == Access::Scratch => {
                let elements = (declared.elements * declared.storage.size_bytes()).div_ceil(size_of::<f32>());
                share_pointer(program, *id, elements)
            }
            _ => pointer(program, *argument),
        });
    printed.collect()
}

/// The description and the operands of a convolution that is done directly where inputs are too large. Its kernel reads the
/// input and perhaps a residual, and weights and bias, in this order.
fn winograd_text(program: &Program, kernel: &Kernel, winograd: &Winograd, arguments: &[Argument]) -> WinogradText {
    let operand = |access: Access, number: usize| {
        let mut buffers = kernel.buffers.iter().zip(arguments).filter(|(buffer, _)| buffer.access == access);
        buffers.nth(number).map(|(buffer, argument)| (*argument, buffer.elements))
    };
    let offset = |operand: Option<(Argument, usize)>| match operand?.0 {
        Argument::Buffer(id) => Some(program.buffers[id.0 as usize].offset_bytes),
        Argument::Weight(_) => None,
    };
    let read = |operand: Option<(Argument, usize)>| match operand {
        Some((argument, elements)) => slice(program, argument, ElementType::F32, elements),
        None => "&[]".to_string(),
    };
    let (residual, y) = (operand(Access::Input, 1), operand(Access::Output, 0));
    WinogradText {
        description: literal(winograd),
        x: read(operand(Access::Input, 0)),
        weights: read(operand(Access::Weights, 0)),
        bias: read(operand(Access::Weights, 1)),
        residual: match residual {
            None => "None".to_string(),
            Some(_) if offset(residual) == offset(y) => "InPlace".to_string(),
            Some(_) => format!("Apart({})", read(residual)),
        },
        y: match y {
            Some((Argument::Buffer(id), elements)) => slice_mut(program, id, ElementType::F32, elements),
            _ => "&mut []".to_string(),
        },
    }
}

fn copy_text(
    program: &Program,
    from: (Argument, usize),
    to: (BufferId, usize),
    runs: &Runs,
    in_place: bool,
) -> StepText {
    let destination = &program.buffers[to.0.0 as usize];
    let name = sanitize(&destination.name);
    StepText {
        number: 0,
        label: format!("{} {name}", if in_place { "move" } else { "copy" }),
        comment: format!("{} into {name}", if in_place { "move" } else { "copy" }),
        statement: Statement::Copy {
            element: rust_type(destination.element),
            from: element_pointer(program, from, destination.element),
            to_bytes: destination.offset_bytes + to.1 * destination.element.size_bytes(),
            count: runs.count,
            elements: runs.elements,
            from_stride: runs.from_stride,
            to_stride: runs.to_stride,
            in_place,
        },
    }
}

fn exchange_text(program: &Program, sends: &[Message], receives: &[Message], devices: &[&str]) -> StepText {
    let name = |message: &Message| sanitize(&program.buffers[message.buffer.0 as usize].name);
    let label = match (sends, receives) {
        ([send], []) => format!("send {} to {}", name(send), devices[send.peer]),
        ([], [receive]) => format!("receive {} from {}", name(receive), devices[receive.peer]),
        _ => format!("exchange: {} leave, {} come", sends.len(), receives.len()),
    };
    StepText { number: 0, comment: label.clone(), label, statement: Statement::Exchange }
}

fn reorder_text(program: &Program, from: BufferId, to: BufferId) -> StepText {
    let (source, destination) = (&program.buffers[from.0 as usize], &program.buffers[to.0 as usize]);
    if source.layout == destination.layout {
        return restore_text(program, from, to);
    }
    let (function, block) = match (source.layout, destination.layout) {
        (Layout::Blocked(block), _) => ("reorder_from_blocked", block),
        (Layout::Plain, Layout::Blocked(block)) => ("reorder_to_blocked", block),
        (Layout::Plain, Layout::Plain) => ("reorder_to_blocked", 1),
    };
    let plain_elements = destination.shape.iter().product::<usize>();
    let elements = |layout: Layout, buffer: &crate::program::Buffer| match layout {
        Layout::Plain => plain_elements,
        Layout::Blocked(_) => buffer.elements,
    };
    let name = sanitize(&source.name);
    StepText {
        number: 0,
        label: format!("reorder {name}"),
        comment: format!("{name} from {} to {}", layout_text(source.layout), layout_text(destination.layout)),
        statement: Statement::Reorder {
            function,
            from: slice(program, Argument::Buffer(from), source.element, elements(source.layout, source)),
            to: slice_mut(program, to, destination.element, elements(destination.layout, destination)),
            batch: destination.shape[0],
            channels: destination.shape[1],
            spatial: destination.shape[2..].iter().product(),
            block,
        },
    }
}

/// The same elements, stored in another way.
fn restore_text(program: &Program, from: BufferId, to: BufferId) -> StepText {
    let (source, destination) = (&program.buffers[from.0 as usize], &program.buffers[to.0 as usize]);
    let elements = match source.layout {
        Layout::Plain => source.shape.iter().product(),
        Layout::Blocked(_) => source.elements.min(destination.elements),
    };
    let name = sanitize(&source.name);
    let (function, told) = restore_call(source.stored(), destination.stored());
    StepText {
        number: 0,
        label: format!("store {name}"),
        comment: format!("{name} from {} to {}", source.element.name(), destination.element.name()),
        statement: Statement::Restore {
            from: slice(program, Argument::Buffer(from), source.element, elements),
            to: slice_mut(program, to, destination.element, elements),
            function,
            told,
        },
    }
}

/// The kernel that stores elements in another way, and what it is told beside them. Between two steps there is none: what is
/// sent is made of numbers, and becomes numbers again.
fn restore_call(from: Stored, to: Stored) -> (&'static str, String) {
    if from.step == to.step {
        ("restore", float((from.offset - to.offset) as f32))
    } else if from.step == StepSize::ONE {
        ("to_steps", format!("{}, {}", float(1.0 / to.step.0), to.offset))
    } else {
        ("from_steps", format!("{}, {}", float(from.step.0), float(from.offset as f32)))
    }
}

fn layout_text(layout: Layout) -> String {
    match layout {
        Layout::Plain => "plain layout".to_string(),
        Layout::Blocked(block) => format!("channel blocks of {block}"),
    }
}

fn read_operand(program: &Program, argument: Argument) -> CallOperand {
    let tensor_type = match argument {
        Argument::Buffer(id) => {
            let buffer = &program.buffers[id.0 as usize];
            TensorType::new(buffer.element, buffer.shape.clone())
        }
        Argument::Weight(id) => {
            let weight = &program.weights[id.0 as usize];
            TensorType::new(weight.element, weight.shape.clone())
        }
    };
    let elements = match argument {
        Argument::Buffer(_) => tensor_type.element_count(),
        Argument::Weight(id) => program.weights[id.0 as usize].bytes.len() / tensor_type.element.size_bytes(),
    };
    CallOperand { expression: slice(program, argument, tensor_type.element, elements), tensor_type }
}

fn write_operand(program: &Program, id: BufferId) -> CallOperand {
    let buffer = &program.buffers[id.0 as usize];
    let tensor_type = TensorType::new(buffer.element, buffer.shape.clone());
    CallOperand { expression: slice_mut(program, id, buffer.element, tensor_type.element_count()), tensor_type }
}
