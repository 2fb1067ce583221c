//! Products of quantized weights with many columns.
//!
//! A *panel* is two vectors' worth of rows (32 with 16 lanes); long ones are cut into chunks of some superblocks. A chunk is
//! unpacked once, seen as columns: a lane is a row, a vector holds 4 consecutive bytes of each row. Then all columns of
//! activations pass by, interleaved in groups of four. In pseudo code:
//!
//! ```text
//! for each panel:
//!     for each chunk of superblocks:
//!         unpack
//!         for j in 0, 4, 2, 6, 1, 5, 3, 7:                the running sum that block j of each superblock goes to
//!             for each group of columns:                  a register tile
//!                 take the tile's sums j
//!                 for each superblock of the chunk:       sums += products of block j
//!                 put them back; in the last chunk, add those that can be folded already
//! ```
//!
//! With j outside, the 8 sums of a product need not be in registers together, and block j of the chunk stays near while the
//! columns pass. In that order of j the last chunk folds its sums as they come: what lies in
//! memory between two passes is half as much where there is one chunk only, and the last pass writes results.

use std::cell::RefCell;
use std::marker::PhantomData;

use super::blocks::LANES;
use super::interleaved::{ColumnScales, STRIP_ROWS, StripColumns};
use super::q8::{GROUP, GroupBlock, Q8Rows};
use super::simd::{Kernel, Simd};
use super::unpack::{self, Bytes, Columns, Stream, Unpack, zero_shift};
use super::{TileMut, WeightRows};

/// Bytes of the longest superblock, Q8_0's.
pub(super) const MAX_SUPERBLOCK_BYTES: usize = 8 * 34;

/// Vectors of rows in a register tile.
const VECTORS: usize = 2;

/// Superblocks unpacked at a time, at most 100 KB for 8 rows. All of a row at once is best, since sums then stay in registers;
/// the second-level cache should still hold them beside what it has to stream.
const CHUNK: usize = 36;

/// Vectors in a block of the panel: 8 of bytes, the scales, the mins, for each vector of rows.
const fn record_vectors<U: Unpack>() -> usize {
    VECTORS * (8 + U::SCALES + U::MINS)
}

/// `out[c][r] = dot(weights[r], acts[c])`, as `scalar.rs` defines it.
pub(super) fn matmul<S: Simd, U: Unpack, P: Pack<U>>(
    s: S,
    weights: &WeightRows<'_>,
    acts: &Q8Rows,
    out: &mut TileMut<'_>,
) {
    let panel_rows = VECTORS * S::LANES;
    let n_columns = acts.n().next_multiple_of(GROUP);
    let superblocks = acts.padded_blocks() / LANES;
    let n_chunks = superblocks.div_ceil(CHUNK);
    let chunk = superblocks.div_ceil(n_chunks);
    let panel_len = chunk * LANES * record_vectors::<U>() * S::LANES;
    let n_sums = if n_chunks == 1 { LANES / 2 } else { LANES };
    with_scratch(panel_len, n_sums * n_columns * panel_rows, |panel, sums| {
        for first_row in (0..weights.n).step_by(panel_rows) {
            for start in (0..superblocks).step_by(chunk) {
                let n = chunk.min(superblocks - start);
                let format = PhantomData;
                s.vectorize(PackPanel::<U, P> { format, weights, first_row, start, n, panel });
                let out = Out { tile: out, first_row };
                let is_last = start + n == superblocks;
                s.vectorize(Chunk::<U> { format: PhantomData, panel, acts, start, n, is_last, sums, out });
            }
        }
    });
}

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// Lends two buffers of f32 that begin at cache lines. A thread keeps its own, as large as was ever asked for.
pub(super) fn with_scratch(panel_len: usize, sums_len: usize, f: impl FnOnce(&mut [f32], &mut [f32])) {
    thread_local! {
        static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    }
    let (panel_lines, sums_lines) = (panel_len.div_ceil(16), sums_len.div_ceil(16));
    // Taken out while in use, so that nothing breaks should `f` come here again.
    let mut lines = SCRATCH.take();
    if lines.len() < panel_lines + sums_lines {
        lines.resize(panel_lines + sums_lines, Line([0.0; 16]));
    }
    // SAFETY: a `Line` is nothing but 16 f32.
    let floats = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast::<f32>(), lines.len() * 16) };
    let (panel, sums) = floats.split_at_mut(panel_lines * 16);
    f(&mut panel[..panel_len], &mut sums[..sums_len]);
    SCRATCH.set(lines);
}

