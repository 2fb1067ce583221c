//! Products of quantized weights with many columns.
//!
//! A *panel* is two vectors' worth of rows (32 with 16 lanes), cut into chunks of some superblocks. A chunk is unpacked
//! once, seen as columns: a lane is a row, a vector holds 4 consecutive bytes of each row. Then all columns of
//! activations pass by in register tiles, 4 of their bytes being repeated in all lanes. In pseudo code:
//!
//! ```text
//! for each panel:
//!     for each chunk of superblocks:
//!         unpack
//!         for j in 0..8:                              the running sum that block j of each superblock goes to
//!             for each tile of columns:
//!                 load the tile's sums j
//!                 for each superblock of the chunk:   sums += products of block j
//!                 store them
//!     fold the 8 sums of each row and column
//! ```
//!
//! With j outside, the 8 sums of a product need not be in registers together, and block j of the chunk stays in the
//! first-level cache while the columns pass.

use std::cell::RefCell;
use std::marker::PhantomData;

use super::WeightRows;
use super::blocks::{BLOCK, LANES};
use super::q8::{Q8Row, Q8Rows};
use super::simd::{Kernel, Simd};
use super::unpack::{Bytes, Stream, Unpack, zero_shift};

/// Bytes of the longest superblock, Q8_0's.
pub(super) const MAX_SUPERBLOCK_BYTES: usize = 8 * 34;

/// Vectors of rows in a panel.
const VECTORS: usize = 2;

/// Superblocks unpacked at a time: block j of all of them should fit the first-level cache, 1.3 KB each with 16 lanes.
const CHUNK: usize = 12;

/// Vectors in a block of the panel: 8 of bytes, the scales, the mins, for each vector of rows.
const fn record_vectors<U: Unpack>() -> usize {
    VECTORS * (8 + U::SCALES + U::MINS)
}

/// `out[c][r] = dot(weights[r], acts[c])`, as `scalar.rs` defines it.
pub(super) fn matmul<S: Simd, U: Unpack>(s: S, weights: &WeightRows<'_>, acts: &Q8Rows, out: &mut [f32]) {
    let panel_rows = VECTORS * S::LANES;
    let n_columns = acts.n();
    let superblocks = acts.padded_blocks() / LANES;
    let n_chunks = superblocks.div_ceil(CHUNK);
    let chunk = superblocks.div_ceil(n_chunks);
    with_scratch(chunk * LANES * record_vectors::<U>() * S::LANES, LANES * n_columns * panel_rows, |panel, sums| {
        for first_row in (0..weights.n).step_by(panel_rows) {
            sums.fill(0.0);
            for start in (0..superblocks).step_by(chunk) {
                let n = chunk.min(superblocks - start);
                s.vectorize(PackPanel::<U> { format: PhantomData, weights, first_row, start, n, panel });
                for j in 0..LANES {
                    let block = Block::<U> {
                        format: PhantomData,
                        panel: &panel[j * n * record_vectors::<U>() * S::LANES..],
                        acts,
                        start,
                        n,
                        j,
                        sums: &mut sums[j * n_columns * panel_rows..][..n_columns * panel_rows],
                    };
                    s.vectorize(block);
                }
            }
            s.vectorize(FoldPanel { sums, n_columns, first_row, n_rows: weights.n, out });
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
struct PackPanel<'a, U> {
    format: PhantomData<U>,
    weights: &'a WeightRows<'a>,
    first_row: usize,
    start: usize,
    n: usize,
    panel: &'a mut [f32],
}

impl<U: Unpack> Kernel for PackPanel<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let bytes = U::FORMAT.superblock_bytes();
        let record = record_vectors::<U>() * S::LANES;
        assert!(self.panel.len() >= LANES * self.n * record);
        let mut padded = [[0u8; MAX_SUPERBLOCK_BYTES]; 16];
        for v in 0..VECTORS {
            for b in 0..self.n {
                let from = (self.start + b) * bytes;
                let row = |l: usize| {
                    // Rows beyond the last repeat it; their results are dropped.
                    let r = self.first_row + v * S::LANES + l;
                    &self.weights.row(r.min(self.weights.n - 1))[from..]
                };
                let is_partial = from + bytes > self.weights.row_bytes;
                if is_partial {
                    // What the rows lack of a superblock has zero scales.
                    for l in 0..S::LANES {
                        padded[l][..row(l).len()].copy_from_slice(row(l));
                    }
                }
                let mut rows: [&[u8]; 16] = [&[]; 16];
                for l in 0..S::LANES {
                    let whole = if is_partial { &padded[l] } else { row(l) };
                    rows[l] = &whole[..bytes];
                }
                // SAFETY: the length was asserted above; this is a place in record [0][b].
                let to = unsafe { self.panel.as_mut_ptr().add(b * record + v * S::LANES) };
                let mut pointers = [std::ptr::null(); 16];
                for l in 0..S::LANES {
                    pointers[l] = rows[l].as_ptr();
                }
                U::unpack(&mut ColumnStream { s, rows: &pointers, len: bytes, to, j_stride: self.n * record });
                // SAFETY: as above, after the bytes.
                let to = unsafe { to.add(8 * VECTORS * S::LANES) };
                pack_scales::<S, U>(s, &rows, to, self.n * record);
            }
        }
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
                // SAFETY: a place in the panel, whose length `PackPanel` asserted.
                unsafe { s.store_f(to.add(at), s.as_f(column)) };
            }
        }
    }
}

