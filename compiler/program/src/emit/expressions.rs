//! The one printer of expressions: what stands between the words of a statement, as Rust. Statements are templates
//! (`crate/step.rs.j2`, `kernels/kernel.rs.j2`); data of a program (`emit::steps`) and of kernels (`emit::rust_source`) meet
//! them with expressions that are printed here.

use crate::program::{Argument, BufferId, Program};
use partita_config::InstructionSet;
use partita_ir::graph::ElementType;
use partita_kernel::text::affine;
use partita_kernel::{Affine, Arithmetic, Bound, Buffer, Expression, Function, Kernel, LoopVar, turns};

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

/// A float as Rust reads it back, bit by bit.
pub fn float(value: f32) -> String {
    if value.is_finite() { format!("{value:?}") } else { format!("f32::from_bits({:#010x})", value.to_bits()) }
}

/// An operand as `&[T]`, from its first byte on.
pub fn slice(program: &Program, argument: Argument, element: ElementType, elements: usize) -> String {
    let element = rust_type(element);
    match argument {
        Argument::Buffer(id) => format!("arena.slice::<{element}>({}, {elements})", offset_bytes(program, id)),
        Argument::Weight(id) => {
            let offset_bytes = program.weights[id.0 as usize].offset_bytes;
            format!("core::slice::from_raw_parts(weight::<{element}>({offset_bytes}), {elements})")
        }
    }
}

/// A result as `&mut [T]`, from its first byte on.
pub fn slice_mut(program: &Program, id: BufferId, element: ElementType, elements: usize) -> String {
    format!("arena.slice_mut::<{}>({}, {elements})", rust_type(element), offset_bytes(program, id))
}

/// A raw pointer to an operand, of the type that it is passed as.
pub fn pointer(program: &Program, argument: Argument) -> String {
    match argument {
        Argument::Buffer(id) => format!("arena.pointer({})", offset_bytes(program, id)),
        Argument::Weight(id) => format!("weight({})", program.weights[id.0 as usize].offset_bytes),
    }
}

/// A raw pointer to a thread's own share of `elements` floats in a buffer that all of them have.
pub fn share_pointer(program: &Program, id: BufferId, elements: usize) -> String {
    format!("arena.pointer::<f32>({}).add(part * {elements})", offset_bytes(program, id))
}

/// A raw pointer to an element of an operand.
pub fn element_pointer(program: &Program, (argument, first): (Argument, usize), element: ElementType) -> String {
    let (name, first_byte) = (rust_type(element), first * element.size_bytes());
    match argument {
        Argument::Buffer(id) => format!("arena.pointer::<{name}>({})", offset_bytes(program, id) + first_byte),
        Argument::Weight(id) => {
            format!("weight::<{name}>({})", program.weights[id.0 as usize].offset_bytes + first_byte)
        }
    }
}

fn offset_bytes(program: &Program, id: BufferId) -> usize {
    program.buffers[id.0 as usize].offset_bytes
}

/// Name of a shared kernel's parameter that says which thread this is.
pub const PART: &str = "part_of_threads";

/// The range of a loop.
pub fn range(kernel: &Kernel, (low, high): (&Bound, &Bound), step: i64) -> String {
    let range = format!("{}..{}", bound(kernel, low), bound(kernel, high));
    if step == 1 { range } else { format!("({range}).step_by({step})") }
}

/// The range of a loop that threads share; none if it is not shared.
pub fn shared_range(kernel: &Kernel, var: LoopVar, bounds: (&Bound, &Bound), step: i64) -> Option<String> {
    let split = kernel.split.as_ref().filter(|split| split.loops.contains(&var))?;
    let (Bound::Constant(low), Bound::Constant(high)) = bounds else { return None };
    let (count, parts) = (turns(*low, *high, step), split.parts);
    let begin = format!("{low} + {count} * {PART} / {parts} * {step}");
    let end = format!("({low} + {count} * ({PART} + 1) / {parts} * {step}).min({high})");
    Some(if step == 1 { format!("{begin}..{end}") } else { format!("({begin}..{end}).step_by({step})") })
}

fn bound(kernel: &Kernel, bound: &Bound) -> String {
    let quotient = |value: &Affine, divisor: i64| match divisor {
        1 => format!("({})", affine(kernel, value)),
        divisor => format!("ceil_div({}, {divisor})", affine(kernel, value)),
    };
    match bound {
        Bound::Constant(value) => format!("{value}isize"),
        Bound::Max(low, value, divisor) => format!("{}.max({low})", quotient(value, *divisor)),
        Bound::Min(high, value, divisor) => format!("{}.min({high})", quotient(value, *divisor)),
    }
}

