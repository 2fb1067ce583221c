//! Tells a release build its commit, says which GPUs there is code for, and with the feature `cuda` compiles the kernels.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernels, and the oldest devices that they run on: Turing, and Ampere for those on matrix units.
const KERNELS: [(&str, &str); 5] = [
    ("rows", "compute_75"),
    ("attention", "compute_75"),
    ("matmul", "compute_75"),
    ("tensor", "compute_80"),
    ("halves", "compute_80"),
];

/// The language of the oldest drivers that read the result. Newer compilers write a newer version into it, though these
/// kernels use nothing of it; `scripts/check cuda` lets the assembler look.
const PTX_VERSION: &str = "7.0";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    tell_commit();
    println!("cargo::rustc-check-cfg=cfg(gpu, values(none(), \"cuda\", \"metal\"))");
    let has = |feature| env::var_os(feature).is_some();
    let is_mac = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "macos");
    // One of them. What is not macOS has an emulated Metal, for tests.
    let gpu = if has("CARGO_FEATURE_METAL") && (is_mac || !has("CARGO_FEATURE_CUDA")) {
        "metal"
    } else if has("CARGO_FEATURE_CUDA") {
        compile_kernels()?;
        "cuda"
    } else {
        return Ok(());
    };
    println!("cargo::rustc-cfg=gpu");
    println!("cargo::rustc-cfg=gpu=\"{gpu}\"");
    Ok(())
}

/// Compiles src/gpu/kernels to PTX, which gpu/driver.rs embeds part by part: `modules.rs` is a list of parts, each with the
/// names of its kernels.
fn compile_kernels() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=src/gpu/kernels");
    println!("cargo::rerun-if-env-changed=NVCC");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let installed = root.join("target/cuda-compiler/nvcc");
    println!("cargo::rerun-if-changed={}", installed.display());
    let nvcc = match env::var_os("NVCC") {
        Some(nvcc) => PathBuf::from(nvcc),
        None if installed.exists() => installed,
        None => PathBuf::from("nvcc"),
    };
    let parts = out.join("modules");
    let _ = fs::remove_dir_all(&parts);
    fs::create_dir_all(&parts)?;
    let mut list = String::from("&[\n");
    for (source, architecture) in KERNELS {
        let to = out.join(format!("{source}.ptx"));
        let mut command = Command::new(&nvcc);
        // No multiplication and addition may be contracted: every kernel gives the CPU's bits.
        command.args(["-ptx", "-fmad=false", "-std=c++17", "-arch", architecture, "-o"]).arg(&to);
        command.arg(root.join(format!("src/gpu/kernels/{source}.cu")));
        let output = command.output().map_err(|error| {
            format!(
                "the feature `cuda` needs NVIDIA's compiler, and `{}` does not start ({error}): run \
                 scripts/cuda-compiler, which installs one into target/, or set NVCC to one",
                nvcc.display()
            )
        })?;
        if !output.status.success() {
            return Err(format!("{source}.cu: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let ptx = fs::read_to_string(&to)?;
        for (format, Part { names, ptx }) in split(&ptx)? {
            let file = parts.join(format!("{source}.{format}.ptx"));
            fs::write(&file, ptx)?;
            list += &format!("    (&{names:?}, include_str!({file:?})),\n");
        }
    }
    fs::write(out.join("modules.rs"), list + "]\n")?;
    Ok(())
}

/// Kernels of a format.
struct Part<'a> {
    names: Vec<&'a str>,
    ptx: String,
}

/// A file of PTX by the formats of its kernels. Each part begins with what stands before the first kernel.
fn split(ptx: &str) -> Result<BTreeMap<&str, Part<'_>>, Box<dyn Error>> {
    const ENTRY: &str = ".visible .entry ";
    let mut pieces = ptx.split(ENTRY);
    let head: String = pieces
        .next()
        .unwrap_or_default()
        .lines()
        .map(
            |line| {
                if line.starts_with(".version ") { format!(".version {PTX_VERSION}\n") } else { format!("{line}\n") }
            },
        )
        .collect();
    if !head.contains(".version ") {
        return Err("PTX without a version".into());
    }
    let mut parts = BTreeMap::new();
    for piece in pieces {
        let name = piece.split('(').next().unwrap_or_default();
        // `matmul_q4_k_8`, `gated_q4_k`, `tensor_q4_k`; others stay together.
        let products =
            name.strip_prefix("matmul_").and_then(|rest| rest.strip_suffix("_1").or(rest.strip_suffix("_8")));
        let format = products.or(name.strip_prefix("gated_")).or(name.strip_prefix("tensor_")).unwrap_or("all");
        let part = parts.entry(format).or_insert_with(|| Part { names: Vec::new(), ptx: head.clone() });
        part.names.push(name);
        // Hints of newer compilers, which older drivers do not take.
        let known = piece.lines().filter(|line| !line.contains(".pragma \"used_bytes_mask"));
        part.ptx += ENTRY;
        known.for_each(|line| part.ptx += &format!("{line}\n"));
    }
    Ok(parts)
}

/// For `--version` and `bench`: `GEMMA2_COMMIT` where that is set, else what `.git` says (git itself is not needed), else
/// nothing, as in a source archive. Other builds have none, so that a commit does not compile everything again.
fn tell_commit() {
    println!("cargo:rerun-if-env-changed=GEMMA2_COMMIT");
    let is_release = env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    let is_told = env::var_os("GEMMA2_COMMIT").is_some();
    if is_release
        && !is_told
        && let Some(commit) = commit()
    {
        println!("cargo:rustc-env=GEMMA2_COMMIT={commit}");
    }
}

/// The first ten digits of the checked-out commit.
fn commit() -> Option<String> {
    let git = git_folder()?;
    // A worktree of its own keeps branches where the repository is.
    let shared = fs::read_to_string(git.join("commondir")).map_or(git.clone(), |folder| git.join(folder.trim()));
    let head = read(&git.join("HEAD"))?;
    // Each commit adds to it, also where the branch's own file is not there yet.
    let _ = read(&git.join("logs/HEAD"));
    let hash = match head.trim().strip_prefix("ref: ") {
        None => head.trim().to_owned(),
        Some(branch) => match read(&shared.join(branch)) {
            Some(hash) => hash.trim().to_owned(),
            None => {
                let packed = read(&shared.join("packed-refs"))?;
                packed.lines().find_map(|line| line.strip_suffix(branch))?.trim().to_owned()
            }
        },
    };
    let is_hash = hash.len() >= 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| hash[..10].to_owned())
}

fn git_folder() -> Option<PathBuf> {
    let git = Path::new(".git");
    if git.is_dir() {
        return Some(git.to_owned());
    }
    Some(PathBuf::from(fs::read_to_string(git).ok()?.strip_prefix("gitdir: ")?.trim()))
}

/// Reads a file, and looks again whenever it changes.
fn read(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    println!("cargo:rerun-if-changed={}", path.display());
    Some(text)
}