/// Superblocks seen as columns.
struct ColumnStream<'a, S: Simd> {
    s: S,
    /// Each `len` bytes long.
    rows: &'a [*const u8; 16],
    len: usize,
    /// Block j goes to `to + j * j_stride`, vector i to `i * VECTORS * LANES` behind that.
    to: *mut f32,
    j_stride: usize,
}

impl<S: Simd> ColumnStream<'_, S> {
    #[inline(always)]
    fn columns(&self, at: usize) -> [S::I; 4] {
        assert!(at + 16 <= self.len);
        // SAFETY: within the rows' length.
        unsafe { self.s.columns_16(self.rows, at) }
    }
}

impl<S: Simd> Stream<S, 8> for ColumnStream<'_, S> {
    #[inline(always)]
    fn bytes(&self, at: usize) -> Bytes<S, 8> {
        let [a, b, c, d] = self.columns(at);
        let [e, f, g, h] = self.columns(at + 16);
        Bytes::new(self.s, [a, b, c, d, e, f, g, h])
    }

    #[inline(always)]
    fn nibbles(&self, at: usize) -> Bytes<S, 8> {
        let columns = self.columns(at);
        let mask = self.s.splat_u8(0x0f);
        let mut vectors = [mask; 8];
        for (i, x) in columns.into_iter().enumerate() {
            vectors[i] = self.s.and(x, mask);
            vectors[i + 4] = self.s.and(self.s.shift_right(x, 4), mask);
        }
        Bytes::new(self.s, vectors)
    }

    #[inline(always)]
    fn fifth_bits(&self, at: usize) -> Bytes<S, 8> {
        let s = self.s;
        assert!(at + 4 <= self.len);
        let mut bits = [0i32; 16];
        for l in 0..S::LANES {
            // SAFETY: within the rows' length.
            bits[l] = unsafe { self.rows[l].add(at).cast::<i32>().read_unaligned() };
        }
        // SAFETY: at most 16 lanes.
        let bits = unsafe { s.load_i(bits.as_ptr()) };
        let mut vectors = [bits; 8];
        for (i, x) in vectors.iter_mut().enumerate() {
            // Bits 0 to 3 go to bit 4 of bytes 0 to 3.
            let four = s.shift_right(bits, 4 * i as u32);
            let mut spread = s.and(s.shift_left(four, 4), s.splat_i(0x10));
            for bit in 1..4u32 {
                let byte = s.shift_left(four, 4 + 7 * bit);
                spread = s.or(spread, s.and(byte, s.splat_i(0x10 << (8 * bit))));
            }
            *x = spread;
        }
        Bytes::new(s, vectors)
    }

    #[inline(always)]
    fn put(&mut self, j: usize, block: Bytes<S, 8>) {
        for (i, x) in block.vectors.into_iter().enumerate() {
            let at = j * self.j_stride + i * VECTORS * S::LANES;
            // SAFETY: a place in the panel, whose length `PackPanel` asserted.
            unsafe { self.s.store_f(self.to.add(at), self.s.as_f(x)) };
        }
    }
}

/// Adds the products of blocks j of a chunk to running sums j, for all columns.
struct Block<'a, U> {
    format: PhantomData<U>,
    /// The records `[n]` of block j.
    panel: &'a [f32],
    acts: &'a Q8Rows,
    /// The chunk's first superblock.
    start: usize,
    /// Superblocks in it.
    n: usize,
    j: usize,
    /// `[columns][VECTORS][LANES]`
    sums: &'a mut [f32],
}

impl<U: Unpack> Kernel for Block<'_, U> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let n_columns = self.acts.n();
        assert!(self.panel.len() >= self.n * record_vectors::<U>() * S::LANES);
        assert!(self.sums.len() >= n_columns * VECTORS * S::LANES);
        assert!((self.start + self.n) * LANES <= self.acts.padded_blocks());
        let mut c = 0;
        while c + S::TILE_COLUMNS <= n_columns {
            match S::TILE_COLUMNS {
                6 => tile::<S, U, 6>(s, &mut self, c),
                5 => tile::<S, U, 5>(s, &mut self, c),
                4 => tile::<S, U, 4>(s, &mut self, c),
                3 => tile::<S, U, 3>(s, &mut self, c),
                _ => tile::<S, U, 2>(s, &mut self, c),
            }
            c += S::TILE_COLUMNS;
        }
        match n_columns - c {
            0 => {}
            1 => tile::<S, U, 1>(s, &mut self, c),
            2 => tile::<S, U, 2>(s, &mut self, c),
            3 => tile::<S, U, 3>(s, &mut self, c),
            4 => tile::<S, U, 4>(s, &mut self, c),
            _ => tile::<S, U, 5>(s, &mut self, c),
        }
    }
}

