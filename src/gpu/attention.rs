//! What a step knows of its sequences, and attention to their keys and values.

use std::ops::Range;

use super::launch::Argument::{F32, U32, U64};
use super::launch::{BLOCK, count, fits, number};
use super::{Buffer, Gpu, GpuError, Rows, VENDOR, Vendor};
use crate::kernels::{AttentionShape, KEY_BLOCK};

/// Values of a head at most (`MAX_HEAD_DIM`).
pub const MAX_HEAD_DIM: usize = 512;
/// Keys of a thread block that makes scores (`SCORE_KEYS`), its threads, and those where values are added up.
const SCORE_KEYS: usize = 64;
const SCORE_THREADS: u32 = 128;
const VALUE_THREADS: u32 = 64;
/// The same where rows of one sequence share what is read (`SPAN_ROWS`, `SPAN_THREADS`, `SPAN_VALUES`); fewer than the least
/// do better alone.
const SPAN_ROWS: usize = 32;
const SPAN_THREADS: u32 = 256;
const SPAN_VALUES: usize = 256;
const LEAST_SPAN_ROWS: usize = 8;
/// Bytes for the scores of the rows that are looked at together.
pub const SCORE_BYTES: usize = 64 << 20;
/// Bytes of a span (`Span`).
const SPAN_BYTES: usize = 32;

/// Keys or values of a cache on the device: slots of `[n_kv_heads]` heads.
#[derive(Clone, Copy)]
pub struct Cells<'a> {
    /// Where they lie.
    pub buffer: &'a Buffer,
    /// Their type, as the kernels count: F32, F16, BF16, Q8_0.
    pub code: u32,
    /// Bytes of a slot.
    pub slot_bytes: usize,
}

/// One sequence of a step in one layer.
pub struct LayerSpan<'a> {
    /// Its rows.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub pos: usize,
    /// Position `p` stands in slot `p % capacity`; the caller has seen that there is room.
    pub capacity: usize,
    /// Its keys.
    pub keys: Cells<'a>,
    /// And values.
    pub values: Cells<'a>,
}

/// What all layers of a step share: the angles of its rows, and in each layer where each sequence's keys and values are.
#[derive(Clone, Default)]
pub struct StepPlan {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
    span_of_row: Vec<u32>,
    /// `[n_layers, n_spans]`, as the kernels read them.
    spans: Vec<u8>,
    n_spans: usize,
    /// Rows that are looked at together: of one span, by its number, or of several that have few each.
    groups: Vec<(Range<usize>, Option<u32>)>,
    /// Types of keys and of values.
    codes: [u32; 2],
    /// Positions that the longest sequence has after the step.
    longest: usize,
}

/// A plan on the device.
pub struct StepTables {
    buffer: Buffer,
    plan: StepPlan,
}

impl StepPlan {
    /// For rows whose cosines and sines are `[n_rows, half]`.
    pub fn new(half: usize, cos: &[f32], sin: &[f32]) -> StepPlan {
        StepPlan { half, cos: cos.to_vec(), sin: sin.to_vec(), ..StepPlan::default() }
    }

