//! Output types of operators. Operators carry resolved attributes, so the types of the inputs decide everything.
//!
//! All arithmetic is checked: attributes may come from a hostile file.

use super::elements;
use super::op::Op;
use super::types::{ElementType, TensorType};

/// Largest rank of a tensor.
pub const MAX_RANK: usize = 8;

/// Largest number of elements of one tensor: 2^31, so that every index and byte count fits everywhere.
pub const MAX_ELEMENTS: usize = 1 << 31;

/// Why an operator does not fit its inputs: what was expected and what was found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// Attributes and input types contradict each other.
    #[error("{0}")]
    Mismatch(String),
    /// Elements of a type that there is no kernel for, though another tool may have one.
    #[error("{0}")]
    Elements(String),
    /// A tensor is beyond [`MAX_ELEMENTS`].
    #[error("{0}")]
    TooLarge(String),
}

impl InferError {
    /// Whether the type of elements was the reason.
    pub fn is_of_elements(&self) -> bool {
        matches!(self, InferError::Elements(_))
    }

    /// Whether a limit on size was the reason.
    pub fn is_too_large(&self) -> bool {
        matches!(self, InferError::TooLarge(_))
    }
}

type Inferred = Result<Vec<TensorType>, InferError>;

macro_rules! refuse {
    ($($text:tt)*) => { return Err(InferError::Mismatch(format!($($text)*))) };
}

mod products;

use products::{convolution, labelled, matrix_product, product, transposed_convolution, window_output};

