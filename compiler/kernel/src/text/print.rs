//! Kernel to text.

use std::fmt::{self, Write};

use crate::{Affine, Bound, Expression, Kernel, LoopDeclaration, Statement};
use partita_ir::graph::ElementType;
use partita_rt::kernels::Winograd;

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print(self, f)
    }
}

/// Prints a kernel.
pub fn print(kernel: &Kernel, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    writeln!(f, "kernel {} lanes {} macs {} {:?}", kernel.name, kernel.lanes, kernel.macs, kernel.summary)?;
    buffers(kernel, f)?;
    if let Some((shape, choice)) = &kernel.alternative {
        writeln!(f, "alternative {shape:?} {:?} vectors {}", choice.form, choice.vectors)?;
    }
    if let Some(winograd) = &kernel.winograd {
        let Winograd { batch, channels, filters, lanes, kernel_depth, vectors, pooled, .. } = winograd;
        let Winograd { pad, input, output, tile, taps, activation, .. } = winograd;
        writeln!(
            f,
            "winograd batch {batch} channels {channels} filters {filters} lanes {lanes} depth {kernel_depth} \
            pad {pad:?} input {input:?} output {output:?} tile {tile:?} taps {taps:?} vectors {vectors} \
            pooled {pooled} {activation:?}"
        )?;
    }
    let declared = |LoopDeclaration { name, role }: &LoopDeclaration| match role {
        Some(role) => format!("{name}: {}", role.name()),
        None => name.clone(),
    };
    list(f, "loops", kernel.loops.iter().map(declared))?;
    list(f, "variables", kernel.variable_names.iter().cloned())?;
    threads_and_body(kernel, f)
}

/// What a kernel does, without its name and what else is only known of it: kernels of one code are one.
pub fn code(kernel: &Kernel) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = buffers(kernel, &mut text).and_then(|()| threads_and_body(kernel, &mut text));
    text
}

fn list(out: &mut impl Write, word: &str, items: impl Iterator<Item = String>) -> fmt::Result {
    let items: Vec<String> = items.collect();
    if items.is_empty() { Ok(()) } else { writeln!(out, "{word} {}", items.join(", ")) }
}

fn buffers(kernel: &Kernel, out: &mut impl Write) -> fmt::Result {
    for (index, buffer) in kernel.buffers.iter().enumerate() {
        let shared = kernel.in_place.iter().any(|shared| shared.0 as usize == index);
        let shared = if shared { " in-place" } else { "" };
        let storage = match buffer.storage {
            ElementType::F32 => String::new(),
            narrow => format!(" {}", narrow.name()),
        };
        writeln!(out, "{} {}[{}]{storage}{shared}", buffer.access.name(), buffer.name, buffer.elements)?;
    }
    Ok(())
}

fn threads_and_body(kernel: &Kernel, out: &mut impl Write) -> fmt::Result {
    if let Some(split) = &kernel.split {
        let numbered =
            split.part.map_or(String::new(), |var| format!(" numbered {}", kernel.loops[var.0 as usize].name));
        let loops: Vec<&str> = split.loops.iter().map(|var| kernel.loops[var.0 as usize].name.as_str()).collect();
        writeln!(out, "threads {}{numbered} share {}", split.parts, loops.join(", "))?;
    }
    writeln!(out, "{{")?;
    block(kernel, &kernel.body, 1, out)?;
    writeln!(out, "}}")
}

fn block(kernel: &Kernel, statements: &[Statement], depth: usize, out: &mut impl Write) -> fmt::Result {
    let indent = "  ".repeat(depth);
    for statement in statements {
        match statement {
            Statement::For { var, low, high, step, unroll, body } => {
                let name = &kernel.loops[var.0 as usize].name;
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
        let name = &kernel.loops[var.0 as usize].name;
        let (sign, size) = (if *coefficient < 0 { " - " } else { " + " }, coefficient.unsigned_abs());
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
        (constant, false) if constant < 0 => format!("{text} - {}", constant.unsigned_abs()),
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
        Expression::Whole(number) => format!("whole {number}"),
        Expression::BroadcastBytes(buffer, at) => format!("broadcast bytes {}", place(kernel, buffer.0, at)),
        Expression::LoadBytes(buffer, at) => format!("load bytes {}", place(kernel, buffer.0, at)),
        Expression::DotBytes(first, a, b, c) => {
            format!("{}({}, {}, {})", first.product_name(), show(a), show(b), show(c))
        }
        Expression::Join(joining, a, b) => format!("{}({}, {})", joining.name(), show(a), show(b)),
        Expression::AddProducts(factors, a, b, c) => {
            format!("{}({}, {}, {})", factors.sum_name(), show(a), show(b), show(c))
        }
        Expression::MulAdd(a, b, c) => format!("mul_add({}, {}, {})", show(a), show(b), show(c)),
        Expression::Binary(function, a, b) => {
            format!("{}({}, {})", function.name(), show(a), show(b))
        }
        Expression::Unary(function, a) => {
            format!("{}({})", function.name(), show(a))
        }
        Expression::SumLanes(a) => format!("sum_lanes({})", show(a)),
        Expression::MaxLanes(a) => format!("max_lanes({})", show(a)),
    }
}
