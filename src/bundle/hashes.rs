//! Hashes of a member: one of the whole, which other tools can compare too, and one of each piece, so that damage has a
//! place and checking can use all cores.

use sha2::{Digest, Sha256};

/// Bytes of a piece in files that are made now. A member of one piece has the hash of the whole only.
pub(super) const PIECE_SIZE: u64 = 64 << 20;

/// What is known about a member's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hashes {
    /// SHA-256 of the whole in lower-case hexadecimal.
    pub sha256: String,
    /// The same of each piece; empty for a member of one piece.
    pub pieces: Vec<String>,
    /// The archive's own checksum.
    pub crc32: u32,
}

impl Hashes {
    /// Stands for the hashes of `size` bytes that are still to be written: of the same length in a manifest.
    pub fn unknown(size: u64, piece_size: u64) -> Hashes {
        let none = "0".repeat(64);
        let n_pieces = n_pieces(size, piece_size) as usize;
        Hashes { sha256: none.clone(), pieces: vec![none; n_pieces], crc32: 0 }
    }
}

/// Hashes that a member of this size has of its pieces.
pub(super) fn n_pieces(size: u64, piece_size: u64) -> u64 {
    if piece_size == 0 || size <= piece_size { 0 } else { size.div_ceil(piece_size) }
}

/// Takes bytes in order.
pub(super) struct Hasher {
    whole: Sha256,
    piece: Sha256,
    pieces: Vec<String>,
    crc32: crc32fast::Hasher,
    piece_size: u64,
    /// Bytes of the piece at hand.
    n_in_piece: u64,
}

impl Hasher {
    pub fn new(piece_size: u64) -> Hasher {
        Hasher {
            whole: Sha256::new(),
            piece: Sha256::new(),
            pieces: Vec::new(),
            crc32: crc32fast::Hasher::new(),
            piece_size: piece_size.max(1),
            n_in_piece: 0,
        }
    }

    /// The hash of the whole cannot be had from those of the pieces: both are made, side by side.
    pub fn update(&mut self, bytes: &[u8]) {
        let Hasher { whole, piece, pieces, crc32, piece_size, n_in_piece } = self;
        let mut by_piece = || {
            crc32.update(bytes);
            let mut rest = bytes;
            while !rest.is_empty() {
                let room = usize::try_from(*piece_size - *n_in_piece).unwrap_or(usize::MAX);
                let (now, later) = rest.split_at(room.min(rest.len()));
                piece.update(now);
                *n_in_piece += now.len() as u64;
                rest = later;
                if *n_in_piece == *piece_size {
                    pieces.push(hex(std::mem::take(piece)));
                    *n_in_piece = 0;
                }
            }
        };
        if bytes.len() < 1 << 16 {
            whole.update(bytes);
            by_piece();
        } else {
            rayon::join(|| whole.update(bytes), by_piece);
        }
    }

    pub fn finish(mut self) -> Hashes {
        if self.n_in_piece > 0 {
            self.pieces.push(hex(self.piece));
        }
        if self.pieces.len() < 2 {
            self.pieces.clear();
        }
        Hashes { sha256: hex(self.whole), pieces: self.pieces, crc32: self.crc32.finalize() }
    }
}

/// Lower-case hexadecimal of a finished hash.
pub(super) fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_same_however_the_bytes_arrive() {
        let bytes: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let hashes = |chunk: usize| {
            let mut hasher = Hasher::new(65_536);
            bytes.chunks(chunk).for_each(|chunk| hasher.update(chunk));
            hasher.finish()
        };
        let at_once = hashes(200_000);
        assert_eq!(at_once.pieces.len() as u64, n_pieces(200_000, 65_536));
        assert_eq!(at_once.pieces[1], hex(Sha256::new_with_prefix(&bytes[65_536..131_072])));
        assert_eq!(at_once, hashes(1_000));
        assert_eq!(at_once, hashes(65_536));
    }

    #[test]
    fn a_member_of_one_piece_has_one_hash() {
        for size in [0, 1, 65_536] {
            let mut hasher = Hasher::new(65_536);
            hasher.update(&vec![7; size]);
            assert_eq!(hasher.finish().pieces.len() as u64, n_pieces(size as u64, 65_536));
            assert_eq!(n_pieces(size as u64, 65_536), 0);
        }
    }
}