/// Unpacks superblocks `start..start + n` of the panel's rows into records `[j][superblock]`. A record is
/// `[8][VECTORS]` vectors of bytes, `[SCALES][VECTORS]` of scales, `[MINS][VECTORS]` of mins.
struct PackPanel<'a, U, P> {
    format: PhantomData<(U, P)>,
    weights: &'a WeightRows<'a>,
    first_row: usize,
    start: usize,
    n: usize,
    panel: &'a mut [f32],
}

impl<U: Unpack, P: Pack<U>> Kernel for PackPanel<'_, U, P> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let record = record_vectors::<U>() * S::LANES;
        assert!(self.panel.len() >= LANES * self.n * record);
        for v in 0..VECTORS {
            for b in 0..self.n {
                // SAFETY: the length was asserted above; this is a place in record [0][b].
                let to = unsafe { self.panel.as_mut_ptr().add(b * record + v * S::LANES) };
                let first_row = self.first_row + v * S::LANES;
                // SAFETY: likewise.
                unsafe { P::pack(s, self.weights, first_row, self.start + b, to, self.n * record) };
            }
        }
    }
}

/// How weights lie.
pub(super) trait Pack<U> {
    /// Unpacks superblock `b` of `LANES` rows: vector i of block j, then the scales and mins, go to
    /// `to + j * j_stride + i * VECTORS * LANES`.
    ///
    /// # Safety
    /// These places are there.
    unsafe fn pack<S: Simd>(s: S, weights: &WeightRows<'_>, first_row: usize, b: usize, to: *mut f32, j_stride: usize);
}

/// One row behind the other, as in a file.
pub(super) struct Plain;

impl<U: Unpack> Pack<U> for Plain {
    #[inline(always)]
    unsafe fn pack<S: Simd>(s: S, weights: &WeightRows<'_>, first_row: usize, b: usize, to: *mut f32, j_stride: usize) {
        let bytes = U::FORMAT.superblock_bytes();
        let from = b * bytes;
        // Rows beyond the last repeat it; their results are dropped.
        let row = |l: usize| &weights.row((first_row + l).min(weights.n - 1))[from..];
        let mut padded;
        let is_partial = from + bytes > weights.row_bytes;
        let mut rows: [&[u8]; 16] = [&[]; 16];
        if is_partial {
            // What the rows lack of a superblock has zero scales.
            padded = [[0u8; MAX_SUPERBLOCK_BYTES]; 16];
            for l in 0..S::LANES {
                padded[l][..row(l).len()].copy_from_slice(row(l));
            }
            for l in 0..S::LANES {
                rows[l] = &padded[l][..bytes];
            }
        } else {
            for l in 0..S::LANES {
                rows[l] = &row(l)[..bytes];
            }
        }
        let mut pointers = [std::ptr::null(); 16];
        for l in 0..S::LANES {
            pointers[l] = rows[l].as_ptr();
        }
        // The rows of the next panel follow those of this one. They come while this one is computed with, which the
        // processor's own prefetching, at home in a few long streams, does not bring about.
        let ahead = VECTORS * S::LANES * weights.row_bytes;
        for row in &pointers[..S::LANES] {
            for line in (0..bytes).step_by(64) {
                s.prefetch_far(row.wrapping_add(ahead + line));
            }
        }
        let columns = RowColumns { s, rows: &pointers, len: bytes };
        U::unpack(&mut ColumnStream { s, columns, to, j_stride });
        // SAFETY: as above, after the bytes.
        let to = unsafe { to.add(8 * VECTORS * S::LANES) };
        pack_scales::<S, U>(s, &rows, to, j_stride);
    }
}

/// Interleaved, see `interleaved.rs`.
pub(super) struct Strips;

impl<U: ColumnScales> Pack<U> for Strips {
    #[inline(always)]
    unsafe fn pack<S: Simd>(s: S, weights: &WeightRows<'_>, first_row: usize, b: usize, to: *mut f32, j_stride: usize) {
        let bytes = U::FORMAT.superblock_bytes();
        // Rows beyond the last repeat the last ones; their results are dropped.
        let first_row = first_row.min(weights.n - S::LANES);
        let columns = StripColumns::<S, U>::new(s, weights, first_row, b);
        // For the next panel, as above.
        let ahead = VECTORS * S::LANES * weights.row_bytes;
        if columns.is_first() {
            for line in (0..STRIP_ROWS * bytes).step_by(64) {
                s.prefetch_far(columns.first_byte().wrapping_add(ahead + line));
            }
        }
        for j in 0..LANES {
            let scales = U::column_scales(&columns, j);
            for part in 0..U::SCALES + U::MINS {
                let x = if part < U::SCALES { scales.scale[part] } else { scales.min[part - U::SCALES] };
                // SAFETY: a place in the record, as the caller knows.
                unsafe { s.store_f(to.add(j * j_stride + (8 + part) * VECTORS * S::LANES), x) };
            }
        }
        U::unpack(&mut ColumnStream { s, columns, to, j_stride });
    }
}

/// Transposes the scales and mins of `LANES` superblocks to `to[j * j_stride + part * VECTORS * LANES]`.
#[inline(always)]
fn pack_scales<S: Simd, U: Unpack>(s: S, rows: &[&[u8]; 16], to: *mut f32, j_stride: usize) {
    let mut by_row = [[[0.0f32; LANES]; 16]; 4];
    for l in (0..S::LANES).step_by(S::ROWS) {
        let scales = U::scales(s, [rows[l], rows[l + S::ROWS - 1]]);
        for half in 0..2 {
            // SAFETY: 8 floats for each of `S::ROWS` rows.
            unsafe {
                s.store_f(by_row[half][l].as_mut_ptr(), scales.scale[half]);
                s.store_f(by_row[2 + half][l].as_mut_ptr(), scales.min[half]);
            }
        }
    }
    for part in 0..U::SCALES + U::MINS {
        let by_row = if part < U::SCALES { &by_row[part] } else { &by_row[2 + part - U::SCALES] };
        let mut pointers = [std::ptr::null(); 16];
        for l in 0..S::LANES {
            pointers[l] = by_row[l].as_ptr().cast();
        }
        for quarter in 0..2 {
            // SAFETY: rows of 8 floats, 4 at a time.
            let columns = unsafe { s.columns_16(&pointers, quarter * 16) };
            for (i, column) in columns.into_iter().enumerate() {
                let at = (4 * quarter + i) * j_stride + part * VECTORS * S::LANES;
                // SAFETY: a place in the panel, whose length was asserted.
                unsafe { s.store_f(to.add(at), s.as_f(column)) };
            }
        }
    }
}

/// Rows of superblocks, seen as columns.
struct RowColumns<'a, S> {
    s: S,
    /// Each `len` bytes long.
    rows: &'a [*const u8; 16],
    len: usize,
}

