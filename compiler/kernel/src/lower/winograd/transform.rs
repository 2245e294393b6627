//! The transforms of Winograd's algorithm F(m, r) (Lavin and Gray 2016, section 4; points 0, 1, -1, 2, -2,
//! infinity), in one dimension: as statements on vectors, as numbers for weights, and what they do to rounding errors.

use std::fmt;

use crate::lower::build::{Builder, binary, mul_add};
use crate::{Arithmetic, Expression, Statement, Variable};

/// Output points per tile and dimension.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// F(2, 3): 4 products for 2 outputs of 3 taps.
    Two,
    /// F(4, 3): 6 products for 4 outputs of 3 taps.
    Four,
    /// F(2, 5): 6 products for 2 outputs of 5 taps.
    TwoOfFive,
}

/// A transform in one dimension, as statements: of these variables, to variables named so.
pub(super) type Transform = fn(Form, &mut Builder, &[Variable], &str, &mut Vec<Statement>) -> Vec<Variable>;

impl Form {
    /// Outputs of a tile in one dimension.
    pub fn outputs(self) -> usize {
        match self {
            Form::Two | Form::TwoOfFive => 2,
            Form::Four => 4,
        }
    }

    /// Taps of the filter.
    pub fn taps(self) -> usize {
        match self {
            Form::Two | Form::Four => 3,
            Form::TwoOfFive => 5,
        }
    }

