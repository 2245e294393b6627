//! Products of matrices and systems of linear equations, for what learns and what is fitted.

/// Elements that matrices are multiplied of.
pub trait Real: Copy + Default {
    /// `c = a * b` of `[m, k]` and `[k, n]`; each pointer with its strides from row to row and from column to column.
    ///
    /// # Safety
    ///
    /// The elements that extents and strides name are valid for reads of `a` and `b`, and those of `c` for writes that
    /// nothing else refers to.
    unsafe fn multiply(
        extents: [usize; 3],
        a: (*const Self, [usize; 2]),
        b: (*const Self, [usize; 2]),
        c: (*mut Self, [usize; 2]),
    );
}

macro_rules! real {
    ($element:ty, $multiply:path) => {
        impl Real for $element {
            unsafe fn multiply(
                [m, k, n]: [usize; 3],
                a: (*const Self, [usize; 2]),
                b: (*const Self, [usize; 2]),
                c: (*mut Self, [usize; 2]),
            ) {
                let [a_strides, b_strides, c_strides] = [a.1, b.1, c.1].map(|strides| strides.map(|s| s as isize));
                // SAFETY: the caller says that all three may be used this way.
                unsafe {
                    $multiply(
                        m,
                        k,
                        n,
                        1.0,
                        a.0,
                        a_strides[0],
                        a_strides[1],
                        b.0,
                        b_strides[0],
                        b_strides[1],
                        0.0,
                        c.0,
                        c_strides[0],
                        c_strides[1],
                    );
                }
            }
        }
    };
}

real!(f32, matrixmultiply::sgemm);
real!(f64, matrixmultiply::dgemm);

/// A matrix in memory, or its transpose.
pub struct Matrix<'a, T> {
    elements: &'a [T],
    rows: usize,
    columns: usize,
    /// Elements from one row and column to the next.
    strides: [usize; 2],
}

impl<'a, T> Matrix<'a, T> {
    /// Of rows that lie one behind the other.
    pub fn new(elements: &'a [T], columns: usize) -> Matrix<'a, T> {
        Matrix { elements, rows: elements.len() / columns.max(1), columns, strides: [columns, 1] }
    }

    /// Rows as columns.
    pub fn transposed(&self) -> Matrix<'a, T> {
        let [down, across] = self.strides;
        Matrix { elements: self.elements, rows: self.columns, columns: self.rows, strides: [across, down] }
    }
}

/// The product of two matrices, row-major, by one thread: work is shared among threads already.
pub fn product<T: Real>(a: &Matrix<'_, T>, b: &Matrix<'_, T>) -> Vec<T> {
    assert_eq!(a.columns, b.rows, "columns of the first matrix and rows of the second");
    let mut product = vec![T::default(); a.rows * b.columns];
    let (a_elements, b_elements) = (a.elements.as_ptr(), b.elements.as_ptr());
    // SAFETY: `Matrix` has as many elements as its rows have columns, in either order, so the strides of `a` and `b` stay
    // in their slices; `product` has a row of `b.columns` elements for each of `a.rows`, and nothing else refers to it.
    unsafe {
        T::multiply(
            [a.rows, a.columns, b.columns],
            (a_elements, a.strides),
            (b_elements, b.strides),
            (product.as_mut_ptr(), [b.columns, 1]),
        );
    }
    product
}

/// Sums of the columns of `[rows, columns]`.
pub fn column_sums(elements: &[f32], columns: usize) -> Vec<f32> {
    let mut sums = vec![0.0f32; columns];
    for row in elements.chunks_exact(columns.max(1)) {
        sums.iter_mut().zip(row).for_each(|(sum, element)| *sum += element);
    }
    sums
}

/// A symmetric positive definite matrix as `transposed(factor) * factor` (Cholesky's factorisation, the outer-product
/// form: Golub and Van Loan 2013, algorithm 4.2.4).
pub struct Cholesky {
    /// `[order, order]`, row-major; what is left of the diagonal is not used.
    factor: Vec<f64>,
    order: usize,
}