/// Output types of an operator for inputs of these types.
#[expect(clippy::too_many_lines, reason = "one arm for each operator")]
pub fn infer(op: &Op, inputs: &[&TensorType]) -> Inferred {
    check_count(op, inputs.len())?;
    elements::check(op, inputs)?;
    let outputs = match op {
        Op::Conv(conv) => convolution(conv, inputs)?,
        Op::ConvTranspose(conv) => transposed_convolution(conv, inputs)?,
        Op::Gemm(gemm) => product(gemm, inputs)?,
        Op::MatMul => matrix_product(inputs)?,
        Op::Einsum(einsum) => labelled(einsum, inputs)?,
        Op::BatchNormalization { .. } | Op::InstanceNormalization { .. } => per_channel(inputs)?,
        Op::GroupNormalization { groups, .. } => {
            let channels = at_least(inputs[0], 2)?[0].shape[1];
            if *groups == 0 || channels % groups != 0 {
                refuse!("`num_groups` is {groups}, which should divide {channels} channels");
            }
            per_channel(inputs)?
        }
        Op::LayerNormalization { axis, .. } => layer_normalization(*axis, inputs)?,
        Op::Lrn { size, .. } => {
            if *size == 0 {
                refuse!("`size` is 0, expected at least 1");
            }
            at_least(inputs[0], 2)?
        }
        Op::Unary(_) => same(inputs[0]),
        Op::Binary(..) => {
            let shape = broadcast(&inputs[0].shape, &inputs[1].shape)?;
            vec![TensorType::new(elements::result(op, &[inputs[0].element]), shape)]
        }
        Op::PRelu => {
            let shape = broadcast(&inputs[0].shape, &inputs[1].shape)?;
            if shape != inputs[0].shape {
                refuse!("slope {} does not broadcast to {}", inputs[1], inputs[0]);
            }
            same(inputs[0])
        }
        Op::Where => {
            let shape = broadcast(&broadcast(&inputs[0].shape, &inputs[1].shape)?, &inputs[2].shape)?;
            vec![TensorType::new(inputs[1].element, shape)]
        }
        Op::Pool(pool) => {
            let spatial = window_output(&pool.window, inputs[0])?;
            let mut shape = inputs[0].shape[..2].to_vec();
            shape.extend(spatial);
            vec![TensorType::new(inputs[0].element, shape)]
        }
        Op::GlobalPool(_) => {
            let mut output = at_least(inputs[0], 3)?;
            output[0].shape[2..].fill(1);
            output
        }
        Op::Softmax { axis } | Op::LogSoftmax { axis } => {
            check_axis(*axis, inputs[0])?;
            same(inputs[0])
        }
        Op::Reduce { axes, keep_dims, .. } => reduction(axes, *keep_dims, inputs[0], inputs[0].element)?,
        Op::NonMaxSuppression(suppression) => {
            let ([images, boxes, 4], [_, classes, _]) = (&inputs[0].shape[..], &inputs[1].shape[..]) else {
                refuse!(
                    "boxes {} with scores {}, expected [images, boxes, 4] and [images, classes, boxes]",
                    inputs[0],
                    inputs[1]
                );
            };
            if inputs[1].shape != [*images, *classes, *boxes] {
                refuse!("boxes {} with scores {}", inputs[0], inputs[1]);
            }
            vec![TensorType::new(ElementType::I64, [suppression.rows, 3])]
        }
        Op::TreeEnsemble(trees) => {
            let [x, nodes, thresholds, roots, targets, weights] = inputs else {
                refuse!("has {} inputs, expected 6", inputs.len());
            };
            let whole = [nodes, roots, targets].iter().all(|table| table.element == ElementType::I32);
            let real = [thresholds, weights].iter().all(|table| table.element == ElementType::F32);
            let fits = match (&nodes.shape[..], &thresholds.shape[..]) {
                ([nodes, 4], [thresholds]) => nodes == thresholds && targets.shape == weights.shape,
                _ => false,
            };
            let [rows, _] = x.shape[..] else { refuse!("{x} should be [rows, features]") };
            if !(whole && real && fits && roots.rank() == 1 && weights.rank() == 1) {
                refuse!(
                    "trees of nodes {nodes}, thresholds {thresholds}, roots {roots}, targets {targets}, weights {weights}"
                );
            }
            vec![TensorType::f32([rows, trees.targets])]
        }
        Op::RoiAlign(align) => {
            let [x, regions, images] = inputs else { refuse!("has {} inputs, expected 3", inputs.len()) };
            let ([_, channels, _, _], [count]) = (&x.shape[..], &images.shape[..]) else {
                refuse!("{x} should be [images, channels, height, width], and the images of regions a list: {images}");
            };
            if regions.shape != [*count, 4] {
                refuse!("regions {regions} of images {images}");
            }
            vec![TensorType::new(x.element, [*count, *channels, align.bins[0], align.bins[1]])]
        }
        Op::Decide(_) => {
            if inputs[0].element_count() < 2 {
                refuse!("{} has fewer than two scores", inputs[0]);
            }
            vec![TensorType::f32([2])]
        }
        Op::ArgMax { axis, keep_dims, .. } => reduction(&[*axis], *keep_dims, inputs[0], ElementType::I64)?,
        Op::Concat { axis } => concat(*axis, inputs)?,
        Op::Split { axis, sizes } => split(*axis, sizes, inputs[0])?,
        Op::Slice { starts, steps, sizes } => slice(starts, steps, sizes, inputs[0])?,
        Op::Reshape { shape } => {
            if element_count(shape)? != inputs[0].element_count() {
                refuse!("{} cannot take shape {shape:?}", inputs[0]);
            }
            vec![TensorType::new(inputs[0].element, shape.clone())]
        }
        Op::Transpose { permutation } => transpose(permutation, inputs[0])?,
        Op::Pad { begin, end, .. } => pad(begin, end, inputs[0])?,
        Op::Gather { axis } => {
            check_axis(*axis, inputs[0])?;
            let mut shape = inputs[0].shape[..*axis].to_vec();
            shape.extend(&inputs[1].shape);
            shape.extend(&inputs[0].shape[axis + 1..]);
            vec![TensorType::new(inputs[0].element, shape)]
        }
        Op::Scatter { .. } => {
            let [x, updates, positions] = inputs else { refuse!("has {} inputs, expected 3", inputs.len()) };
            let ([_, length], [count]) = (&x.shape[..], &positions.shape[..]) else {
                refuse!("{x} should be [rows, length], its positions {positions} a list");
            };
            if updates.shape != [*count, *length] {
                refuse!("updates {updates} of {x} at positions {positions}");
            }
            same(x)
        }
        Op::Expand { shape } => {
            if broadcast(&inputs[0].shape, shape)? != *shape {
                refuse!("{} does not broadcast to {shape:?}", inputs[0]);
            }
            vec![TensorType::new(inputs[0].element, shape.clone())]
        }
        Op::Identity => same(inputs[0]),
        Op::Cast { to } | Op::BitCast { to } => vec![TensorType::new(*to, inputs[0].shape.clone())],
        Op::Resize { sizes, scales, .. } => {
            if sizes.len() != inputs[0].rank() || scales.len() != inputs[0].rank() {
                refuse!("{} sizes and {} scales for {}", sizes.len(), scales.len(), inputs[0]);
            }
            if scales.iter().any(|scale| !(scale.is_finite() && *scale > 0.0)) {
                refuse!("scales {scales:?} should be positive numbers");
            }
            vec![TensorType::new(inputs[0].element, sizes.clone())]
        }
        Op::SpaceToDepth { block } => blocks(*block, inputs[0], true)?,
        Op::DepthToSpace { block, .. } => blocks(*block, inputs[0], false)?,
    };
    for output in &outputs {
        element_count(&output.shape)?;
    }
    Ok(outputs)
}