impl<S: Simd> Columns<S> for RowColumns<'_, S> {
    #[inline(always)]
    fn columns(&self, at: usize) -> [S::I; 4] {
        assert!(at + 16 <= self.len);
        // SAFETY: within the rows' length.
        unsafe { self.s.columns_16(self.rows, at) }
    }

    #[inline(always)]
    fn bits(&self, at: usize) -> S::I {
        assert!(at + 4 <= self.len);
        let mut bits = [0i32; 16];
        for l in 0..S::LANES {
            // SAFETY: within the rows' length.
            bits[l] = unsafe { self.rows[l].add(at).cast::<i32>().read_unaligned() };
        }
        // SAFETY: at most 16 lanes.
        unsafe { self.s.load_i(bits.as_ptr()) }
    }
}

/// Superblocks on their way into a panel.
struct ColumnStream<S, C> {
    s: S,
    columns: C,
    /// Block j goes to `to + j * j_stride`, vector i to `i * VECTORS * LANES` behind that.
    to: *mut f32,
    j_stride: usize,
}

impl<S: Simd, C: Columns<S>> Stream<S, 8> for ColumnStream<S, C> {
    #[inline(always)]
    fn bytes(&self, at: usize) -> Bytes<S, 8> {
        unpack::column_bytes(self.s, &self.columns, at)
    }