/// Columns `first..first + COLUMNS` of a [`Block`], whose lengths have been asserted.
#[inline(always)]
fn tile<S: Simd, U: Unpack, const COLUMNS: usize>(s: S, block: &mut Block<'_, U>, first: usize) {
    let record = record_vectors::<U>() * S::LANES;
    let columns: [Q8Row<'_>; COLUMNS] = std::array::from_fn(|c| block.acts.row(first + c));
    let mut sums = [[s.splat(0.0); VECTORS]; COLUMNS];
    // SAFETY: of all columns' sums these are some.
    let sums_at = unsafe { block.sums.as_mut_ptr().add(first * VECTORS * S::LANES) };
    for c in 0..COLUMNS {
        for v in 0..VECTORS {
            // SAFETY: as above.
            sums[c][v] = unsafe { s.load_f(sums_at.add((c * VECTORS + v) * S::LANES)) };
        }
    }
    for i in 0..block.n {
        // SAFETY: the panel has `n` records.
        let weights = unsafe { block.panel.as_ptr().add(i * record) };
        let b = (block.start + i) * LANES + block.j;
        let mut totals = [[s.splat(0.0); VECTORS]; COLUMNS];
        let per_scale = 8 / U::SCALES;
        for half in 0..U::SCALES {
            let mut dots = [[s.splat_i(0); VECTORS]; COLUMNS];
            if let Some(shift) = zero_shift::<S, U>() {
                for c in 0..COLUMNS {
                    let minus = match (U::SCALES, half) {
                        (1, _) => columns[c].minus_sum,
                        (_, 0) => columns[c].minus_low,
                        _ => columns[c].minus_high,
                    };
                    // SAFETY: block b is one of the row's, as asserted.
                    let minus = unsafe { *minus.get_unchecked(b) };
                    dots[c] = [s.shift_left(s.splat_i(minus), shift); VECTORS];
                }
            }
            let group = S::group(U::MAX_Q).clamp(1, per_scale);
            for from in (0..per_scale).step_by(group) {
                let mut partial = dots;
                for partial in &mut partial {
                    for x in partial {
                        *x = s.start(*x);
                    }
                }
                for four in from..per_scale.min(from + group) {
                    let four = half * per_scale + four;
                    let mut w = [s.splat_i(0); VECTORS];
                    for v in 0..VECTORS {
                        // SAFETY: a place in the record.
                        w[v] = unsafe { s.load_i(weights.add((four * VECTORS + v) * S::LANES).cast()) };
                    }
                    for c in 0..COLUMNS {
                        // SAFETY: 4 bytes of block b, which is one of the row's.
                        let a = unsafe { s.splat_4(columns[c].q.as_ptr().add(b * BLOCK + 4 * four)) };
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
            for v in 0..VECTORS {
                // SAFETY: a place in the record.
                let scale = unsafe { s.load_f(weights.add(((8 + half) * VECTORS + v) * S::LANES)) };
                for c in 0..COLUMNS {
                    let dot = s.to_f(dots[c][v]);
                    totals[c][v] = match half {
                        0 => s.mul(dot, scale),
                        _ => s.fma(dot, scale, totals[c][v]),
                    };
                }
            }
        }
        for c in 0..COLUMNS {
            // SAFETY: block b is one of the row's, as asserted.
            let act_scale = unsafe { *columns[c].scale.get_unchecked(b) };
            for v in 0..VECTORS {
                sums[c][v] = s.fma(totals[c][v], s.splat(act_scale), sums[c][v]);
            }
            for half in 0..U::MINS {
                // SAFETY: as above.
                let minus = unsafe {
                    match (U::MINS, half) {
                        (1, _) => *columns[c].minus_scaled.get_unchecked(b),
                        (_, 0) => act_scale * *columns[c].minus_low.get_unchecked(b) as f32,
                        _ => act_scale * *columns[c].minus_high.get_unchecked(b) as f32,
                    }
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
    for c in 0..COLUMNS {
        for v in 0..VECTORS {
            // SAFETY: as where they were loaded.
            unsafe { s.store_f(sums_at.add((c * VECTORS + v) * S::LANES), sums[c][v]) };
        }
    }
}

/// Folds the running sums `[N][columns][VECTORS][LANES]` of a panel and writes the rows that exist.
pub(super) struct FoldPanel<'a> {
    pub sums: &'a mut [f32],
    pub n_columns: usize,
    pub first_row: usize,
    pub n_rows: usize,
    /// `[n_columns, n_rows]`
    pub out: &'a mut [f32],
}

impl Kernel for FoldPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let panel_rows = VECTORS * S::LANES;
        let n_sums = self.sums.len() / (self.n_columns * panel_rows);
        let rows = panel_rows.min(self.n_rows - self.first_row);
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
        for c in 0..self.n_columns {
            let sums = &self.sums[c * panel_rows..][..rows];
            let out = &mut self.out[c * self.n_rows + self.first_row..][..rows];
            for (out, sum) in out.iter_mut().zip(sums) {
                *out = sum + 0.0;
            }
        }
    }
}
