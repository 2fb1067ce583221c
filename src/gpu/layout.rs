//! How the rows of a matrix lie on the device.
//!
//! The blocks of most formats have odd sizes, and a GPU reads 16 bytes at once only where they are aligned. So the bytes
//! of a block that are read in such pieces, its *body*, are stored together: a row is the bodies of all its blocks, then
//! what else each block has, then zeros up to a multiple of 16. Nothing is converted.
//!
//! The sum of a product with floats is sixteen running sums, one for each of sixteen lanes. In each whole 256 bytes of a
//! row of floats, the values that a lane adds up stand together, so that it gets them with one read of 16 bytes.
//!
//! Where the driver's kernels read what a file has, everything stays as it is.

use std::ops::Range;

use super::Driver;
use crate::kernels::Format;

/// Rows begin at multiples of this many bytes.
const ALIGNMENT: usize = 16;
/// Lanes that make a sum of floats.
const LANES: usize = 16;

/// The bytes of a block that are its body; `None` for floats. The kernels (`matmul.cu`) know the same.
fn body(format: Format) -> Option<Range<usize>> {
    Some(match format {
        Format::F32 | Format::F16 | Format::BF16 => return None,
        Format::Q4_0 | Format::IQ4_NL => 2..18,
        Format::Q4_1 => 4..20,
        Format::Q5_0 => 6..22,
        Format::Q5_1 => 8..24,
        Format::Q8_0 => 2..34,
        Format::Q2_K => 0..80,
        Format::Q3_K => 0..96,
        Format::Q4_K => 0..144,
        Format::Q5_K => 0..176,
        Format::Q6_K => 0..208,
        Format::IQ4_XS => 8..136,
    })
}

/// Bytes from one row on the device to the next, where rows have `row_bytes` in the file.
pub(super) fn device_row_bytes(row_bytes: usize) -> usize {
    if Driver::REARRANGES { row_bytes.next_multiple_of(ALIGNMENT) } else { row_bytes }
}

/// Bytes that a matrix of `n_rows` rows of `n_cols` values takes on the device; `None` where there is no such matrix.
pub fn device_bytes(format: Format, n_rows: usize, n_cols: usize) -> Option<usize> {
    device_row_bytes(format.row_bytes(n_cols)?).checked_mul(n_rows)
}

/// Writes rows of `row_bytes` bytes as they lie on the device.
pub(super) fn arrange(format: Format, rows: &[u8], row_bytes: usize, out: &mut [u8]) {
    if !Driver::REARRANGES {
        out.copy_from_slice(rows);
        return;
    }
    let block_bytes = format.block_bytes();
    let stride = device_row_bytes(row_bytes);
    let Some(body) = body(format) else {
        for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(stride)) {
            arrange_floats(block_bytes, row, out);
        }
        return;
    };
    let n_blocks = row_bytes / block_bytes;
    for (row, out) in rows.chunks_exact(row_bytes).zip(out.chunks_exact_mut(stride)) {
        let (bodies, out) = out.split_at_mut(n_blocks * body.len());
        let (rests, padding) = out.split_at_mut(n_blocks * (block_bytes - body.len()));
        for (b, block) in row.chunks_exact(block_bytes).enumerate() {
            bodies[b * body.len()..][..body.len()].copy_from_slice(&block[body.clone()]);
            let rest = &mut rests[b * (block_bytes - body.len())..][..block_bytes - body.len()];
            let (before, after) = rest.split_at_mut(body.start);
            before.copy_from_slice(&block[..body.start]);
            after.copy_from_slice(&block[body.end..]);
        }
        padding.fill(0);
    }
}

/// A row of floats of `size` bytes.
fn arrange_floats(size: usize, row: &[u8], out: &mut [u8]) {
    let grouped = row.len() / (LANES * ALIGNMENT) * (LANES * ALIGNMENT);
    let (row, rest) = row.split_at(grouped);
    let (out, after) = out.split_at_mut(grouped);
    for (group, out) in row.chunks_exact(LANES * ALIGNMENT).zip(out.chunks_exact_mut(LANES * ALIGNMENT)) {
        for (i, value) in group.chunks_exact(size).enumerate() {
            let (lane, place) = (i % LANES, i / LANES);
            out[lane * ALIGNMENT + place * size..][..size].copy_from_slice(value);
        }
    }
    after[..rest.len()].copy_from_slice(rest);
    after[rest.len()..].fill(0);
}

#[cfg(test)]
#[cfg(not(gpu = "metal"))]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_every_byte_and_bodies_are_aligned() {
        for format in Format::ALL {
            let row_bytes = format.row_bytes(768).unwrap();
            let rows: Vec<u8> = (0..2 * row_bytes).map(|i| (i % 251) as u8).collect();
            let mut out = vec![0xaa; device_bytes(format, 2, 768).unwrap()];
            arrange(format, &rows, row_bytes, &mut out);
            let stride = device_row_bytes(row_bytes);
            for (row, out) in rows.chunks(row_bytes).zip(out.chunks(stride)) {
                let (mut row, mut found) = (row.to_vec(), out[..row_bytes].to_vec());
                row.sort_unstable();
                found.sort_unstable();
                assert_eq!(found, row, "{format:?}");
                assert!(out[row_bytes..].iter().all(|byte| *byte == 0), "{format:?}");
            }
            if let Some(body) = body(format) {
                assert!(stride.is_multiple_of(ALIGNMENT) && body.len().is_multiple_of(ALIGNMENT), "{format:?}");
                assert_eq!(out[..body.len()], rows[body.clone()], "{format:?}");
                assert_eq!(out[body.len()], rows[format.block_bytes() + body.start], "{format:?}");
            }
        }
        assert_eq!(device_bytes(Format::Q4_K, 1, 100), None);
    }

    #[test]
    fn the_floats_of_a_lane_stand_together() {
        let values = 2 * 128 + 20;
        let row: Vec<u8> = (0..values).flat_map(|i: u16| i.to_le_bytes()).collect();
        let mut out = vec![0xaa; device_bytes(Format::BF16, 1, values.into()).unwrap()];
        arrange(Format::BF16, &row, row.len(), &mut out);
        let found: Vec<u16> = out.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]])).collect();
        assert_eq!(found[..10], [0, 16, 32, 48, 64, 80, 96, 112, 1, 17]);
        assert_eq!(found[128 + 8 * 3], 128 + 3);
        assert_eq!(found[256..280], [(256..276).collect::<Vec<u16>>(), vec![0; 4]].concat());
    }
}