/// Number of operands an operator takes: at least and at most.
pub fn operand_counts(op: &Op) -> (usize, usize) {
    match op {
        Op::Conv(conv) => (3 + usize::from(conv.residual), 3 + usize::from(conv.residual)),
        Op::ConvTranspose(_)
        | Op::InstanceNormalization { .. }
        | Op::GroupNormalization { .. }
        | Op::LayerNormalization { .. }
        | Op::RoiAlign(_)
        | Op::Scatter { .. }
        | Op::Where => (3, 3),
        Op::Gemm(_) => (2, 3),
        Op::Decide(_) => (1, 2),
        Op::BatchNormalization { .. } => (5, 5),
        Op::TreeEnsemble(_) => (6, 6),
        Op::Einsum(einsum) => (einsum.terms.len(), einsum.terms.len()),
        Op::MatMul | Op::Binary(..) | Op::PRelu | Op::Gather { .. } | Op::NonMaxSuppression(_) => (2, 2),
        Op::Concat { .. } => (1, usize::MAX),
        Op::Lrn { .. }
        | Op::Unary(_)
        | Op::Pool(_)
        | Op::GlobalPool(_)
        | Op::Softmax { .. }
        | Op::LogSoftmax { .. }
        | Op::Reduce { .. }
        | Op::ArgMax { .. }
        | Op::Split { .. }
        | Op::Slice { .. }
        | Op::Reshape { .. }
        | Op::Transpose { .. }
        | Op::Pad { .. }
        | Op::Expand { .. }
        | Op::Identity
        | Op::Cast { .. }
        | Op::BitCast { .. }
        | Op::Resize { .. }
        | Op::SpaceToDepth { .. }
        | Op::DepthToSpace { .. } => (1, 1),
    }
}

fn check_count(op: &Op, count: usize) -> Result<(), InferError> {
    let (least, most) = operand_counts(op);
    if count < least || count > most {
        refuse!("has {count} inputs, expected {least}");
    }
    Ok(())
}

/// Number of elements of a shape, if it is within the limits.
pub fn element_count(shape: &[usize]) -> Result<usize, InferError> {
    if shape.len() > MAX_RANK {
        refuse!("rank {} is larger than {MAX_RANK}", shape.len());
    }
    // An extent of 0 must not hide others whose product overflows: partial products are taken later.
    let count = shape.iter().try_fold(1usize, |product, extent| product.checked_mul((*extent).max(1)));
    match count {
        Some(count) if count <= MAX_ELEMENTS => Ok(if shape.contains(&0) { 0 } else { count }),
        _ => Err(InferError::TooLarge(format!("shape {shape:?} has more than {MAX_ELEMENTS} elements"))),
    }
}

