//! Text form of kernels.

use std::fmt::{self, Write};

use super::{Access, Affine, Arithmetic, Bound, Expression, Function, Kernel, Statement};

/// Prints a kernel.
pub fn print(kernel: &Kernel, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "kernel {} lanes {} ; {}", kernel.name, kernel.lanes, kernel.summary)?;
    for (index, buffer) in kernel.buffers.iter().enumerate() {
        let access = match buffer.access {
            Access::Input => "input",
            Access::Weights => "weights",
            Access::Scratch => "scratch",
            Access::Output => "output",
        };
        let shared = kernel.in_place.iter().any(|shared| shared.0 as usize == index);
        let shared = if shared { " in-place" } else { "" };
        let storage = buffer.storage.words();
        writeln!(f, "{access} {}[{}]{storage}{shared}", buffer.name, buffer.elements)?;
    }
    if let Some(split) = &kernel.split {
        let loops: Vec<&str> = split.loops.iter().map(|var| kernel.loop_names[var.0 as usize].as_str()).collect();
        writeln!(f, "{} threads share {}", split.parts, loops.join(", "))?;
    }
    let mut text = String::new();
    block(kernel, &kernel.body, 0, &mut text)?;
    f.write_str(&text)
}

fn block(kernel: &Kernel, statements: &[Statement], depth: usize, out: &mut String) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for statement in statements {
        match statement {
            Statement::For { var, low, high, step, unroll, body } => {
                let name = &kernel.loop_names[var.0 as usize];
                let unroll = if *unroll { " unroll" } else { "" };
                writeln!(
                    out,
                    "{indent}for {name} in {}..{} step {step}{unroll} {{",
                    bound(kernel, low),
                    bound(kernel, high)
                )?;
                block(kernel, body, depth + 1, out)?;
                writeln!(out, "{indent}}}")?;
            }
            Statement::Assign(variable, value) => {
                writeln!(
                    out,
                    "{indent}{} = {}",
                    kernel.variable_names[variable.0 as usize],
                    expression(kernel, value)
                )?;
            }
            Statement::Store(buffer, at, value) => {
                let place = place(kernel, buffer.0, at);
                writeln!(out, "{indent}store {place} = {}", expression(kernel, value))?;
            }
            Statement::StorePartial(buffer, at, count, value) => {
                let place = place(kernel, buffer.0, at);
                writeln!(out, "{indent}store {count} of {place} = {}", expression(kernel, value))?;
            }
            Statement::StoreBytes(buffer, at, value) => {
                let place = place(kernel, buffer.0, at);
                writeln!(out, "{indent}store bytes {place} = {}", expression(kernel, value))?;
            }
            Statement::Prefetch(buffer, at) => {
                let name = &kernel.buffers[buffer.0 as usize].name;
                writeln!(out, "{indent}prefetch {name}[{}]", affine(kernel, at))?;
            }
            Statement::Barrier => writeln!(out, "{indent}barrier")?,
            Statement::Comment(text) => writeln!(out, "{indent}; {text}")?,
        }
    }
    Ok(())
}

fn place(kernel: &Kernel, buffer: u32, at: &Affine) -> String {
    format!("{}[{}]", kernel.buffers[buffer as usize].name, affine(kernel, at))
}

/// An affine expression as arithmetic on loop variables.
pub fn affine(kernel: &Kernel, value: &Affine) -> String {
    let mut text = String::new();
    for (var, coefficient) in &value.terms {
        let name = &kernel.loop_names[var.0 as usize];
        let (sign, size) = if *coefficient < 0 { (" - ", -coefficient) } else { (" + ", *coefficient) };
        if text.is_empty() {
            if *coefficient < 0 {
                text.push('-');
            }
        } else {
            text.push_str(sign);
        }
        if size != 1 {
            // Writing to a string cannot fail.
            let _ = write!(text, "{size} * ");
        }
        text.push_str(name);
    }
    match (value.constant, text.is_empty()) {
        (constant, true) => constant.to_string(),
        (0, false) => text,
        (constant, false) if constant < 0 => format!("{text} - {}", -constant),
        (constant, false) => format!("{text} + {constant}"),
    }
}

fn bound(kernel: &Kernel, bound: &Bound) -> String {
    match bound {
        Bound::Constant(value) => value.to_string(),
        Bound::Max(low, value, divisor) => format!("max({low}, ceil(({}) / {divisor}))", affine(kernel, value)),
        Bound::Min(high, value, divisor) => format!("min({high}, ceil(({}) / {divisor}))", affine(kernel, value)),
    }
}

fn expression(kernel: &Kernel, value: &Expression) -> String {
    let show = |inner: &Expression| expression(kernel, inner);
    match value {
        Expression::Variable(variable) => kernel.variable_names[variable.0 as usize].clone(),
        Expression::Constant(value) => format!("{value:?}"),
        Expression::Load(buffer, at) => format!("load {}", place(kernel, buffer.0, at)),
        Expression::LoadPartial(buffer, at, count) => format!("load {count} of {}", place(kernel, buffer.0, at)),
        Expression::LoadStrided(buffer, at, stride) => format!("load {} by {stride}", place(kernel, buffer.0, at)),
        Expression::Broadcast(buffer, at) => format!("broadcast {}", place(kernel, buffer.0, at)),
        Expression::Lane(variable, lane) => format!("{}.{lane}", kernel.variable_names[variable.0 as usize]),
        Expression::LoadBytes(buffer, at) => format!("load bytes {}", place(kernel, buffer.0, at)),
        Expression::DotBytes(a, b, c) => format!("dot({}, {}, {})", show(a), show(b), show(c)),
        Expression::MulAdd(a, b, c) => format!("mul_add({}, {}, {})", show(a), show(b), show(c)),
        Expression::Binary(function, a, b) => {
            let name = match function {
                Arithmetic::Add => "add",
                Arithmetic::Sub => "sub",
                Arithmetic::Mul => "mul",
                Arithmetic::Div => "div",
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
                Function::FromWhole => "from_whole",
                Function::PowerOfTwo => "power_of_two",
            };
            format!("{name}({})", show(a))
        }
        Expression::SumLanes(a) => format!("sum_lanes({})", show(a)),
        Expression::MaxLanes(a) => format!("max_lanes({})", show(a)),
    }
}
