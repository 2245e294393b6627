//! Sums of bytes without an instruction that multiplies them by fours, as on a Cortex-A53 or A72.
//!
//! Families write kernels with [`Expression::DotBytes`]. Here these become products of one half of a vector at a time: eight
//! numbers of 16 bits (`smull`), to which the next products are added (`smlal`) as often as 16 bits hold what weights can
//! make of any bytes, and then neighbours are added to sums of 32 bits (`sadalp`). Each sum so has two vectors, that of the
//! low and that of the high halves, whose lanes are added up when it is read (`addp`). Loops over what is summed are joined
//! in pairs, so that there are products to add. In whole numbers no order changes what comes out.

use std::collections::{BTreeMap, HashMap};

use super::{Binding, LoweredNode, Operand};
use crate::visit::{each_expression, each_expression_mut, fixed, shifted};
use crate::{
    Affine, Bound, Buffer, Expression, Factors, Half, Joining, Kernel, LoopVar, Statement, Variable, ceil_quotient,
    verify,
};
use partita_ir::graph::ElementType;

/// Least number of 16 bits, as a number of bytes of -128: so large may the weights be that are multiplied and added.
const LARGEST: f32 = 255.0;

/// Most products that are worth adding before the sums of 32 bits.
const LONGEST: usize = 4;

/// Sums whose products stand between each other's, so that none waits for the one before: on cores that find other work
/// themselves, and on those that execute in order, where an instruction's result is there for the sixth behind it.
const TOGETHER: usize = 2;
const TOGETHER_IN_ORDER: usize = 3;

/// Most products of a body of several turns.
const MOST_PRODUCTS: usize = 160;

