//! Shapes as data, and operators that only give elements another shape.

use crate::importer::{Converter, MAX_MADE_ELEMENTS, NodeContext};
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::infer::element_count;
use partita_ir::graph::op::Op;
use partita_ir::graph::{Data, ElementType, Value};

pub(super) fn converter(op_type: &str) -> Option<Converter> {
    Some(match op_type {
        "Shape" => shape,
        "Size" => |context| {
            let x = context.input(0)?;
            let count = context.tensor_type(x).element_count() as i64;
            constant(context, Value::i64(Vec::new(), vec![count]))
        },
        "If" => crate::branches::inline,
        "Loop" => crate::loops::unroll,
        "Scan" => crate::loops::scan,
        "Constant" => constant_node,
        "ConstantOfShape" => constant_of_shape,
        "Range" => range,
        "Reshape" => reshape,
        "Flatten" => flatten,
        "Squeeze" => squeeze,
        "Unsqueeze" => unsqueeze,
        _ => return None,
    })
}

/// Binds a value to the node's output; no node remains.
fn constant(context: &mut NodeContext<'_>, value: Value) -> Result<(), Diagnostic> {
    let id = context.importer.graph.add_constant("", value);
    context.bind(&[id])
}

fn shape(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let rank = shape.len() as i64;
    let bound = |at: i64| (if at < 0 { at.saturating_add(rank) } else { at }).clamp(0, rank) as usize;
    let start = bound(context.attributes.int("start", 0)?);
    let end = bound(context.attributes.int("end", rank)?).max(start);
    let extents: Vec<i64> = shape[start..end].iter().map(|extent| *extent as i64).collect();
    constant(context, Value::i64([extents.len()], extents))
}

fn constant_node(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let attributes = &context.attributes;
    let mut has_four_bits = false;
    let value = if let Some(tensor) = attributes.tensor("value")? {
        has_four_bits = crate::tensors::has_four_bits(tensor);
        context.importer.read_tensor(tensor)?
    } else if let Some(tensor) = attributes.sparse_tensor("sparse_value")? {
        context.importer.read_sparse(tensor).map_err(|error| context.refuse(error.message))?
    } else if let Some(value) = attributes.optional_float("value_float")? {
        Value::f32(Vec::new(), vec![value])
    } else if let Some(values) = attributes.floats("value_floats")? {
        Value::f32([values.len()], values.to_vec())
    } else if let Some(value) = attributes.optional_int("value_int")? {
        Value::i64(Vec::new(), vec![value])
    } else if let Some(values) = attributes.ints("value_ints")? {
        Value::i64([values.len()], values.to_vec())
    } else {
        return Err(context.refuse("it holds no value that is supported (tensor, floats or ints)"));
    };
    // What stands in the body of a loop is made in each turn.
    if context.importer.depth > 0 {
        check_constant(context, value.data.len())?;
    }
    let name = context.attributes.node.output.first().map_or("", String::as_str);
    context.importer.not_finite.look_at(name, &value.data);
    let id = context.importer.graph.add_constant("", value);
    context.importer.four_bits.extend(has_four_bits.then_some(id));
    context.bind(&[id])
}

/// Checks a wish for many elements before they exist.
fn check_constant(context: &mut NodeContext<'_>, count: usize) -> Result<(), Diagnostic> {
    if !context.importer.reserve_elements(count) {
        return Err(Diagnostic::new(
            "E0122",
            context
                .refuse(format!(
                    "makes a constant of {count} elements; all such constants may have {MAX_MADE_ELEMENTS}"
                ))
                .message,
        ));
    }
    Ok(())
}

fn constant_of_shape(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let shape = context.constant_ints(0)?;
    let shape = shape.iter().map(|extent| usize::try_from(*extent).ok()).collect::<Option<Vec<usize>>>();
    let shape = shape.ok_or_else(|| context.refuse("a dimension is negative"))?;
    let count = element_count(&shape).map_err(|error| context.attributes.refused(&error))?;
    check_constant(context, count)?;
    let fill = match context.attributes.tensor("value")? {
        Some(tensor) => context.importer.read_tensor(tensor)?.data,
        None => Data::F32(vec![0.0]),
    };
    if fill.len() != 1 {
        return Err(context.refuse(format!("attribute `value` has {} elements, expected one", fill.len())));
    }
    let data = fill.repeated(count);
    constant(context, Value { shape, data })
}

