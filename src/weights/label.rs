//! What a model's quantization is called.

use crate::kernels::Format;

/// The name of `general.file_type`, llama.cpp's enumeration of mixes (`llama_ftype`).
fn file_type_name(file_type: u64) -> Option<&'static str> {
    // 1024 marks a type that was guessed when the file was made.
    Some(match file_type & !1024 {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        21 => "Q2_K_S",
        25 => "IQ4_NL",
        30 => "IQ4_XS",
        32 => "BF16",
        _ => return None,
    })
}

/// A short name such as `Q4_K_M`: what the file calls itself, where that fits the type that most of its weights have, else
/// that type. `type_name` is that type's name.
pub(super) fn quantization_label(file_type: Option<u64>, type_name: &str) -> String {
    match file_type.and_then(file_type_name) {
        Some(label) if label.starts_with(type_name) => label.to_owned(),
        _ => type_name.to_owned(),
    }
}

/// The name that files and flags use for a format.
pub(super) fn format_name(format: Format) -> String {
    format!("{format:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_called_by_its_name_unless_its_weights_say_otherwise() {
        assert_eq!(quantization_label(Some(15), "Q4_K"), "Q4_K_M");
        assert_eq!(quantization_label(Some(1024 + 18), "Q6_K"), "Q6_K");
        assert_eq!(quantization_label(Some(0), "Q5_0"), "Q5_0");
        assert_eq!(quantization_label(None, "BF16"), "BF16");
        assert_eq!(quantization_label(Some(999), "Q8_0"), "Q8_0");
    }
}