    /// Forms for filters of so many taps.
    pub fn of_taps(taps: usize) -> &'static [Form] {
        match taps {
            3 => &[Form::Two, Form::Four],
            5 => &[Form::TwoOfFive],
            _ => &[],
        }
    }

    /// Inputs, and products, of a tile in one dimension.
    pub fn points(self) -> usize {
        self.outputs() + self.taps() - 1
    }

    /// Filter transform G, `[points][taps]`.
    fn filter_matrix(self) -> &'static [&'static [f64]] {
        const SIXTH: f64 = 1.0 / 6.0;
        const PART: f64 = 1.0 / 24.0;
        match self {
            Form::Two => &[&[1.0, 0.0, 0.0], &[0.5, 0.5, 0.5], &[0.5, -0.5, 0.5], &[0.0, 0.0, 1.0]],
            Form::Four => &[
                &[0.25, 0.0, 0.0],
                &[-SIXTH, -SIXTH, -SIXTH],
                &[-SIXTH, SIXTH, -SIXTH],
                &[PART, 2.0 * PART, 4.0 * PART],
                &[PART, -2.0 * PART, 4.0 * PART],
                &[0.0, 0.0, 1.0],
            ],
            Form::TwoOfFive => &[
                &[0.25, 0.0, 0.0, 0.0, 0.0],
                &[-SIXTH, -SIXTH, -SIXTH, -SIXTH, -SIXTH],
                &[-SIXTH, SIXTH, -SIXTH, SIXTH, -SIXTH],
                &[PART, 2.0 * PART, 4.0 * PART, 8.0 * PART, 16.0 * PART],
                &[PART, -2.0 * PART, 4.0 * PART, -8.0 * PART, 16.0 * PART],
                &[0.0, 0.0, 0.0, 0.0, 1.0],
            ],
        }
    }

    /// Data transform B^T, `[points][points]`.
    fn data_matrix(self) -> &'static [&'static [f64]] {
        match self {
            Form::Two => {
                &[&[1.0, 0.0, -1.0, 0.0], &[0.0, 1.0, 1.0, 0.0], &[0.0, -1.0, 1.0, 0.0], &[0.0, 1.0, 0.0, -1.0]]
            }
            Form::Four | Form::TwoOfFive => &[
                &[4.0, 0.0, -5.0, 0.0, 1.0, 0.0],
                &[0.0, -4.0, -4.0, 1.0, 1.0, 0.0],
                &[0.0, 4.0, -4.0, -1.0, 1.0, 0.0],
                &[0.0, -2.0, -1.0, 2.0, 1.0, 0.0],
                &[0.0, 2.0, -1.0, -2.0, 1.0, 0.0],
                &[0.0, 4.0, 0.0, -5.0, 0.0, 1.0],
            ],
        }
    }

    /// Output transform A^T, `[outputs][points]`.
    fn output_matrix(self) -> &'static [&'static [f64]] {
        match self {
            Form::Two => &[&[1.0, 1.0, 1.0, 0.0], &[0.0, 1.0, -1.0, -1.0]],
            Form::Four => &[
                &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
                &[0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
                &[0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
                &[0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
            ],
            Form::TwoOfFive => &[&[1.0, 1.0, 1.0, 1.0, 1.0, 0.0], &[0.0, 1.0, -1.0, 2.0, -2.0, 1.0]],
        }
    }

    /// Absolute sums of the rows of the data transform.
    fn data_sums(self) -> Vec<f64> {
        self.data_matrix().iter().map(|row| row.iter().map(|x| x.abs()).sum()).collect()
    }

    /// Bound on a sum of products, back transformed, of inputs and taps of at most 1.
    fn growth(self) -> f64 {
        let filters = self.filter_matrix().iter().map(|row| row.iter().map(|x| x.abs()).sum::<f64>());
        let products: Vec<f64> = filters.zip(self.data_sums()).map(|(filter, data)| filter * data).collect();
        let output = |row: &&[f64]| row.iter().zip(&products).map(|(a, product)| a.abs() * product).sum::<f64>();
        self.output_matrix().iter().map(output).fold(0.0, f64::max)
    }

    /// `B^T d`: reads `points` variables, assigns as many, named `to`.
    pub(super) fn data(
        self,
        builder: &mut Builder,
        from: &[Variable],
        to: &str,
        statements: &mut Vec<Statement>,
    ) -> Vec<Variable> {
        let d = |at: usize| Expression::Variable(from[at]);
        let mut assign = |name: String, value: Expression| builder.assign(&name, value, statements);
        let name = |at: usize| format!("{to}_{at}");
        let read = Expression::Variable;
        match self {
            Form::Two => vec![
                assign(name(0), binary(Arithmetic::Sub, d(0), d(2))),
                assign(name(1), binary(Arithmetic::Add, d(1), d(2))),
                assign(name(2), binary(Arithmetic::Sub, d(2), d(1))),
                assign(name(3), binary(Arithmetic::Sub, d(1), d(3))),
            ],
            Form::Four | Form::TwoOfFive => {
                let even = assign("even".to_string(), times(-4.0, d(2), d(4)));
                let odd = assign("odd".to_string(), times(-4.0, d(1), d(3)));
                let first = assign(name(1), binary(Arithmetic::Add, read(even), read(odd)));
                let second = assign(name(2), binary(Arithmetic::Sub, read(even), read(odd)));
                assign("even".to_string(), binary(Arithmetic::Sub, d(4), d(2)));
                assign("odd".to_string(), binary(Arithmetic::Sub, d(3), d(1)));
                let third = assign(name(3), times(2.0, read(odd), read(even)));
                let fourth = assign(name(4), times(-2.0, read(odd), read(even)));
                let zeroth = assign(name(0), times(4.0, d(0), times(-5.0, d(2), d(4))));
                let fifth = assign(name(5), times(4.0, d(1), times(-5.0, d(3), d(5))));
                vec![zeroth, first, second, third, fourth, fifth]
            }
        }
    }

    /// `A^T m`: reads `points` variables, assigns `outputs`, named `to`.
    pub(super) fn output(
        self,
        builder: &mut Builder,
        from: &[Variable],
        to: &str,
        statements: &mut Vec<Statement>,
    ) -> Vec<Variable> {
        let m = |at: usize| Expression::Variable(from[at]);
        let mut assign = |name: String, value: Expression| builder.assign(&name, value, statements);
        let name = |at: usize| format!("{to}_{at}");
        let read = Expression::Variable;
        let add = |a: Expression, b: Expression| binary(Arithmetic::Add, a, b);
        let sum = assign("sum_one".to_string(), add(m(1), m(2)));
        let difference = assign("difference_one".to_string(), binary(Arithmetic::Sub, m(1), m(2)));
        if self == Form::Two {
            let first = assign(name(0), add(m(0), read(sum)));
            return vec![first, assign(name(1), binary(Arithmetic::Sub, read(difference), m(3)))];
        }
        let sum_two = assign("sum_two".to_string(), add(m(3), m(4)));
        let difference_two = assign("difference_two".to_string(), binary(Arithmetic::Sub, m(3), m(4)));
        let first = assign(name(0), add(m(0), add(read(sum), read(sum_two))));
        if self == Form::TwoOfFive {
            let last = times(2.0, read(difference_two), add(read(difference), m(5)));
            return vec![first, assign(name(1), last)];
        }
        vec![
            first,
            assign(name(1), times(2.0, read(difference_two), read(difference))),
            assign(name(2), times(4.0, read(sum_two), read(sum))),
            assign(name(3), times(8.0, read(difference_two), add(read(difference), m(5)))),
        ]
    }
}

/// Winograd's algorithm of a filter's height and width; none for a height of one tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forms {
    /// Of columns.
    pub down: Option<Form>,
    /// Of rows.
    pub across: Form,
}

impl fmt::Display for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ([rows, columns], [high, wide]) = (self.outputs(), self.taps());
        write!(f, "F({rows} x {columns}, {high} x {wide})")
    }
}

