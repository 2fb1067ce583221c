//! Files written a large page at a time.

use std::io::{self, Write};

/// Of x86-64, and of ARM with small pages of 4 KiB.
pub const LARGE_PAGE: usize = 2 << 20;

/// Passes on what it is given a large page at a time. Linux then keeps the file in such pages, and who maps it while it is
/// still in memory reads it as fast as memory allows. What is left is written when it is flushed.
pub struct LargePages<W> {
    out: W,
    /// What is not written yet.
    page: Vec<u8>,
    /// Bytes up to the page's end.
    room: usize,
}

impl<W: Write> LargePages<W> {
    /// `out` stands at offset `at` of its file.
    pub fn new(out: W, at: u64) -> Self {
        let room = LARGE_PAGE - (at % LARGE_PAGE as u64) as usize;
        LargePages { out, page: Vec::with_capacity(LARGE_PAGE), room }
    }

    /// What pages are passed on to.
    pub fn into_inner(self) -> W {
        self.out
    }
}

impl<W: Write> Write for LargePages<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.room);
        self.page.extend_from_slice(&bytes[..n]);
        self.room -= n;
        if self.room == 0 {
            self.out.write_all(&self.page)?;
            self.page.clear();
            self.room = LARGE_PAGE;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.write_all(&self.page)?;
        self.page.clear();
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was written, and in which pieces.
    #[derive(Default)]
    struct Sizes(Vec<u8>, Vec<usize>);

    impl Write for Sizes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.extend_from_slice(bytes);
            self.1.push(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_but_the_first_and_the_last_writes_are_large_pages() {
        let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        let mut pages = LargePages::new(Sizes::default(), 3 * LARGE_PAGE as u64 - 1000);
        for piece in [&bytes[..7], &bytes[7..4_300_000], &bytes[4_300_000..]] {
            pages.write_all(piece).unwrap();
        }
        pages.flush().unwrap();
        let Sizes(written, sizes) = pages.into_inner();
        assert!(written == bytes);
        assert_eq!(sizes, [1000, LARGE_PAGE, LARGE_PAGE, 5_000_000 - 1000 - 2 * LARGE_PAGE]);
    }
}