    #[inline(always)]
    fn nibbles(&self, at: usize) -> Bytes<S, 8> {
        unpack::column_nibbles(self.s, &self.columns, at)
    }

    #[inline(always)]
    fn fifth_bits(&self, at: usize) -> Bytes<S, 8> {
        unpack::column_fifth_bits(self.s, &self.columns, at)
    }

    #[inline(always)]
    fn put(&mut self, j: usize, block: Bytes<S, 8>) {
        for (i, x) in block.vectors.into_iter().enumerate() {
            let at = j * self.j_stride + i * VECTORS * S::LANES;
            // SAFETY: a place in the panel, whose length was asserted.
            unsafe { self.s.store_f(self.to.add(at), self.s.as_f(x)) };
        }
    }
}

/// The order in which sums are folded: halves first, see [`scalar::fold`](super::scalar::fold).
const FOLD_ORDER: [usize; LANES] = [0, 4, 2, 6, 1, 5, 3, 7];

/// Adds the products of a chunk to the running sums, for all columns; the last one folds them into results.
struct Chunk<'a, 'o, U> {
    format: PhantomData<U>,
    /// The records `[j][n]`.
    panel: &'a [f32],
    acts: &'a Q8Rows,
    /// The chunk's first superblock.
    start: usize,
    /// Superblocks in it.
    n: usize,
    is_last: bool,
    /// `[j][columns][VECTORS][LANES]`. The first chunk finds anything there.
    sums: &'a mut [f32],
    out: Out<'a, 'o>,
}

/// Where a panel's results go.
struct Out<'a, 'o> {
    /// `[columns, n_rows]`
    tile: &'a mut TileMut<'o>,
    /// The panel's first row.
    first_row: usize,
}

impl<U: Unpack> Kernel for Chunk<'_, '_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        for j in FOLD_ORDER {
            for g in 0..self.acts.n().div_ceil(GROUP) {
                match S::TILE_COLUMNS {
                    2 => {
                        self.tile::<S, 2>(s, j, g, 0);
                        self.tile::<S, 2>(s, j, g, 2);
                    }
                    _ => self.tile::<S, 4>(s, j, g, 0),
                }
            }
        }
    }
}

impl<U: Unpack> Chunk<'_, '_, U> {
    /// Sum j of the columns `first..first + COLUMNS` of group g.
    #[inline(always)]
    fn tile<S: Simd, const COLUMNS: usize>(&mut self, s: S, j: usize, g: usize, first: usize) {
        let n_groups = self.acts.n().div_ceil(GROUP);
        let group_len = GROUP * VECTORS * S::LANES;
        let blocks_len = self.n * record_vectors::<U>() * S::LANES;
        let acts = &self.acts.group(j, g)[self.start..][..self.n];
        let blocks = &self.panel[j * blocks_len..][..blocks_len];
        let all = &mut *self.sums;
        let at = |j: usize| (j * n_groups + g) * group_len + first * VECTORS * S::LANES;

        let mut sums = [[s.splat(0.0); VECTORS]; COLUMNS];
        if self.start > 0 {
            sums = load_sums(s, &all[at(j)..]);
        }
        sums = add_products::<S, U, COLUMNS>(s, blocks, acts, first, sums);
        let mut to = j;
        if self.is_last {
            for half in [4, 2, 1] {
                if to < half {
                    break;
                }
                to -= half;
                let other: [[S::F; VECTORS]; COLUMNS] = load_sums(s, &all[at(to)..]);
                for c in 0..COLUMNS {
                    for v in 0..VECTORS {
                        sums[c][v] = s.add(other[c][v], sums[c][v]);
                    }
                }
            }
        }
        if !(self.is_last && j == LANES - 1) {
            let to = &mut all[at(to)..][..COLUMNS * VECTORS * S::LANES];
            for (to, sums) in to.chunks_exact_mut(S::LANES).zip(sums.as_flattened()) {
                // SAFETY: the chunk is a vector.
                unsafe { s.store_f(to.as_mut_ptr(), *sums) };
            }
            return;
        }
        let Out { tile, first_row } = &mut self.out;
        let n_rows = tile.width();
        let columns = g * GROUP + first..tile.n_rows();
        for (c, sums) in columns.zip(sums) {
            let column = tile.row_mut(c);
            for (v, sum) in sums.into_iter().enumerate() {
                let first_row = *first_row + v * S::LANES;
                // The zero is `scalar::fold`'s.
                let sum = s.add(sum, s.splat(0.0));
                if first_row + S::LANES <= n_rows {
                    // SAFETY: the slice is a vector.
                    unsafe { s.store_f(column[first_row..first_row + S::LANES].as_mut_ptr(), sum) };
                    continue;
                }
                let mut results = [0.0; 16];
                // SAFETY: a vector has at most 16 lanes.
                unsafe { s.store_f(results.as_mut_ptr(), sum) };
                let rows = first_row.min(n_rows)..(first_row + S::LANES).min(n_rows);
                let n = rows.len();
                column[rows].copy_from_slice(&results[..n]);
            }
        }
    }
}

