//! One direction of a recurrent layer: how a step makes the next states (ONNX LSTM-22, GRU-22, RNN-22).

use super::{Cell, Matrix, cut};
use crate::importer::NodeContext;
use partita_ir::diagnostic::Diagnostic;
use partita_ir::graph::op::{Activation, BinaryOp, UnaryOp};
use partita_ir::graph::{TensorId, Value};

/// An activation of a gate.
#[derive(Clone, Copy)]
pub(super) enum Gate {
    Unary(UnaryOp),
    /// `alpha * x + beta`
    Affine(f32, f32),
    /// `alpha * tanh(beta * x)`
    ScaledTanh(f32, f32),
}

/// What all steps of one direction share.
pub(super) struct Direction {
    pub(super) cell: Cell,
    pub(super) hidden: usize,
    /// The inputs' share of the gates.
    pub(super) weights: Matrix,
    /// The state's share of gates that are computed together, each with its bias: all, or those of a GRU in two parts.
    pub(super) recurrence: Vec<(Matrix, Option<TensorId>)>,
    /// `[3 * hidden]`, of input, output and forget gate.
    pub(super) peepholes: Option<TensorId>,
    pub(super) gates: Vec<Gate>,
    pub(super) clip: Option<f32>,
    pub(super) input_forget: bool,
    pub(super) linear_before_reset: bool,
}

/// Activations of each direction.
pub(super) fn activations(
    context: &NodeContext<'_>,
    cell: Cell,
    directions: usize,
) -> Result<Vec<Vec<Gate>>, Diagnostic> {
    let (_, default) = cell.gates();
    let count = default.len();
    let names = match context.attributes.strings("activations")? {
        Some(names) => names,
        None => default.iter().cycle().take(count * directions).map(ToString::to_string).collect(),
    };
    if names.len() != count * directions {
        let message = format!("attribute `activations` has {} entries, expected {}", names.len(), count * directions);
        return Err(context.refuse(message));
    }
    let alphas = context.attributes.floats("activation_alpha")?.unwrap_or_default();
    let betas = context.attributes.floats("activation_beta")?.unwrap_or_default();
    let (mut alphas, mut betas) = (alphas.iter().copied(), betas.iter().copied());
    let mut gates = Vec::with_capacity(names.len());
    for name in &names {
        let mut alpha = |default: f32| alphas.next().unwrap_or(default);
        let mut beta = |default: f32| betas.next().unwrap_or(default);
        gates.push(match name.to_ascii_lowercase().as_str() {
            "sigmoid" => Gate::Unary(UnaryOp::Sigmoid),
            "tanh" => Gate::Unary(UnaryOp::Tanh),
            "relu" => Gate::Unary(UnaryOp::Activation(Activation::Relu)),
            "softplus" => Gate::Unary(UnaryOp::Softplus),
            "elu" => Gate::Unary(UnaryOp::Elu { alpha: alpha(1.0) }),
            "leakyrelu" => Gate::Unary(UnaryOp::Activation(Activation::LeakyRelu(alpha(0.01)))),
            "hardsigmoid" => Gate::Unary(UnaryOp::Activation(Activation::HardSigmoid(alpha(0.2), beta(0.5)))),
            "affine" => Gate::Affine(alpha(1.0), beta(0.0)),
            "scaledtanh" => Gate::ScaledTanh(alpha(1.0), beta(1.0)),
            _ => {
                let known =
                    ["Sigmoid", "Tanh", "Relu", "HardSigmoid", "LeakyRelu", "Elu", "Softplus", "Affine", "ScaledTanh"];
                return Err(context.attributes.unknown_word("activations", name, &known));
            }
        });
    }
    Ok(gates.chunks(count).map(<[Gate]>::to_vec).collect())
}

impl Direction {
    /// The next states from the inputs' share of the gates `[batch, gates * hidden]` and the present ones.
    pub(super) fn step(
        &self,
        context: &mut NodeContext<'_>,
        share: TensorId,
        h: TensorId,
        c: Option<TensorId>,
    ) -> Result<(TensorId, Option<TensorId>), Diagnostic> {
        match (self.cell, c) {
            (Cell::Lstm, Some(c)) => self.lstm(context, share, h, c).map(|(h, c)| (h, Some(c))),
            (Cell::Gru, _) => Ok((self.gru(context, share, h)?, None)),
            _ => {
                let sum = self.sum(context, share, h)?;
                Ok((self.gate(context, 0, sum)?, None))
            }
        }
    }

    /// Both shares of all gates.
    fn sum(&self, context: &mut NodeContext<'_>, share: TensorId, h: TensorId) -> Result<TensorId, Diagnostic> {
        let own = self.own_share(context, h, 0)?;
        context.binary(BinaryOp::Add, share, own)
    }

    /// The state's share of the gates of one part, with its bias.
    fn own_share(&self, context: &mut NodeContext<'_>, h: TensorId, part: usize) -> Result<TensorId, Diagnostic> {
        let (weights, bias) = self.recurrence[part];
        let product = weights.product(context, h)?;
        match bias {
            Some(bias) => context.binary(BinaryOp::Add, product, bias),
            None => Ok(product),
        }
    }

