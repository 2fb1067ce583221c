//! The check whether a packed file is still what was packed, on all cores.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};

use sha2::{Digest, Sha256};

use super::hashes::{hex, n_pieces};
use super::locate::Bundle;
use super::manifest::{MANIFEST_MEMBER, Manifest};
use super::pack::{OnProgress, Progress};
use super::unpack::UnpackError;
use super::{Bytes, zip::Entry};
use crate::error::name_for_people;

/// Bytes between two reports.
const CHUNK: usize = 4 << 20;

/// What [`verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Whether there was a manifest with hashes; otherwise the archive's own checksums were compared.
    pub has_manifest: bool,
    /// Parts that are as they were.
    pub intact: Vec<String>,
    /// What is not, one sentence each.
    pub problems: Vec<String>,
    /// Bytes behind the archive that an interrupted change has left, which do no harm.
    pub unfinished_tail: u64,
}

/// Compares every member and the program with the hashes in the manifest, or with the archive's checksums where there
/// is no manifest. Of a member in pieces the first damaged one is named.
///
/// # Errors
/// A member that cannot be read at all, or `Interrupted`.
pub fn verify(bundle: &Bundle, on_progress: &mut OnProgress<'_>) -> Result<Verification, UnpackError> {
    let manifest = bundle.manifest()?;
    let archive_end = bundle.archive.end as u64;
    let mut result = Verification {
        has_manifest: manifest.is_some(),
        unfinished_tail: bundle.bytes.len() as u64 - archive_end,
        ..Verification::default()
    };
    let mut parts = Vec::new();
    if let Some(manifest) = &manifest {
        if manifest.file_size != archive_end {
            let expected = manifest.file_size;
            result.problems.push(format!("the file has {archive_end} bytes and was packed with {expected}"));
        }
        let runtime = bundle.runtime().unwrap_or_else(|| Vec::new().into());
        parts.push(Part::whole("", runtime, Expected::Sha256(manifest.runtime.sha256.clone())));
        let missing = manifest.members.iter().filter(|member| bundle.archive.entry(&member.name).is_none());
        result
            .problems
            .extend(missing.map(|member| format!("`{}` is missing", name_for_people(member.name.as_bytes()))));
    }
    for entry in bundle.archive.entries.iter().filter(|entry| !entry.is_dir()) {
        match Part::of_member(entry, bundle.data(entry)?, manifest.as_ref()) {
            Some(part) => parts.push(part),
            None => {
                result.problems.push(format!("`{}` is not in the manifest", name_for_people(entry.name.as_bytes())))
            }
        }
    }
    let total = bundle.bytes.len() as u64;
    let damaged = damaged_pieces(&parts, total, on_progress)?;
    for (part, damaged) in parts.iter().zip(damaged) {
        match damaged.first() {
            None => result.intact.push(part.name_for_people()),
            Some(&first) => result.problems.push(part.describe(first, damaged.len())),
        }
    }
    Ok(result)
}

/// Bytes to be checked.
struct Part {
    /// Empty for the program.
    name: String,
    /// Where it starts in the file.
    offset: usize,
    bytes: Bytes,
    pieces: Vec<(Range<usize>, Expected)>,
}

#[derive(Clone)]
enum Expected {
    Sha256(String),
    Crc32(u32),
}

impl Part {
    fn whole(name: &str, bytes: Bytes, expected: Expected) -> Part {
        Part { name: name.into(), offset: 0, pieces: vec![(0..bytes.len(), expected)], bytes }
    }

    /// `None` for a member that the manifest does not know.
    fn of_member(entry: &Entry, bytes: Bytes, manifest: Option<&Manifest>) -> Option<Part> {
        let manifest = manifest.filter(|_| entry.name != MANIFEST_MEMBER);
        let Some(manifest) = manifest else {
            return Some(Part::whole(&entry.name, bytes, Expected::Crc32(entry.crc32)));
        };
        let member = manifest.member(&entry.name)?;
        let size = bytes.len();
        let has_pieces = !member.pieces.is_empty()
            && member.pieces.len() as u64 == n_pieces(size as u64, manifest.piece_size)
            && member.size == size as u64;
        let mut part = Part::whole(&entry.name, bytes, Expected::Sha256(member.sha256.clone()));
        part.offset = entry.offset();
        if has_pieces {
            // No more than the member's size, or there would be no pieces.
            let piece_size = manifest.piece_size as usize;
            let starts = (0..size).step_by(piece_size);
            let to_piece =
                |(start, hash): (usize, &String)| (start..size.min(start + piece_size), Expected::Sha256(hash.clone()));
            part.pieces = starts.zip(&member.pieces).map(to_piece).collect();
        }
        Some(part)
    }

