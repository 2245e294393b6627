//! Output types of what multiplies and of windows: convolutions, matrix products, pools.

use std::collections::BTreeMap;

use super::{InferError, Inferred, MAX_RANK, broadcast};
use crate::graph::op::{Conv, ConvTranspose, Einsum, Gemm, Window};
use crate::graph::types::TensorType;

/// Spatial output extents of a window over `[N, C, spatial]`.
pub(super) fn window_output(window: &Window, input: &TensorType) -> Result<Vec<usize>, InferError> {
    check_window(window, input)?;
    (0..input.rank() - 2)
        .map(|axis| match window.output_extent(axis, input.shape[axis + 2]) {
            Some(extent) if extent > 0 => Ok(extent),
            _ => {
                Err(InferError::Mismatch(format!("a window of {:?} does not fit {input} with its pads", window.kernel)))
            }
        })
        .collect()
}

fn check_window(window: &Window, input: &TensorType) -> Result<(), InferError> {
    let spatial = input.rank().saturating_sub(2);
    if !(1..=3).contains(&spatial) {
        refuse!("{input} should have 1 to 3 spatial dimensions after batch and channels");
    }
    let fields = [&window.kernel, &window.stride, &window.dilation, &window.pad_begin, &window.pad_end];
    if fields.iter().any(|field| field.len() != spatial) {
        refuse!("the window has {} dimensions, {input} has {spatial}", window.kernel.len());
    }
    let names = ["kernel_shape", "strides", "dilations"];
    for (name, field) in names.into_iter().zip([&window.kernel, &window.stride, &window.dilation]) {
        if field.iter().any(|entry| *entry == 0 || *entry > 1 << 20) {
            refuse!("`{name}` is {field:?}, expected 1 to 1048576");
        }
    }
    if window.pad_begin.iter().chain(&window.pad_end).any(|pad| *pad > 1 << 20) {
        refuse!("pads {:?} and {:?} are larger than 1048576", window.pad_begin, window.pad_end);
    }
    Ok(())
}

pub(super) fn convolution(conv: &Conv, inputs: &[&TensorType]) -> Inferred {
    let (x, weights, bias) = (inputs[0], inputs[1], inputs[2]);
    let spatial = window_output(&conv.window, x)?;
    if weights.rank() != x.rank() || weights.shape[2..] != conv.window.kernel[..] {
        refuse!("weights {weights} do not fit kernel {:?} over {x}", conv.window.kernel);
    }
    let (channels, filters) = (x.shape[1], weights.shape[0]);
    let groups = conv.groups;
    if groups == 0 || channels % groups != 0 || filters % groups != 0 || filters == 0 {
        refuse!("`group` is {groups}, which should divide {channels} input and {filters} output channels");
    }
    if weights.shape[1] != channels / groups {
        refuse!("weights {weights} have {} input channels, expected {}", weights.shape[1], channels / groups);
    }
    if bias.shape != [filters] {
        refuse!("bias {bias} should have {filters} elements");
    }
    let mut shape = vec![x.shape[0], filters];
    shape.extend(spatial);
    if conv.residual && inputs[3].shape != shape {
        refuse!("residual {} should have shape {shape:?}", inputs[3]);
    }
    Ok(vec![TensorType::new(x.element, shape)])
}

pub(super) fn transposed_convolution(conv: &ConvTranspose, inputs: &[&TensorType]) -> Inferred {
    let (x, weights, bias) = (inputs[0], inputs[1], inputs[2]);
    check_window(&conv.window, x)?;
    let groups = conv.groups;
    if weights.rank() != x.rank() || weights.shape[2..] != conv.window.kernel[..] || weights.shape[0] != x.shape[1] {
        refuse!("weights {weights} do not fit kernel {:?} over {x}", conv.window.kernel);
    }
    if groups == 0 || x.shape[1] % groups != 0 {
        refuse!("`group` is {groups}, which should divide {} input channels", x.shape[1]);
    }
    let Some(filters) = weights.shape[1].checked_mul(groups) else { refuse!("too many output channels") };
    if bias.shape != [filters] {
        refuse!("bias {bias} should have {filters} elements");
    }
    if conv.output_padding.len() != conv.window.kernel.len() {
        refuse!("`output_padding` has {} entries", conv.output_padding.len());
    }
    let mut shape = vec![x.shape[0], filters];
    for axis in 0..conv.window.kernel.len() {
        // (in - 1) * stride + output_padding + dilation * (kernel - 1) + 1 - pads
        let window = &conv.window;
        let full = (x.shape[axis + 2].saturating_sub(1))
            .checked_mul(window.stride[axis])
            .and_then(|extent| extent.checked_add(conv.output_padding[axis]))
            .and_then(|extent| extent.checked_add(window.dilation[axis].checked_mul(window.kernel[axis] - 1)?))
            .and_then(|extent| extent.checked_add(1));
        let cropped = full.and_then(|extent| extent.checked_sub(window.pad_begin[axis] + window.pad_end[axis]));
        match cropped {
            Some(extent) if extent > 0 => shape.push(extent),
            _ => refuse!("pads {:?} and {:?} leave nothing of the result", window.pad_begin, window.pad_end),
        }
    }
    Ok(vec![TensorType::new(x.element, shape)])
}

