//! Damaged files cost time at worst: whatever a header claims, opening it takes no more memory than a small multiple of
//! the file. A test binary of its own, because it counts every allocation of the process.
#![allow(unsafe_code)] // A global allocator cannot be written without it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use gemma2::bundle::{Bundle, Bytes};
use gemma2::tokenizer::{SpecialIds, Tokenizer};
use gemma2::weights::{Files, NamedBytes, Source};

/// The system's allocator, counting.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = NOW.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(now, Relaxed);
        // SAFETY: the caller keeps the promises that `System.alloc` needs.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the pointer came from `System.alloc` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that may be allocated for a file of `len` bytes. Messages and tables of small files need a floor.
fn allowed(len: usize) -> usize {
    8 * len + (1 << 20)
}

#[test]
fn damaged_files_never_panic_and_never_take_more_than_a_multiple_of_their_size() {
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below.max(1) as u64) as usize
    };
    for path in golden_files() {
        let file = NamedBytes::open(&path).expect("a golden file");
        let others = siblings(&path);
        let n_others: usize = others.iter().map(|other| other.bytes.len()).sum();
        for round in 0..120 {
            let mut bytes = file.bytes.to_vec();
            damage(&mut bytes, round, &mut next);
            let len = bytes.len() + n_others;
            let damaged = NamedBytes { name: file.base_name().to_owned(), bytes: Bytes::from(bytes) };
            let before = NOW.load(Relaxed);
            PEAK.store(before, Relaxed);
            open(damaged, others.clone());
            let taken = PEAK.load(Relaxed) - before;
            assert!(taken <= allowed(len), "{}, round {round}: {taken} bytes for files of {len}", file.name);
        }
    }
}

/// Cuts the file short, turns bits, or makes a length claim the world. Headers are where a claim can do harm; most damage
/// goes there.
fn damage(bytes: &mut Vec<u8>, round: usize, next: &mut dyn FnMut(usize) -> usize) {
    let header = bytes.len().min(40_000);
    match round % 3 {
        0 => bytes.truncate(if round.is_multiple_of(2) { next(header) } else { next(bytes.len()) }),
        1 => (0..1 + next(3)).for_each(|_| bytes[next(header)] ^= 1 << next(8)),
        _ => {
            let at = next(header.saturating_sub(8));
            // Lengths are binary, or decimal digits where a header is JSON.
            match next(2) {
                0 => bytes[at..at + 8].copy_from_slice(&(u64::MAX >> next(40)).to_le_bytes()),
                _ => bytes[at..at + 8].copy_from_slice(b"99999999"),
            }
        }
    }
}

/// Everything that reads such files before a model is made of them. What it says of the damage does not matter here.
fn open(damaged: NamedBytes, others: Vec<NamedBytes>) {
    let NamedBytes { name, bytes } = &damaged;
    if name.ends_with(".zip") || name.ends_with(".llamafile") {
        let bundle = Bundle::from_bytes(Path::new(name), bytes.clone());
        if let Ok(Some(bundle)) = bundle {
            let _ = (bundle.args(), bundle.manifest());
        }
        return;
    }
    if name == "tokenizer.json" {
        let _ = Tokenizer::from_tokenizer_json(bytes, &SpecialIds::default());
    }
    let mut files = others;
    files.push(damaged);
    if let Ok(source) = Files::from_members(files).and_then(Source::open) {
        let _ = source.tensors();
        let _ = Tokenizer::from_vocabulary(source.vocabulary());
    }
}

/// The other files of a Hugging Face directory, which say nothing alone; none for a file that is whole in itself.
fn siblings(path: &Path) -> Vec<NamedBytes> {
    let directory = path.parent().expect("a folder");
    if !directory.join("config.json").exists() {
        return Vec::new();
    }
    let entries = std::fs::read_dir(directory).expect("a folder").map(|e| e.expect("an entry").path());
    let others = entries.filter(|entry| entry != path);
    others.map(|other| NamedBytes::open(&other).expect("a golden file")).collect()
}

/// Files that are opened alone; of a Hugging Face directory every file is damaged in its turn.
const ENDINGS: [&str; 4] = [".gguf", ".zip", ".llamafile", "tokenizer.json"];

fn golden_files() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            let name = entry.to_string_lossy().into_owned();
            if entry.is_dir() {
                folders.push(entry);
            } else if ENDINGS.iter().any(|end| name.ends_with(end)) || folder.join("config.json").exists() {
                files.push(entry);
            }
        }
    }
    files.sort();
    assert!(files.len() >= 20, "only {} files", files.len());
    files
}