fn range(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let ends = (0..3).map(|position| context.constant(position)).collect::<Result<Vec<_>, _>>()?;
    let element = ends[0].data.element();
    if ends.iter().any(|end| end.data.element() != element || end.data.len() != 1) {
        return Err(context.refuse("start, limit and delta should be scalars of one element type"));
    }
    let wide = if element.is_float() { ElementType::F64 } else { ElementType::I64 };
    let data = match (ends[0].data.cast(wide), ends[1].data.cast(wide), ends[2].data.cast(wide)) {
        (Data::I64(start), Data::I64(limit), Data::I64(step)) => {
            let (start, limit, step) = (start[0], limit[0], step[0]);
            if step == 0 {
                return Err(context.refuse("its delta is 0"));
            }
            let span = (i128::from(limit) - i128::from(start)) * i128::from(step.signum());
            let count = if span > 0 { (span as u128).div_ceil(u128::from(step.unsigned_abs())) } else { 0 };
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            check_constant(context, count)?;
            Data::I64((0..count as i64).map(|index| start.wrapping_add(index.wrapping_mul(step))).collect())
        }
        (Data::F64(start), Data::F64(limit), Data::F64(step)) => {
            let (start, limit, step) = (start[0], limit[0], step[0]);
            let count = ((limit - start) / step).ceil();
            if !count.is_finite() {
                return Err(context.refuse(format!("from {start} to {limit} in steps of {step} is no range")));
            }
            let count = count.max(0.0) as usize;
            check_constant(context, count)?;
            if element == ElementType::F64 {
                Data::F64((0..count).map(|index| start + index as f64 * step).collect())
            } else {
                // In the arithmetic of the type, as onnxruntime computes them.
                Data::F32((0..count).map(|index| start as f32 + index as f32 * step as f32).collect())
            }
        }
        _ => return Err(context.refuse("start, limit and delta should be numbers")),
    };
    let data = data.cast(element);
    constant(context, Value { shape: vec![data.len()], data })
}

fn reshape(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let wanted = match context.opset() {
        ..5 => context.attributes.ints("shape")?.map(<[i64]>::to_vec).unwrap_or_default(),
        _ => context.constant_ints(1)?,
    };
    let input = context.shape(x);
    let count: usize = input.iter().product();
    let allow_zero = context.attributes.flag("allowzero", false)?;
    let mut shape = Vec::with_capacity(wanted.len().min(16));
    let mut open = None;
    for (axis, extent) in wanted.iter().enumerate() {
        shape.push(match *extent {
            -1 if open.is_none() => {
                open = Some(axis);
                1
            }
            -1 => return Err(context.refuse(format!("shape {wanted:?} has two open dimensions (-1)"))),
            0 if !allow_zero => match input.get(axis) {
                Some(extent) => *extent,
                None => return Err(context.refuse(format!("shape {wanted:?} copies axis {axis}, which is not there"))),
            },
            extent => usize::try_from(extent)
                .map_err(|_| context.refuse(format!("shape {wanted:?} has a negative dimension")))?,
        });
    }
    if let Some(axis) = open {
        let known = element_count(&shape).map_err(|error| context.refuse(error.to_string()))?;
        if known == 0 || !count.is_multiple_of(known) {
            return Err(context.refuse(format!("{} cannot take shape {wanted:?}", context.tensor_type(x))));
        }
        shape[axis] = count / known;
    }
    context.emit(Op::Reshape { shape }, vec![x])
}

fn flatten(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let shape = context.shape(x);
    let axis = context.attributes.int("axis", 1)?;
    let axis = if axis == shape.len() as i64 { shape.len() } else { context.axis(axis, shape.len())? };
    let shape = vec![shape[..axis].iter().product(), shape[axis..].iter().product()];
    context.emit(Op::Reshape { shape }, vec![x])
}

/// Axes were an attribute before opset 13, and are an input from then on.
fn axes(context: &NodeContext<'_>) -> Result<Option<Vec<i64>>, Diagnostic> {
    if context.opset() < 13 {
        Ok(context.attributes.ints("axes")?.map(<[i64]>::to_vec))
    } else if context.optional_input(1).is_some() {
        context.constant_ints(1).map(Some)
    } else {
        Ok(None)
    }
}

fn squeeze(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let input = context.shape(x);
    let removed = match axes(context)? {
        Some(axes) => axes.iter().map(|axis| context.axis(*axis, input.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..input.len()).filter(|axis| input[*axis] == 1).collect(),
    };
    if let Some(axis) = removed.iter().find(|axis| input[**axis] != 1) {
        return Err(context.refuse(format!("axis {axis} of {} is not 1", context.tensor_type(x))));
    }
    let kept = input.iter().enumerate().filter(|(axis, _)| !removed.contains(axis));
    let shape = kept.map(|(_, extent)| *extent).collect();
    context.emit(Op::Reshape { shape }, vec![x])
}

fn unsqueeze(context: &mut NodeContext<'_>) -> Result<(), Diagnostic> {
    let x = context.input(0)?;
    let input = context.shape(x);
    let Some(axes) = axes(context)? else { return Err(context.refuse("its axes are missing")) };
    let rank = input.len() + axes.len();
    if rank > partita_ir::graph::infer::MAX_RANK {
        return Err(context.refuse(format!("its result has {rank} dimensions")));
    }
    let mut added = axes.iter().map(|axis| context.axis(*axis, rank)).collect::<Result<Vec<_>, _>>()?;
    added.sort_unstable();
    added.dedup();
    if added.len() != axes.len() {
        return Err(context.refuse(format!("axes {axes:?} name one axis twice")));
    }
    let mut kept = input.into_iter();
    let shape = (0..rank).map(|axis| if added.contains(&axis) { 1 } else { kept.next().unwrap_or(1) }).collect();
    context.emit(Op::Reshape { shape }, vec![x])
}
