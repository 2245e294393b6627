//! Every family against the portable reference kernels, interpreted, over shapes that hit every remainder.

use std::sync::Arc;

use super::tests_reference::{check, check_choice, check_on, machines, operands, random};
use super::winograd::{Form, Forms};
use super::{LayoutChoice, Machine, Operand, Packing, WeightOrder, lower_node};
use crate::layout::Layout;
use crate::verify::verify;
use partita_config::tuned::{MOST_ALTERNATIVES, Tuning};
use partita_config::{InstructionSet, WeightStorage};
use partita_ir::graph::infer::infer;
use partita_ir::graph::op::{Activation, Conv, Gemm, Pool, PoolKind, UnaryOp, Window};
use partita_ir::graph::storage;
use partita_ir::graph::types::are_whole;
use partita_ir::graph::{BinaryOp, ElementType, Op, Stored, TensorType, Value};

#[test]
fn bands_of_a_convolution_read_the_same_weights() {
    for (filters, kernel) in [(20, 3), (37, 1), (64, 3), (6, 5)] {
        let op = Op::Conv(Conv {
            window: Window::uniform(&[kernel, kernel], 1, 1, kernel / 2),
            groups: 1,
            residual: false,
            activation: Activation::None,
        });
        let weights = random(&[filters, 8, kernel, kernel], 2);
        let values = |rows| [random(&[1, 8, rows, 11], 1), weights.clone(), random(&[filters], 3)];
        for machine in machines() {
            for input in [Layout::Plain, Layout::Blocked(machine.instruction_set.lanes())] {
                let inputs = vec![input, Layout::Plain, Layout::Plain];
                let choice = LayoutChoice { inputs, output: Layout::Blocked(machine.instruction_set.lanes()) };
                let constants = [false, true, true];
                let packed = check_choice(&op, &values(9), &constants, &choice, &machine, None);
                for rows in [1, 2, 5] {
                    let repacked = check_choice(&op, &values(rows), &constants, &choice, &machine, packed.as_ref());
                    assert!(packed.is_some() && repacked.is_none(), "{filters} filters: weights are stored twice");
                }
            }
        }
    }
}

#[test]
fn threads_share_the_phases_of_few_blocks() {
    let machine = Machine { threads: 2, ..machines().swap_remove(0) };
    let conv =
        Conv { window: Window::uniform(&[3, 3], 1, 1, 1), groups: 1, residual: false, activation: Activation::Relu };
    let values = [random(&[1, 256, 2, 2], 1), random(&[128, 256, 3, 3], 2), random(&[128], 3)];
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let packing =
        Packing::Like(WeightOrder { vectors: 2, forms: Some(Forms { down: Some(Form::Two), across: Form::Two }) });
    let constants = [false, true, true];
    let choice =
        LayoutChoice { inputs: vec![Layout::Blocked(16), Layout::Plain, Layout::Plain], output: Layout::Blocked(16) };
    let operands = operands(&values, &types, &choice.inputs, &constants, packing);
    let op = Op::Conv(conv);
    let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
    let lowered = lower_node(&op, &operands, &output, Layout::Blocked(16), &machine).expect("a kernel");
    assert!(lowered.kernel.split.as_ref().is_some_and(|split| split.part.is_some()), "{}", lowered.kernel);
    check_choice(&op, &values, &constants, &choice, &machine, Some(&(packing, Vec::new())));
}

/// Winograd's algorithm of a convolution with these inputs and filters, in every form and tile width.
fn check_winograd(x: &[usize], filters: usize, taps: usize, pad: usize, residual: bool, activation: Activation) {
    let rank = x.len() - 2;
    let op = Op::Conv(Conv { window: Window::uniform(&vec![taps; rank], 1, 1, pad), groups: 1, residual, activation });
    let mut values = vec![random(x, 1), random(&[&[filters, x[1]], vec![taps; rank].as_slice()].concat(), 2)];
    values.push(random(&[filters], 3));
    let output: Vec<usize> = x[2..].iter().map(|extent| extent + 2 * pad + 1 - taps).collect();
    values.extend(residual.then(|| random(&[&[x[0], filters], output.as_slice()].concat(), 4)));
    for machine in machines() {
        let blocked = Layout::Blocked(machine.instruction_set.lanes());
        let mut inputs = vec![blocked, Layout::Plain, Layout::Plain];
        inputs.extend(residual.then_some(blocked));
        let choice = LayoutChoice { inputs, output: blocked };
        let constants: Vec<bool> = (0..values.len()).map(|index| index == 1 || index == 2).collect();
        for form in Form::of_taps(taps) {
            let forms = Forms { down: (rank > 1).then_some(*form), across: *form };
            for vectors in [1, 2] {
                let order = WeightOrder { vectors, forms: Some(forms) };
                let like = (Packing::Like(order), Vec::new());
                let packed = check_choice(&op, &values, &constants, &choice, &machine, Some(&like));
                assert_eq!(packed.as_ref().map(|(packing, _)| *packing), Some(Packing::Shared(order)));
                let again = check_choice(&op, &values, &constants, &choice, &machine, packed.as_ref());
                assert!(again.is_none(), "weights are stored twice");
            }
        }
    }
}