/// Taps of the largest filter that is transformed.
const MOST_TAPS: usize = 25;

impl Forms {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Forms> {
        let down = [None, Some(Form::Two), Some(Form::Four), Some(Form::TwoOfFive)];
        let across = [Form::Two, Form::Four, Form::TwoOfFive];
        down.into_iter().flat_map(move |down| across.map(|across| Forms { down, across }))
    }

    /// Outputs of a tile: rows, columns.
    pub fn outputs(self) -> [usize; 2] {
        [self.down.map_or(1, Form::outputs), self.across.outputs()]
    }

    /// Taps: rows, columns.
    pub fn taps(self) -> [usize; 2] {
        [self.down.map_or(1, Form::taps), self.across.taps()]
    }

    /// Points of a tile: rows, columns.
    pub fn points(self) -> [usize; 2] {
        [self.down.map_or(1, Form::points), self.across.points()]
    }

    /// `G g G^T` of `N` filters at once, given tap by tap: each element of `[points][points]`, by its position.
    pub fn filters<const N: usize>(self, taps: &[[f64; N]], mut each: impl FnMut(usize, [f64; N])) {
        let one: &[&[f64]] = &[&[1.0]];
        let (rows, columns) = (self.down.map_or(one, Form::filter_matrix), self.across.filter_matrix());
        let width = self.across.taps();
        let mut scaled = [[0.0; N]; MOST_TAPS];
        for (at, row) in rows.iter().enumerate() {
            let factors = row.iter().flat_map(|factor| std::iter::repeat_n(*factor, width));
            for ((scaled, taps), factor) in scaled.iter_mut().zip(taps).zip(factors) {
                *scaled = taps.map(|tap| factor * tap);
            }
            for (beside, column) in columns.iter().enumerate() {
                let mut sums = [-0.0; N];
                for (scaled, factor) in scaled[..row.len() * width].iter().zip(column.iter().cycle()) {
                    sums.iter_mut().zip(scaled).for_each(|(sum, x)| *sum += x * factor);
                }
                each(at * columns.len() + beside, sums);
            }
        }
    }

    /// How much larger than its largest input and its largest weight an output may be on the way, per channel.
    pub fn growth(self) -> f64 {
        self.down.map_or(1.0, Form::growth) * self.across.growth()
    }

    /// Bound on the rounding error of any output, for inputs of at most 1 and filters that are summed, one after the
    /// other in `filters`: as if every rounding on the way were the worst that it can be, of the largest value that can
    /// be there.
    pub fn error_bound(self, filters: &[f32]) -> f64 {
        let [rows, columns] = self.points();
        let one: &[&[f64]] = &[&[1.0]];
        let down = self.down.map_or(vec![1.0], Form::data_sums);
        let across = self.across.data_sums();
        let mut products = vec![0.0; rows * columns];
        let taps: usize = self.taps().iter().product();
        for filter in filters.chunks_exact(taps) {
            let filter: Vec<[f64; 1]> = filter.iter().map(|x| [f64::from(*x)]).collect();
            self.filters(&filter, |at, [weight]| {
                products[at] += weight.abs() * down[at / columns] * across[at % columns]
            });
        }
        let (above, beside) = (self.down.map_or(one, Form::output_matrix), self.across.output_matrix());
        let all = above.iter().flat_map(|row| beside.iter().map(move |column| (row, column)));
        let largest = all.map(|(row, column)| -> f64 {
            (0..rows * columns).map(|at| (row[at / columns] * column[at % columns]).abs() * products[at]).sum()
        });
        let roundings = (filters.len() / taps) as f64 + 2.0 * (rows + columns) as f64;
        largest.fold(0.0, f64::max) * roundings * f64::from(f32::EPSILON) / 2.0
    }
}

