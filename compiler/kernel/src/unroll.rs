//! Short innermost loops written out twice, which halves what counting and moving pointers costs.

use super::visit::shifted;
use super::{Bound, Kernel, LoopVar, Statement, turns};

/// Longer bodies gain little.
const LONGEST_BODY: usize = 130;

/// Fewest turns of a loop that is changed.
const FEWEST_TURNS: usize = 4;

/// Doubles the body of short innermost loops of constant length; a last turn stands alone. Loops that threads share
/// stay as they are.
pub fn unroll(kernel: &Kernel) -> Kernel {
    let shared = kernel.split.as_ref().map_or(&[][..], |split| &split.loops);
    Kernel { body: block(&kernel.body, shared), ..kernel.clone() }
}

fn block(statements: &[Statement], shared: &[LoopVar]) -> Vec<Statement> {
    let mut result = Vec::with_capacity(statements.len());
    for statement in statements {
        let Statement::For { var, low, high, step, unroll, body } = statement else {
            result.push(statement.clone());
            continue;
        };
        let innermost = body.iter().all(|inner| !matches!(inner, Statement::For { .. } | Statement::Barrier));
        let (Bound::Constant(first), Bound::Constant(end)) = (low, high) else {
            result.push(with_body(statement, block(body, shared)));
            continue;
        };
        let count = turns(*first, *end, *step);
        let is_short = innermost && body.len() <= LONGEST_BODY && count >= FEWEST_TURNS;
        if *unroll || !is_short || shared.contains(var) {
            result.push(with_body(statement, block(body, shared)));
            continue;
        }
        let last = first + (count / 2 * 2) as i64 * step;
        let mut twice = body.clone();
        twice.extend(shifted(body, *var, *step));
        let (var, unroll) = (*var, false);
        let high = Bound::Constant(last);
        result.push(Statement::For { var, low: low.clone(), high, step: 2 * step, unroll, body: twice });
        if last < *end {
            let low = Bound::Constant(last);
            result.push(Statement::For {
                var,
                low,
                high: Bound::Constant(*end),
                step: *step,
                unroll,
                body: body.clone(),
            });
        }
    }
    result
}

fn with_body(statement: &Statement, inner: Vec<Statement>) -> Statement {
    let mut statement = statement.clone();
    if let Statement::For { body, .. } = &mut statement {
        *body = inner;
    }
    statement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::verify::verify;
    use crate::{Access, Affine, Buffer, BufferDeclaration, Expression, LoopDeclaration};
    use partita_ir::graph::ElementType;

    #[test]
    fn every_length_does_the_same() {
        for count in 1..12 {
            let elements = count * 4;
            let declare = |name: &str, access| BufferDeclaration {
                name: name.to_string(),
                access,
                elements,
                storage: ElementType::F32,
            };
            let at = Affine::term(LoopVar(0), 1);
            let copy = Statement::Store(Buffer(1), at.clone(), Expression::Load(Buffer(0), at));
            let kernel = Kernel {
                name: "copy".to_string(),
                summary: String::new(),
                lanes: 4,
                buffers: vec![declare("x", Access::Input), declare("y", Access::Output)],
                loops: vec![LoopDeclaration { name: "i".to_string(), role: None }],
                variable_names: Vec::new(),
                body: vec![Statement::For {
                    var: LoopVar(0),
                    low: Bound::Constant(0),
                    high: Bound::Constant(elements as i64),
                    step: 4,
                    unroll: false,
                    body: vec![copy],
                }],
                in_place: Vec::new(),
                split: None,
                alternative: None,
                winograd: None,
                macs: 0,
            };
            let unrolled = unroll(&kernel);
            assert_eq!(unrolled == kernel, count < FEWEST_TURNS, "{unrolled}");
            verify(&unrolled).unwrap_or_else(|error| panic!("{error}\n{unrolled}"));
            let x: Vec<f32> = (0..elements).map(|index| index as f32).collect();
            let mut buffers = vec![x.clone(), vec![0.0; elements]];
            evaluate(&unrolled, &mut buffers);
            assert_eq!(buffers[1], x, "{unrolled}");
        }
    }
}
