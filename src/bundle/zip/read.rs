//! Bytes to records. Everything in a record is checked against the file before it is used.

use std::collections::HashSet;
use std::ops::Range;

use super::{
    CENTRAL_LENGTH, CENTRAL_SIGNATURE, END_LENGTH, END_SIGNATURE, END64_LENGTH, END64_SIGNATURE, EXTRA_ZIP64, Fields,
    LOCAL_LENGTH, LOCAL_SIGNATURE, LOCATOR64_LENGTH, LOCATOR64_SIGNATURE, ZipError, damaged,
};

/// One member of an archive. Its data was checked to lie inside the file and outside every other member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name as stored; a path with `/`. Nothing is promised about `..` or a leading `/`.
    pub name: String,
    /// Bytes of the member itself.
    pub size: u64,
    /// Checksum of the member itself.
    pub crc32: u32,
    /// Where its local header starts, from the start of the file.
    pub(super) header: usize,
    /// Where its stored bytes lie, from the start of the file.
    data: Range<usize>,
    is_stored: bool,
    is_encrypted: bool,
}

impl Entry {
    /// Where its data starts, from the start of the file.
    pub fn offset(&self) -> usize {
        self.data.start
    }

    /// Where its local header starts, from the start of the file.
    pub fn header_offset(&self) -> usize {
        self.header
    }

    /// Whether it is a directory, which has no data.
    pub fn is_dir(&self) -> bool {
        self.name.ends_with('/')
    }

    /// Where the member's bytes lie in the file.
    ///
    /// # Errors
    /// Compressed or encrypted: the file does not hold the member's own bytes.
    pub fn range(&self) -> Result<Range<usize>, ZipError> {
        if self.is_encrypted {
            return Err(ZipError::Encrypted(self.name.clone()));
        }
        if !self.is_stored {
            return Err(ZipError::Compressed(self.name.clone()));
        }
        Ok(self.data.clone())
    }
}

/// The directory of an archive at the end of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The members in the directory's order.
    pub entries: Vec<Entry>,
    /// Where the first local header starts; what lies before is an executable or nothing.
    pub start: usize,
    /// Where its last record ends. What lies behind, 64 KiB at most, is a tail that was not finished.
    pub end: usize,
}

impl Archive {
    /// Finds the archive at the end of `file`, behind any prefix. `None` where there is no end record.
    ///
    /// A new directory is appended to change an archive in place. While it is incomplete the one before it counts, so
    /// that whoever reads the file sees the old state or the new one.
    ///
    /// # Errors
    /// An end record whose archive is damaged, split or has two members of one name.
    pub fn find(file: &[u8]) -> Result<Option<Archive>, ZipError> {
        match End::find(file)? {
            Some(end) => end.archive(file).map(Some),
            None => Ok(None),
        }
    }

    /// The member named `name`.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

/// What the end records say.
struct End {
    /// Members.
    count: u64,
    /// Where the directory lies in the file.
    directory: Range<usize>,
    /// What must be added to an offset in the archive to get one in the file: the length of a prefix that was added
    /// without adjusting the archive, else 0.
    shift: usize,
    /// Where the end record ends, with its comment.
    end: usize,
}

impl End {
    fn find(file: &[u8]) -> Result<Option<End>, ZipError> {
        let Some(last) = file.len().checked_sub(END_LENGTH) else {
            return Ok(None);
        };
        let first = last.saturating_sub(usize::from(u16::MAX));
        let has_signature = |&at: &usize| file.u32_at(at) == Some(END_SIGNATURE);
        let comment_end = |at: usize| Some(at + END_LENGTH + usize::from(file.u16_at(at + 20)?));
        // The comment, whose length is the record's last field, reaches exactly to the end of the file. Demanding
        // that keeps the signature as a constant in somebody's machine code from passing as an archive.
        let candidates = || (first..=last).rev().filter(has_signature);
        if let Some(at) = candidates().find(|&at| comment_end(at) == Some(file.len())) {
            return End::at(at, file);
        }
        // Nothing but a sound directory directly before it makes up for an end in the middle of a file.
        let is_before_tail = |end: &End| file.u32_at(end.directory.start) == Some(CENTRAL_SIGNATURE) && end.shift == 0;
        Ok(candidates().find_map(|at| End::at(at, file).ok().flatten().filter(is_before_tail)))
    }