/// The same kernel for a machine that multiplies halves of vectors; none if that cannot be. Kernels that do not multiply
/// bytes stay as they are.
pub(super) fn lower(mut lowered: LoweredNode, inputs: &[Operand<'_>], in_order: bool) -> Option<LoweredNode> {
    let mut multiplies = false;
    each_expression(&lowered.kernel.body, &mut |part| multiplies |= matches!(part, Expression::DotBytes(..)));
    if !multiplies {
        return Some(lowered);
    }
    let mut sums = Vec::new();
    each_sum(&lowered.kernel, &lowered.kernel.body, &mut sums);
    let largest = inputs[1].value?.iter().fold(1.0f32, |largest, weight| largest.max(weight.abs()));
    let chain = ((LARGEST / largest) as usize).clamp(1, LONGEST);
    let kernel = &mut lowered.kernel;
    let highs = sums.iter().map(|sum| (*sum, declare(kernel, &format!("{}_high", name(kernel, *sum))))).collect();
    let mut body = std::mem::take(&mut kernel.body);
    let mut rewriter = Rewriter { kernel, highs, chain, in_order, starts: None };
    body = rewriter.block(&body)?;
    let starts = rewriter.starts;
    kernel.body = body;
    if let Some(starts) = starts {
        spread(&mut lowered, starts)?;
    }
    verify::verify(&lowered.kernel).ok()?;
    Some(lowered)
}

fn name(kernel: &Kernel, variable: Variable) -> &str {
    &kernel.variable_names[variable.0 as usize]
}

fn declare(kernel: &mut Kernel, name: &str) -> Variable {
    let known = kernel.variable_names.iter().position(|other| other == name);
    let number = known.unwrap_or_else(|| {
        kernel.variable_names.push(name.to_string());
        kernel.variable_names.len() - 1
    });
    Variable(number as u32)
}

/// Variables that products of bytes are added to, or that would be if there were any.
fn each_sum(kernel: &Kernel, statements: &[Statement], found: &mut Vec<Variable>) {
    let is_sum = |value: &Expression| match value {
        Expression::DotBytes(..) => true,
        Expression::Load(buffer, _) => kernel.buffers[buffer.0 as usize].storage == ElementType::I32,
        _ => false,
    };
    for statement in statements {
        match statement {
            Statement::For { body, .. } => each_sum(kernel, body, found),
            Statement::Assign(sum, value) if is_sum(value) && !found.contains(sum) => found.push(*sum),
            _ => {}
        }
    }
}

/// What sums begin with lies in the lanes of both halves: every second one is 0.
fn spread(lowered: &mut LoweredNode, starts: Buffer) -> Option<()> {
    let Binding::Weights { elements, .. } = lowered.bindings.get_mut(starts.0 as usize)? else { return None };
    *elements = elements.iter().flat_map(|start| [*start, 0.0]).collect();
    lowered.kernel.buffers[starts.0 as usize].elements = elements.len();
    Some(())
}

/// A factor of a product: what is loaded, or a variable that has it; and a lane, if that is to be in all of them.
#[derive(Clone, Debug, PartialEq)]
struct Factor {
    from: Source,
    lane: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    /// A number of [`Segment::loads`].
    Load(usize),
    Variable(Variable),
}

/// A sum, and factors of products that are added to it, as numbers of [`Segment::factors`].
type Chain = (Variable, Vec<[usize; 2]>);

/// Loads and products that follow each other.
#[derive(Default)]
struct Segment {
    /// As they stand.
    statements: Vec<Statement>,
    loads: Vec<Expression>,
    /// What variables have.
    known: HashMap<Variable, usize>,
    /// Factors of products, by the sum that they are added to, in the order of the first ones.
    sums: Vec<Chain>,
    factors: Vec<Factor>,
}

impl Segment {
    /// Takes a statement in, if it is one that may be.
    fn take(&mut self, statement: &Statement) -> bool {
        match statement {
            Statement::Comment(_) | Statement::Prefetch(..) => {}
            Statement::Assign(sum, Expression::DotBytes(_, a, b, before)) if **before == Expression::Variable(*sum) => {
                let (Some(a), Some(b)) = (self.factor(a), self.factor(b)) else { return false };
                match self.sums.iter_mut().find(|(other, _)| other == sum) {
                    Some((_, products)) => products.push([a, b]),
                    None => self.sums.push((*sum, vec![[a, b]])),
                }
            }
            Statement::Assign(variable, value) if is_load(value) => {
                self.known.insert(*variable, self.loads.len());
                self.loads.push(value.clone());
            }
            _ => return false,
        }
        self.statements.push(statement.clone());
        true
    }

    fn factor(&mut self, value: &Expression) -> Option<usize> {
        let (variable, lane) = match value {
            Expression::Variable(variable) => (variable, None),
            Expression::Lane(variable, lane) => (variable, Some(*lane)),
            _ => return None,
        };
        let from = self.known.get(variable).map_or(Source::Variable(*variable), |load| Source::Load(*load));
        // Of equal lanes each will do.
        let is_whole = match from {
            Source::Load(load) => {
                matches!(self.loads[load], Expression::Whole(_) | Expression::BroadcastBytes(..))
            }
            Source::Variable(_) => false,
        };
        let factor = Factor { from, lane: lane.filter(|_| !is_whole) };
        let known = self.factors.iter().position(|other| *other == factor);
        Some(known.unwrap_or_else(|| {
            self.factors.push(factor);
            self.factors.len() - 1
        }))
    }
}

/// Bytes that are loaded, or made of nothing else.
fn is_load(value: &Expression) -> bool {
    match value {
        Expression::LoadBytes(..) | Expression::BroadcastBytes(..) | Expression::Whole(_) => true,
        Expression::Unary(_, inner) => is_load(inner),
        _ => false,
    }
}

struct Rewriter<'a> {
    kernel: &'a mut Kernel,
    /// Of each sum, the variable of the high halves.
    highs: HashMap<Variable, Variable>,
    /// Products that are added in 16 bits.
    chain: usize,
    /// Instructions are executed as they stand.
    in_order: bool,
    /// Where the numbers lie that sums begin with.
    starts: Option<Buffer>,
}