/// `factor * value + addend`
fn times(factor: f32, value: Expression, addend: Expression) -> Expression {
    mul_add(value, Expression::Constant(factor), addend)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::evaluate;
    use crate::{Access, Affine, Kernel};

    /// A kernel that applies a transform to `count` vectors.
    fn applied(form: Form, count: usize, output: bool) -> Kernel {
        let mut builder = Builder::new(4);
        let x = builder.buffer("x", Access::Input, count * 4);
        let outputs = if output { form.outputs() } else { form.points() };
        let y = builder.buffer("y", Access::Output, outputs * 4);
        let from: Vec<Variable> = (0..count).map(|at| builder.variable(&format!("from_{at}"))).collect();
        let load = |(at, variable): (usize, &Variable)| {
            Statement::Assign(*variable, Expression::Load(x, Affine::constant(at as i64 * 4)))
        };
        let mut body: Vec<Statement> = from.iter().enumerate().map(load).collect();
        let results = match output {
            true => form.output(&mut builder, &from, "to", &mut body),
            false => form.data(&mut builder, &from, "to", &mut body),
        };
        for (at, result) in results.into_iter().enumerate() {
            body.push(Statement::Store(y, Affine::constant(at as i64 * 4), Expression::Variable(result)));
        }
        builder.finish("transform".to_string(), String::new(), body, 0)
    }

    #[test]
    fn filters_are_transformed_together_to_the_bit_as_alone() {
        let forms = [Form::Two, Form::Four, Form::TwoOfFive];
        let forms = forms.iter().flat_map(|form| [None, Some(*form)].map(|down| Forms { down, across: *form }));
        for forms in forms {
            let taps: usize = forms.taps().iter().product();
            let value = |tap: usize, filter: usize| ((tap * 37 + filter * 11) % 101) as f64 / 7.0 - 6.5;
            let together: Vec<[f64; 4]> =
                (0..taps).map(|tap| std::array::from_fn(|filter| value(tap, filter))).collect();
            let [rows, columns] = forms.points();
            let mut seen = Vec::new();
            forms.filters(&together, |point, values| seen.push((point, values)));
            assert_eq!(seen.len(), rows * columns);
            let one: &[&[f64]] = &[&[1.0]];
            let (down, across) = (forms.down.map_or(one, Form::filter_matrix), forms.across.filter_matrix());
            for (at, (point, values)) in seen.into_iter().enumerate() {
                assert_eq!(point, at);
                let (row, column) = (down[at / columns], across[at % columns]);
                for (filter, found) in values.into_iter().enumerate() {
                    let mut sum = -0.0;
                    for tap in 0..taps {
                        sum += row[tap / column.len()] * value(tap, filter) * column[tap % column.len()];
                    }
                    assert_eq!(found.to_bits(), f64::to_bits(sum), "{forms}, point {point}");
                }
            }
        }
    }

    #[test]
    fn statements_do_what_the_matrices_say() {
        for form in [Form::Two, Form::Four, Form::TwoOfFive] {
            for (output, matrix) in [(false, form.data_matrix()), (true, form.output_matrix())] {
                let kernel = applied(form, form.points(), output);
                for at in 0..form.points() {
                    let mut x = vec![0.0; form.points() * 4];
                    x[at * 4] = 1.0;
                    let mut buffers = vec![x, vec![f32::NAN; matrix.len() * 4]];
                    evaluate(&kernel, &mut buffers);
                    let found: Vec<f64> = buffers[1].iter().step_by(4).map(|x| f64::from(*x)).collect();
                    let expected: Vec<f64> = matrix.iter().map(|row| row[at]).collect();
                    assert_eq!(found, expected, "{form:?}, point {at}, output {output}");
                }
            }
        }
    }

    #[test]
    fn the_matrices_convolve() {
        for form in [Form::Two, Form::Four, Form::TwoOfFive] {
            // A^T ((G g) * (B^T d)) in one dimension, against the sum itself.
            let (g, points) = (&[0.5, -2.0, 3.0, 0.25, -1.5][..form.taps()], form.points());
            let d: Vec<f64> = (0..points).map(|i| (i * i) as f64 - 3.0).collect();
            let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
            let products: Vec<f64> =
                (0..points).map(|at| dot(form.filter_matrix()[at], g) * dot(form.data_matrix()[at], &d)).collect();
            for (at, row) in form.output_matrix().iter().enumerate() {
                let expected = dot(g, &d[at..at + form.taps()]);
                assert!((dot(row, &products) - expected).abs() < 1e-9, "{form:?}, output {at}");
            }
        }
    }
}
