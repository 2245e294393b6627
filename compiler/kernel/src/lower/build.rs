//! Puts kernels together: names, buffers, loops.

use std::collections::HashMap;

use crate::{
    Access, Affine, Arithmetic, Bound, Buffer, BufferDeclaration, Expression, Kernel, LoopDeclaration, LoopVar, Role,
    Statement, Variable,
};
use partita_ir::graph::ElementType;
use partita_ir::graph::op::Activation;

/// A kernel under construction.
pub(super) struct Builder {
    lanes: u32,
    buffers: Vec<BufferDeclaration>,
    loops: Vec<LoopDeclaration>,
    /// The number that the last loop of a name got.
    loop_numbers: HashMap<String, usize>,
    variable_names: Vec<String>,
    variables: HashMap<String, u32>,
}

impl Builder {
    pub(super) fn new(lanes: u32) -> Builder {
        Builder {
            lanes,
            buffers: Vec::new(),
            loops: Vec::new(),
            loop_numbers: HashMap::new(),
            variable_names: Vec::new(),
            variables: HashMap::new(),
        }
    }

    pub(super) fn buffer(&mut self, name: &str, access: Access, elements: usize) -> Buffer {
        self.stored_buffer(name, access, elements, ElementType::F32)
    }

    pub(super) fn stored_buffer(
        &mut self,
        name: &str,
        access: Access,
        elements: usize,
        storage: ElementType,
    ) -> Buffer {
        self.buffers.push(BufferDeclaration { name: name.to_string(), access, elements, storage });
        Buffer(self.buffers.len() as u32 - 1)
    }

    /// Says how a buffer is stored.
    pub(super) fn store(&mut self, buffer: Buffer, storage: ElementType) {
        self.buffers[buffer.0 as usize].storage = storage;
    }

    /// How a buffer is used.
    pub(super) fn access(&self, buffer: Buffer) -> Access {
        self.buffers[buffer.0 as usize].access
    }

    /// A variable of loops over what is summed, or over what stays in scratch buffers; equal names get a number.
    pub(super) fn loop_var(&mut self, name: &str) -> LoopVar {
        self.declare_loop(name, None)
    }

    /// A variable of loops over part of the result, which threads may share; equal names get a number.
    pub(super) fn loop_over(&mut self, role: Role, name: &str) -> LoopVar {
        self.declare_loop(name, Some(role))
    }

    fn declare_loop(&mut self, name: &str, role: Option<Role>) -> LoopVar {
        let number = self.loop_numbers.entry(name.to_string()).and_modify(|number| *number += 1).or_insert(1);
        let name = if *number == 1 { name.to_string() } else { format!("{name}_{number}") };
        self.loops.push(LoopDeclaration { name, role });
        LoopVar(self.loops.len() as u32 - 1)
    }

    /// Loop variables so far.
    pub(super) fn loop_count(&self) -> usize {
        self.loops.len()
    }

    /// A vector variable; the same name is the same variable.
    pub(super) fn variable(&mut self, name: &str) -> Variable {
        if let Some(found) = self.variables.get(name) {
            return Variable(*found);
        }
        let number = self.variable_names.len() as u32;
        self.variable_names.push(name.to_string());
        self.variables.insert(name.to_string(), number);
        Variable(number)
    }

    pub(super) fn name(&self, variable: Variable) -> &str {
        &self.variable_names[variable.0 as usize]
    }

    /// Gives a value a name: assigns it to the variable of that name.
    pub(super) fn assign(&mut self, name: &str, value: Expression, statements: &mut Vec<Statement>) -> Variable {
        let variable = self.variable(name);
        statements.push(Statement::Assign(variable, value));
        variable
    }

    pub(super) fn finish(self, name: String, summary: String, body: Vec<Statement>, macs: u64) -> Kernel {
        Kernel {
            name,
            summary,
            lanes: self.lanes,
            buffers: self.buffers,
            loops: self.loops,
            variable_names: self.variable_names,
            body,
            in_place: Vec::new(),
            split: None,
            alternative: None,
            winograd: None,
            macs,
        }
    }
}

/// `for var in 0..count { body }`, or just the body with the variable at 0 if it runs once.
pub(super) fn repeat(var: LoopVar, count: usize, step: usize, body: Vec<Statement>) -> Statement {
    Statement::For {
        var,
        low: Bound::Constant(0),
        high: Bound::Constant(count as i64),
        step: step as i64,
        unroll: false,
        body,
    }
}

/// Additions one after the other, before a sum moves on to a sum of sums.
pub(super) const CHAIN: usize = 64;

/// `count` turns of a body that adds to these variables, in blocks of blocks, so that long sums lose no more than short ones:
/// no variable is added to much more often than [`CHAIN`] times. The body is given the number of its turn and the variables
/// that it adds to.
pub(super) fn add_in_blocks(
    builder: &mut Builder,
    count: usize,
    sums: &[Variable],
    body: &mut impl FnMut(&mut Builder, &Affine, &[Variable]) -> Vec<Statement>,
) -> Vec<Statement> {
    blocks(builder, Affine::constant(0), count, sums, body)
}

