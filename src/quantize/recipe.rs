//! Names such as Q4_K_M, and what they mean for each tensor: llama.cpp's mixes, so that files of one name are alike.

use std::fmt;

use crate::kernels::Format;

/// A type of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types)] // The names are llama.cpp's.
pub enum Recipe {
    F32,
    BF16,
    F16,
    Q8_0,
    Q6_K,
    Q5_K_M,
    Q5_K_S,
    Q5_1,
    Q5_0,
    Q4_K_M,
    Q4_K_S,
    Q4_1,
    Q4_0,
    Q3_K_L,
    Q3_K_M,
    Q3_K_S,
    Q2_K,
}

use Recipe::*;

/// Recipe, its number in `general.file_type`, the format of most tensors.
const TABLE: [(Recipe, u32, Format); 17] = [
    (F32, 0, Format::F32),
    (BF16, 32, Format::BF16),
    (F16, 1, Format::F16),
    (Q8_0, 7, Format::Q8_0),
    (Q6_K, 18, Format::Q6_K),
    (Q5_K_M, 17, Format::Q5_K),
    (Q5_K_S, 16, Format::Q5_K),
    (Q5_1, 9, Format::Q5_1),
    (Q5_0, 8, Format::Q5_0),
    (Q4_K_M, 15, Format::Q4_K),
    (Q4_K_S, 14, Format::Q4_K),
    (Q4_1, 3, Format::Q4_1),
    (Q4_0, 2, Format::Q4_0),
    (Q3_K_L, 13, Format::Q3_K),
    (Q3_K_M, 12, Format::Q3_K),
    (Q3_K_S, 11, Format::Q3_K),
    (Q2_K, 10, Format::Q2_K),
];

/// Numbers of the model that mixes depend on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Proportions {
    pub n_layers: usize,
    /// Query heads for each KV head.
    pub group: usize,
}

impl Recipe {
    /// All, from the most exact to the smallest.
    pub fn all() -> impl Iterator<Item = Recipe> {
        TABLE.iter().map(|row| row.0)
    }

    /// The recipe of that name, in any case.
    pub fn parse(name: &str) -> Option<Recipe> {
        Recipe::all().find(|recipe| format!("{recipe:?}").eq_ignore_ascii_case(name))
    }

    /// Its number in `general.file_type`.
    pub(super) fn file_type(self) -> u32 {
        TABLE[self as usize].1
    }

    /// The format for the matrix of this GGUF name with rows of `n_cols` values.
    pub(super) fn format(self, name: &str, n_cols: usize, model: Proportions) -> Format {
        fitting(self.wanted(name, model), n_cols)
    }

    fn wanted(self, name: &str, model: Proportions) -> Format {
        let base = TABLE[self as usize].2;
        if !base.is_quantized() || base == Format::Q8_0 {
            return base;
        }
        let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
        let Some((layer, part)) = layer.and_then(|(n, part)| Some((n.parse::<usize>().ok()?, part))) else {
            // The embedding, which is the output matrix too.
            return Format::Q6_K;
        };
        let n = model.n_layers;
        // The first and the last eighth, and every third between.
        let important = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
        match (part, self) {
            ("attn_v.weight" | "ffn_down.weight", Q5_K_M | Q4_K_M) if important => Format::Q6_K,
            ("attn_v.weight", Q4_K_S) if layer < 4 => Format::Q5_K,
            ("attn_v.weight", Q3_K_L) => Format::Q5_K,
            ("attn_v.weight", Q3_K_M) if layer < 2 => Format::Q5_K,
            ("attn_v.weight", Q3_K_M) => Format::Q4_K,
            ("attn_v.weight", Q2_K) if model.group >= 4 => Format::Q4_K,
            ("attn_v.weight", Q2_K) => Format::Q3_K,
            ("ffn_down.weight", Q4_K_S) if layer < n / 8 => Format::Q5_K,
            ("ffn_down.weight", Q3_K_L) => Format::Q5_K,
            ("ffn_down.weight", Q3_K_M) if layer < n / 16 => Format::Q5_K,
            ("ffn_down.weight", Q3_K_M) => Format::Q4_K,
            ("ffn_down.weight", Q2_K) => Format::Q3_K,
            ("attn_output.weight", Q3_K_L) => Format::Q5_K,
            ("attn_output.weight", Q3_K_M) => Format::Q4_K,
            ("attn_output.weight", Q2_K) => Format::Q3_K,
            _ => base,
        }
    }
}

/// The format itself, or a larger one where rows are not whole superblocks or not whole blocks.
fn fitting(format: Format, n_cols: usize) -> Format {
    if n_cols.is_multiple_of(format.block_len()) {
        return format;
    }
    let of_blocks = match format {
        Format::Q2_K | Format::Q3_K => Format::Q4_0,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        _ => Format::Q8_0,
    };
    if n_cols.is_multiple_of(of_blocks.block_len()) { of_blocks } else { Format::F16 }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_recipes_and_names_are_read_in_any_case() {
        for (index, recipe) in Recipe::all().enumerate() {
            assert_eq!(recipe as usize, index);
            assert_eq!(Recipe::parse(&recipe.to_string().to_lowercase()), Some(recipe));
        }
        assert_eq!(Recipe::parse("Q4_K"), None);
    }

    #[test]
    fn more_bits_go_to_the_first_the_last_and_every_third_layer() {
        let model = Proportions { n_layers: 26, group: 2 };
        let q6: Vec<usize> = (0..26)
            .filter(|i| Q4_K_M.format(&format!("blk.{i}.ffn_down.weight"), 9216, model) == Format::Q6_K)
            .collect();
        assert_eq!(q6, [0, 1, 2, 5, 8, 11, 14, 17, 20, 22, 23, 24, 25]);
        assert_eq!(Q4_K_M.format("blk.0.ffn_up.weight", 2304, model), Format::Q4_K);
        for recipe in Recipe::all().filter(|r| TABLE[*r as usize].2.is_quantized() && *r != Q8_0) {
            assert_eq!(recipe.format("token_embd.weight", 2304, model), Format::Q6_K);
        }
        assert_eq!(BF16.format("token_embd.weight", 2304, model), Format::BF16);
    }

    #[test]
    fn rows_that_are_no_superblocks_get_a_format_with_smaller_blocks() {
        let model = Proportions { n_layers: 2, group: 1 };
        assert_eq!(Q4_K_S.format("blk.1.ffn_up.weight", 96, model), Format::Q5_0);
        assert_eq!(Q6_K.format("blk.1.ffn_up.weight", 96, model), Format::Q8_0);
        assert_eq!(Q8_0.format("blk.1.ffn_up.weight", 40, model), Format::F16);
    }
}
