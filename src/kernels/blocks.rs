//! How numbers are stored: plain floats and ggml's quantized blocks.
//!
//! All quantized formats are seen the same way. A row is cut into *blocks* of 32 values and *superblocks* of 8 blocks,
//! 256 values. Value `i` of a block is
//!
//! ```text
//! weight = scale[half] * (q - Z) - min[half]
//! ```
//!
//! with an unsigned byte `q`, the zero point `Z` of the format ([`Coding`]), and `half = i / 16` where the format has a
//! scale for every 16 values and 0 where it has one for every 32. `scale` and `min` are f32: a stored f16 times a small
//! stored integer, a product that f32 holds exactly.
//!
//! The bytes, in ggml's order (`d`, `m`, `dmin` are little-endian f16; "nibbles" means that byte `l` of 16 holds value
//! `l` in its low and value `l + 16` in its high half; j counts the 8 blocks of a superblock):
//!
//! | format | bytes of a block |
//! |---|---|
//! | Q4_0 | d, 16 nibbles |
//! | Q4_1 | d, m, 16 nibbles |
//! | Q5_0 | d, fifth bits (u32, bit l for value l), 16 nibbles |
//! | Q5_1 | d, m, fifth bits, 16 nibbles |
//! | Q8_0 | d, 32 signed bytes |
//! | IQ4_NL | d, 16 nibbles that index [`IQ4_TABLE`] |
//! | Q2_K | 16 bytes (low half scale, high half min), 64 bytes of 2-bit values, d, dmin |
//! | Q3_K | 32 bytes of third bits (bit j of byte l for value l of block j), 64 bytes of 2-bit values, 12 bytes holding 16 6-bit scales, d |
//! | Q4_K | d, dmin, 12 bytes holding 8 6-bit scales and 8 6-bit mins, 128 bytes: 4 x 32 whose low halves are block 2g, high halves block 2g+1 |
//! | Q5_K | as Q4_K with 32 bytes of fifth bits (bit j of byte l for value l of block j) before the 128 |
//! | Q6_K | 2 x 64 bytes of low halves, 2 x 32 bytes of upper 2 bits, 16 signed scales, d |
//! | IQ4_XS | d, u16 and 4 bytes holding 8 6-bit scales, 8 x 16 nibbles that index the table |
//!
//! Source: `ggml-common.h` and `ggml-quants.c` of llama.cpp.

/// Storage format of a weight matrix's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, non_camel_case_types)] // The names are ggml's.
pub enum Format {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 15] = [
        Format::F32,
        Format::F16,
        Format::BF16,
        Format::Q4_0,
        Format::Q4_1,
        Format::Q5_0,
        Format::Q5_1,
        Format::Q8_0,
        Format::Q2_K,
        Format::Q3_K,
        Format::Q4_K,
        Format::Q5_K,
        Format::Q6_K,
        Format::IQ4_NL,
        Format::IQ4_XS,
    ];

    /// Values in one block.
    pub const fn block_len(self) -> usize {
        match self {
            Format::F32 | Format::F16 | Format::BF16 => 1,
            Format::Q4_0 | Format::Q4_1 | Format::Q5_0 | Format::Q5_1 | Format::Q8_0 | Format::IQ4_NL => 32,
            _ => 256,
        }
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        match self {
            Format::F32 => 4,
            Format::F16 | Format::BF16 => 2,
            Format::Q4_0 | Format::IQ4_NL => 18,
            Format::Q4_1 => 20,
            Format::Q5_0 => 22,
            Format::Q5_1 => 24,
            Format::Q8_0 => 34,
            Format::Q2_K => 84,
            Format::Q3_K => 110,
            Format::Q4_K => 144,
            Format::Q5_K => 176,
            Format::Q6_K => 210,
            Format::IQ4_XS => 136,
        }
    }

    /// Whether the rows are blocks of small integers with scales rather than plain floats.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Format::F32 | Format::F16 | Format::BF16)
    }

    /// Bytes of a row of `k` values, or `None` where `k` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }
}

/// What the kernels need to know of a quantized format besides how to unpack it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coding {
    /// Subtracted from every `q`: 0 or a power of two.
    pub zero_point: i32,
    /// Scales in a block of 32 values: 1 or 2.
    pub scales: usize,
    /// Mins in a block of 32 values: 0, 1 or 2.
    pub mins: usize,
}

