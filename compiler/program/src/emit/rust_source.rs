//! Kernel IR as Rust: loops over `isize`, vectors through the prelude of the instruction set.

use std::fmt::Write;

use minijinja::context;

use super::templates;
use partita_config::{InstructionSet, WeightStorage};
use partita_kernel::text::affine;
use partita_kernel::{Affine, Arithmetic, Bound, Buffer, Expression, Function, Kernel, LoopVar, Statement, turns};

/// The vector type and functions that [`render`]ed kernels call.
pub fn prelude(instruction_set: InstructionSet) -> anyhow::Result<String> {
    templates::render(template(instruction_set)?, context! {})
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

/// Target features of kernels, so that the prelude's functions are inlined into them.
fn features(instruction_set: InstructionSet) -> &'static str {
    match instruction_set {
        InstructionSet::Avx512 => "avx512f",
        InstructionSet::Avx2 => "avx2,fma,f16c",
        InstructionSet::Sse2 => "sse2",
        // The crate is compiled for a processor that has what is needed.
        InstructionSet::Scalar | InstructionSet::Neon32 | InstructionSet::Neon => "",
    }
}

/// One kernel as a function over raw pointers, named as in the IR.
pub fn render(kernel: &Kernel, instruction_set: InstructionSet) -> anyhow::Result<String> {
    let parameters: Vec<_> = kernel
        .buffers
        .iter()
        .map(|buffer| {
            let kind = buffer.pointer();
            context! { name => buffer.name.as_str(), kind => kind }
        })
        .collect();
    let part = kernel.split.as_ref().map(|_| context! { name => PART, kind => "isize" });
    let parameters: Vec<_> = parameters.into_iter().chain(part).collect();
    let mut writer = Writer { kernel, instruction_set, declared: vec![Vec::new()], text: String::new() };
    if let Some(part) = kernel.split.as_ref().and_then(|split| split.part) {
        writer.line(2, &format!("let {} = {PART};", kernel.loop_names[part.0 as usize]));
    }
    writer.block(&kernel.body, 2);
    templates::render(
        "kernels/kernel.rs.j2",
        context! {
            name => kernel.name.as_str(),
            summary => super::steps::tame(&kernel.summary),
            features => features(instruction_set),
            parameters => parameters,
            body => writer.text,
        },
    )
}

struct Writer<'a> {
    kernel: &'a Kernel,
    instruction_set: InstructionSet,
    /// Variables that have been declared, per open block. A variable is declared where it is first assigned: every
    /// family assigns it in the block that uses it or in one around it.
    declared: Vec<Vec<u32>>,
    text: String,
}

