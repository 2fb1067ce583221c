//! A matrix `[n_rows, width]` cut into bands of columns that threads fill at the same time.

use std::marker::PhantomData;

/// The columns `start..start + width` of a row-major matrix, exclusively borrowed.
pub struct TileMut<'a> {
    /// First value of the band's first row.
    start: *mut f32,
    n_rows: usize,
    width: usize,
    /// Values from one row of the matrix to the next.
    stride: usize,
    borrow: PhantomData<&'a mut f32>,
}

// SAFETY: a tile is the only access to its columns (see `split_columns`), like a `&mut [f32]`, which is `Send`.
unsafe impl Send for TileMut<'_> {}

impl<'a> TileMut<'a> {
    /// All of a matrix with rows of `width` values.
    ///
    /// # Panics
    /// The matrix is not a whole number of rows.
    pub fn whole(matrix: &'a mut [f32], width: usize) -> Self {
        assert!(width > 0 && matrix.len().is_multiple_of(width), "{} values in rows of {width}", matrix.len());
        let n_rows = matrix.len() / width;
        TileMut { start: matrix.as_mut_ptr(), n_rows, width, stride: width, borrow: PhantomData }
    }

    /// Rows of the matrix.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Columns of the band.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The band's part of row `row`.
    ///
    /// # Panics
    /// There is no such row.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        // SAFETY: `split_columns` checked that every row of the matrix holds `stride` values and that the band lies
        // inside them; bands do not overlap, and `&mut self` lends out one row at a time.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.stride), self.width) }
    }
}

/// Cuts `matrix`, whose rows hold `stride` values, into neighbouring bands of columns with the given widths.
///
/// # Panics
/// The widths do not add up to `stride`, or the matrix is not a whole number of rows.
pub fn split_columns<'a>(
    matrix: &'a mut [f32],
    stride: usize,
    widths: impl Iterator<Item = usize>,
) -> Vec<TileMut<'a>> {
    assert!(stride > 0 && matrix.len().is_multiple_of(stride), "{} values in rows of {stride}", matrix.len());
    let n_rows = matrix.len() / stride;
    let base = matrix.as_mut_ptr();
    let mut at = 0;
    let tiles: Vec<TileMut<'a>> = widths
        .map(|width| {
            assert!(width <= stride - at, "bands wider than their matrix of {stride} columns");
            // SAFETY: `at <= stride <= matrix.len()`, or the matrix is empty and nothing is read through the pointer.
            let start = if n_rows == 0 { base } else { unsafe { base.add(at) } };
            at += width;
            TileMut { start, n_rows, width, stride, borrow: PhantomData }
        })
        .collect();
    assert!(at == stride, "bands of {at} columns over a matrix of {stride}");
    tiles
}
