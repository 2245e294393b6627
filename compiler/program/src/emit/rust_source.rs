//! Kernel IR as Rust: loops over `isize`, vectors through the prelude of the instruction set. The template
//! (`kernels/kernel.rs.j2`) spells each `Line`.

use minijinja::context;
use minijinja::value::{Serde, Value};
use serde::Serialize;

use super::expressions::{self, PART};
use super::{steps, templates};
use partita_config::InstructionSet;
use partita_kernel::text::affine;
use partita_kernel::{Bound, Expression, Kernel, Statement};

/// The vector type and functions that [`render`]ed kernels call.
pub fn prelude(instruction_set: InstructionSet) -> anyhow::Result<String> {
    let vectors = templates::render(template(instruction_set)?, context! {})?;
    let stored = context! { features => features(instruction_set, false), lanes => instruction_set.lanes() };
    Ok(vectors + &templates::render("kernels/stored.rs.j2", stored)?)
}

fn template(instruction_set: InstructionSet) -> anyhow::Result<&'static str> {
    Ok(match instruction_set {
        InstructionSet::Avx512 => "kernels/avx512.rs.j2",
        InstructionSet::Avx2 => "kernels/avx2.rs.j2",
        InstructionSet::Sse2 => "kernels/sse2.rs.j2",
        InstructionSet::Neon32 => "kernels/neon32.rs.j2",
        InstructionSet::Scalar => "kernels/scalar.rs.j2",
        InstructionSet::Neon => anyhow::bail!("kernels for Advanced SIMD are machine code, not Rust"),
    })
}

/// Target features of a kernel, or of functions that all kernels have, so that the prelude's functions are inlined.
fn features(instruction_set: InstructionSet, multiplies_bytes: bool) -> &'static str {
    match instruction_set {
        InstructionSet::Avx512 if multiplies_bytes => "avx512f,avx512vnni",
        InstructionSet::Avx512 => "avx512f",
        InstructionSet::Avx2 if multiplies_bytes => "avx2,fma,f16c,avxvnni",
        InstructionSet::Avx2 => "avx2,fma,f16c",
        InstructionSet::Sse2 => "sse2",
        // The crate is compiled for a processor that has what is needed.
        InstructionSet::Scalar | InstructionSet::Neon32 | InstructionSet::Neon => "",
    }
}

/// Parameters of the function that a kernel becomes: a pointer per buffer and, where threads share it, which one this is.
pub fn parameters(kernel: &Kernel) -> Vec<Value> {
    let buffers =
        kernel.buffers.iter().map(|buffer| context! { name => buffer.name.as_str(), kind => buffer.pointer() });
    buffers.chain(kernel.split.as_ref().map(|_| context! { name => PART, kind => "isize" })).collect()
}

/// One kernel as a function over raw pointers, named as in the IR.
pub fn render(kernel: &Kernel, instruction_set: InstructionSet) -> anyhow::Result<String> {
    let mut writer = BodyWriter { kernel, instruction_set, declared: vec![Vec::new()], lines: Vec::new() };
    if let Some(part) = kernel.split.as_ref().and_then(|split| split.part) {
        writer.line(2, LineKind::Part { name: &kernel.loops[part.0 as usize].name });
    }
    writer.block(&kernel.body, 2);
    templates::render(
        "kernels/kernel.rs.j2",
        context! {
            name => kernel.name.as_str(),
            summary => steps::sanitize(&kernel.summary),
            features => features(instruction_set, kernel.multiplies_bytes()),
            parameters => parameters(kernel),
            body => Value::from(Serde(&writer.lines)),
        },
    )
}

/// A line of a kernel's body, or the few that open a block that runs once.
#[derive(Serialize)]
struct Line<'a> {
    indent: String,
    #[serde(flatten)]
    statement: LineKind<'a>,
}

/// What lines say; expressions are printed.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum LineKind<'a> {
    /// The number of the thread under the name of a loop.
    Part {
        name: &'a str,
    },
    For {
        name: &'a str,
        range: String,
    },
    /// Opens the body of a loop that runs for one value only.
    Once {
        name: &'a str,
        value: i64,
    },
    Close,
    Declare {
        name: &'a str,
        value: String,
    },
    Assign {
        name: &'a str,
        value: String,
    },
    Store {
        /// Behind the names of functions: how elements are stored.
        storage: &'static str,
        place: String,
        value: String,
    },
    StorePartial {
        storage: &'static str,
        place: String,
        count: u32,
        value: String,
    },
    Prefetch {
        buffer: &'a str,
        offset: String,
    },
    Barrier,
    Comment {
        text: &'a str,
    },
}

struct BodyWriter<'a> {
    kernel: &'a Kernel,
    instruction_set: InstructionSet,
    /// Variables that have been declared, per open block. A variable is declared where it is first assigned: every
    /// family assigns it in the block that uses it or in one around it.
    declared: Vec<Vec<u32>>,
    lines: Vec<Line<'a>>,
}

impl<'a> BodyWriter<'a> {
    fn line(&mut self, depth: usize, statement: LineKind<'a>) {
        self.lines.push(Line { indent: "    ".repeat(depth), statement });
    }

    fn block(&mut self, statements: &'a [Statement], depth: usize) {
        let kernel = self.kernel;
        for statement in statements {
            let line = match statement {
                Statement::For { var, low, high, step, body, .. } => {
                    let name = &kernel.loops[var.0 as usize].name;
                    let shared = expressions::shared_range(kernel, *var, (low, high), *step);
                    let opening = match (shared, low, high) {
                        (Some(range), ..) => LineKind::For { name, range },
                        // A loop that runs once needs no loop.
                        (None, Bound::Constant(low), Bound::Constant(high)) if high <= low => continue,
                        (None, Bound::Constant(low), Bound::Constant(high)) if *high - *low <= *step => {
                            LineKind::Once { name, value: *low }
                        }
                        (None, ..) => LineKind::For { name, range: expressions::range(kernel, (low, high), *step) },
                    };
                    self.line(depth, opening);
                    self.declared.push(Vec::new());
                    self.block(body, depth + 1);
                    self.declared.pop();
                    LineKind::Close
                }
                Statement::Assign(variable, value) => {
                    let name = &kernel.variable_names[variable.0 as usize];
                    let value = self.expression(value);
                    if self.declared.iter().any(|block| block.contains(&variable.0)) {
                        LineKind::Assign { name, value }
                    } else {
                        self.declared.last_mut().into_iter().for_each(|block| block.push(variable.0));
                        LineKind::Declare { name, value }
                    }
                }
                Statement::Store(buffer, at, value) => {
                    let place = expressions::place(kernel, *buffer, at);
                    let storage = expressions::suffix(kernel, *buffer);
                    LineKind::Store { storage, place, value: self.expression(value) }
                }
                Statement::StorePartial(buffer, at, count, value) => {
                    let place = expressions::place(kernel, *buffer, at);
                    let storage = expressions::suffix(kernel, *buffer);
                    LineKind::StorePartial { storage, place, count: *count, value: self.expression(value) }
                }
                // Past the end of the buffer there is no place to take an offset to; the hint may name it all the same.
                Statement::Prefetch(buffer, at) => {
                    let buffer = &kernel.buffers[buffer.0 as usize].name;
                    LineKind::Prefetch { buffer, offset: affine(kernel, at) }
                }
                Statement::Barrier => LineKind::Barrier,
                Statement::Comment(text) => LineKind::Comment { text },
            };
            self.line(depth, line);
        }
    }

    fn expression(&self, value: &Expression) -> String {
        expressions::expression(self.kernel, self.instruction_set, value)
    }
}
