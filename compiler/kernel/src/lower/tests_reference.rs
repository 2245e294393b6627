//! For tests: operators on every machine, their kernels against the portable reference kernels, alone and shared among
//! threads.

use super::numbers_tests::check_direct;
use super::tests_memory::laid_out;
use super::winograd::Forms;
use super::{Binding, LayoutChoice, Machine, Operand, Packing, layout_choices, lower_node};
use crate::eval::{evaluate, evaluate_parts};
use crate::layout::Layout;
use crate::split::share;
use crate::{Access, Kernel, verify::verify};
use partita_config::InstructionSet;
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Activation, Conv};
use partita_ir::graph::types::are_whole;
use partita_ir::graph::values::noise;
use partita_ir::graph::{ElementType, Op, Stored, TensorType, Value, eval};
use partita_rt::kernels::reorder_from_blocked;

/// One of every instruction set, and some that do something else with it.
pub(super) fn machines() -> Vec<Machine> {
    let machine = |instruction_set, registers| Machine {
        l1_bytes: 32768,
        l2_bytes: 1 << 20,
        ..Machine::spelled(instruction_set, registers)
    };
    vec![
        machine(InstructionSet::Avx512, 32),
        machine(InstructionSet::Avx2, 16),
        machine(InstructionSet::Sse2, 16),
        machine(InstructionSet::Neon, 32),
        Machine { in_order: true, ..machine(InstructionSet::Neon, 32) },
        machine(InstructionSet::Scalar, 8),
        Machine { l2_bytes: 64, prefetch_bytes: 256, ..machine(InstructionSet::Avx2, 16) },
        Machine { l2_bytes: 64, prefetch_bytes: 256, ..machine(InstructionSet::Neon, 32) },
    ]
}

/// Checks a kernel; `packed` says in which order weights are, and what they are if another kernel has packed them.
/// Returns the same of this kernel.
pub(super) fn check_choice(
    op: &Op,
    values: &[Value],
    constants: &[bool],
    choice: &LayoutChoice,
    machine: &Machine,
    packed: Option<&(Packing, Vec<f32>)>,
) -> Option<(Packing, Vec<f32>)> {
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
    let packing = packed.map_or(Packing::Free, |(packing, _)| *packing);
    let operands = operands(values, &types, &choice.inputs, constants, packing);
    let label = format!("{op:?} on {types:?}, {choice:?}, {:?}", machine.instruction_set);
    let lowered =
        lower_node(op, &operands, &output, choice.output, machine).unwrap_or_else(|| panic!("no kernel: {label}"));
    check_form(&lowered.kernel);
    let mut buffers: Vec<Vec<f32>> = Vec::new();
    let mut result = 0;
    for (binding, declared) in lowered.bindings.iter().zip(&lowered.kernel.buffers) {
        buffers.push(match binding {
            Binding::Input(index) => laid_out(&values[*index], choice.inputs[*index], declared.elements),
            Binding::Weights { elements, .. } => elements.clone(),
            Binding::SameWeights { .. } => packed.map_or(Vec::new(), |(_, elements)| elements.clone()),
            Binding::Scratch(_) => vec![f32::NAN; declared.elements],
            Binding::Output => {
                assert_eq!(declared.access, Access::Output);
                result = buffers.len();
                vec![f32::NAN; declared.elements]
            }
        });
        assert_eq!(buffers.last().map(Vec::len), Some(declared.elements), "{label}");
    }
    let before = buffers.clone();
    // Estimates may differ with the number of threads; the weights are there in this order.
    let mut same_order = operands.clone();
    if let (Packing::Free, Some(order)) = (packing, lowered.order) {
        same_order[1].packing = Packing::Like(order);
    }
    evaluate(&lowered.kernel, &mut buffers);
    check_direct(&lowered.kernel, &before, &buffers);
    for parts in [2, 3] {
        let shared = Machine { threads: parts, ..machine.clone() };
        check_parts(op, &same_order, &output, choice.output, &shared, [&before, &buffers]);
    }
    let expected = eval::evaluate_node(op, &values.iter().collect::<Vec<_>>(), std::slice::from_ref(&output))
        .expect("the reference kernel runs")
        .remove(0);
    let expected = expected.as_f32().expect("tests use f32");
    let mut found = vec![0.0; expected.len()];
    match choice.output {
        Layout::Plain => found.copy_from_slice(&buffers[result][..expected.len()]),
        Layout::Blocked(block) => reorder_from_blocked(
            &buffers[result],
            &mut found,
            output.shape[0],
            output.shape[1],
            output.shape[2..].iter().product(),
            block as usize,
        ),
    }
    let scale = expected.iter().fold(1e-3f32, |scale, x| scale.max(x.abs()));
    let rounding = if lowered.kernel.name.starts_with("dot") { rounding_of_rows(&values[0], &values[1]) } else { 0.0 };
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= 1e-5 * scale + rounding, "element {index} is {found}, expected {expected}: {label}");
    }
    if let (Op::Conv(conv), Some(forms)) = (op, lowered.order.and_then(|order| order.forms)) {
        check_error_bound(conv, values, &output.shape, &found, forms);
    }
    let weights = lowered.bindings.into_iter().find_map(|binding| match binding {
        Binding::Weights { from: 1, elements } => Some(elements),
        _ => None,
    });
    lowered.order.map(Packing::Shared).zip(weights)
}

