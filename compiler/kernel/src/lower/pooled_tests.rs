//! Convolutions that are pooled in the same kernel, against the reference kernels, one after the other.

use super::numbers_tests::check_direct;
use super::tests_memory::{laid_out, memory};
use super::tests_reference::{check_form, machines, operands, random};
use super::winograd::{Form, Forms};
use super::{LayoutChoice, LoweredNode, Machine, Packing, Pooling, WeightOrder, layout_choices, lower_pooled};
use crate::eval::{evaluate, evaluate_parts};
use crate::layout::Layout;
use crate::split::share;
use crate::{Access, Kernel};
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Activation, Conv, Pool, PoolKind, Window};
use partita_ir::graph::{Op, TensorType, Value, eval};
use partita_rt::kernels::reorder_from_blocked;

/// A convolution of `x` and a pool of its result.
struct Case {
    conv: Conv,
    pool: Pool,
    values: Vec<Value>,
    between: TensorType,
    output: TensorType,
    expected: Value,
}

fn case(x: &[usize], filters: usize, conv: Window, activation: Activation, kind: PoolKind, pool: Window) -> Case {
    let weights = [&[filters, x[1]], conv.kernel.as_slice()].concat();
    let values = vec![random(x, 1), random(&weights, 2), random(&[filters], 3)];
    let conv = Conv { window: conv, groups: 1, residual: false, activation };
    let declared_pad_end = pool.pad_end.clone();
    let pool = Pool { kind, window: pool, declared_pad_end, count_include_pad: false };
    let run = |op: &Op, values: &[Value]| {
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
        let operands: Vec<&Value> = values.iter().collect();
        let result = eval::evaluate_node(op, &operands, std::slice::from_ref(&output)).expect("a reference").remove(0);
        (output, result)
    };
    let (between, middle) = run(&Op::Conv(conv.clone()), &values);
    let (output, expected) = run(&Op::Pool(pool.clone()), &[middle]);
    Case { conv, pool, values, between, output, expected }
}

fn lowered(case: &Case, choice: &LayoutChoice, machine: &Machine, packing: Packing) -> Option<LoweredNode> {
    let types: Vec<TensorType> = case.values.iter().map(Value::tensor_type).collect();
    let operands = operands(&case.values, &types, &choice.inputs, &[false, true, true], packing);
    let pooling = Pooling { pool: &case.pool, output: &case.output };
    lower_pooled(&case.conv, pooling, &operands, &case.between, machine)
}

/// Checks every layout on a machine; returns how many kernels there were.
fn check(case: &Case, machine: &Machine, packing: Packing) -> usize {
    let types: Vec<TensorType> = case.values.iter().map(Value::tensor_type).collect();
    let plain = vec![Layout::Plain; 3];
    let known = operands(&case.values, &types, &plain, &[false, true, true], Packing::Free);
    let choices = layout_choices(&Op::Conv(case.conv.clone()), &known, &case.between, machine);
    let made = choices.iter().filter_map(|choice| Some((choice, lowered(case, choice, machine, packing)?)));
    let mut count = 0;
    for (choice, LoweredNode { kernel, bindings, order }) in made {
        count += 1;
        check_form(&kernel);
        let input = |index: usize, elements: usize| laid_out(&case.values[index], choice.inputs[index], elements);
        let buffers = |kernel: &Kernel| memory(&bindings, kernel, input);
        let before = buffers(&kernel);
        let mut after = before.clone();
        evaluate(&kernel, &mut after);
        compare(case, &kernel, &after);
        check_direct(&kernel, &before, &after);
        for threads in [2, 3] {
            let machine = Machine { threads, ..machine.clone() };
            let like = order.map_or(packing, Packing::Like);
            let Some(LoweredNode { mut kernel, .. }) = lowered(case, choice, &machine, like) else { continue };
            if kernel.split.is_none() {
                share(&mut kernel, threads, 0.0);
            }
            check_form(&kernel);
            let mut after = buffers(&kernel);
            evaluate_parts(&kernel, &mut after);
            compare(case, &kernel, &after);
        }
    }
    count
}

fn compare(case: &Case, kernel: &Kernel, memory: &[Vec<f32>]) {
    let expected = case.expected.as_f32().expect("tests use f32");
    let result =
        kernel.buffers.iter().position(|buffer| buffer.access == Access::Output).expect("kernels have a result");
    let shape = &case.output.shape;
    let (plane, lanes) = (shape[2..].iter().product(), kernel.lanes as usize);
    let mut found = vec![0.0; expected.len()];
    reorder_from_blocked(&memory[result], &mut found, shape[0], shape[1], plane, lanes);
    let scale = expected.iter().fold(1e-3f32, |scale, x| scale.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 1e-5 * scale, "element {index} is {found}, expected {expected}\n{kernel}");
    }
}