fn blocks(
    builder: &mut Builder,
    first: Affine,
    count: usize,
    sums: &[Variable],
    body: &mut impl FnMut(&mut Builder, &Affine, &[Variable]) -> Vec<Statement>,
) -> Vec<Statement> {
    let turn = builder.loop_var("turn");
    if count <= CHAIN {
        let inside = body(builder, &first.plus_term(turn, 1), sums);
        return vec![repeat(turn, count, 1, inside)];
    }
    let mut size = CHAIN;
    while size * CHAIN < count {
        size *= CHAIN;
    }
    let names: Vec<String> = sums.iter().map(|sum| format!("{}_part", builder.name(*sum))).collect();
    let parts: Vec<Variable> = names.iter().map(|name| builder.variable(name)).collect();
    let mut part = |builder: &mut Builder, first: Affine, count: usize| {
        let zero = |part: &Variable| Statement::Assign(*part, Expression::Constant(0.0));
        let mut statements: Vec<Statement> = parts.iter().map(zero).collect();
        statements.extend(blocks(builder, first, count, &parts, body));
        let add = |(sum, part): (&Variable, &Variable)| {
            let value = binary(Arithmetic::Add, Expression::Variable(*sum), Expression::Variable(*part));
            Statement::Assign(*sum, value)
        };
        statements.extend(sums.iter().zip(&parts).map(add));
        statements
    };
    let inside = part(builder, first.clone().plus_term(turn, size as i64), size);
    let mut statements = vec![repeat(turn, count / size, 1, inside)];
    if !count.is_multiple_of(size) {
        statements.extend(part(builder, first.plus((count / size * size) as i64), count % size));
    }
    statements
}

/// `total` things in runs of `part`: (first, part, times), the rest last.
pub(super) fn runs(total: usize, part: usize) -> Vec<(usize, usize, usize)> {
    let mut runs = vec![(0, part, total / part), (total / part * part, total % part, 1)];
    runs.retain(|(_, part, times)| *part > 0 && *times > 0);
    runs
}

/// Bytes that memory is read in.
const LINE_BYTES: usize = 64;

/// Asks for what lies `ahead_bytes` behind so many elements of weights; nothing if that is 0.
pub(super) fn fetch_ahead(
    weights: (Buffer, ElementType),
    ahead_bytes: usize,
    at: &Affine,
    elements: usize,
) -> impl Iterator<Item = Statement> {
    let (buffer, element_bytes) = (weights.0, weights.1.size_bytes());
    let elements = if ahead_bytes > 0 { elements } else { 0 };
    let at = at.clone().plus((ahead_bytes / element_bytes) as i64);
    let lines = (0..elements).step_by(LINE_BYTES / element_bytes);
    lines.map(move |first| Statement::Prefetch(buffer, at.clone().plus(first as i64)))
}

pub(super) fn binary(function: Arithmetic, a: Expression, b: Expression) -> Expression {
    Expression::Binary(function, Box::new(a), Box::new(b))
}

pub(super) fn mul_add(a: Expression, b: Expression, c: Expression) -> Expression {
    Expression::MulAdd(Box::new(a), Box::new(b), Box::new(c))
}

/// An activation as vector arithmetic. Constants stand first in a maximum or minimum, which then takes one instruction
/// everywhere; a NaN stays NaN.
pub(super) fn activate(value: Expression, activation: Activation) -> Expression {
    let constant = Expression::Constant;
    let clip = |value: Expression, low: f32, high: f32| {
        let raised = if low > f32::NEG_INFINITY { binary(Arithmetic::Max, constant(low), value) } else { value };
        if high < f32::INFINITY { binary(Arithmetic::Min, constant(high), raised) } else { raised }
    };
    match activation {
        Activation::None => value,
        Activation::Relu => binary(Arithmetic::Max, constant(0.0), value),
        Activation::Clip(low, high) => clip(value, low, high),
        // max(x, 0) + alpha * min(x, 0), right for every alpha.
        Activation::LeakyRelu(alpha) => {
            let positive = binary(Arithmetic::Max, constant(0.0), value.clone());
            let negative = binary(Arithmetic::Min, constant(0.0), value);
            mul_add(negative, constant(alpha), positive)
        }
        Activation::HardSwish => {
            let gate = mul_add(value.clone(), constant(1.0 / 6.0), constant(0.5));
            binary(Arithmetic::Mul, value, clip(gate, 0.0, 1.0))
        }
        Activation::HardSigmoid(alpha, beta) => clip(mul_add(value, constant(alpha), constant(beta)), 0.0, 1.0),
    }
}

/// `affine + coefficient * var`
pub(super) fn plus(affine: &Affine, var: LoopVar, coefficient: usize) -> Affine {
    affine.clone().plus_term(var, coefficient as i64)
}