impl Format {
    /// `None` for the float formats.
    pub(super) const fn coding(self) -> Option<Coding> {
        let (zero_point, scales, mins) = match self {
            Format::F32 | Format::F16 | Format::BF16 => return None,
            Format::Q4_0 => (8, 1, 0),
            Format::Q4_1 => (0, 1, 1),
            Format::Q5_0 => (16, 1, 0),
            Format::Q5_1 => (0, 1, 1),
            Format::Q8_0 => (128, 1, 0),
            Format::Q2_K => (0, 2, 2),
            Format::Q3_K => (4, 2, 0),
            Format::Q4_K => (0, 1, 1),
            Format::Q5_K => (0, 1, 1),
            Format::Q6_K => (32, 2, 0),
            Format::IQ4_NL => (128, 1, 0),
            Format::IQ4_XS => (128, 1, 0),
        };
        Some(Coding { zero_point, scales, mins })
    }

    /// Bytes that hold a whole superblock of 256 values.
    pub(super) const fn superblock_bytes(self) -> usize {
        SUPERBLOCK / self.block_len() * self.block_bytes()
    }
}

/// Values in a block of the common form.
pub(super) const BLOCK: usize = 32;

/// Blocks in a superblock: also the number of running sums of a dot product.
pub(super) const LANES: usize = 8;

/// Values in a superblock.
pub(super) const SUPERBLOCK: usize = BLOCK * LANES;

/// The 16 values of IQ4_NL and IQ4_XS, plus 128 to make them unsigned.
pub(super) const IQ4_TABLE: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// The 8 scales and 8 mins, 6 bits each, that Q4_K and Q5_K keep in 12 bytes; byte j is block j's.
pub(super) fn scales_and_mins_k4(packed: &[u8; 12]) -> (u64, u64) {
    let word = |i: usize| u32::from_le_bytes([packed[4 * i], packed[4 * i + 1], packed[4 * i + 2], packed[4 * i + 3]]);
    let (a, b, c) = (word(0), word(1), word(2));
    // Blocks 0 to 3 have their 6 bits together; 4 to 7 have 4 bits in c and the upper 2 above the first ones'.
    let scales_low = a & 0x3f3f_3f3f;
    let scales_high = (c & 0x0f0f_0f0f) | ((a >> 2) & 0x3030_3030);
    let mins_low = b & 0x3f3f_3f3f;
    let mins_high = ((c >> 4) & 0x0f0f_0f0f) | ((b >> 2) & 0x3030_3030);
    (u64::from(scales_low) | u64::from(scales_high) << 32, u64::from(mins_low) | u64::from(mins_high) << 32)
}

/// The 16 scales of 6 bits, less 32, that Q3_K keeps in 12 bytes; number h is half-block h's. The compiler makes vector
/// code of this.
pub(super) fn scales_q3(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|h| {
        let low = (packed[h % 8] >> (4 * (h / 8))) & 0x0f;
        let high = (packed[8 + h % 4] >> (2 * (h / 4))) & 3;
        (low | high << 4) as i8 - 32
    })
}

/// The 8 scales of 6 bits, less 32, of IQ4_XS; byte j is block j's, a signed number.
pub(super) fn scales_iq4_xs(high: u16, low: &[u8; 4]) -> u64 {
    // Nibble j goes to byte j, and so do bits 2 j and 2 j + 1.
    let low = u64::from(u32::from_le_bytes(*low));
    let low = (low | low << 16) & 0x0000_ffff_0000_ffff;
    let low = (low | low << 8) & 0x00ff_00ff_00ff_00ff;
    let low = (low | low << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let high = u64::from(high);
    let high = (high | high << 24) & 0x0000_00ff_0000_00ff;
    let high = (high | high << 12) & 0x000f_000f_000f_000f;
    let high = (high | high << 6) & 0x0303_0303_0303_0303;
    // With bit 5 turned over these are the numbers in 6 bits, to be sign-extended.
    let bytes = (low | high << 4) ^ 0x2020_2020_2020_2020;
    let sign = bytes & 0x2020_2020_2020_2020;
    bytes | sign << 1 | sign << 2
}