#[test]
fn strips_of_rows_are_pooled_like_the_whole() {
    let mut count = 0;
    // A small cache makes many strips.
    for machine in machines()
        .into_iter()
        .flat_map(|machine| [6_000, 1 << 20].map(|l2_bytes| Machine { l1_bytes: 0, l2_bytes, ..machine.clone() }))
    {
        for (kind, pool) in [
            (PoolKind::Max, Window::uniform(&[2, 2], 2, 1, 0)),
            (PoolKind::Max, Window::uniform(&[3, 3], 2, 1, 1)),
            (PoolKind::Max, Window::uniform(&[3, 2], 1, 2, 0)),
            (PoolKind::Max, Window { pad_end: vec![1, 1], ..Window::uniform(&[3, 3], 2, 1, 0) }),
            (PoolKind::Average, Window::uniform(&[2, 2], 2, 1, 0)),
            (PoolKind::Average, Window::uniform(&[3, 3], 1, 1, 1)),
        ] {
            for (x, filters, conv) in [
                ([1, 3, 17, 20], 9, Window::uniform(&[3, 3], 2, 1, 1)),
                ([2, 5, 9, 11], 20, Window::uniform(&[1, 1], 1, 1, 0)),
                ([1, 18, 8, 7], 33, Window::uniform(&[3, 3], 1, 1, 0)),
            ] {
                for activation in [Activation::Relu, Activation::HardSwish] {
                    let case = case(&x, filters, conv.clone(), activation, kind, pool.clone());
                    count += check(&case, &machine, Packing::Free);
                }
            }
        }
    }
    assert!(count > 200, "only {count} kernels were pooled");
}

#[test]
fn other_ranks_are_pooled() {
    for machine in machines() {
        let line = case(
            &[1, 4, 30],
            6,
            Window::uniform(&[5], 1, 1, 2),
            Activation::Relu,
            PoolKind::Max,
            Window::uniform(&[2], 2, 1, 0),
        );
        assert!(check(&line, &machine, Packing::Free) > 0);
        let flat = Window { kernel: vec![1, 2, 2], stride: vec![1, 2, 2], ..Window::uniform(&[1, 2, 2], 1, 1, 0) };
        let volume =
            case(&[1, 3, 4, 6, 8], 5, Window::uniform(&[3, 3, 3], 1, 1, 1), Activation::None, PoolKind::Max, flat);
        assert!(check(&volume, &machine, Packing::Free) > 0);
        let deep = case(
            &[1, 3, 4, 6, 8],
            5,
            Window::uniform(&[3, 3, 3], 1, 1, 1),
            Activation::None,
            PoolKind::Max,
            Window::uniform(&[2, 2, 2], 2, 1, 0),
        );
        assert_eq!(check(&deep, &machine, Packing::Free), 0, "windows over several depths are not in strips");
    }
}

#[test]
fn winograd_tiles_are_pooled() {
    for machine in machines() {
        for form in Form::of_taps(3) {
            let forms = Forms { down: Some(*form), across: *form };
            let packing = Packing::Like(WeightOrder { vectors: 1, forms: Some(forms) });
            let even = forms.outputs().iter().all(|extent| extent % 2 == 0);
            for (rows, columns) in [(8, 8), (9, 12), (13, 7), (2, 3)] {
                for activation in [Activation::Relu, Activation::LeakyRelu(0.1), Activation::Clip(-4.0, 4.0)] {
                    let pool = Window::uniform(&[2, 2], 2, 1, 0);
                    let case = case(
                        &[2, 5, rows, columns],
                        18,
                        Window::uniform(&[3, 3], 1, 1, 1),
                        activation,
                        PoolKind::Max,
                        pool,
                    );
                    let lanes = machine.instruction_set.lanes();
                    let inputs = vec![Layout::Blocked(lanes), Layout::Plain, Layout::Plain];
                    let choice = LayoutChoice { inputs, output: Layout::Blocked(lanes) };
                    let kernel = lowered(&case, &choice, &machine, packing).map(|lowered| lowered.kernel.name);
                    let winograd = kernel.is_some_and(|name| name.starts_with("winograd_pool"));
                    assert_eq!(winograd, even, "{forms} on {:?}", machine.instruction_set);
                    check(&case, &machine, packing);
                }
            }
        }
        // Neither overlapping squares, nor averages, nor activations that fall.
        let falls = [
            (Activation::Relu, PoolKind::Max, Window::uniform(&[3, 3], 2, 1, 1)),
            (Activation::Relu, PoolKind::Average, Window::uniform(&[2, 2], 2, 1, 0)),
            (Activation::HardSwish, PoolKind::Max, Window::uniform(&[2, 2], 2, 1, 0)),
        ];
        for (activation, kind, pool) in falls {
            let case = case(&[1, 16, 8, 8], 16, Window::uniform(&[3, 3], 1, 1, 1), activation, kind, pool);
            let lanes = machine.instruction_set.lanes();
            let inputs = vec![Layout::Blocked(lanes), Layout::Plain, Layout::Plain];
            let choice = LayoutChoice { inputs, output: Layout::Blocked(lanes) };
            let forms = Forms { down: Some(Form::Four), across: Form::Four };
            let packing = Packing::Like(WeightOrder { vectors: 1, forms: Some(forms) });
            assert!(lowered(&case, &choice, &machine, packing).is_none());
        }
    }
}