/// What the rounding of A's rows to 16 bits can change in a product: half a step in every element.
fn rounding_of_rows(a: &Value, b: &Value) -> f32 {
    let (a, b, width) = (a.as_f32().expect("f32"), b.as_f32().expect("f32"), b.shape[1]);
    let largest = a.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let column = |column: usize| b.iter().skip(column).step_by(width).map(|x| x.abs()).sum::<f32>();
    (0..width).map(column).fold(0.0, f32::max) * largest / (2.0 * 32512.0)
}

/// No output of Winograd's algorithm is further from the exact one than the bound that the report states. ReLU brings
/// numbers no further apart; other activations are left out.
fn check_error_bound(conv: &Conv, values: &[Value], output: &[usize], found: &[f32], forms: Forms) {
    if conv.residual || !matches!(conv.activation, Activation::None | Activation::Relu) {
        return;
    }
    let elements = |index: usize| values[index].as_f32().expect("tests use f32");
    let (x, weights, bias) = (elements(0), elements(1), elements(2));
    // Depth, height, width.
    let spatial = |shape: &[usize]| -> [usize; 3] {
        let mut all = [1; 3];
        all[5 - shape.len()..].copy_from_slice(&shape[2..]);
        all
    };
    let mut pad = [0; 3];
    pad[3 - conv.window.pad_begin.len()..].copy_from_slice(&conv.window.pad_begin);
    let ([d, h, w], taps, [out_d, out_h, out_w]) =
        (spatial(&values[0].shape), spatial(&values[1].shape), spatial(output));
    let (channels, filters, all_taps) = (values[0].shape[1], output[1], taps.iter().product::<usize>());
    let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    for (index, found) in found.iter().enumerate() {
        let (column, row, depth) = (index % out_w, index / out_w % out_h, index / (out_w * out_h) % out_d);
        let (filter, sample) = (index / (out_w * out_h * out_d) % filters, index / (out_w * out_h * out_d * filters));
        let filter_weights = &weights[filter * channels * all_taps..][..channels * all_taps];
        let mut exact = f64::from(bias[filter]);
        for (at, weight) in filter_weights.iter().enumerate() {
            let (tap, channel) = (at % all_taps, at / all_taps);
            let place = [depth + tap / (taps[1] * taps[2]), row + tap / taps[2] % taps[1], column + tap % taps[2]];
            let inside = (0..3).all(|axis| (pad[axis]..pad[axis] + [d, h, w][axis]).contains(&place[axis]));
            if inside {
                let [z, y, x_at] = [place[0] - pad[0], place[1] - pad[1], place[2] - pad[2]];
                let element = x[(((sample * channels + channel) * d + z) * h + y) * w + x_at];
                exact += f64::from(*weight) * f64::from(element);
            }
        }
        if conv.activation == Activation::Relu {
            exact = exact.max(0.0);
        }
        let bound = forms.error_bound(filter_weights) * f64::from(largest) + f64::from(f32::EPSILON) * exact.abs();
        let error = (f64::from(*found) - exact).abs();
        assert!(error <= bound, "{forms}: output {index} is {error} from the exact one, bound {bound}");
    }
}