    /// The end record at `at`.
    fn at(at: usize, file: &[u8]) -> Result<Option<End>, ZipError> {
        let (Some(disk), Some(start_disk), Some(count_here), Some(count)) =
            (file.u16_at(at + 4), file.u16_at(at + 6), file.u16_at(at + 8), file.u16_at(at + 10))
        else {
            return Ok(None);
        };
        let (Some(size), Some(offset)) = (file.u32_at(at + 12), file.u32_at(at + 16)) else {
            return Ok(None);
        };
        let comment_length = file.u16_at(at + 20).map(usize::from);
        let Some(end) = comment_length.map(|length| at + END_LENGTH + length).filter(|&end| end <= file.len()) else {
            return Ok(None);
        };
        if let Some((at, end64)) = End64::find(file, at)? {
            return End::new(end64.count, end64.size, end64.offset, at..end, file).map(Some);
        }
        if disk != 0 || start_disk != 0 || count_here != count {
            return Err(ZipError::Split);
        }
        End::new(u64::from(count), u64::from(size), u64::from(offset), at..end, file).map(Some)
    }

    /// `records` is where the end records lie: their start is the directory's last possible end.
    fn new(count: u64, size: u64, offset: u64, records: Range<usize>, file: &[u8]) -> Result<End, ZipError> {
        let outside = || damaged("its directory lies outside the file");
        let size = usize::try_from(size).map_err(|_| outside())?;
        let offset = usize::try_from(offset).map_err(|_| outside())?;
        let limit = records.start;
        let actual = limit.checked_sub(size).ok_or_else(outside)?;
        let end_declared = offset.checked_add(size).ok_or_else(outside)?;
        // Offsets from the start of the archive instead of the file: the directory ends before the end records by as
        // much as the prefix is long. Info-ZIP corrects this in the same way.
        let is_directory = |at: usize| size == 0 || file.u32_at(at) == Some(CENTRAL_SIGNATURE);
        let (start, shift) = if is_directory(actual) {
            let shift = actual.checked_sub(offset).ok_or_else(outside)?;
            (actual, shift)
        } else if end_declared <= limit && is_directory(offset) {
            (offset, 0)
        } else {
            return Err(damaged("its directory is not where its end record says"));
        };
        Ok(End { count, directory: start..start + size, shift, end: records.end })
    }

    fn archive(&self, file: &[u8]) -> Result<Archive, ZipError> {
        let directory = &file[self.directory.clone()];
        // A header has at least 46 bytes, so a count that lies cannot make this allocate more than the file is long.
        if self.count > (directory.len() / CENTRAL_LENGTH) as u64 {
            return Err(self.wrong_count());
        }
        let mut entries = Vec::with_capacity(self.count as usize);
        let mut names = HashSet::with_capacity(self.count as usize);
        let mut rest = directory;
        for _ in 0..self.count {
            let (record, length) = Central::read(rest)?;
            rest = &rest[length..];
            if !names.insert(record.name) {
                return Err(ZipError::Duplicate(lossy(record.name)));
            }
            entries.push(record.entry(file, self)?);
        }
        if !rest.is_empty() {
            return Err(self.wrong_count());
        }
        check_disjoint(&entries)?;
        let start = entries.iter().map(|entry| entry.header).min();
        Ok(Archive { start: start.unwrap_or(self.directory.start), end: self.end, entries })
    }

    fn wrong_count(&self) -> ZipError {
        damaged(format!("its end record counts {} members and its directory has another number", self.count))
    }
}

/// The ZIP64 end record.
struct End64 {
    count: u64,
    size: u64,
    offset: u64,
}

impl End64 {
    /// The record that the locator just before the end record at `end` points to, and where it is.
    fn find(file: &[u8], end: usize) -> Result<Option<(usize, End64)>, ZipError> {
        let Some(locator) = end.checked_sub(LOCATOR64_LENGTH) else {
            return Ok(None);
        };
        if file.u32_at(locator) != Some(LOCATOR64_SIGNATURE) {
            return Ok(None);
        }
        let lost = || damaged("its ZIP64 end record is not where the locator says");
        if file.u32_at(locator + 4) != Some(0) || file.u32_at(locator + 16) > Some(1) {
            return Err(ZipError::Split);
        }
        let declared = file.u64_at(locator + 8).ok_or_else(lost)?;
        let is_record = |&at: &usize| {
            at.checked_add(END64_LENGTH).is_some_and(|record_end| record_end <= locator)
                && file.u32_at(at) == Some(END64_SIGNATURE)
        };
        // Where a prefix was added later, the record is still directly before its locator.
        let at = usize::try_from(declared)
            .ok()
            .filter(is_record)
            .or_else(|| locator.checked_sub(END64_LENGTH).filter(is_record))
            .ok_or_else(lost)?;
        let field = |offset: usize| file.u64_at(at + offset).ok_or_else(lost);
        if file.u64_at(at + 16) != Some(0) || field(24)? != field(32)? {
            return Err(ZipError::Split);
        }
        Ok(Some((at, End64 { count: field(32)?, size: field(40)?, offset: field(48)? })))
    }
}

/// One header of the central directory.
struct Central<'a> {
    flags: u16,
    method: u16,
    crc32: u32,
    stored_size: u64,
    size: u64,
    offset: u64,
    name: &'a [u8],
}

