//! Kernels to be run, of operators in every layout, with what the interpreter makes of them.

use partita::config::WeightStorage;
use partita::data::noise;
use partita::graph::infer::infer;
use partita::graph::op::{Activation, Conv, Gemm, Pool, PoolKind, UnaryOp, Window};
use partita::graph::ranges::Range;
use partita::graph::storage;
use partita::graph::types::are_whole;
use partita::graph::{BinaryOp, ElementType, Op, Stored, TensorType, Value};
use partita::kernel::lower::stored::{can_read, store};
use partita::kernel::lower::winograd::{Form, Forms};
use partita::kernel::lower::{
    Binding, LoweredNode, Machine, Operand, Packing, Pooling, WeightOrder, layout_choices, lower_node, lower_pooled,
};
use partita::kernel::{Access, BufferDeclaration, Kernel, eval, verify};
use partita::program::Layout;
use partita_tests::place::{further, is_long};

/// A kernel with its buffers before and after a run.
pub struct Case {
    pub kernel: Kernel,
    pub before: Vec<Vec<f32>>,
    pub after: Vec<Vec<f32>>,
}

/// Which operators are tried on a machine.
#[derive(Clone, Copy, PartialEq)]
pub enum Share {
    /// All of them.
    All,
    /// Two of four, the first two (0) or the others (1): what most machines do alike is not tried on each. With
    /// `PARTITA_LONG=1` all.
    Half(usize),
}

impl Share {
    fn has(self, index: usize) -> bool {
        match self {
            Share::Half(first) if !is_long() => index / 2 % 2 == first,
            Share::Half(_) | Share::All => true,
        }
    }
}

/// Operators, shapes of their operands, and which operands are constants.
fn operators(share: Share) -> Vec<(Op, Vec<Vec<usize>>, Vec<bool>)> {
    let numbered = all_operators().into_iter().enumerate();
    numbered.filter(|(index, _)| share.has(*index)).map(|(_, operator)| operator).collect()
}