    fn name_for_people(&self) -> String {
        if self.name.is_empty() {
            return "the program".into();
        }
        format!("`{}`", name_for_people(self.name.as_bytes()))
    }

    fn describe(&self, first: usize, n_damaged: usize) -> String {
        let name = self.name_for_people();
        if self.pieces.len() < 2 {
            return format!("{name} is not what was packed");
        }
        let range = &self.pieces[first].0;
        format!(
            "{name} is not what was packed: {n_damaged} of {} pieces differ, the first is its bytes {} to {} (from {} in the file)",
            self.pieces.len(),
            range.start,
            range.end,
            self.offset + range.start,
        )
    }
}

/// From a worker to the one who asked.
enum Report {
    Bytes(usize, u64),
    Damaged(usize, usize),
}

/// For each part the numbers of the pieces that are not as expected.
fn damaged_pieces(
    parts: &[Part],
    total: u64,
    on_progress: &mut OnProgress<'_>,
) -> Result<Vec<Vec<usize>>, UnpackError> {
    let numbers = |(part, p): (usize, &Part)| (0..p.pieces.len()).map(move |piece| (part, piece)).collect::<Vec<_>>();
    let tasks: Vec<(usize, usize)> = parts.iter().enumerate().flat_map(numbers).collect();
    let (next, is_stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from).min(tasks.len());
    let mut damaged = vec![Vec::new(); parts.len()];
    let mut done = 0;
    std::thread::scope(|scope| {
        let (to_caller, reports) = channel();
        for _ in 0..n_threads {
            let to_caller = to_caller.clone();
            scope.spawn(|| {
                let to_caller = to_caller;
                while let Some(&(part, piece)) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (range, expected) = &parts[part].pieces[piece];
                    match check(&parts[part].bytes, range, expected, part, &to_caller, &is_stopped) {
                        Some(true) => {}
                        Some(false) => drop(to_caller.send(Report::Damaged(part, piece))),
                        None => return,
                    }
                }
            });
        }
        drop(to_caller);
        for report in reports {
            match report {
                Report::Damaged(part, piece) => damaged[part].push(piece),
                Report::Bytes(part, n_bytes) => {
                    done += n_bytes;
                    let progress = Progress { member: &parts[part].name, done, total };
                    if on_progress(progress).is_break() {
                        is_stopped.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    });
    if is_stopped.into_inner() {
        return Err(UnpackError::Interrupted);
    }
    damaged.iter_mut().for_each(|pieces| pieces.sort_unstable());
    Ok(damaged)
}

/// Whether a piece is as expected; `None` where it was stopped.
fn check(
    bytes: &Bytes,
    range: &Range<usize>,
    expected: &Expected,
    part: usize,
    to_caller: &Sender<Report>,
    is_stopped: &AtomicBool,
) -> Option<bool> {
    let (mut sha256, mut crc32) = (Sha256::new(), crc32fast::Hasher::new());
    for start in range.clone().step_by(CHUNK) {
        let chunk = bytes.slice(start..range.end.min(start + CHUNK))?;
        match expected {
            Expected::Sha256(_) => sha256.update(&*chunk),
            Expected::Crc32(_) => crc32.update(&chunk),
        }
        chunk.release();
        let _ = to_caller.send(Report::Bytes(part, chunk.len() as u64));
        if is_stopped.load(Ordering::Relaxed) {
            return None;
        }
    }
    Some(match expected {
        Expected::Sha256(hash) => *hash == hex(sha256),
        Expected::Crc32(sum) => *sum == crc32.finalize(),
    })
}