/// A kernel is sound, and its text reads back.
pub(super) fn check_form(kernel: &Kernel) {
    verify(kernel).unwrap_or_else(|error| panic!("{error}\n{kernel}"));
    let again = crate::text::parse(&kernel.to_string()).unwrap_or_else(|error| panic!("{error}\n{kernel}"));
    assert!(again == *kernel, "{kernel}is read back as\n{again}");
}

/// The same kernel, shared out among threads: its outputs are the same. Small kernels are not shared unless they must
/// be.
fn check_parts(
    op: &Op,
    operands: &[Operand<'_>],
    output: &TensorType,
    layout: Layout,
    machine: &Machine,
    [before, after]: [&[Vec<f32>]; 2],
) {
    let lowered = lower_node(op, operands, output, layout, machine).expect("a kernel that one thread can run");
    let mut kernel = lowered.kernel;
    if kernel.split.is_none() {
        share(&mut kernel, machine.threads, 0.0);
    }
    check_form(&kernel);
    let mut found: Vec<Vec<f32>> = kernel
        .buffers
        .iter()
        .zip(before)
        .map(|(declared, before)| match declared.access {
            Access::Scratch => vec![f32::NAN; declared.elements],
            _ => before.clone(),
        })
        .collect();
    evaluate_parts(&kernel, &mut found);
    for ((declared, found), after) in kernel.buffers.iter().zip(&found).zip(after) {
        let same = found
            .iter()
            .zip(after)
            .all(|(a, b)| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= 1e-5 * b.abs().max(1.0));
        assert!(
            declared.access != Access::Output || same,
            "{} threads come to something else\n{kernel}",
            machine.threads
        );
    }
}

/// Checks an operator in every layout that every machine offers; constants say which operands are known.
pub(super) fn check(op: &Op, values: &[Value], constants: &[bool]) {
    for machine in machines() {
        check_on(op, values, constants, &machine);
    }
}

/// Checks an operator in every layout that a machine offers; returns how weights are packed in the first.
pub(super) fn check_on(op: &Op, values: &[Value], constants: &[bool], machine: &Machine) -> Option<Packing> {
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
    let operands = operands(values, &types, &vec![Layout::Plain; values.len()], constants, Packing::Free);
    let choices = layout_choices(op, &operands, &output, machine);
    let packings: Vec<Option<Packing>> = choices
        .iter()
        .map(|choice| check_choice(op, values, constants, choice, machine, None).map(|(packing, _)| packing))
        .collect();
    packings.first().copied().flatten()
}

/// Operands in these layouts; those that are constant have their value.
pub(super) fn operands<'a>(
    values: &'a [Value],
    types: &'a [TensorType],
    layouts: &[Layout],
    constants: &[bool],
    packing: Packing,
) -> Vec<Operand<'a>> {
    let known = |value: &'a Value, constant: bool| constant.then(|| value.as_f32().expect("tests use f32"));
    (values.iter().zip(types).zip(layouts.iter().zip(constants)))
        .map(|((value, tensor_type), (layout, constant))| Operand {
            packing,
            tensor_type,
            layout: *layout,
            value: known(value, *constant),
            whole: known(value, *constant).is_some_and(are_whole),
            stored: Stored::plain(ElementType::F32),
        })
        .collect()
}

pub(super) fn random(shape: &[usize], seed: u64) -> Value {
    noise(&TensorType::f32(shape), seed)
}