impl<'a> Central<'a> {
    /// The header at the start of `bytes`, and its whole length.
    fn read(bytes: &'a [u8]) -> Result<(Central<'a>, usize), ZipError> {
        let cut = || damaged("its directory ends within a header");
        if bytes.u32_at(0) != Some(CENTRAL_SIGNATURE) {
            return Err(damaged("its directory has a header without signature"));
        }
        let u16_at = |at| bytes.u16_at(at).ok_or_else(cut);
        let u32_at = |at| bytes.u32_at(at).ok_or_else(cut);
        let name_end = CENTRAL_LENGTH + usize::from(u16_at(28)?);
        let extra_end = name_end + usize::from(u16_at(30)?);
        let end = extra_end + usize::from(u16_at(32)?);
        if bytes.len() < end {
            return Err(cut());
        }
        let name = &bytes[CENTRAL_LENGTH..name_end];
        let mut record = Central {
            flags: u16_at(8)?,
            method: u16_at(10)?,
            crc32: u32_at(16)?,
            stored_size: u64::from(u32_at(20)?),
            size: u64::from(u32_at(24)?),
            offset: u64::from(u32_at(42)?),
            name,
        };
        record.widen(&bytes[name_end..extra_end])?;
        Ok((record, end))
    }

    /// Replaces each field that says "see the ZIP64 extra field", in the order of 4.5.3.
    fn widen(&mut self, extra: &[u8]) -> Result<(), ZipError> {
        let fields = [&mut self.size, &mut self.stored_size, &mut self.offset];
        let mut narrow = fields.into_iter().filter(|field| **field == u64::from(u32::MAX)).peekable();
        if narrow.peek().is_none() {
            return Ok(());
        }
        let name = lossy(self.name);
        // Exactly 4294967295 bytes without the extra field is legal, if odd.
        let Some(values) = extra_field(extra, EXTRA_ZIP64) else {
            return Ok(());
        };
        for (index, field) in narrow.enumerate() {
            *field =
                values.u64_at(index * 8).ok_or_else(|| damaged(format!("`{name}` has too short a ZIP64 field")))?;
        }
        Ok(())
    }

    /// Checks the local header, which is what the data follows.
    fn entry(&self, file: &[u8], end: &End) -> Result<Entry, ZipError> {
        let name = lossy(self.name);
        let outside = || damaged(format!("`{name}` lies outside the file"));
        let header =
            usize::try_from(self.offset).ok().and_then(|offset| offset.checked_add(end.shift)).ok_or_else(outside)?;
        let local = file.get(header..).ok_or_else(outside)?;
        if local.u32_at(0) != Some(LOCAL_SIGNATURE) {
            return Err(damaged(format!("`{name}` has no local header")));
        }
        let (Some(flags), Some(method), Some(name_length), Some(extra_length)) =
            (local.u16_at(6), local.u16_at(8), local.u16_at(26), local.u16_at(28))
        else {
            return Err(outside());
        };
        let name_end = LOCAL_LENGTH + usize::from(name_length);
        let local_name = local.get(LOCAL_LENGTH..name_end).ok_or_else(outside)?;
        if local_name != self.name || method != self.method {
            return Err(damaged(format!("`{name}` has a local header that contradicts the directory")));
        }
        let data_start = header.checked_add(name_end + usize::from(extra_length)).ok_or_else(outside)?;
        let data_end = usize::try_from(self.stored_size)
            .ok()
            .and_then(|size| data_start.checked_add(size))
            .filter(|&data_end| data_end <= end.directory.start)
            .ok_or_else(outside)?;
        let is_stored = self.method == 0;
        if is_stored && self.size != self.stored_size {
            return Err(damaged(format!("`{name}` is stored and has two sizes")));
        }
        Ok(Entry {
            size: self.size,
            crc32: self.crc32,
            header,
            data: data_start..data_end,
            is_stored,
            is_encrypted: (flags | self.flags) & 1 != 0,
            name,
        })
    }
}

/// Headers with their data must not overlap: what one member checks, another could change (and zip bombs do it).
fn check_disjoint(entries: &[Entry]) -> Result<(), ZipError> {
    let mut order: Vec<&Entry> = entries.iter().collect();
    order.sort_by_key(|entry| entry.header);
    for pair in order.windows(2) {
        if pair[0].data.end > pair[1].header {
            return Err(damaged(format!("`{}` and `{}` overlap", pair[0].name, pair[1].name)));
        }
    }
    Ok(())
}

/// The data of the extra field `id`.
fn extra_field(mut extra: &[u8], id: u16) -> Option<&[u8]> {
    loop {
        let field_id = extra.u16_at(0)?;
        let length = usize::from(extra.u16_at(2)?);
        let data = extra.get(4..4 + length)?;
        if field_id == id {
            return Some(data);
        }
        extra = &extra[4 + length..];
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