/// Whether more of the same is tested.
fn is_long() -> bool {
    std::env::var_os("PARTITA_LONG").is_some()
}

#[test]
fn winograd_of_every_remainder() {
    // Every remainder of both extents once; all with PARTITA_LONG=1.
    let tried = |extent: &usize| is_long() || [1, 2, 4, 7, 11].contains(extent);
    for extent in (1..=13).filter(tried) {
        check_winograd(&[1, 5, extent, 14 - extent], 7, 3, 1, false, Activation::Relu);
    }
    for (channels, filters) in [(16, 33), (17, 16), (3, 40)] {
        check_winograd(&[1, channels, 8, 9], filters, 3, 1, true, Activation::None);
    }
    check_winograd(&[1, 4, 9, 6], 8, 3, 0, true, Activation::LeakyRelu(0.1));
    check_winograd(&[1, 4, 5, 6], 8, 3, 2, false, Activation::HardSwish);
    check_winograd(&[2, 4, 8, 40], 8, 3, 1, true, Activation::Clip(-2.0, 2.0));
    check_winograd(&[1, 3, 4, 6, 7], 5, 3, 1, true, Activation::Relu);
    check_winograd(&[2, 3, 3, 5, 8], 5, 3, 0, false, Activation::None);
    for extent in (1..=7).filter(tried) {
        check_winograd(&[1, 5, extent, 8 - extent], 7, 5, 2, true, Activation::Relu);
    }
    for length in (1..=13).filter(tried) {
        check_winograd(&[1, 17, length], 18, 3, 1, false, Activation::Relu);
        check_winograd(&[2, 4, length + 3], 5, 5, 1, true, Activation::None);
    }
}

#[test]
fn every_way_that_tuning_tries_computes_the_same() {
    let further = [(5, 1, 5), (1, 1, 20), (3, 2, 6), (3, 1, 2)];
    let shapes = [(3, 1, 9)].into_iter().chain(further.into_iter().filter(|_| is_long()));
    for (kernel, stride, channels) in shapes {
        let op = Op::Conv(Conv {
            window: Window::uniform(&[kernel, kernel], stride, 1, kernel / 2),
            groups: 1,
            residual: false,
            activation: Activation::Relu,
        });
        let values = [random(&[1, channels, 9, 11], 1), random(&[70, channels, kernel, kernel], 2), random(&[70], 3)];
        for machine in machines() {
            let mut packings: Vec<Option<Packing>> = Vec::new();
            for trial in 0..MOST_ALTERNATIVES {
                let tuning = Arc::new(Tuning { trial: Some(trial), ..Tuning::default() });
                let machine = Machine { winograd: true, tuning, ..machine.clone() };
                let packing = check_on(&op, &values, &[false, true, true], &machine);
                packings.extend((!packings.contains(&packing)).then_some(packing));
            }
            assert!(packings.len() > 1, "{op:?} has but one packing on {:?}", machine.instruction_set);
        }
    }
}

