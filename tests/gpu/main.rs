//! The GPU's kernels and all that leads to them, on a device that is emulated: `gpu/emulator` has a driver library for the
//! feature `cuda` and one for `metal`, which run the kernels' own sources on the host. Needs a C++ compiler. Where the system
//! has a GPU, the same tests run on it too.
//!
//! A GPU gives the bits that the CPU gives, but for products with weights in BF16 on matrix units ([`is_exact`]): these round
//! activations, and give the same bits only whatever is computed beside them.

#![cfg(gpu)]
#![cfg_attr(target_os = "macos", expect(dead_code, reason = "nothing is emulated"))]

mod kernels;
mod models;
#[cfg(not(target_os = "macos"))]
mod program;
#[cfg(not(target_os = "macos"))]
#[path = "../util.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod util;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gemma2::gpu::Gpu;
use gemma2::kernels::Format;

/// What differs between the drivers.
pub struct Vendor {
    /// `--gpu`
    pub name: &'static str,
    /// Another one's.
    pub other: &'static str,
    /// The emulated library, as the program asks for it, and its source.
    pub library: &'static str,
    source: &'static str,
    kernels: &'static str,
    /// What the program says where the library is none, where it finds no device, and where it fails.
    pub failures: [&'static str; 3],
    /// What the emulated device is.
    pub generation: &'static str,
}

/// Those of this build.
#[cfg(gpu = "cuda")]
pub const VENDOR: Vendor = Vendor {
    name: "nvidia",
    other: "apple",
    library: "libcuda.so.1",
    source: "libcuda.cpp",
    kernels: "src/gpu/kernels",
    failures: [
        "there is no NVIDIA driver (libcuda.so.1)",
        "the NVIDIA driver finds no GPU",
        "the NVIDIA driver failed: init says CUDA_ERROR_UNKNOWN",
    ],
    generation: "compute capability 9.0",
};
/// Those of this build.
#[cfg(gpu = "metal")]
pub const VENDOR: Vendor = Vendor {
    name: "apple",
    other: "nvidia",
    library: "libmetal-emulated.so",
    source: "metal.cpp",
    kernels: "src/gpu/metal/kernels",
    failures: ["Metal finds no GPU", "Metal finds no GPU", "Metal failed: newCommandQueue says nothing was returned"],
    generation: "Apple family 7",
};

/// The emulated device, and the system's own where there is one. A Mac has one, and no emulation; elsewhere
/// `GEMMA2_ONLY_REAL_GPU` leaves it out.
pub fn devices() -> Vec<Gpu> {
    if cfg!(target_os = "macos") || std::env::var_os("GEMMA2_ONLY_REAL_GPU").is_some() {
        return vec![Gpu::open().expect("a GPU")];
    }
    let emulated = Gpu::open_at(emulator().join(VENDOR.library).as_os_str()).expect("the emulated device");
    match Gpu::open() {
        Ok(gpu) => vec![emulated, gpu],
        Err(error) => {
            eprintln!("not on a real device: {error}");
            vec![emulated]
        }
    }
}

/// Whether products with weights of this format are the CPU's to the bit.
pub fn is_exact(gpu: &Gpu, format: Format) -> bool {
    format != Format::BF16 || cfg!(gpu = "metal") || gpu.info().capability < (8, 0)
}

/// The folder of the emulated driver, compiled once.
pub fn emulator() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-gpu").join(VENDOR.name);
        std::fs::create_dir_all(&folder).expect("a folder");
        let sources = root.join("tests/gpu/emulator");
        // Built beside it and moved into place: another process may be using it.
        let new = folder.join(format!("new-{}", std::process::id()));
        let status = Command::new("c++")
            // As on the device: what the source does not round once is rounded twice.
            .args(["-std=c++17", "-O2", "-march=native", "-ffp-contract=off", "-U_FORTIFY_SOURCE", "-Wall", "-Werror"])
            .args(["-Wno-unknown-pragmas", "-Wno-attributes", "-fsigned-char", "-fPIC", "-shared", "-o"])
            .arg(&new)
            .arg(format!("-I{}", root.join(VENDOR.kernels).display()))
            .arg(format!("-I{}", sources.display()))
            .arg(sources.join(VENDOR.source))
            .status()
            .expect("a C++ compiler (`c++`) for the emulated GPU");
        assert!(status.success(), "the emulated GPU does not compile");
        std::fs::rename(new, folder.join(VENDOR.library)).expect("to move it");
        folder
    })
}

/// Whole numbers below `n`, from a seed.
pub fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |n| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize % n
    }
}

/// Bits, in which all that is no number is the same.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() }).collect()
}