    /// Adds a layer, with the same sequences as in the layers before.
    ///
    /// # Errors
    /// Caches that are too small, and rows that are not there.
    pub fn add_layer(&mut self, spans: &[LayerSpan<'_>]) -> Result<(), GpuError> {
        if self.spans.is_empty() {
            self.n_spans = spans.len();
            for (i, span) in (0..).zip(spans) {
                self.span_of_row.extend(span.rows.clone().map(|_| i));
                self.longest = self.longest.max(span.pos + span.rows.len());
                let has_tile = VENDOR == Some(Vendor::Nvidia) && span.rows.len() >= LEAST_SPAN_ROWS;
                match self.groups.last_mut() {
                    Some((group, None)) if !has_tile => group.end = span.rows.end,
                    _ => self.groups.push((span.rows.clone(), has_tile.then_some(i))),
                }
            }
            self.codes = spans.first().map(|span| [span.keys.code, span.values.code]).unwrap_or_default();
            let is_fit = self.span_of_row.len() * self.half == self.cos.len() && self.cos.len() == self.sin.len();
            fits(is_fit, || "a step's rows are not those of its sequences".into())?;
        }
        let mut first_row = 0;
        for LayerSpan { rows, pos, capacity, keys, values } in spans {
            let slots = (pos + rows.len()).min(*capacity);
            keys.buffer.check(0, slots * keys.slot_bytes)?;
            values.buffer.check(0, slots * values.slot_bytes)?;
            let is_fit = rows.start == first_row && *capacity > 0 && [keys.code, values.code] == self.codes;
            fits(is_fit, || "the sequences of a step do not follow each other".into())?;
            first_row = rows.end;
            for address in [keys.buffer.at(0), values.buffer.at(0)] {
                self.spans.extend(address.to_le_bytes());
            }
            for n in [*capacity, *pos, rows.start, rows.len()] {
                self.spans.extend(count(n)?.to_le_bytes());
            }
        }
        fits(first_row == self.span_of_row.len(), || "a layer with other sequences".into())
    }

    /// Sequences.
    pub fn n_spans(&self) -> usize {
        self.n_spans
    }

    /// A bound for the keys that a row sees, the same for many steps.
    pub fn n_keys(&self) -> usize {
        self.longest.next_power_of_two().max(256)
    }

    /// Where the spans begin, behind the other tables.
    fn spans_at(&self) -> usize {
        ((self.cos.len() + self.sin.len() + self.span_of_row.len()) * size_of::<f32>()).next_multiple_of(16)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.spans_at() + self.spans.len());
        bytes.extend(self.cos.iter().chain(&self.sin).flat_map(|value| value.to_le_bytes()));
        bytes.extend(self.span_of_row.iter().flat_map(|span| span.to_le_bytes()));
        bytes.resize(self.spans_at(), 0);
        bytes.extend(&self.spans);
        bytes
    }
}

impl StepTables {
    /// Uploads a plan.
    ///
    /// # Errors
    /// [`GpuError::Memory`], and the driver's.
    pub fn new(gpu: &Gpu, plan: &StepPlan) -> Result<StepTables, GpuError> {
        let bytes = plan.bytes();
        let buffer = gpu.scratch(bytes.len())?;
        buffer.write(0, &bytes)?;
        Ok(StepTables { buffer, plan: plan.clone() })
    }

    /// Puts another plan, of a step of the same shape, in its place.
    ///
    /// # Errors
    /// One of another shape; the driver's.
    pub fn replace(&self, plan: &StepPlan) -> Result<(), GpuError> {
        let (old, bytes) = (&self.plan, plan.bytes());
        let is_like = old.span_of_row == plan.span_of_row
            && old.n_keys() == plan.n_keys()
            && (old.half, old.codes) == (plan.half, plan.codes)
            && bytes.len() == self.buffer.len();
        fits(is_like, || "a step of another shape".into())?;
        self.buffer.write(0, &bytes)
    }
}