impl Cholesky {
    /// Factorises `[order, order]`; none if the matrix is not positive definite.
    pub fn of(mut matrix: Vec<f64>, order: usize) -> Option<Cholesky> {
        for k in 0..order {
            let (done, rest) = matrix.split_at_mut((k + 1) * order);
            let row = &mut done[k * order + k..];
            let pivot = row[0].sqrt();
            if !pivot.is_normal() {
                return None;
            }
            row.iter_mut().for_each(|element| *element /= pivot);
            for (i, below) in rest.chunks_exact_mut(order).enumerate() {
                let row = &row[1 + i..];
                let factor = row[0];
                below[k + 1 + i..].iter_mut().zip(row).for_each(|(element, x)| *element -= factor * x);
            }
        }
        Some(Cholesky { factor: matrix, order })
    }

    /// Solves `matrix * x = wanted` for every column of `wanted`, `[order, columns]`, in its place.
    pub fn solve(&self, wanted: &mut [f64], columns: usize) {
        let columns = columns.max(1);
        let subtract = |from: &mut [f64], factor: f64, row: &[f64]| {
            from.iter_mut().zip(row).for_each(|(element, x)| *element -= factor * x);
        };
        for k in 0..self.order {
            let factors = &self.factor[k * self.order..(k + 1) * self.order];
            let (done, rest) = wanted.split_at_mut((k + 1) * columns);
            let row = &mut done[k * columns..];
            row.iter_mut().for_each(|element| *element /= factors[k]);
            rest.chunks_exact_mut(columns).zip(&factors[k + 1..]).for_each(|(below, f)| subtract(below, *f, row));
        }
        for k in (0..self.order).rev() {
            let factors = &self.factor[k * self.order..(k + 1) * self.order];
            let (head, rest) = wanted.split_at_mut((k + 1) * columns);
            let row = &mut head[k * columns..];
            rest.chunks_exact(columns).zip(&factors[k + 1..]).for_each(|(below, f)| subtract(row, *f, below));
            row.iter_mut().for_each(|element| *element /= factors[k]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_matrices_and_their_transposes() {
        let elements: Vec<f32> = (0..12).map(|x| x as f32).collect();
        let (a, b) = (Matrix::new(&elements[..6], 3), Matrix::new(&elements[..12], 4));
        assert_eq!(product(&a, &b), [20.0, 23.0, 26.0, 29.0, 56.0, 68.0, 80.0, 92.0]);
        assert_eq!(product(&a.transposed(), &a), [9.0, 12.0, 15.0, 12.0, 17.0, 22.0, 15.0, 22.0, 29.0]);
        assert_eq!(product(&a, &a.transposed()), [5.0, 14.0, 14.0, 50.0]);
        assert_eq!(product(&Matrix::new(&[], 3), &b), [0.0f32; 0]);
    }

    #[test]
    fn equations_are_solved() {
        let a = [2.0, 1.0, 0.0, -1.0, 3.0, 0.5, 0.5, 1.0, 4.0, 1.0, 1.0, 1.0];
        let a = Matrix::new(&a, 3);
        let gram = product(&a.transposed(), &a);
        let x = [1.0, -2.0, 0.5, 3.0, 0.25, 7.0];
        let mut wanted = product(&Matrix::new(&gram, 3), &Matrix::new(&x, 2));
        Cholesky::of(gram, 3).expect("its columns are independent").solve(&mut wanted, 2);
        assert!(wanted.iter().zip(x).all(|(found, x)| (found - x).abs() < 1e-12), "{wanted:?}");
        assert!(Cholesky::of(vec![1.0, 2.0, 2.0, 1.0], 2).is_none() && Cholesky::of(vec![0.0], 1).is_none());
        assert!(Cholesky::of(vec![f64::NAN], 1).is_none());
    }
}
