//! Activations as 8-bit integers: the one input format of all products with quantized weights.

use std::marker::PhantomData;

use super::blocks::{BLOCK, LANES};

/// Rows of activations, quantized in blocks of 32 values.
///
/// Value `i` of block `b` stands for `scale[b] * q[b][i]`, with `q` in -127..=127. Beside them lie the sums that formats
/// with zero points and mins need. Rows are padded with zero blocks to whole superblocks of 256 values.
///
/// A block with a NaN or an infinity has a NaN scale and zero `q`: everything computed from it is NaN. A block whose
/// values all are below `1e-30` counts as zero.
///
/// Few rows lie one after the other, superblock by superblock; more are interleaved in groups of four. Both ways are the
/// order in which products read them, with few columns and with many.
#[derive(Clone, Debug, Default)]
pub struct Q8Rows {
    n: usize,
    k: usize,
    padded_blocks: usize,
    /// `[n][superblocks]`, of few rows; what follows is left from earlier ones.
    rows: Vec<RowSuperblock>,
    /// `[8][groups][superblocks]`, of many rows: block `8 s + j` of the rows `4 g..4 g + 4` is `[j][g][s]`; likewise.
    groups: Vec<GroupBlock>,
}

/// Up to so many rows are *few*.
pub(super) const FEW: usize = 8;

/// Rows that are interleaved.
pub(super) const GROUP: usize = 4;

/// A smaller absmax counts as 0: 127 / absmax would not be finite.
pub(super) const SMALLEST_ABSMAX: f32 = 1e-30;

/// A superblock of one row. Its blocks stand in the order of [`LANE_OF_BLOCK`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(32))]
pub(super) struct RowSuperblock {
    /// Bytes `16 h + 4 x + i` of block `2 m + parity` are `[x][parity][h][m][i]`: a vector of 32 bytes has the same 4
    /// bytes of the first halves of 4 blocks, then those of the second halves.
    pub q: [[[[[i8; 4]; 4]; 2]; 2]; 4],
    pub scale: [f32; LANES],
    /// The negative sum of a block's `q`. Sums are kept negative so that zero points and mins are added.
    pub minus_sum: [i32; LANES],
    /// The same of the first 16.
    pub minus_low: [i32; LANES],
    /// The same of the last 16.
    pub minus_high: [i32; LANES],
    /// `scale * minus_sum`.
    pub minus_scaled: [f32; LANES],
}

/// First the even blocks, then the odd ones.
pub(super) const LANE_OF_BLOCK: [usize; LANES] = [0, 4, 1, 5, 2, 6, 3, 7];

/// A copy of a row in plain order; all parts include the padding and mean what they mean in [`RowSuperblock`].
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Q8Row {
    /// `[blocks * 32]`
    pub q: Vec<i8>,
    /// `[blocks]`, and so on.
    pub scale: Vec<f32>,
    pub minus_sum: Vec<i32>,
    pub minus_low: Vec<i32>,
    pub minus_high: Vec<i32>,
    pub minus_scaled: Vec<f32>,
}

/// One block of four rows; the parts as in [`RowSuperblock`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(16))]
pub(super) struct GroupBlock {
    /// `[4 values][row][value]`
    pub q: [[[i8; 4]; GROUP]; 8],
    pub scale: [f32; GROUP],
    pub minus_sum: [i32; GROUP],
    pub minus_low: [i32; GROUP],
    pub minus_high: [i32; GROUP],
    pub minus_scaled: [f32; GROUP],
}

impl Q8Rows {
    /// No rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes room for `n` rows of `k` values. The contents are unspecified until each row is filled by
    /// [`super::Kernels::quantize_row`]. Memory is kept when it shrinks.
    ///
    /// # Panics
    /// If `k` is 0 or not a multiple of 32.
    pub fn resize(&mut self, n: usize, k: usize) {
        assert!(k > 0 && k.is_multiple_of(BLOCK), "rows of {k} values are not whole blocks of 32");
        let blocks = (k / BLOCK).next_multiple_of(LANES);
        (self.n, self.k, self.padded_blocks) = (n, k, blocks);
        if n <= FEW {
            let len = n * (blocks / LANES);
            self.rows.resize(self.rows.len().max(len), RowSuperblock::default());
            return;
        }
        let n_groups = n.div_ceil(GROUP);
        let len = n_groups.checked_mul(blocks).expect("the size of the activations overflows");
        self.groups.resize(self.groups.len().max(len), GroupBlock::default());
        if !n.is_multiple_of(GROUP) {
            // The last group has rows that nobody will fill.
            for j in 0..LANES {
                let last = (j + 1) * len / LANES;
                self.groups[last - blocks / LANES..last].fill(GroupBlock::default());
            }
        }
    }