#[test]
fn winograd_is_taken_where_it_pays() {
    let conv = |kernel: usize, stride: usize| Conv {
        window: Window::uniform(&[kernel, kernel], stride, 1, kernel / 2),
        groups: 1,
        residual: false,
        activation: Activation::None,
    };
    let order = |channels: usize, extent: usize, conv: Conv, winograd: bool| {
        let machine = Machine { winograd, ..machines().swap_remove(0) };
        let kernel = conv.window.kernel[0];
        let values = [
            random(&[1, channels, extent, extent], 1),
            random(&[channels, channels, kernel, kernel], 2),
            random(&[channels], 3),
        ];
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let layouts = [Layout::Blocked(16), Layout::Plain, Layout::Plain];
        let operands = operands(&values, &types, &layouts, &[false, true, true], Packing::Free);
        let op = Op::Conv(conv);
        let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
        lower_node(&op, &operands, &output, Layout::Blocked(16), &machine).and_then(|lowered| lowered.order?.forms)
    };
    assert_eq!(order(64, 56, conv(3, 1), true), Some(Forms { down: Some(Form::Four), across: Form::Four }));
    assert_eq!(order(64, 56, conv(3, 1), false), None, "--exact");
    assert_eq!(order(64, 56, conv(3, 2), true), None, "strides have no form");
    assert_eq!(order(64, 56, conv(1, 1), true), None);
    assert_eq!(order(32, 2, conv(3, 1), true), None, "four outputs are not worth 36 products");
}

