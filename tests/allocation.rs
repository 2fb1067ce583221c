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
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let whole = std::fs::read(&path).expect("a golden file");
        // Headers are where a claim can do harm; most damage goes there.
        let header = whole.len().min(40_000);
        for round in 0..120 {
            let mut bytes = whole.clone();
            match round % 3 {
                0 => bytes.truncate(if round % 2 == 0 { next(header) } else { next(whole.len()) }),
                1 => (0..1 + next(3)).for_each(|_| bytes[next(header)] ^= 1 << next(8)),
                _ => {
                    // A length or a count that claims the world.
                    let at = next(header.saturating_sub(8));
                    bytes[at..at + 8].copy_from_slice(&(u64::MAX >> next(40)).to_le_bytes());
                }
            }
            let len = bytes.len();
            let bytes = Bytes::from(bytes);
            let before = NOW.load(Relaxed);
            PEAK.store(before, Relaxed);
            open(&name, bytes);
            let taken = PEAK.load(Relaxed) - before;
            assert!(taken <= allowed(len), "{name}, round {round}: {taken} bytes for a file of {len}");
        }
    }
}

/// Everything that reads such a file before a model is made of it. What it says of the damage does not matter here.
fn open(name: &str, bytes: Bytes) {
    if name.ends_with(".zip") || name.ends_with(".llamafile") {
        let bundle = Bundle::from_bytes(Path::new(name), bytes);
        if let Ok(Some(bundle)) = bundle {
            let _ = (bundle.args(), bundle.manifest());
        }
        return;
    }
    if name == "tokenizer.json" {
        let _ = Tokenizer::from_tokenizer_json(&bytes, &SpecialIds::default());
        return;
    }
    let files = Files::from_members(vec![NamedBytes { name: name.to_owned(), bytes }]);
    if let Ok(source) = files.and_then(Source::open) {
        let _ = source.tensors();
        let _ = Tokenizer::from_vocabulary(source.vocabulary());
    }
}

fn golden_files() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").path()) {
            let name = entry.to_string_lossy().into_owned();
            if entry.is_dir() {
                folders.push(entry);
            } else if [".gguf", ".zip", ".llamafile", "tokenizer.json"].iter().any(|end| name.ends_with(end)) {
                files.push(entry);
            }
        }
    }
    files.sort();
    assert!(files.len() >= 8, "only {} files", files.len());
    files
}
