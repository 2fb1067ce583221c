//! Tells a release build its commit, for `--version` and `bench`: `GEMMA2_COMMIT` where that is set, else what `.git` says
//! (git itself is not needed), else nothing, as in a source archive. Other builds have none, so that a commit does not
//! compile everything again.

use std::fs;
use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=GEMMA2_COMMIT");
    let is_release = std::env::var_os("PROFILE").is_some_and(|profile| profile == "release");
    let is_told = std::env::var_os("GEMMA2_COMMIT").is_some();
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