    /// Number of rows.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Values in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The rows, to be filled in any order and by any thread.
    pub fn rows_mut(&mut self) -> impl ExactSizeIterator<Item = Q8RowMut<'_>> + Send {
        let (n, k, padded_blocks) = (self.n, self.k, self.padded_blocks);
        let rows = Shared(self.rows.as_mut_ptr());
        let groups = Shared(self.groups.as_mut_ptr());
        let superblocks = padded_blocks / LANES;
        let n_groups = n.div_ceil(GROUP);
        (0..n).map(move |c| {
            // The whole values, so that the closure is `Send` as they are.
            let (rows, groups) = (&rows, &groups);
            let place = if n <= FEW {
                // SAFETY: there are `n * superblocks`, and each is handed out once.
                Place::Row(unsafe { std::slice::from_raw_parts_mut(rows.0.add(c * superblocks), superblocks) })
            } else {
                Place::Group {
                    // SAFETY: there are `8 * n_groups * superblocks` blocks.
                    first: unsafe { groups.0.add(c / GROUP * superblocks) },
                    j_stride: n_groups * superblocks,
                    column: c % GROUP,
                    borrow: PhantomData,
                }
            };
            Q8RowMut { k, padded_blocks, place }
        })
    }

    /// Row `c` of few.
    pub(super) fn row(&self, c: usize) -> &[RowSuperblock] {
        assert!(c < self.n && self.n <= FEW);
        let superblocks = self.padded_blocks / LANES;
        &self.rows[c * superblocks..][..superblocks]
    }

    /// A copy of row `c`, however it lies.
    pub(super) fn copy_of_row(&self, c: usize) -> Q8Row {
        let mut row = Q8Row::default();
        for b in 0..self.padded_blocks {
            let (s, j) = (b / LANES, b % LANES);
            if self.n <= FEW {
                let superblock = &self.row(c)[s];
                let (m, parity) = (j / 2, j % 2);
                for four in 0..8 {
                    row.q.extend(superblock.q[four % 4][parity][four / 4][m]);
                }
                let lane = LANE_OF_BLOCK[j];
                row.scale.push(superblock.scale[lane]);
                row.minus_sum.push(superblock.minus_sum[lane]);
                row.minus_low.push(superblock.minus_low[lane]);
                row.minus_high.push(superblock.minus_high[lane]);
                row.minus_scaled.push(superblock.minus_scaled[lane]);
            } else {
                let block = &self.group(j, c / GROUP)[s];
                let c = c % GROUP;
                row.q.extend(block.q.iter().flat_map(|four| four[c]));
                row.scale.push(block.scale[c]);
                row.minus_sum.push(block.minus_sum[c]);
                row.minus_low.push(block.minus_low[c]);
                row.minus_high.push(block.minus_high[c]);
                row.minus_scaled.push(block.minus_scaled[c]);
            }
        }
        row
    }

    /// Blocks j of all superblocks of group `g`, of many rows.
    pub(super) fn group(&self, j: usize, g: usize) -> &[GroupBlock] {
        let superblocks = self.padded_blocks / LANES;
        let n_groups = self.n.div_ceil(GROUP);
        &self.groups[(j * n_groups + g) * superblocks..][..superblocks]
    }

    /// Blocks in a row, padding included: a multiple of 8.
    pub(super) fn padded_blocks(&self) -> usize {
        self.padded_blocks
    }
}

/// A pointer that may go to another thread.
struct Shared<T>(*mut T);

// SAFETY: it stands for the exclusive borrow of `Q8Rows`, whose parts are handed out once each.
unsafe impl<T: Send> Send for Shared<T> {}

/// One row to be filled by [`super::Kernels::quantize_row`].
pub struct Q8RowMut<'a> {
    pub(super) k: usize,
    padded_blocks: usize,
    place: Place<'a>,
}

enum Place<'a> {
    Row(&'a mut [RowSuperblock]),
    /// Block `8 s + j` is `first + j * j_stride + s`.
    Group {
        first: *mut GroupBlock,
        j_stride: usize,
        column: usize,
        borrow: PhantomData<&'a mut GroupBlock>,
    },
}

// SAFETY: `Q8Rows::rows_mut` gives each row out once, and a row writes its own column of the blocks only.
unsafe impl Send for Q8RowMut<'_> {}

impl Q8RowMut<'_> {
    /// Writes block `b`, given the sums of the first and the last 16 of `q`.
    #[inline(always)]
    pub(super) fn set(&mut self, b: usize, q: &[i8; BLOCK], scale: f32, low: i32, high: i32) {
        let minus_scaled = scale * -(low + high) as f32;
        match &mut self.place {
            Place::Row(row) => {
                let superblock = &mut row[b / LANES];
                let (m, parity) = (b % LANES / 2, b % 2);
                for (four, q) in q.as_chunks().0.iter().enumerate() {
                    superblock.q[four % 4][parity][four / 4][m] = *q;
                }
                let lane = LANE_OF_BLOCK[b % LANES];
                superblock.scale[lane] = scale;
                superblock.minus_sum[lane] = -(low + high);
                superblock.minus_low[lane] = -low;
                superblock.minus_high[lane] = -high;
                superblock.minus_scaled[lane] = minus_scaled;
            }
            Place::Group { first, j_stride, column, .. } => {
                assert!(b < self.padded_blocks);
                // SAFETY: the row has `padded_blocks` blocks. Only raw pointers are made of the block, since other
                // threads may write its other columns.
                unsafe {
                    let block = first.add(b % LANES * *j_stride + b / LANES);
                    for (i, q) in q.as_chunks().0.iter().enumerate() {
                        (&raw mut (*block).q[i][*column]).write(*q);
                    }
                    (&raw mut (*block).scale[*column]).write(scale);
                    (&raw mut (*block).minus_sum[*column]).write(-(low + high));
                    (&raw mut (*block).minus_low[*column]).write(-low);
                    (&raw mut (*block).minus_high[*column]).write(-high);
                    (&raw mut (*block).minus_scaled[*column]).write(minus_scaled);
                }
            }
        }
    }

    /// Writes block `b` for values whose largest magnitude is 0, or no finite number.
    pub(super) fn set_without_values(&mut self, b: usize, absmax: f32) {
        let scale = if absmax < SMALLEST_ABSMAX { 0.0 } else { f32::NAN };
        self.set(b, &[0; BLOCK], scale, 0, 0);
    }

    /// Zeroes the blocks beyond the row's values.
    pub(super) fn clear_padding(&mut self) {
        for b in self.k / BLOCK..self.padded_blocks {
            self.set(b, &[0; BLOCK], 0.0, 0, 0);
        }
    }
}