/// Shape of two broadcast operands (numpy rules).
pub fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, InferError> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], axis: usize| (axis + shape.len()).checked_sub(rank).map_or(1, |index| shape[index]);
    (0..rank)
        .map(|axis| match (extent(a, axis), extent(b, axis)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(InferError::Mismatch(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

fn same(input: &TensorType) -> Vec<TensorType> {
    vec![input.clone()]
}

fn at_least(input: &TensorType, rank: usize) -> Inferred {
    if input.rank() < rank {
        refuse!("{input} has too few dimensions, expected at least {rank}");
    }
    Ok(same(input))
}

fn check_axis(axis: usize, input: &TensorType) -> Result<(), InferError> {
    if axis >= input.rank() {
        refuse!("axis {axis} is not an axis of {input}");
    }
    Ok(())
}

fn per_channel(inputs: &[&TensorType]) -> Inferred {
    let output = at_least(inputs[0], 2)?;
    let channels = inputs[0].shape[1];
    if let Some(parameter) = inputs[1..].iter().find(|parameter| parameter.shape != [channels]) {
        refuse!("parameter {parameter} should have one element for each of {channels} channels");
    }
    Ok(output)
}

fn layer_normalization(axis: usize, inputs: &[&TensorType]) -> Inferred {
    check_axis(axis, inputs[0])?;
    if inputs[1..].iter().any(|parameter| parameter.shape != inputs[0].shape[axis..]) {
        refuse!("scale {} and bias {} should have shape {:?}", inputs[1], inputs[2], &inputs[0].shape[axis..]);
    }
    Ok(same(inputs[0]))
}

fn reduction(axes: &[usize], keep_dims: bool, input: &TensorType, element: ElementType) -> Inferred {
    for axis in axes {
        check_axis(*axis, input)?;
    }
    let shape: Vec<usize> = input
        .shape
        .iter()
        .enumerate()
        .filter_map(|(axis, extent)| match (axes.contains(&axis), keep_dims) {
            (false, _) => Some(*extent),
            (true, true) => Some(1),
            (true, false) => None,
        })
        .collect();
    Ok(vec![TensorType::new(element, shape)])
}

fn concat(axis: usize, inputs: &[&TensorType]) -> Inferred {
    let first = inputs[0];
    check_axis(axis, first)?;
    let mut shape = first.shape.clone();
    for other in &inputs[1..] {
        let fits = other.rank() == first.rank()
            && other.element == first.element
            && (0..shape.len()).all(|index| index == axis || other.shape[index] == first.shape[index]);
        let total = other.shape.get(axis).and_then(|extent| shape[axis].checked_add(*extent));
        match total {
            Some(total) if fits => shape[axis] = total,
            _ => refuse!("{other} cannot be joined to {first} along axis {axis}"),
        }
    }
    Ok(vec![TensorType::new(first.element, shape)])
}

fn split(axis: usize, sizes: &[usize], input: &TensorType) -> Inferred {
    check_axis(axis, input)?;
    let total = sizes.iter().try_fold(0usize, |sum, size| sum.checked_add(*size));
    if total != Some(input.shape[axis]) || sizes.is_empty() {
        refuse!("parts of {sizes:?} do not add up to axis {axis} of {input}");
    }
    Ok(sizes
        .iter()
        .map(|size| {
            let mut shape = input.shape.clone();
            shape[axis] = *size;
            TensorType::new(input.element, shape)
        })
        .collect())
}

fn slice(starts: &[usize], steps: &[isize], sizes: &[usize], input: &TensorType) -> Inferred {
    if [starts.len(), steps.len(), sizes.len()] != [input.rank(); 3] {
        refuse!("the slice has {} axes, {input} has {}", starts.len(), input.rank());
    }
    for (axis, extent) in input.shape.iter().enumerate() {
        if steps[axis] == 0 {
            refuse!("the step of axis {axis} is 0");
        }
        let last = (sizes[axis] as i128 - 1).max(0) * steps[axis] as i128 + starts[axis] as i128;
        let inside = |index: i128| (0..*extent as i128).contains(&index);
        if sizes[axis] > 0 && !(inside(starts[axis] as i128) && inside(last)) {
            refuse!("axis {axis} is cut from {} to {last}, but {input} has {extent} there", starts[axis]);
        }
    }
    Ok(vec![TensorType::new(input.element, sizes.to_vec())])
}

fn transpose(permutation: &[usize], input: &TensorType) -> Inferred {
    let mut seen = vec![false; input.rank()];
    for axis in permutation {
        match seen.get_mut(*axis) {
            Some(slot) if !*slot => *slot = true,
            _ => refuse!("`perm` is {permutation:?}, not a permutation of the {} axes of {input}", input.rank()),
        }
    }
    if permutation.len() != input.rank() {
        refuse!("`perm` is {permutation:?}, not a permutation of the {} axes of {input}", input.rank());
    }
    let shape: Vec<usize> = permutation.iter().map(|axis| input.shape[*axis]).collect();
    Ok(vec![TensorType::new(input.element, shape)])
}

fn pad(begin: &[usize], end: &[usize], input: &TensorType) -> Inferred {
    if begin.len() != input.rank() || end.len() != input.rank() {
        refuse!("{} and {} pads for {input}", begin.len(), end.len());
    }
    let shape = input
        .shape
        .iter()
        .zip(begin.iter().zip(end))
        .map(|(extent, (before, after))| extent.checked_add(*before)?.checked_add(*after))
        .collect::<Option<Vec<usize>>>();
    match shape {
        Some(shape) => Ok(vec![TensorType::new(input.element, shape)]),
        None => refuse!("pads {begin:?} and {end:?} are too large"),
    }
}

fn blocks(block: usize, input: &TensorType, to_depth: bool) -> Inferred {
    let [n, c, h, w] = input.shape[..] else { refuse!("{input} should be [N, C, H, W]") };
    let Some(area) = block.checked_mul(block).filter(|area| *area > 0) else {
        refuse!("`blocksize` is {block}, expected at least 1");
    };
    let shape = if to_depth {
        if h % block != 0 || w % block != 0 {
            refuse!("`blocksize` {block} does not divide the height and width of {input}");
        }
        c.checked_mul(area).map(|c| [n, c, h / block, w / block])
    } else {
        if c % area != 0 {
            refuse!("`blocksize` {block} squared does not divide the channels of {input}");
        }
        h.checked_mul(block).zip(w.checked_mul(block)).map(|(h, w)| [n, c / area, h, w])
    };
    match shape {
        Some(shape) => Ok(vec![TensorType::new(input.element, shape)]),
        None => refuse!("`blocksize` {block} is too large for {input}"),
    }
}
