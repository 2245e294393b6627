//! Alternatives of one convolution, and which of them measurements say to take.

use super::winograd::{self, Forms};
use super::{Machine, Operand, WeightOrder};
use partita_config::tuned::{Choice, MOST_ALTERNATIVES, MOST_VECTORS};
use partita_ir::graph::TensorType;
use partita_ir::graph::op::Conv;

/// Alternatives that are estimated to take longer than the best by more than this factor are not worth a measurement.
const WORST: f64 = 1.6;

/// What a kernel depends on, as the record of measurements names it.
fn shape(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType) -> String {
    let window = &conv.window;
    format!(
        "{:?} to {:?}, kernel {:?}, stride {:?}, dilation {:?}, padding {:?}, {} groups, input {:?}{}",
        inputs[0].tensor_type.shape,
        output.shape,
        window.kernel,
        window.stride,
        window.dilation,
        [&window.pad_begin, &window.pad_end],
        conv.groups,
        inputs[0].layout,
        if conv.residual { ", residual" } else { "" }
    )
}

/// What the record has of a kernel that was made: its shape and the alternative.
pub(super) fn entry(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType, order: WeightOrder) -> (String, Choice) {
    let form = order.forms.map_or_else(|| DIRECT.to_string(), |forms| forms.to_string());
    (shape(conv, inputs, output), Choice { form, vectors: order.vectors })
}

/// The alternative to take, if measurements name one, or are being made.
pub(super) fn order(
    conv: &Conv,
    inputs: &[Operand<'_>],
    output: &TensorType,
    machine: &Machine,
) -> Option<WeightOrder> {
    let tuning = &machine.tuning;
    if let Some(trial) = tuning.trial {
        let alternatives = alternatives(conv, inputs, output, machine);
        return alternatives.get(trial).copied();
    }
    let choice = tuning.choices.get(&shape(conv, inputs, output))?;
    let vectors = choice.vectors.min(output.shape[1].div_ceil(machine.instruction_set.lanes() as usize)).max(1);
    let forms = match choice.form.as_str() {
        DIRECT => None,
        // A record that does not fit, as for a device that has too little memory for it, changes nothing.
        name => {
            let forms = winograd::forms(conv, inputs, output, machine).into_iter();
            Some(forms.filter(|_| machine.winograd).find(|forms| forms.to_string() == name)?)
        }
    };
    Some(WeightOrder { vectors, forms })
}

const DIRECT: &str = "direct";

/// Alternatives that are worth a measurement, best estimate first.
fn alternatives(conv: &Conv, inputs: &[Operand<'_>], output: &TensorType, machine: &Machine) -> Vec<WeightOrder> {
    if conv.groups != 1 {
        return Vec::new();
    }
    let widest = output.shape[1].div_ceil(machine.instruction_set.lanes() as usize).clamp(1, MOST_VECTORS);
    let forms: Vec<Option<Forms>> = match machine.winograd {
        true => winograd::forms(conv, inputs, output, machine).into_iter().map(Some).chain([None]).collect(),
        false => vec![None],
    };
    let mut alternatives = Vec::new();
    for (forms, vectors) in forms.into_iter().flat_map(|forms| (1..=widest).map(move |vectors| (forms, vectors))) {
        let order = WeightOrder { vectors, forms };
        alternatives.push((winograd::estimated_cycles(conv, inputs, output, machine, order), order));
    }
    alternatives.sort_by(|a, b| a.0.total_cmp(&b.0));
    let best = alternatives.first().map_or(0.0, |(cycles, _)| *cycles);
    alternatives.retain(|(cycles, _)| *cycles <= best * WORST);
    alternatives.truncate(MOST_ALTERNATIVES);
    alternatives.into_iter().map(|(_, order)| order).collect()
}
