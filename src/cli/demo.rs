//! The demo model inside the program: tiny, and there so that the program works without any other file.

use crate::bundle::Bytes;

/// The name of its file, for messages.
pub const DEMO_NAME: &str = "gemma2-demo-q8_0.gguf";

/// What people are told who run it.
pub const DEMO_NOTICE: &str = "\
DEMO MODEL: tiny; it only shows that everything works. Real chat: gemma2 -m gemma-2-2b-it-Q6_K.gguf, \
or put that file beside this program and start again.";

/// Bytes that start on a page-friendly boundary, as a mapped file's would.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static DEMO: &Aligned<[u8]> = &Aligned(*include_bytes!("../../assets/demo-model/gemma2-demo-q8_0.gguf"));

/// The model's GGUF file, in place.
pub fn demo_model() -> Bytes {
    Bytes::from_static(&DEMO.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demo_model_is_a_gguf_file_on_a_boundary() {
        let bytes = demo_model();
        assert!(bytes.starts_with(b"GGUF"));
        assert_eq!(bytes.as_ptr() as usize % 64, 0);
    }
}
