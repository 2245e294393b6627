//! Normalisations, inference form.

/// Elements of one channel of `[N, C, ..]`.
fn plane(shape: &[usize]) -> usize {
    shape.iter().skip(2).product::<usize>().max(1)
}

/// ONNX BatchNormalization: `scale * (x - mean) / sqrt(variance + epsilon) + bias`, per channel (axis 1).
#[allow(clippy::too_many_arguments, reason = "the operator's inputs")]
pub fn batch_normalization(
    x: &[f32],
    shape: &[usize],
    scale: &[f32],
    bias: &[f32],
    mean: &[f32],
    variance: &[f32],
    y: &mut [f32],
    epsilon: f32,
) {
    let parameters = scale.iter().zip(bias).zip(mean.iter().zip(variance));
    let planes = x.chunks_exact(plane(shape)).zip(y.chunks_exact_mut(plane(shape)));
    for ((x, y), ((scale, bias), (mean, variance))) in planes.zip(parameters.cycle()) {
        let factor = scale / libm::sqrtf(variance + epsilon);
        for (out, element) in y.iter_mut().zip(x) {
            *out = (element - mean) * factor + bias;
        }
    }
}

/// Mean and variance in one vector.
fn statistics(x: &[f32]) -> (f32, f32) {
    let count = x.len().max(1) as f32;
    let mean = x.iter().sum::<f32>() / count;
    let variance = x.iter().map(|element| (element - mean) * (element - mean)).sum::<f32>() / count;
    (mean, variance)
}

/// ONNX InstanceNormalization: statistics per sample and channel.
pub fn instance_normalization(x: &[f32], shape: &[usize], scale: &[f32], bias: &[f32], y: &mut [f32], epsilon: f32) {
    let planes = x.chunks_exact(plane(shape)).zip(y.chunks_exact_mut(plane(shape)));
    for ((x, y), (scale, bias)) in planes.zip(scale.iter().zip(bias).cycle()) {
        let (mean, variance) = statistics(x);
        let factor = scale / libm::sqrtf(variance + epsilon);
        for (out, element) in y.iter_mut().zip(x) {
            *out = (element - mean) * factor + bias;
        }
    }
}

/// ONNX LayerNormalization over the last `scale.len()` elements of each row.
pub fn layer_normalization(x: &[f32], scale: &[f32], bias: &[f32], y: &mut [f32], epsilon: f32) {
    let width = scale.len().max(1);
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
        let (mean, variance) = statistics(x);
        let factor = 1.0 / libm::sqrtf(variance + epsilon);
        for ((out, element), (scale, bias)) in y.iter_mut().zip(x).zip(scale.iter().zip(bias)) {
            *out = (element - mean) * factor * scale + bias;
        }
    }
}

/// ONNX LRN: `x / (bias + alpha / size * sum of squares)^beta` over `size` neighbouring channels.
pub fn lrn(x: &[f32], shape: &[usize], y: &mut [f32], alpha: f32, beta: f32, bias: f32, size: usize) {
    let channels = shape.get(1).copied().unwrap_or(1).max(1);
    let plane = plane(shape);
    let before = size.saturating_sub(1) / 2;
    let after = size.saturating_sub(1) - before;
    for (x, y) in x.chunks_exact(channels * plane).zip(y.chunks_exact_mut(channels * plane)) {
        for (channel, out) in y.chunks_exact_mut(plane).enumerate() {
            let first = channel.saturating_sub(before);
            let last = (channel + after).min(channels - 1);
            for (position, out) in out.iter_mut().enumerate() {
                let at = |channel: usize| x.get(channel * plane + position).copied().unwrap_or(0.0);
                let squares: f32 = (first..=last).map(|channel| at(channel) * at(channel)).sum();
                *out = at(channel) / libm::powf(bias + alpha / size as f32 * squares, beta);
            }
        }
    }
}