    fn part(&self, context: &mut NodeContext<'_>, all: TensorId, gate: usize) -> Result<TensorId, Diagnostic> {
        cut(context, all, 1, gate * self.hidden, self.hidden)
    }

    /// Activation `index` of what is clipped before.
    fn gate(&self, context: &mut NodeContext<'_>, index: usize, mut x: TensorId) -> Result<TensorId, Diagnostic> {
        if let Some(clip) = self.clip {
            x = context.unary(UnaryOp::Activation(Activation::Clip(-clip, clip)), x)?;
        }
        self.activation(context, index, x)
    }

    fn activation(&self, context: &mut NodeContext<'_>, index: usize, x: TensorId) -> Result<TensorId, Diagnostic> {
        let mut scaled = |x: TensorId, factor: f32| {
            let factor = context.add_constant("factor", Value::f32(Vec::new(), vec![factor]))?;
            context.binary(BinaryOp::Mul, x, factor)
        };
        match self.gates[index] {
            Gate::Unary(function) => context.unary(function, x),
            Gate::Affine(alpha, beta) => {
                let product = scaled(x, alpha)?;
                let beta = context.add_constant("offset", Value::f32(Vec::new(), vec![beta]))?;
                context.binary(BinaryOp::Add, product, beta)
            }
            Gate::ScaledTanh(alpha, beta) => {
                let inner = scaled(x, beta)?;
                let tanh = context.unary(UnaryOp::Tanh, inner)?;
                let alpha = context.add_constant("factor", Value::f32(Vec::new(), vec![alpha]))?;
                context.binary(BinaryOp::Mul, tanh, alpha)
            }
        }
    }

    /// What a cell adds to a gate through its peephole.
    fn peep(
        &self,
        context: &mut NodeContext<'_>,
        x: TensorId,
        cell: TensorId,
        at: usize,
    ) -> Result<TensorId, Diagnostic> {
        let Some(peepholes) = self.peepholes else { return Ok(x) };
        let weights = cut(context, peepholes, 0, at * self.hidden, self.hidden)?;
        let product = context.binary(BinaryOp::Mul, cell, weights)?;
        context.binary(BinaryOp::Add, x, product)
    }

    /// Gates in the order input, output, forget, cell.
    fn lstm(
        &self,
        context: &mut NodeContext<'_>,
        share: TensorId,
        h: TensorId,
        c: TensorId,
    ) -> Result<(TensorId, TensorId), Diagnostic> {
        let all = self.sum(context, share, h)?;
        let input = self.part(context, all, 0)?;
        let input = self.peep(context, input, c, 0)?;
        let input = self.gate(context, 0, input)?;
        let forget = if self.input_forget {
            let one = context.number(1.0, input)?;
            context.binary(BinaryOp::Sub, one, input)?
        } else {
            let forget = self.part(context, all, 2)?;
            let forget = self.peep(context, forget, c, 2)?;
            self.gate(context, 0, forget)?
        };
        let candidate = self.part(context, all, 3)?;
        let candidate = self.gate(context, 1, candidate)?;
        let kept = context.binary(BinaryOp::Mul, forget, c)?;
        let added = context.binary(BinaryOp::Mul, input, candidate)?;
        let next = context.binary(BinaryOp::Add, kept, added)?;
        let output = self.part(context, all, 1)?;
        let output = self.peep(context, output, next, 1)?;
        let output = self.gate(context, 0, output)?;
        let shown = self.activation(context, 2, next)?;
        Ok((context.binary(BinaryOp::Mul, output, shown)?, next))
    }

    /// Gates in the order update, reset, hidden.
    fn gru(&self, context: &mut NodeContext<'_>, share: TensorId, h: TensorId) -> Result<TensorId, Diagnostic> {
        let (gates, hidden) = if self.linear_before_reset {
            let own = self.own_share(context, h, 0)?;
            (cut(context, own, 1, 0, 2 * self.hidden)?, Some(self.part(context, own, 2)?))
        } else {
            (self.own_share(context, h, 0)?, None)
        };
        let of_inputs = cut(context, share, 1, 0, 2 * self.hidden)?;
        let gates = context.binary(BinaryOp::Add, of_inputs, gates)?;
        let gates = self.gate(context, 0, gates)?;
        let (update, reset) = (self.part(context, gates, 0)?, self.part(context, gates, 1)?);
        let own = match hidden {
            Some(hidden) => context.binary(BinaryOp::Mul, reset, hidden)?,
            None => {
                let kept = context.binary(BinaryOp::Mul, reset, h)?;
                self.own_share(context, kept, 1)?
            }
        };
        let candidate = self.part(context, share, 2)?;
        let candidate = context.binary(BinaryOp::Add, candidate, own)?;
        let candidate = self.gate(context, 1, candidate)?;
        let one = context.number(1.0, update)?;
        let rest = context.binary(BinaryOp::Sub, one, update)?;
        let fresh = context.binary(BinaryOp::Mul, rest, candidate)?;
        let old = context.binary(BinaryOp::Mul, update, h)?;
        context.binary(BinaryOp::Add, fresh, old)
    }
}