/// The sums of some columns, `[COLUMNS][VECTORS][LANES]`.
#[inline(always)]
fn load_sums<S: Simd, const COLUMNS: usize>(s: S, from: &[f32]) -> [[S::F; VECTORS]; COLUMNS] {
    let from = &from[..COLUMNS * VECTORS * S::LANES];
    let mut sums = [[s.splat(0.0); VECTORS]; COLUMNS];
    for (sum, from) in sums.as_flattened_mut().iter_mut().zip(from.chunks_exact(S::LANES)) {
        // SAFETY: the chunk is a vector.
        *sum = unsafe { s.load_f(from.as_ptr()) };
    }
    sums
}

/// Columns `first..first + COLUMNS` of a group: the sums, and added to them the products of the records of weights with
/// the blocks of activations.
#[inline(always)]
fn add_products<S: Simd, U: Unpack, const COLUMNS: usize>(
    s: S,
    weights: &[f32],
    acts: &[GroupBlock],
    first: usize,
    mut sums: [[S::F; VECTORS]; COLUMNS],
) -> [[S::F; VECTORS]; COLUMNS] {
    let record = record_vectors::<U>() * S::LANES;
    assert!(weights.len() == acts.len() * record && first + COLUMNS <= GROUP);
    for (i, acts) in acts.iter().enumerate() {
        // SAFETY: there are as many records as blocks of activations, as asserted.
        let weights = unsafe { weights.as_ptr().add(i * record) };
        // SAFETY: the record is there.
        let mut totals = unsafe { dots::<S, U, COLUMNS>(s, weights, acts, first, 0) };
        for v in 0..VECTORS {
            // SAFETY: a place in the record.
            let scale = unsafe { s.load_f(weights.add((8 * VECTORS + v) * S::LANES)) };
            for c in 0..COLUMNS {
                totals[c][v] = s.mul(totals[c][v], scale);
            }
        }
        if U::SCALES == 2 {
            // SAFETY: the record is there.
            let high = unsafe { dots::<S, U, COLUMNS>(s, weights, acts, first, 1) };
            for v in 0..VECTORS {
                // SAFETY: a place in the record.
                let scale = unsafe { s.load_f(weights.add((9 * VECTORS + v) * S::LANES)) };
                for c in 0..COLUMNS {
                    totals[c][v] = s.fma(high[c][v], scale, totals[c][v]);
                }
            }
        }
        for c in 0..COLUMNS {
            let act_scale = acts.scale[first + c];
            for v in 0..VECTORS {
                sums[c][v] = s.fma(totals[c][v], s.splat(act_scale), sums[c][v]);
            }
            for half in 0..U::MINS {
                let minus = match (U::MINS, half) {
                    (1, _) => acts.minus_scaled[first + c],
                    (_, 0) => act_scale * acts.minus_low[first + c] as f32,
                    _ => act_scale * acts.minus_high[first + c] as f32,
                };
                for v in 0..VECTORS {
                    let at = (8 + U::SCALES + half) * VECTORS + v;
                    // SAFETY: a place in the record.
                    let min = unsafe { s.load_f(weights.add(at * S::LANES)) };
                    sums[c][v] = s.fma(min, s.splat(minus), sums[c][v]);
                }
            }
        }
    }
    sums
}