/// A pointer to a place in a buffer of a kernel.
pub fn place(kernel: &Kernel, buffer: Buffer, at: &Affine) -> String {
    let name = &kernel.buffers[buffer.0 as usize].name;
    match affine(kernel, at) {
        offset if offset == "0" => name.clone(),
        offset => format!("{name}.offset({offset})"),
    }
}

/// Behind the name of a function that loads or stores: how elements of the buffer are stored. `kernel::verify` knows that
/// there are no others.
pub fn suffix(kernel: &Kernel, buffer: Buffer) -> &'static str {
    match kernel.buffers[buffer.0 as usize].storage {
        ElementType::F16 => "_f16",
        ElementType::I8 => "_i8",
        ElementType::U8 => "_u8",
        ElementType::I16 => "_i16",
        ElementType::I32 => "_i32",
        _ => "",
    }
}

/// An expression of a kernel, by the functions of the instruction set's prelude.
pub fn expression(kernel: &Kernel, instruction_set: InstructionSet, value: &Expression) -> String {
    let show = |inner: &Expression| expression(kernel, instruction_set, inner);
    match value {
        Expression::Variable(variable) => kernel.variable_names[variable.0 as usize].clone(),
        Expression::Constant(value) => format!("constant({})", float(*value)),
        Expression::Load(buffer, at) => {
            format!("load{}({})", suffix(kernel, *buffer), place(kernel, *buffer, at))
        }
        Expression::LoadPartial(buffer, at, count) => {
            format!("load_partial{}({}, {count})", suffix(kernel, *buffer), place(kernel, *buffer, at))
        }
        Expression::LoadStrided(buffer, at, stride) => {
            format!("load_strided{}({}, {stride})", suffix(kernel, *buffer), place(kernel, *buffer, at))
        }
        Expression::Whole(number) => format!("whole({number})"),
        Expression::LoadBytes(buffer, at) => format!("load_bytes({}.cast())", place(kernel, *buffer, at)),
        Expression::BroadcastBytes(buffer, at) => format!("broadcast_bytes({}.cast())", place(kernel, *buffer, at)),
        Expression::DotBytes(first, a, b, c) => {
            format!("{}({}, {}, {})", first.product_name(), show(a), show(b), show(c))
        }
        Expression::Join(joining, a, b) => format!("{}({}, {})", joining.name(), show(a), show(b)),
        Expression::AddProducts(factors, a, b, c) => {
            format!("{}({}, {}, {})", factors.sum_name(), show(a), show(b), show(c))
        }
        Expression::Broadcast(buffer, at) => {
            format!("broadcast{}({})", suffix(kernel, *buffer), place(kernel, *buffer, at))
        }
        Expression::Lane(variable, lane) => {
            format!("lane::<{lane}>({})", kernel.variable_names[variable.0 as usize])
        }
        Expression::MulAdd(a, b, c) if instruction_set == InstructionSet::Neon32 => match &**a {
            Expression::Lane(variable, lane) => {
                let name = &kernel.variable_names[variable.0 as usize];
                format!("mul_add_lane_{lane}({name}, {}, {})", show(b), show(c))
            }
            a => format!("mul_add({}, {}, {})", show(a), show(b), show(c)),
        },
        Expression::MulAdd(a, b, c) => format!("mul_add({}, {}, {})", show(a), show(b), show(c)),
        Expression::Binary(function, a, b) => {
            let name = match function {
                Arithmetic::Max if a.is_number() => "max_of_number",
                Arithmetic::Min if a.is_number() => "min_of_number",
                other => other.name(),
            };
            format!("{name}({}, {})", show(a), show(b))
        }
        Expression::Unary(function, a) => {
            // On 32-bit Arm `half` is what makes a vector.
            let name = if *function == Function::Half { "nearest_half" } else { function.name() };
            format!("{name}({})", show(a))
        }
        Expression::SumLanes(a) => format!("fold({}, |a, b| a + b)", show(a)),
        Expression::MaxLanes(a) => format!("fold({}, |a, b| if a > b || a.is_nan() {{ a }} else {{ b }})", show(a)),
    }
}

/// An expression for a number that differs by route.
pub fn by_route(values: &[usize]) -> String {
    match values {
        [] => "0".to_string(),
        [first, rest @ ..] if rest.iter().all(|value| value == first) => first.to_string(),
        [first, rest @ ..] => {
            let arms = rest.iter().enumerate().map(|(index, value)| format!("{} => {value}, ", index + 1));
            format!("match route {{ {}_ => {first} }}", arms.collect::<String>())
        }
    }
}