fn all_operators() -> Vec<(Op, Vec<Vec<usize>>, Vec<bool>)> {
    let mut all = Vec::new();
    let mut conv = |x: &[usize], filters: usize, window: Window, groups: usize, activation: Activation| {
        let mut weights = vec![filters, x[1] / groups];
        weights.extend(&window.kernel);
        let op = Op::Conv(Conv { window, groups, residual: false, activation });
        all.push((op, vec![x.to_vec(), weights, vec![filters]], vec![false, true, true]));
    };
    // One, less than a tile of any machine, the largest tile, and one more; the interpreter's own tests have every
    // remainder.
    for width in further(&[1, 5, 14, 15], &[2, 7, 13, 20]) {
        conv(&[1, 17, 4, width], 33, Window::uniform(&[3, 3], 1, 1, 1), 1, Activation::Relu);
        conv(&[1, 3, 5, width + 4], 9, Window::uniform(&[3, 5], 2, 1, 1), 1, Activation::HardSwish);
        conv(&[1, 6, 3, width], 6, Window::uniform(&[3, 3], 1, 1, 1), 6, Activation::Clip(0.0, 6.0));
    }
    conv(&[1, 3, 5, 30], 20, Window::uniform(&[7, 7], 2, 1, 3), 1, Activation::None);
    conv(&[1, 5, 6, 7], 9, Window::uniform(&[5, 5], 1, 1, 2), 1, Activation::Relu);
    conv(&[2, 32, 3, 7], 64, Window::uniform(&[1, 1], 1, 1, 0), 2, Activation::LeakyRelu(0.1));
    conv(&[1, 5, 19], 12, Window::uniform(&[5], 2, 2, 4), 1, Activation::HardSigmoid(0.2, 0.5));
    conv(&[1, 3, 4, 5, 6], 7, Window::uniform(&[3, 3, 3], 1, 1, 1), 1, Activation::None);
    // Long sums, in blocks.
    for plane in [[20, 15], [70, 70]] {
        all.push((Op::GlobalPool(PoolKind::Average), vec![vec![1, 5, plane[0], plane[1]]], vec![false]));
    }
    let large = Window::uniform(&[9, 9], 1, 1, 4);
    let op = Op::Pool(Pool {
        kind: PoolKind::Average,
        window: large,
        declared_pad_end: vec![4, 4],
        count_include_pad: false,
    });
    all.push((op, vec![vec![1, 5, 7, 9]], vec![false]));
    for kind in [PoolKind::Max, PoolKind::Average] {
        let op = Op::Pool(Pool {
            kind,
            window: Window::uniform(&[3, 3], 2, 1, 1),
            declared_pad_end: vec![1, 1],
            count_include_pad: false,
        });
        all.push((op, vec![vec![1, 17, 7, 9]], vec![false]));
        all.push((Op::GlobalPool(kind), vec![vec![1, 17, 3, 3]], vec![false]));
    }
    for (rows, depth, columns) in [(1, 9, 10), (1, 9, 65), (5, 9, 33), (7, 9, 16), (1, 37, 70), (5, 64, 19)] {
        let gemm = Op::Gemm(Gemm {
            transpose_a: false,
            transpose_b: false,
            alpha: 1.0,
            beta: 1.0,
            activation: Activation::Relu,
        });
        let shapes = vec![vec![rows, depth], vec![depth, columns], vec![columns]];
        all.push((gemm, shapes.clone(), vec![false, true, true]));
        all.push((Op::MatMul, shapes[..2].to_vec(), vec![false, false]));
    }
    let shape = vec![1, 5, 3, 7];
    let functions =
        [BinaryOp::Add, BinaryOp::Sub, BinaryOp::Mul, BinaryOp::Min, BinaryOp::Max, BinaryOp::RoundedQuotient];
    let bytes = (BinaryOp::RoundedQuotient, Activation::Clip(-128.0, 127.0));
    for (function, last) in functions.map(|function| (function, Activation::None)).into_iter().chain([bytes]) {
        all.push((Op::Binary(function, last), vec![shape.clone(), shape.clone()], vec![false, false]));
    }
    let clip = UnaryOp::Activation(Activation::Clip(-0.3, 0.4));
    let relu = UnaryOp::Activation(Activation::Relu);
    let leaky = UnaryOp::Activation(Activation::LeakyRelu(0.1));
    let steps = UnaryOp::Steps { step: 0.0078125, low: -60.0, high: 90.0 };
    for function in [UnaryOp::Neg, UnaryOp::Abs, UnaryOp::Half, steps, clip, relu, leaky, UnaryOp::Tanh, UnaryOp::Silu]
    {
        all.push((Op::Unary(function), vec![shape.clone()], vec![false]));
    }
    for width in [5, 16, 37, 1125] {
        all.push((Op::Softmax { axis: 1 }, vec![vec![3, width]], vec![false]));
        let shapes = vec![vec![3, width], vec![width], vec![width]];
        all.push((Op::LayerNormalization { axis: 1, epsilon: 1e-5 }, shapes, vec![false, true, true]));
    }
    all
}

/// Every operator in every layout a machine offers, interpreted.
pub fn cases(machine: &Machine, share: Share) -> Vec<Case> {
    let mut cases = cases_stored(machine, WeightStorage::F32, share, 0);
    for storage in [WeightStorage::F16, WeightStorage::Int8] {
        let narrow = cases_stored(machine, storage, share, cases.len());
        assert!(narrow.len() > 1, "products with weights in {storage:?}");
        cases.extend(narrow);
    }
    for (op, shapes, constants) in operators(share) {
        let number = 2000 + cases.len();
        cases.extend(of_operator(&op, &shapes, &constants, machine).map(|lowered| whole_case(lowered, number)));
    }
    assert!(cases.iter().any(|case| case.kernel.buffers.iter().any(is_narrow_output)), "results in bytes");
    cases
}

fn is_narrow_output(declared: &BufferDeclaration) -> bool {
    declared.access == Access::Output && declared.storage != ElementType::F32
}

/// An operator in the layouts that a machine likes best.
fn of_operator(op: &Op, shapes: &[Vec<usize>], constants: &[bool], machine: &Machine) -> Option<LoweredNode> {
    let noisy = |(seed, shape): (usize, &Vec<usize>)| noise(&TensorType::f32(shape.clone()), seed as u64);
    let values: Vec<Value> = shapes.iter().enumerate().map(noisy).collect();
    let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
    let output = infer(op, &types.iter().collect::<Vec<_>>()).expect("the operator fits").remove(0);
    let operands = |layouts: &[Layout]| -> Vec<Operand<'_>> {
        let known = constants.iter().zip(&values).map(|(constant, value)| constant.then(|| value.as_f32()).flatten());
        let typed = types.iter().zip(layouts).zip(known);
        typed
            .map(|((tensor_type, layout), value)| {
                let packing = Packing::Free;
                Operand {
                    tensor_type,
                    layout: *layout,
                    value,
                    whole: false,
                    packing,
                    stored: Stored::plain(tensor_type.element),
                }
            })
            .collect()
    };
    let plain = operands(&vec![Layout::Plain; types.len()]);
    let choice = layout_choices(op, &plain, &output, machine).into_iter().next()?;
    lower_node(op, &operands(&choice.inputs), &output, choice.output, machine)
}