/// The integer sums of half a block with one scale, or of all of it if it has one scale only.
///
/// # Safety
/// `weights` points to a record.
#[inline(always)]
unsafe fn dots<S: Simd, U: Unpack, const COLUMNS: usize>(
    s: S,
    weights: *const f32,
    acts: &GroupBlock,
    first: usize,
    half: usize,
) -> [[S::F; VECTORS]; COLUMNS] {
    let mut correction = [s.splat_i(0); COLUMNS];
    if let Some(shift) = zero_shift::<S, U>() {
        let minus = match (U::SCALES, half) {
            (1, _) => &acts.minus_sum,
            (_, 0) => &acts.minus_low,
            _ => &acts.minus_high,
        };
        for c in 0..COLUMNS {
            correction[c] = s.shift_left(s.splat_i(minus[first + c]), shift);
        }
    }
    // Where registers are short, the correction comes last.
    let is_last = S::PAIRS_SATURATE;
    let mut dots = [[s.splat_i(0); VECTORS]; COLUMNS];
    if !is_last {
        for c in 0..COLUMNS {
            dots[c] = [correction[c]; VECTORS];
        }
    }
    let steps = 8 / U::SCALES;
    let group = S::group(U::MAX_Q).clamp(1, steps);
    for from in (0..steps).step_by(group) {
        let mut partial = dots;
        for c in 0..COLUMNS {
            for v in 0..VECTORS {
                partial[c][v] = s.start(dots[c][v]);
            }
        }
        for four in from..steps.min(from + group) {
            let four = half * steps + four;
            let mut w = [s.splat_i(0); VECTORS];
            for v in 0..VECTORS {
                // SAFETY: a place in the record.
                w[v] = unsafe { s.load_i(weights.add((four * VECTORS + v) * S::LANES).cast()) };
            }
            for c in 0..COLUMNS {
                let a = s.splat_i(i32::from_ne_bytes(acts.q[four][first + c].map(|q| q as u8)));
                for v in 0..VECTORS {
                    if U::IS_WIDE {
                        dots[c][v] = s.dot_wide(dots[c][v], w[v], a);
                    } else {
                        partial[c][v] = s.step(partial[c][v], w[v], a);
                    }
                }
            }
        }
        if !U::IS_WIDE {
            for c in 0..COLUMNS {
                for v in 0..VECTORS {
                    dots[c][v] = s.finish(dots[c][v], partial[c][v]);
                }
            }
        }
    }
    let mut floats = [[s.splat(0.0); VECTORS]; COLUMNS];
    for c in 0..COLUMNS {
        for v in 0..VECTORS {
            if is_last && zero_shift::<S, U>().is_some() {
                dots[c][v] = s.add_i(dots[c][v], correction[c]);
            }
            floats[c][v] = s.to_f(dots[c][v]);
        }
    }
    floats
}

/// Folds the running sums `[N][columns][VECTORS][LANES]` of a panel and writes the rows that exist.
pub(super) struct FoldPanel<'a, 'o> {
    pub sums: &'a mut [f32],
    /// Columns that there are sums of; `out` may have fewer.
    pub n_columns: usize,
    pub first_row: usize,
    /// `[columns, n_rows]`
    pub out: &'a mut TileMut<'o>,
}

impl Kernel for FoldPanel<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panel_rows = VECTORS * S::LANES;
        let n_sums = self.sums.len() / (self.n_columns * panel_rows);
        let rows = panel_rows.min(self.out.width() - self.first_row);
        let mut halves = n_sums / 2;
        while halves > 0 {
            // As `scalar::fold`: sum i and sum i + halves.
            let (low, high) = self.sums.split_at_mut(halves * self.n_columns * panel_rows);
            for (x, y) in low.chunks_exact_mut(S::LANES).zip(high.chunks_exact(S::LANES)) {
                // SAFETY: the chunks are vectors.
                unsafe {
                    let sum = s.add(s.load_f(x.as_ptr()), s.load_f(y.as_ptr()));
                    s.store_f(x.as_mut_ptr(), sum);
                }
            }
            halves /= 2;
        }
        for c in 0..self.out.n_rows() {
            let sums = &self.sums[c * panel_rows..][..rows];
            let out = &mut self.out.row_mut(c)[self.first_row..][..rows];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum + 0.0;
            }
        }
    }
}