impl Writer<'_> {
    fn line(&mut self, depth: usize, text: &str) {
        for _ in 0..depth {
            self.text.push_str("    ");
        }
        self.text.push_str(text);
        self.text.push('\n');
    }

    fn block(&mut self, statements: &[Statement], depth: usize) {
        for statement in statements {
            match statement {
                Statement::For { var, low, high, step, body, .. } => {
                    let name = &self.kernel.loop_names[var.0 as usize];
                    if let Some(range) = shared_range(self.kernel, *var, (low, high), *step) {
                        self.line(depth, &format!("for {name} in {range} {{"));
                        self.inner(body, depth);
                        self.line(depth, "}");
                        continue;
                    }
                    // A loop that runs once needs no loop.
                    if let (Bound::Constant(low), Bound::Constant(high)) = (low, high) {
                        if high <= low {
                            continue;
                        }
                        if *high - *low <= *step {
                            self.once(name, *low, body, depth);
                            continue;
                        }
                    }
                    let range = format!("{}..{}", self.bound(low), self.bound(high));
                    let range = if *step == 1 { range } else { format!("({range}).step_by({step})") };
                    self.line(depth, &format!("for {name} in {range} {{"));
                    self.inner(body, depth);
                    self.line(depth, "}");
                }
                Statement::Assign(variable, value) => {
                    let name = &self.kernel.variable_names[variable.0 as usize];
                    let known = self.declared.iter().any(|block| block.contains(&variable.0));
                    let keyword = if known { "" } else { "let mut " };
                    let text = format!("{keyword}{name} = {};", self.expression(value));
                    if !known && let Some(block) = self.declared.last_mut() {
                        block.push(variable.0);
                    }
                    self.line(depth, &text);
                }
                Statement::Store(buffer, at, value) => {
                    let text = format!("store({}, {});", self.place(*buffer, at), self.expression(value));
                    self.line(depth, &text);
                }
                Statement::StorePartial(buffer, at, count, value) => {
                    let text =
                        format!("store_partial({}, {count}, {});", self.place(*buffer, at), self.expression(value));
                    self.line(depth, &text);
                }
                // No back end of Rust source has these (`Machine::dot_product`).
                Statement::StoreBytes(..) => self.line(depth, NO_BYTES),
                // Past the end of the buffer there is no place to take an offset to; the hint may name it all the same.
                Statement::Prefetch(buffer, at) => {
                    let name = &self.kernel.buffers[buffer.0 as usize].name;
                    self.line(depth, &format!("prefetch({name}.wrapping_offset({}).cast());", affine(self.kernel, at)));
                }
                Statement::Barrier => self.line(depth, "partita_rt::team::barrier();"),
                Statement::Comment(text) => self.line(depth, &format!("// {text}")),
            }
        }
    }

    fn once(&mut self, name: &str, value: i64, body: &[Statement], depth: usize) {
        self.line(depth, "{");
        self.line(depth + 1, &format!("let {name}: isize = {value};"));
        self.line(depth + 1, &format!("let _ = {name};"));
        self.inner(body, depth);
        self.line(depth, "}");
    }

    fn inner(&mut self, body: &[Statement], depth: usize) {
        self.declared.push(Vec::new());
        self.block(body, depth + 1);
        self.declared.pop();
    }

    fn bound(&self, bound: &Bound) -> String {
        let quotient = |value: &Affine, divisor: i64| match divisor {
            1 => format!("({})", affine(self.kernel, value)),
            divisor => format!("ceil_div({}, {divisor})", affine(self.kernel, value)),
        };
        match bound {
            Bound::Constant(value) => format!("{value}isize"),
            Bound::Max(low, value, divisor) => format!("{}.max({low})", quotient(value, *divisor)),
            Bound::Min(high, value, divisor) => format!("{}.min({high})", quotient(value, *divisor)),
        }
    }

    fn place(&self, buffer: Buffer, at: &Affine) -> String {
        let name = &self.kernel.buffers[buffer.0 as usize].name;
        match affine(self.kernel, at) {
            offset if offset == "0" => name.clone(),
            offset => format!("{name}.offset({offset})"),
        }
    }

    fn expression(&self, value: &Expression) -> String {
        let show = |inner: &Expression| self.expression(inner);
        match value {
            Expression::Variable(variable) => self.kernel.variable_names[variable.0 as usize].clone(),
            Expression::Constant(value) => format!("constant({})", float(*value)),
            Expression::Load(buffer, at) => {
                let load = match self.kernel.buffers[buffer.0 as usize].storage {
                    WeightStorage::F32 => "load",
                    WeightStorage::F16 => "load_f16",
                    WeightStorage::Int8 => "load_i8",
                };
                format!("{load}({})", self.place(*buffer, at))
            }
            Expression::LoadPartial(buffer, at, count) => format!("load_partial({}, {count})", self.place(*buffer, at)),
            Expression::LoadStrided(buffer, at, stride) => {
                format!("load_strided({}, {stride})", self.place(*buffer, at))
            }
            Expression::LoadBytes(..) | Expression::DotBytes(..) => NO_BYTES.to_string(),
            Expression::Broadcast(buffer, at) => format!("broadcast({})", self.place(*buffer, at)),
            Expression::Lane(variable, lane) => {
                format!("lane::<{lane}>({})", self.kernel.variable_names[variable.0 as usize])
            }
            Expression::MulAdd(a, b, c) if self.instruction_set == InstructionSet::Neon32 => match &**a {
                Expression::Lane(variable, lane) => {
                    let name = &self.kernel.variable_names[variable.0 as usize];
                    format!("mul_add_lane_{lane}({name}, {}, {})", show(b), show(c))
                }
                a => format!("mul_add({}, {}, {})", show(a), show(b), show(c)),
            },
            Expression::MulAdd(a, b, c) => format!("mul_add({}, {}, {})", show(a), show(b), show(c)),
            Expression::Binary(function, a, b) => {
                let name = match function {
                    Arithmetic::Add => "add",
                    Arithmetic::Sub => "sub",
                    Arithmetic::Mul => "mul",
                    Arithmetic::Div => "div",
                    Arithmetic::Max if a.is_number() => "max_of_number",
                    Arithmetic::Min if a.is_number() => "min_of_number",
                    Arithmetic::Max => "max",
                    Arithmetic::Min => "min",
                };
                format!("{name}({}, {})", show(a), show(b))
            }
            Expression::Unary(function, a) => {
                let name = match function {
                    Function::Neg => "neg",
                    Function::Abs => "abs",
                    Function::Sqrt => "sqrt",
                    Function::Round => "round",
                    Function::RoundSmall => "round_small",
                    Function::PowerOfTwo => "power_of_two",
                    Function::FromWhole => return NO_BYTES.to_string(),
                };
                format!("{name}({})", show(a))
            }
            Expression::SumLanes(a) => format!("fold({}, |a, b| a + b)", show(a)),
            Expression::MaxLanes(a) => format!("fold({}, |a, b| if a > b || a.is_nan() {{ a }} else {{ b }})", show(a)),
        }
    }
}

/// What becomes of products of bytes, which are lowered for machine code alone.
const NO_BYTES: &str = "compile_error!(\"products of bytes are machine code\")";

/// Name of the parameter that says which thread this is.
const PART: &str = "part_of_threads";

/// The range of a loop that threads share; none if it is not shared.
fn shared_range(kernel: &Kernel, var: LoopVar, bounds: (&Bound, &Bound), step: i64) -> Option<String> {
    let split = kernel.split.as_ref().filter(|split| split.loops.contains(&var))?;
    let (Bound::Constant(low), Bound::Constant(high)) = bounds else { return None };
    let (count, parts) = (turns(*low, *high, step), split.parts);
    let begin = format!("{low} + {count} * {PART} / {parts} * {step}");
    let end = format!("({low} + {count} * ({PART} + 1) / {parts} * {step}).min({high})");
    Some(if step == 1 { format!("{begin}..{end}") } else { format!("({begin}..{end}).step_by({step})") })
}

/// A float as Rust reads it back, bit by bit.
pub fn float(value: f32) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = if value.is_finite() {
        write!(text, "{value:?}")
    } else {
        write!(text, "f32::from_bits({:#010x})", value.to_bits())
    };
    text
}