/// A kernel over whole numbers that are stored in few bytes, in as many ways as there are; its result is, too, where it
/// can be.
fn whole_case(LoweredNode { mut kernel, bindings, .. }: LoweredNode, number: usize) -> Case {
    kernel.name = format!("{}_case{number}", kernel.name);
    let ways = [(ElementType::I8, 0), (ElementType::U8, 0), (ElementType::I16, 0), (ElementType::I8, 40)];
    let way = |at: usize| {
        let (element, offset) = ways[at % ways.len()];
        Stored::shifted(element, offset)
    };
    let mut before: Vec<Vec<f32>> = Vec::new();
    for (position, binding) in bindings.iter().enumerate() {
        let elements = kernel.buffers[position].elements;
        before.push(match binding {
            Binding::Weights { elements, .. } => elements.clone(),
            Binding::SameWeights { .. } => panic!("no other kernel has packed these weights"),
            Binding::Input(index) => {
                let stored = Some(way(number + index)).filter(|way| can_read(&kernel, position, *way));
                let stored = stored.unwrap_or(Stored::plain(ElementType::F32));
                store(&mut kernel, position, stored);
                let noise = noise(&TensorType::f32([elements]), 50 + *index as u64);
                let noise = noise.as_f32().unwrap_or_default().iter();
                noise.map(|x| (x.abs() * 60.0).round_ties_even()).collect()
            }
            Binding::Scratch(_) => vec![0.75; elements],
            Binding::Output => vec![0.0; elements],
        });
    }
    let mut after = before.clone();
    eval::evaluate(&kernel, &mut after);
    let result = bindings.iter().position(|binding| *binding == Binding::Output).expect("a kernel has a result");
    let ends = after[result].iter().fold((0.0f32, 0.0f32), |(low, high), x| (low.min(*x), high.max(*x)));
    let stored = Stored::whole(Range::new(ends.0.into(), ends.1.into()));
    if are_whole(&after[result]) && can_read(&kernel, result, stored) {
        store(&mut kernel, result, stored);
        after.clone_from(&before);
        eval::evaluate(&kernel, &mut after);
    }
    verify::verify(&kernel).expect("the kernel stays in its buffers");
    Case { kernel, before, after }
}

/// With weights in this storage; those in fewer bytes are matrix products only.
fn cases_stored(machine: &Machine, storage: WeightStorage, share: Share, first: usize) -> Vec<Case> {
    let machine = &Machine { weight_storage: storage, ..machine.clone() };
    let mut cases = Vec::new();
    for (op, shapes, constants) in operators(share) {
        if storage != WeightStorage::F32 && !matches!(op, Op::Gemm(_)) {
            continue;
        }
        let mut values: Vec<Value> = shapes
            .iter()
            .enumerate()
            .map(|(seed, shape)| noise(&TensorType::f32(shape.clone()), seed as u64))
            .collect();
        if matches!(op, Op::Gemm(_))
            && let Some(exact) = values[1].as_f32()
            && let Some(columns) = storage::columns(exact, shapes[1][1], storage)
        {
            let steps = columns.steps.iter().cycle();
            let rounded = columns.stored.iter().zip(steps).map(|(stored, step)| stored * step).collect();
            values[1] = Value::f32(shapes[1].clone(), rounded);
        }
        let types: Vec<TensorType> = values.iter().map(Value::tensor_type).collect();
        let output = infer(&op, &types.iter().collect::<Vec<_>>()).expect("the operator fits").remove(0);
        let operands = |layouts: &[Layout], packing: Packing| -> Vec<Operand<'_>> {
            let known =
                constants.iter().zip(&values).map(|(constant, value)| if *constant { value.as_f32() } else { None });
            let typed = types.iter().zip(layouts).zip(known);
            typed
                .map(|((tensor_type, layout), value)| {
                    let whole = value.is_some_and(are_whole);
                    Operand {
                        tensor_type,
                        layout: *layout,
                        value,
                        whole,
                        packing,
                        stored: Stored::plain(tensor_type.element),
                    }
                })
                .collect()
        };
        let choices =
            layout_choices(&op, &operands(&vec![Layout::Plain; types.len()], Packing::Free), &output, machine);
        let forms = match &op {
            Op::Conv(conv) if conv.window.kernel == [3, 3] => [None, Some(Form::Two), Some(Form::Four)].to_vec(),
            Op::Conv(conv) if conv.window.kernel == [5, 5] => [None, Some(Form::TwoOfFive)].to_vec(),
            _ => vec![None],
        };
        for (choice, form) in choices.iter().flat_map(|choice| forms.iter().map(move |form| (choice, *form))) {
            let order =
                |form| Packing::Like(WeightOrder { vectors: 1, forms: Some(Forms { down: Some(form), across: form }) });
            let packing = form.map_or(Packing::Free, order);
            let operands = operands(&choice.inputs, packing);
            let lowered = lower_node(&op, &operands, &output, choice.output, machine);
            let number = first + cases.len();
            let lowered = lowered.expect("an offered layout has a kernel");
            if looks_at_elements(&op) {
                cases.push(case(lowered.clone(), number + 1000, true));
            }
            cases.push(case(lowered, number, false));
            if let Some(pooled) = pooled(&op, &operands, &output, machine) {
                cases.push(case(pooled, number + 1, false));
            }
        }
    }
    cases
}