impl Gpu {
    /// Rotates queries and keys, puts keys and values into the caches, and lets the queries look at what is there.
    ///
    /// `qkv`: `[n_rows, (n_heads + 2 n_kv_heads) * head_dim]`, used up. `layer` counts those of the plan. Returns
    /// `[n_rows, n_heads * head_dim]`.
    ///
    /// # Errors
    /// Shapes that do not fit; [`GpuError::Memory`], and the driver's.
    pub fn attention(
        &self,
        qkv: &Rows,
        shape: &AttentionShape,
        tables: &StepTables,
        layer: usize,
    ) -> Result<Rows, GpuError> {
        let &AttentionShape { n_heads, n_kv_heads, head_dim, scale, softcap, window } = shape;
        let StepTables { buffer, plan } = tables;
        let (n_rows, n_all_heads) = (qkv.n_rows(), n_heads + 2 * n_kv_heads);
        let spans_at = plan.spans_at() + layer * plan.n_spans * SPAN_BYTES;
        let is_fit = qkv.width() == n_all_heads * head_dim
            && n_rows == plan.span_of_row.len()
            && plan.half * 2 == head_dim
            && head_dim <= MAX_HEAD_DIM
            && n_kv_heads > 0
            && n_heads.is_multiple_of(n_kv_heads)
            && spans_at + plan.n_spans * SPAN_BYTES <= buffer.len();
        fits(is_fit, || format!("{n_heads} heads of {head_dim} do not fit"))?;

        let table_bytes = plan.cos.len() * size_of::<f32>();
        let [cos, sin, span_of_row, spans] =
            [0, table_bytes, 2 * table_bytes, spans_at].map(|offset| U64(buffer.at(offset)));
        let [key_type, value_type] = plan.codes.map(U32);
        let (head_dim_, heads, kv_heads) = (number(head_dim)?, number(n_heads)?, number(n_kv_heads)?);
        let arguments =
            [U64(qkv.at(0)), cos, sin, head_dim_, heads, kv_heads, key_type, value_type, spans, span_of_row];
        self.launch("rope_and_store", [n_all_heads, n_rows], 128, &arguments)?;

        let out = self.new_rows(n_rows, n_heads * head_dim)?;
        let out = if head_dim.is_multiple_of(BLOCK) { out.with_quantized()? } else { out };
        let [q, sums] = out.quantized_at();
        // A window begins anywhere in a block of keys.
        let n_keys = window.map_or(plan.n_keys(), |w| plan.n_keys().min(w.next_multiple_of(KEY_BLOCK) + KEY_BLOCK));
        let rows_at_once = (SCORE_BYTES / (n_heads * n_keys * size_of::<f32>()).max(1)).clamp(1, n_rows.max(1));
        let scores = self.new_rows(rows_at_once * n_heads, n_keys)?;
        let (window, stride) = (number(window.unwrap_or(0))?, U64(n_keys as u64));
        let query = [U64(qkv.at(0)), number(qkv.width())?, head_dim_, heads, kv_heads, key_type, spans];
        let weighted = [U64(scores.at(0)), stride, head_dim_, heads, kv_heads, value_type, spans];
        let scored = [window, F32(scale), F32(softcap), stride, U64(scores.at(0))];
        let made = [window, U64(out.at(0)), q, sums];
        let groups = plan.groups.iter().flat_map(|(rows, span)| {
            rows.clone().step_by(rows_at_once).map(move |first| (first..rows.end.min(first + rows_at_once), *span))
        });
        for (rows, span) in groups {
            let (first, n) = (number(rows.start)?, rows.len());
            let Some(span) = span else {
                let grid = [n * n_heads, n_keys.div_ceil(SCORE_KEYS)];
                self.launch(
                    "attend_scores",
                    grid,
                    SCORE_THREADS,
                    &[&query[..], &[span_of_row, first], &scored].concat(),
                )?;
                let grid = [n * n_heads, head_dim.div_ceil(VALUE_THREADS as usize)];
                self.launch(
                    "attend_values",
                    grid,
                    VALUE_THREADS,
                    &[&weighted[..], &[span_of_row, first], &made].concat(),
                )?;
                continue;
            };
            let (which, tiles) = ([U32(span), first, number(n)?], n.div_ceil(SPAN_ROWS) * n_heads);
            // From the first block of keys that the first row sees to the last of the last row.
            let grid = [tiles, (n_keys + SPAN_ROWS).div_ceil(KEY_BLOCK) + 1];
            self.launch("attend_scores_tile", grid, SPAN_THREADS, &[&query[..], &which, &scored].concat())?;
            let grid = [tiles, head_dim.div_ceil(SPAN_VALUES)];
            self.launch("attend_values_tile", grid, SPAN_THREADS, &[&weighted[..], &which, &made].concat())?;
        }
        Ok(out)
    }
}