pub(super) fn product(gemm: &Gemm, inputs: &[&TensorType]) -> Inferred {
    let [a, b] = [inputs[0], inputs[1]];
    if a.rank() != 2 || b.rank() != 2 {
        refuse!("matrices {a} and {b} should have rank 2");
    }
    let (m, k) = if gemm.transpose_a { (a.shape[1], a.shape[0]) } else { (a.shape[0], a.shape[1]) };
    let (depth, n) = if gemm.transpose_b { (b.shape[1], b.shape[0]) } else { (b.shape[0], b.shape[1]) };
    if k != depth {
        refuse!("matrices {a} and {b} do not multiply: {k} columns meet {depth} rows");
    }
    if let Some(c) = inputs.get(2)
        && broadcast(&c.shape, &[m, n])? != [m, n]
    {
        refuse!("C {c} does not broadcast to [{m}, {n}]");
    }
    Ok(vec![TensorType::new(a.element, [m, n])])
}

pub(super) fn matrix_product(inputs: &[&TensorType]) -> Inferred {
    let [a, b] = [inputs[0], inputs[1]];
    if a.rank() == 0 || b.rank() == 0 {
        refuse!("{a} and {b} cannot be multiplied: scalars are not matrices");
    }
    let left = if a.rank() == 1 { vec![1, a.shape[0]] } else { a.shape.clone() };
    let right = if b.rank() == 1 { vec![b.shape[0], 1] } else { b.shape.clone() };
    let (m, k) = (left[left.len() - 2], left[left.len() - 1]);
    let (depth, n) = (right[right.len() - 2], right[right.len() - 1]);
    if k != depth {
        refuse!("{a} and {b} do not multiply: {k} columns meet {depth} rows");
    }
    let mut shape = broadcast(&left[..left.len() - 2], &right[..right.len() - 2])?;
    if a.rank() > 1 {
        shape.push(m);
    }
    if b.rank() > 1 {
        shape.push(n);
    }
    Ok(vec![TensorType::new(a.element, shape)])
}

pub(super) fn labelled(einsum: &Einsum, inputs: &[&TensorType]) -> Inferred {
    let (terms, result) = (&einsum.terms, &einsum.result);
    if !(1..=2).contains(&terms.len()) {
        refuse!("Einsum of {} inputs, expected one or two", terms.len());
    }
    let mut extents: BTreeMap<usize, usize> = BTreeMap::new();
    for (term, input) in terms.iter().zip(inputs) {
        if term.len() != input.rank() {
            refuse!("{} labels for the axes of {input}", term.len());
        }
        for (label, extent) in term.iter().zip(&input.shape) {
            if *extents.entry(*label).or_insert(*extent) != *extent {
                refuse!("label {label} is {} and, in {input}, {extent}", extents[label]);
            }
        }
    }
    let is_set = result.iter().enumerate().all(|(at, label)| !result[..at].contains(label));
    if !is_set || result.len() > MAX_RANK {
        refuse!("labels {result:?} of the result are not at most {MAX_RANK} different ones");
    }
    if extents.len() - result.iter().filter(|label| extents.contains_key(label)).count() > MAX_RANK {
        refuse!("more than {MAX_RANK} labels are summed");
    }
    match result.iter().map(|label| extents.get(label).copied()).collect::<Option<Vec<usize>>>() {
        Some(shape) => Ok(vec![TensorType::new(inputs[0].element, shape)]),
        None => refuse!("no input has all labels {result:?} of the result"),
    }
}