/// The same convolution with a pool of its result.
fn pooled(op: &Op, operands: &[Operand<'_>], between: &TensorType, machine: &Machine) -> Option<LoweredNode> {
    let Op::Conv(conv) = op else { return None };
    let pool = Pool {
        kind: PoolKind::Max,
        window: Window::uniform(&[2, 2], 2, 1, 0),
        declared_pad_end: vec![0, 0],
        count_include_pad: false,
    };
    let output = infer(&Op::Pool(pool.clone()), &[between]).ok()?.remove(0);
    lower_pooled(conv, Pooling { pool: &pool, output: &output }, operands, between, machine)
}

/// Whether an operator chooses among elements, or looks at each alone: what NaN and infinity come to is the same on
/// every machine then.
fn looks_at_elements(op: &Op) -> bool {
    let is_max = |kind: PoolKind| kind == PoolKind::Max;
    match op {
        Op::Pool(pool) => is_max(pool.kind),
        Op::GlobalPool(kind) => is_max(*kind),
        Op::Binary(function, _) => !matches!(function, BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul),
        Op::Unary(function) => matches!(function, UnaryOp::Neg | UnaryOp::Abs | UnaryOp::Half | UnaryOp::Activation(_)),
        Op::Softmax { .. } => true,
        _ => false,
    }
}

/// Puts NaN, infinities and large numbers among the elements.
fn make_wild(elements: &mut [f32], seed: usize) {
    let mut odd = vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e9, -3e9, -f32::NAN];
    // Around the ends of `f16`, halves between two of its numbers, and its smallest ones.
    odd.extend([65519.9, -65520.0, 2049.0, -2051.0, 6e-8, -2e-5, 2.980_232_2e-8]);
    for (index, element) in elements.iter_mut().skip(seed).step_by(7).enumerate() {
        *element = odd[index % odd.len()];
    }
}

/// A kernel and what it does to its buffers, `wild` ones if asked for.
fn case(LoweredNode { mut kernel, bindings, .. }: LoweredNode, number: usize, wild: bool) -> Case {
    verify::verify(&kernel).expect("the kernel stays in its buffers");
    kernel.name = format!("{}_case{number}", kernel.name);
    let before: Vec<Vec<f32>> = bindings
        .iter()
        .zip(&kernel.buffers)
        .map(|(binding, declared)| match binding {
            Binding::Weights { elements, .. } => elements.clone(),
            Binding::SameWeights { .. } => panic!("no other kernel has packed these weights"),
            // Any numbers do: both sides see the same, in whatever layout.
            Binding::Input(index) => {
                let noise = noise(&TensorType::f32([declared.elements]), 50 + *index as u64);
                let mut elements = noise.as_f32().unwrap_or_default().to_vec();
                if wild {
                    make_wild(&mut elements, 3 * index + 1);
                }
                elements
            }
            Binding::Scratch(_) => vec![0.75; declared.elements],
            Binding::Output => vec![0.25; declared.elements],
        })
        .collect();
    let mut after = before.clone();
    eval::evaluate(&kernel, &mut after);
    Case { kernel, before, after }
}