fn check_conv(x: &[usize], filters: usize, window: Window, groups: usize, residual: bool, activation: Activation) {
    let mut weights = vec![filters, x[1] / groups];
    weights.extend(&window.kernel);
    let op = Op::Conv(Conv { window, groups, residual, activation });
    let mut values = vec![random(x, 1), random(&weights, 2), random(&[filters], 3)];
    let mut constants = vec![false, true, true];
    if residual {
        let plain = Op::Conv(match &op {
            Op::Conv(conv) => Conv { residual: false, ..conv.clone() },
            _ => return,
        });
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let output = infer(&plain, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
        values.push(random(&output.shape, 4));
        constants.push(false);
    }
    check(&op, &values, &constants);
}

#[test]
fn convolutions_of_every_remainder() {
    let none = Activation::None;
    for channels in [1, 3, 5, 16, 17] {
        for filters in [1, 8, 17, 33] {
            check_conv(&[1, channels, 5, 7], filters, Window::uniform(&[3, 3], 1, 1, 1), 1, false, Activation::Relu);
            check_conv(&[1, channels, 4, 6], filters, Window::uniform(&[1, 1], 1, 1, 0), 1, true, none);
        }
    }
    for width in 1..=20 {
        check_conv(&[1, 4, 2, width], 16, Window::uniform(&[3, 3], 1, 1, 1), 1, false, none);
        check_conv(&[1, 3, 3, width + 2], 5, Window::uniform(&[2, 3], 2, 1, 0), 1, false, none);
    }
    for stride in 1..=3 {
        for pad in 0..=3 {
            for dilation in 1..=2 {
                check_conv(
                    &[1, 4, 11, 13],
                    8,
                    Window::uniform(&[3, 5], stride, dilation, pad),
                    1,
                    true,
                    Activation::HardSwish,
                );
            }
        }
    }
}

#[test]
fn convolutions_of_other_ranks_groups_and_batches() {
    check_conv(&[1, 3, 19], 9, Window::uniform(&[5], 2, 1, 2), 1, true, Activation::Clip(-0.5, 0.5));
    check_conv(&[2, 3, 6, 5], 6, Window::uniform(&[3, 3], 1, 1, 1), 1, true, Activation::LeakyRelu(0.1));
    check_conv(&[1, 3, 4, 5, 6], 7, Window::uniform(&[3, 3, 3], 1, 1, 1), 1, false, Activation::HardSigmoid(0.2, 0.5));
    check_conv(&[1, 2, 5, 5, 7], 4, Window::uniform(&[3, 2, 3], 2, 1, 1), 1, true, Activation::None);
    check_conv(&[1, 32, 5, 5], 64, Window::uniform(&[3, 3], 1, 1, 1), 2, true, Activation::Relu);
    check_conv(&[2, 64, 3, 9], 32, Window::uniform(&[1, 1], 1, 1, 0), 4, false, Activation::Relu);
}

#[test]
fn depthwise_convolutions() {
    for channels in [2, 16, 17, 33] {
        for stride in 1..=2 {
            check_conv(
                &[1, channels, 7, 9],
                channels,
                Window::uniform(&[3, 3], stride, 1, 1),
                channels,
                false,
                Activation::Relu,
            );
        }
    }
    for width in 1..=20 {
        check_conv(&[2, 5, 3, width], 5, Window::uniform(&[3, 3], 1, 1, 1), 5, true, Activation::None);
    }
    check_conv(&[1, 6, 25], 6, Window::uniform(&[7], 1, 2, 6), 6, false, Activation::None);
    check_conv(&[1, 6, 4, 5, 6], 6, Window::uniform(&[3, 3, 3], 1, 1, 1), 6, false, Activation::None);
}

#[test]
fn pools() {
    for kind in [PoolKind::Max, PoolKind::Average] {
        for count_include_pad in [false, true] {
            for width in 3..=18 {
                let op = Op::Pool(Pool {
                    kind,
                    window: Window::uniform(&[3, 3], 2, 1, 1),
                    declared_pad_end: vec![1, 1],
                    count_include_pad,
                });
                check(&op, &[random(&[1, 17, 5, width], 5)], &[false]);
            }
            let mut ceil = Window::uniform(&[2], 2, 1, 0);
            ceil.pad_end = vec![1];
            let op = Op::Pool(Pool { kind, window: ceil, declared_pad_end: vec![0], count_include_pad });
            check(&op, &[random(&[2, 3, 9], 6)], &[false]);
            let op = Op::Pool(Pool {
                kind,
                window: Window::uniform(&[2, 2, 2], 2, 1, 0),
                declared_pad_end: vec![0; 3],
                count_include_pad,
            });
            check(&op, &[random(&[1, 4, 4, 6, 6], 7)], &[false]);
        }
        for plane in [[1, 1], [1, 3], [2, 2], [7, 7]] {
            check(&Op::GlobalPool(kind), &[random(&[1, 19, plane[0], plane[1]], 8)], &[false]);
        }
    }
}

#[test]
fn matrix_products() {
    let gemm =
        |activation| Op::Gemm(Gemm { transpose_a: false, transpose_b: false, alpha: 1.0, beta: 1.0, activation });
    for rows in [1, 2, 5, 7, 13] {
        for columns in [1, 3, 16, 17, 64, 65, 150] {
            let values = [random(&[rows, 9], 1), random(&[9, columns], 2), random(&[columns], 3)];
            check(&gemm(Activation::Relu), &values, &[false, true, true]);
            check(&gemm(Activation::None), &values[..2], &[false, true]);
            check(&Op::MatMul, &values[..2], &[false, false]);
        }
    }
    check(&Op::MatMul, &[random(&[2, 3, 5, 7], 1), random(&[2, 3, 7, 9], 2)], &[false, false]);
    check(&Op::MatMul, &[random(&[3, 5, 7], 1), random(&[7, 33], 2)], &[false, true]);
}

/// Weights in 8 bits on a machine that multiplies bytes: as near to the exact product as rows in 16 bits are.
#[test]
fn matrix_products_in_whole_numbers() {
    let neon = Machine::spelled(InstructionSet::Neon, 32);
    let machine = Machine { dot_product: true, weight_storage: WeightStorage::Int8, ..neon };
    let op = Op::Gemm(Gemm {
        transpose_a: false,
        transpose_b: false,
        alpha: 1.0,
        beta: 1.0,
        activation: Activation::LeakyRelu(0.1),
    });
    for (rows, depth, columns) in
        [(1, 16, 4), (1, 37, 70), (2, 64, 33), (3, 129, 16), (7, 18, 23), (5, 4096, 5), (1, 512, 130)]
    {
        let exact = random(&[depth, columns], 2);
        let stored = columns_of(&exact, columns);
        let values = [random(&[rows, depth], 1), stored, random(&[columns], 3)];
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("the test's operator fits").remove(0);
        let operands = operands(&values, &types, &[Layout::Plain; 3], &[false, true, true], Packing::Free);
        let lowered = lower_node(&op, &operands, &output, Layout::Plain, &machine).expect("a kernel");
        assert!(lowered.kernel.name.starts_with("dot"), "{}", lowered.kernel.name);
        check_on(&op, &values, &[false, true, true], &machine);
        let two = Machine { threads: 2, ..machine.clone() };
        let shared = lower_node(&op, &operands, &output, Layout::Plain, &two).expect("a kernel").kernel.split.is_some();
        assert_eq!(shared, depth * columns > 60_000, "threads share the columns of {depth} x {columns}");
    }
    // A row of zeros, and one of very small numbers.
    let values = [
        Value::f32([2, 16], vec![0.0; 16].into_iter().chain([1e-38; 16]).collect()),
        columns_of(&random(&[16, 8], 2), 8),
    ];
    check_on(&op, &values, &[false, true], &machine);
    // Few factors are not worth the rounding.
    let values = [random(&[1, 9], 1), columns_of(&random(&[9, 8], 2), 8)];
    check_on(&op, &values, &[false, true], &machine);
}

/// A matrix rounded to what is stored of it in 8 bits.
fn columns_of(exact: &Value, width: usize) -> Value {
    let matrix = exact.as_f32().expect("tests use f32");
    let columns = storage::columns(matrix, width, WeightStorage::Int8).expect("finite weights");
    let steps = columns.steps.iter().cycle();
    Value::f32(exact.shape.clone(), columns.stored.iter().zip(steps).map(|(stored, step)| stored * step).collect())
}

#[test]
fn element_wise_functions() {
    let shape = [2, 5, 3, 7];
    for function in [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Max, BinaryOp::Min] {
        let op = Op::Binary(function, Activation::Relu);
        check(&op, &[random(&shape, 1), random(&shape, 2)], &[false, false]);
        check(&op, &[random(&shape, 1), random(&[5, 1, 1], 2)], &[false, true]);
        check(&op, &[random(&[1], 1), random(&shape, 2)], &[true, false]);
        check(&op, &[random(&shape, 1), random(&shape, 2)], &[true, false]);
    }
    let divisor = Value::f32(shape, (0..210).map(|index| 1.0 + index as f32).collect());
    check(&Op::Binary(BinaryOp::Div, Activation::None), &[random(&shape, 1), divisor], &[false, false]);
    let steps = Value::f32([5, 1, 1], vec![0.031, 0.25, 0.5, 0.0625, 0.017]);
    for op in [BinaryOp::Div, BinaryOp::RoundedQuotient] {
        check(&Op::Binary(op, Activation::Clip(-9.0, 31.0)), &[random(&shape, 1), steps.clone()], &[false, true]);
    }
    for function in [
        UnaryOp::Activation(Activation::HardSwish),
        UnaryOp::Activation(Activation::Clip(-0.2, 0.6)),
        UnaryOp::Neg,
        UnaryOp::Abs,
        UnaryOp::Sigmoid,
        UnaryOp::Tanh,
        UnaryOp::Gelu { tanh: false },
    ] {
        check(&Op::Unary(function), &[random(&[1, 37], 3)], &[false]);
        check(&Op::Unary(function), &[random(&shape, 3)], &[false]);
    }
}

#[test]
fn softmax_and_layer_normalisation() {
    for width in [1, 2, 7, 16, 17, 33, 64] {
        check(&Op::Softmax { axis: 2 }, &[random(&[2, 3, width], 1)], &[false]);
        let shape = [3, width];
        let far = Value::f32(shape, (0..3 * width).map(|index| -300.0 - (index % 5) as f32).collect());
        check(&Op::Softmax { axis: 1 }, &[far], &[false]);
        let values = [random(&[5, width], 1), random(&[width], 2), random(&[width], 3)];
        check(&Op::LayerNormalization { axis: 1, epsilon: 1e-5 }, &values, &[false, true, true]);
    }
    let values = [random(&[2, 3, 5], 1), random(&[3, 5], 2), random(&[3, 5], 3)];
    check(&Op::LayerNormalization { axis: 1, epsilon: 1e-5 }, &values, &[false, true, true]);
}

#[test]
fn a_kernel_that_leaves_its_buffer_is_refused() {
    let values = [random(&[1, 4, 4, 4], 1), random(&[4, 4, 1, 1], 2), random(&[4], 3)];
    let op = Op::Conv(Conv {
        window: Window::uniform(&[1, 1], 1, 1, 0),
        groups: 1,
        residual: false,
        activation: Activation::None,
    });
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let operands: Vec<Operand<'_>> = values
        .iter()
        .zip(&types)
        .enumerate()
        .map(|(index, (value, tensor_type))| Operand {
            packing: Packing::Free,
            tensor_type,
            layout: if index == 0 { Layout::Blocked(4) } else { Layout::Plain },
            value: (index > 0).then(|| value.as_f32().expect("tests use f32")),
            whole: value.as_f32().is_some_and(are_whole),
            stored: Stored::plain(ElementType::F32),
        })
        .collect();
    let output = TensorType::f32([1, 4, 4, 4]);
    for machine in machines().iter().filter(|machine| machine.instruction_set.lanes() == 4) {
        let mut kernel = lower_node(&op, &operands, &output, Layout::Blocked(4), machine).expect("it lowers").kernel;
        verify(&kernel).expect("as lowered it is sound");
        kernel.buffers[0].elements -= 1;
        assert!(verify(&kernel).is_err(), "{kernel}");
    }
}