impl Rewriter<'_> {
    fn block(&mut self, statements: &[Statement]) -> Option<Vec<Statement>> {
        let mut result = Vec::with_capacity(statements.len());
        let mut segment = Segment::default();
        for statement in statements {
            if !self.starts_sum(statement) && segment.take(statement) {
                continue;
            }
            self.products(std::mem::take(&mut segment), &mut result);
            match statement {
                Statement::For { .. } => result.extend(self.loops(statement)?),
                Statement::Assign(sum, start) if self.highs.contains_key(sum) => {
                    result.extend(self.start(*sum, start)?);
                }
                other => {
                    let mut other = vec![other.clone()];
                    self.read(&mut other);
                    result.extend(other);
                }
            }
        }
        self.products(segment, &mut result);
        Some(result)
    }

    /// Whether a statement gives a sum its first value.
    fn starts_sum(&self, statement: &Statement) -> bool {
        match statement {
            Statement::Assign(sum, Expression::DotBytes(..)) => !self.highs.contains_key(sum),
            Statement::Assign(sum, _) => self.highs.contains_key(sum),
            _ => false,
        }
    }

    /// A loop; one over what is summed does as many turns at once as make whole chains of products.
    fn loops(&mut self, statement: &Statement) -> Option<Vec<Statement>> {
        let Statement::For { var, low, high, step, unroll, body } = statement else { return None };
        let turn = |low: Bound, high: Bound, step: i64, body: Vec<Statement>| Statement::For {
            var: *var,
            low,
            high,
            step,
            unroll: *unroll,
            body,
        };
        // One that runs once is none: bodies without loops inside are written out twice, if they are short.
        if let (Bound::Constant(first), Bound::Constant(end)) = (low, high)
            && first < end
            && first + step >= *end
            && self.counted(body, *var).is_some()
        {
            return self.block(&fixed(body, *var, *first));
        }
        let at_once = self.at_once(statement);
        if let (Bound::Constant(first), Bound::Constant(end)) = (low, high)
            && at_once > 1
        {
            let middle = first + ceil_quotient(end - first, *step) / at_once * at_once * step;
            let together = self.block(&joined(body, *var, *step, at_once))?;
            let mut result = vec![turn(low.clone(), Bound::Constant(middle), at_once * step, together)];
            if middle < *end {
                let rest = turn(Bound::Constant(middle), high.clone(), *step, body.clone());
                result.extend(self.loops(&rest)?);
            }
            return Some(result);
        }
        let body = self.block(body)?;
        Some(vec![turn(low.clone(), high.clone(), *step, body)])
    }

    /// Turns of a loop that are done at once.
    fn at_once(&self, statement: &Statement) -> i64 {
        let Statement::For { var, low: Bound::Constant(low), high: Bound::Constant(high), step, body, .. } = statement
        else {
            return 1;
        };
        let Some(counted) = self.counted(body, *var) else { return 1 };
        let wanted = (1..=self.chain).find(|times| (counted.of_sum * times).is_multiple_of(self.chain)).unwrap_or(1);
        let most = (MOST_PRODUCTS / counted.products).max(1);
        (wanted.min(most) as i64).min(ceil_quotient(high - low, *step))
    }

    /// The most products of an innermost body; none if statements are more than loops around loads and products, or if bounds
    /// inside depend on a loop.
    fn counted(&self, statements: &[Statement], var: LoopVar) -> Option<Counted> {
        let decides = |bound: &Bound| match bound {
            Bound::Constant(_) => false,
            Bound::Max(_, affine, _) | Bound::Min(_, affine, _) => affine.terms.iter().any(|(other, _)| *other == var),
        };
        let mut segment = Segment::default();
        let mut inside: Option<Counted> = None;
        for statement in statements {
            match statement {
                Statement::For { low, high, body, .. } if !decides(low) && !decides(high) => {
                    let found = self.counted(body, var)?;
                    inside = Some(inside.filter(|inside| inside.products >= found.products).unwrap_or(found));
                }
                other if !self.starts_sum(other) && segment.take(other) => {}
                _ => return None,
            }
        }
        let of_sums = || segment.sums.iter().map(|(_, products)| products.len());
        let own = Counted { products: of_sums().sum(), of_sum: of_sums().max().unwrap_or(0) };
        match inside {
            Some(inside) => Some(inside).filter(|_| own.products == 0),
            None => Some(own).filter(|own| own.products > 0),
        }
    }

    /// The first value of a sum, of both halves.
    fn start(&mut self, sum: Variable, start: &Expression) -> Option<Vec<Statement>> {
        let high = *self.highs.get(&sum)?;
        let values = match start {
            Expression::Whole(0) => [start.clone(), start.clone()],
            Expression::Load(buffer, at) if self.kernel.buffers[buffer.0 as usize].storage == ElementType::I32 => {
                self.starts = Some(*buffer);
                let at = Affine::constant(0).plus_affine(at, 2);
                [0, 4].map(|half| Expression::Load(*buffer, at.clone().plus(half)))
            }
            _ => return None,
        };
        let [low, other] = values;
        Some(vec![Statement::Assign(sum, low), Statement::Assign(high, other)])
    }

    /// Sums that are read are those of both halves.
    fn read(&self, statements: &mut [Statement]) {
        each_expression_mut(statements, &mut |part| {
            if let Expression::Variable(sum) = part
                && let Some(high) = self.highs.get(sum)
            {
                let [low, high] = [*sum, *high].map(|half| Box::new(Expression::Variable(half)));
                *part = Expression::Join(Joining::AddNeighbours, low, high);
            }
        });
    }

    /// All products of a segment, as many of each sum at a time as are added in 16 bits.
    fn products(&mut self, segment: Segment, result: &mut Vec<Statement>) {
        let is_other = |statement: &&Statement| segment.sums.is_empty() || !matches!(statement, Statement::Assign(..));
        result.extend(segment.statements.iter().filter(is_other).cloned());
        let rounds = segment.sums.iter().map(|(_, products)| products.len().div_ceil(self.chain)).max().unwrap_or(0);
        let mut loaded = Loaded::default();
        for round in 0..rounds {
            let chain = |(sum, products): &Chain| {
                let chain = products.chunks(self.chain).nth(round)?;
                Some((*sum, chain.to_vec()))
            };
            let mut chains: Vec<Chain> = segment.sums.iter().filter_map(chain).collect();
            // Fewer factors of one side stay in registers than of the other.
            let distinct = |side: usize| {
                let mut found: Vec<usize> = chains.iter().flat_map(|(_, c)| c.iter().map(|p| p[side])).collect();
                found.sort_unstable();
                found.dedup();
                found
            };
            let (first, second) = (distinct(0), distinct(1));
            let (held, moving) = if first.len() < second.len() { (first, 1) } else { (second, 0) };
            chains.sort_by_key(|(_, chain)| chain.iter().map(|product| product[moving]).min());
            loaded.factors.clear();
            self.hold(&segment, held, &mut loaded, result);
            let groups: Vec<&[Chain]> = match self.in_order {
                true => chains.chunks(TOGETHER_IN_ORDER).collect(),
                false => chains.chunks(TOGETHER).collect(),
            };
            for (index, few) in groups.iter().enumerate() {
                self.factors(&segment, few, &mut loaded, result);
                self.multiply(few, &loaded, result);
                if let Some(next) = groups.get(index + 1).filter(|_| self.in_order) {
                    self.factors(&segment, next, &mut loaded, result);
                }
                self.add(few, result);
            }
        }
    }

    /// Loads factors, neighbours after each other.
    fn hold(&mut self, segment: &Segment, mut held: Vec<usize>, loaded: &mut Loaded, result: &mut Vec<Statement>) {
        held.sort_by_key(|factor| match &segment.factors[*factor].from {
            Source::Load(load) => match &segment.loads[*load] {
                Expression::LoadBytes(buffer, at) => (buffer.0, at.constant),
                _ => (u32::MAX, 0),
            },
            Source::Variable(_) => (u32::MAX, 0),
        });
        for factor in held {
            self.factor(segment, factor, loaded, result);
        }
    }

    /// Loads what a few sums' products are of.
    fn factors(&mut self, segment: &Segment, few: &[Chain], loaded: &mut Loaded, result: &mut Vec<Statement>) {
        for factor in few.iter().flat_map(|(_, chain)| chain.iter().flatten()) {
            self.factor(segment, *factor, loaded, result);
        }
    }

    /// The numbers of 16 bits of a half that the products of one of a few sums are added in.
    fn numbers(&mut self, side: usize, half: Half) -> Variable {
        let half = if half == Half::Low { "low" } else { "high" };
        declare(self.kernel, &format!("products_{side}_{half}"))
    }

    /// The products of a few sums, between each other.
    fn multiply(&mut self, few: &[Chain], loaded: &Loaded, result: &mut Vec<Statement>) {
        let longest = few.iter().map(|(_, chain)| chain.len()).max().unwrap_or(0);
        for at in 0..longest {
            for (side, (_, chain)) in few.iter().enumerate() {
                let Some([Some(a), Some(b)]) = chain.get(at).map(|pair| pair.map(|one| loaded.factors.get(&one)))
                else {
                    continue;
                };
                for half in Half::ALL {
                    let numbers = self.numbers(side, half);
                    let [a, b, before] = [*a, *b, numbers].map(|part| Box::new(Expression::Variable(part)));
                    let value = match at {
                        0 => Expression::Join(Joining::Products(half), a, b),
                        _ => Expression::AddProducts(Factors::Bytes(half), a, b, before),
                    };
                    result.push(Statement::Assign(numbers, value));
                }
            }
        }
    }

    /// Adds the products of a few sums to these.
    fn add(&mut self, few: &[Chain], result: &mut Vec<Statement>) {
        for (side, (sum, _)) in few.iter().enumerate() {
            let sums = [*sum, self.highs.get(sum).copied().unwrap_or(*sum)];
            for (half, sum) in Half::ALL.into_iter().zip(sums) {
                let numbers = self.numbers(side, half);
                let [before, numbers] = [sum, numbers].map(|part| Box::new(Expression::Variable(part)));
                result.push(Statement::Assign(sum, Expression::Join(Joining::AddTwos, before, numbers)));
            }
        }
    }

    /// The variable that has a factor, loaded if it is not yet.
    fn factor(
        &mut self,
        segment: &Segment,
        factor: usize,
        loaded: &mut Loaded,
        result: &mut Vec<Statement>,
    ) -> Variable {
        if let Some(variable) = loaded.factors.get(&factor) {
            return *variable;
        }
        let Factor { from, lane } = &segment.factors[factor];
        let mut variable = match from {
            Source::Variable(variable) => *variable,
            Source::Load(load) => match loaded.vectors.get(load) {
                Some(variable) => *variable,
                None => {
                    let variable = declare(self.kernel, &format!("bytes_{load}"));
                    result.push(Statement::Assign(variable, segment.loads[*load].clone()));
                    if lane.is_some() {
                        loaded.vectors.insert(*load, variable);
                    }
                    variable
                }
            },
        };
        if let Some(lane) = lane {
            let all = declare(self.kernel, &format!("all_{factor}"));
            result.push(Statement::Assign(all, Expression::Lane(variable, *lane)));
            variable = all;
        }
        loaded.factors.insert(factor, variable);
        variable
    }
}

/// Variables that have something.
#[derive(Default)]
struct Loaded {
    /// Vectors of which lanes are taken.
    vectors: BTreeMap<usize, Variable>,
    factors: BTreeMap<usize, Variable>,
}

/// Products of a body of loops around loads and products.
#[derive(Clone, Copy)]
struct Counted {
    /// Of all sums of an innermost body.
    products: usize,
    /// Of one of them.
    of_sum: usize,
}

/// Every innermost body, so many turns of it behind each other.
fn joined(statements: &[Statement], var: LoopVar, step: i64, turns: i64) -> Vec<Statement> {
    if !statements.iter().any(|statement| matches!(statement, Statement::For { .. })) {
        return (0..turns).flat_map(|turn| shifted(statements, var, turn * step)).collect();
    }
    let inside = |statement: &Statement| {
        let mut statement = statement.clone();
        if let Statement::For { body, .. } = &mut statement {
            *body = joined(body, var, step, turns);
        }
        statement
    };
    statements.iter().map(inside).collect()
}
