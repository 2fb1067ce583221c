//! Records to bytes. A [`Layout`] places every member before a byte is written: sizes are known, checksums come later.

use std::collections::HashSet;

use super::{
    CENTRAL_LENGTH, CENTRAL_SIGNATURE, END_LENGTH, END_SIGNATURE, END64_LENGTH, END64_SIGNATURE, EXTRA_ALIGNMENT,
    EXTRA_ZIP64, Entry, LOCAL_LENGTH, LOCAL_SIGNATURE, LOCATOR64_LENGTH, LOCATOR64_SIGNATURE, WEIGHT_ALIGNMENT,
    ZipError,
};

/// Shortest alignment field: id, length, and the alignment itself as a 16-bit number.
const ALIGNMENT_FIELD_LENGTH: u64 = 6;
/// Local ZIP64 field: id, length, two sizes.
const LOCAL_ZIP64_LENGTH: u64 = 20;

/// A member to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMember {
    /// Its name, a relative path with `/`.
    pub name: String,
    /// Its length in bytes.
    pub size: u64,
    /// Whether its data starts on a [`WEIGHT_ALIGNMENT`] boundary of the file.
    pub is_aligned: bool,
}

/// Where everything goes. All offsets count from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    members: Vec<Placed>,
    directory: u64,
    total: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Placed {
    name: String,
    size: u64,
    header: u64,
    data: u64,
    /// Length of the alignment field, 0 or at least [`ALIGNMENT_FIELD_LENGTH`].
    alignment_length: u16,
}

impl Layout {
    /// Places `members`, in their order, in an archive that starts at `start`, the length of the executable before it.
    ///
    /// # Errors
    /// Two members of one name, a name or total beyond what the format can express.
    pub fn new(start: u64, members: &[NewMember]) -> Result<Layout, ZipError> {
        Layout::appended(start, members, &[])
    }

    /// Places `members` at `end`, the end of an existing archive, in front of `kept` in the directory. The members that
    /// are kept stay where they are; the others remain in the file, and nothing leads to them any more.
    ///
    /// # Errors
    /// The same.
    pub fn appended(end: u64, members: &[NewMember], kept: &[&Entry]) -> Result<Layout, ZipError> {
        let too_large = || ZipError::TooLarge("the packed file would be too large".into());
        let mut names = HashSet::new();
        let mut placed = Vec::with_capacity(members.len() + kept.len());
        let mut at = end;
        for member in members {
            if member.name.len() > usize::from(u16::MAX) {
                return Err(ZipError::TooLarge("a member's name is too long".into()));
            }
            if !names.insert(member.name.as_str()) {
                return Err(ZipError::Duplicate(member.name.clone()));
            }
            let place = Placed::new(at, member).ok_or_else(too_large)?;
            at = place.data.checked_add(place.size).ok_or_else(too_large)?;
            placed.push(place);
        }
        for entry in kept {
            if !names.insert(entry.name.as_str()) {
                return Err(ZipError::Duplicate(entry.name.clone()));
            }
            placed.push(Placed::kept(entry));
        }
        let mut layout = Layout { members: placed, directory: at, total: 0 };
        let no_checksums = vec![0; layout.members.len()];
        let tail = layout.directory(&no_checksums).len() as u64;
        layout.total = at.checked_add(tail).ok_or_else(too_large)?;
        Ok(layout)
    }

    /// Length of the whole file.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Where the directory goes.
    pub fn directory_offset(&self) -> u64 {
        self.directory
    }

    /// Where the local header of a member goes.
    pub fn header_offset(&self, index: usize) -> u64 {
        self.members[index].header
    }

    /// Where a member's data goes: directly behind its local header.
    pub fn data_offset(&self, index: usize) -> u64 {
        self.members[index].data
    }

    /// The local header of a member, 4.3.7.
    pub fn local_header(&self, index: usize, crc32: u32) -> Vec<u8> {
        let member = &self.members[index];
        let mut extra = Vec::new();
        if member.is_large() {
            put_u16(&mut extra, EXTRA_ZIP64);
            put_u16(&mut extra, 16);
            put_u64(&mut extra, member.size);
            put_u64(&mut extra, member.size);
        }
        if member.alignment_length > 0 {
            let zip64_length = extra.len();
            put_u16(&mut extra, EXTRA_ALIGNMENT);
            put_u16(&mut extra, member.alignment_length - 4);
            // The alignment does not fit 16 bits; 32 KiB is the largest that does, and it holds too.
            put_u16(&mut extra, 0x8000);
            extra.resize(zip64_length + usize::from(member.alignment_length), 0);
        }
        let mut out = Vec::with_capacity(LOCAL_LENGTH + member.name.len() + extra.len());
        put_u32(&mut out, LOCAL_SIGNATURE);
        put_u16(&mut out, member.version_needed());
        member.put_common(&mut out, crc32);
        put_u16(&mut out, extra.len() as u16);
        out.extend_from_slice(member.name.as_bytes());
        out.extend_from_slice(&extra);
        out
    }

    /// The central directory with its end records, 4.3.12 to 4.3.16. One checksum for each member.
    pub fn directory(&self, crc32s: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        for (member, &crc32) in self.members.iter().zip(crc32s) {
            member.put_central(&mut out, crc32);
        }
        let count = self.members.len() as u64;
        let size = out.len() as u64;
        let needs_64 =
            count >= u64::from(u16::MAX) || size >= u64::from(u32::MAX) || self.directory >= u64::from(u32::MAX);
        if needs_64 {
            let end64 = self.directory.saturating_add(size);
            put_u32(&mut out, END64_SIGNATURE);
            put_u64(&mut out, END64_LENGTH as u64 - 12);
            put_u16(&mut out, MADE_BY_UNIX | 45);
            put_u16(&mut out, 45);
            put_u32(&mut out, 0);
            put_u32(&mut out, 0);
            put_u64(&mut out, count);
            put_u64(&mut out, count);
            put_u64(&mut out, size);
            put_u64(&mut out, self.directory);
            put_u32(&mut out, LOCATOR64_SIGNATURE);
            put_u32(&mut out, 0);
            put_u64(&mut out, end64);
            put_u32(&mut out, 1);
        }
        debug_assert_eq!(out.len() as u64 - size, u64::from(needs_64) * (END64_LENGTH + LOCATOR64_LENGTH) as u64);
        let end = out.len();
        put_u32(&mut out, END_SIGNATURE);
        put_u16(&mut out, 0);
        put_u16(&mut out, 0);
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        put_u16(&mut out, count);
        put_u16(&mut out, count);
        put_u32(&mut out, narrow(size));
        put_u32(&mut out, narrow(self.directory));
        put_u16(&mut out, 0);
        debug_assert_eq!(out.len() - end, END_LENGTH);
        out
    }
}

/// Upper byte of "version made by": permissions are Unix's.
const MADE_BY_UNIX: u16 = 3 << 8;
/// 1980-01-01, the first day the format knows: the same input gives the same file.
const DATE: u16 = 1 << 5 | 1;
/// `rw-r--r--` of a regular file.
const ATTRIBUTES: u32 = 0o100_644 << 16;

impl Placed {
    /// Places a member whose header starts at `at`, or a few bytes later where the padding does not fit otherwise.
    /// `None` where 64 bits do not hold the offsets.
    fn new(at: u64, member: &NewMember) -> Option<Placed> {
        let mut place =
            Placed { name: member.name.clone(), size: member.size, header: at, data: 0, alignment_length: 0 };
        let fixed_length =
            LOCAL_LENGTH as u64 + member.name.len() as u64 + u64::from(place.is_large()) * LOCAL_ZIP64_LENGTH;
        let unaligned = at.checked_add(fixed_length)?;
        if member.is_aligned {
            let mut padding = unaligned.checked_next_multiple_of(WEIGHT_ALIGNMENT)? - unaligned;
            let largest = u64::from(u16::MAX) - LOCAL_ZIP64_LENGTH;
            if padding > largest {
                // Too much for an extra field by a few bytes: those lie between the members, which readers skip.
                place.header += padding - largest;
                padding = largest;
            } else if (1..ALIGNMENT_FIELD_LENGTH).contains(&padding) {
                // Too little for an extra field.
                place.header += padding;
                padding = 0;
            }
            place.alignment_length = u16::try_from(padding).ok()?;
        }
        place.data = place.header.checked_add(fixed_length)?.checked_add(u64::from(place.alignment_length))?;
        Some(place)
    }

    /// A member that has its place already. Of its local header only the offset matters.
    fn kept(entry: &Entry) -> Placed {
        Placed {
            name: entry.name.clone(),
            size: entry.size,
            header: entry.header as u64,
            data: entry.offset() as u64,
            alignment_length: 0,
        }
    }

    /// Whether sizes need the ZIP64 field.
    fn is_large(&self) -> bool {
        self.size >= u64::from(u32::MAX)
    }

    fn version_needed(&self) -> u16 {
        if self.is_large() || self.header >= u64::from(u32::MAX) { 45 } else { 20 }
    }

    /// The fields that local and central headers share, from the flags to the name's length.
    fn put_common(&self, out: &mut Vec<u8>, crc32: u32) {
        let utf8_names = 1 << 11;
        put_u16(out, if self.name.is_ascii() { 0 } else { utf8_names });
        put_u16(out, 0); // stored
        put_u16(out, 0); // midnight
        put_u16(out, DATE);
        put_u32(out, crc32);
        put_u32(out, narrow(self.size));
        put_u32(out, narrow(self.size));
        put_u16(out, self.name.len() as u16);
    }

    fn put_central(&self, out: &mut Vec<u8>, crc32: u32) {
        let mut wide = Vec::new();
        if self.is_large() {
            put_u64(&mut wide, self.size);
            put_u64(&mut wide, self.size);
        }
        if self.header >= u64::from(u32::MAX) {
            put_u64(&mut wide, self.header);
        }
        let start = out.len();
        put_u32(out, CENTRAL_SIGNATURE);
        put_u16(out, MADE_BY_UNIX | self.version_needed());
        put_u16(out, self.version_needed());
        self.put_common(out, crc32);
        let extra_length = if wide.is_empty() { 0 } else { wide.len() + 4 };
        put_u16(out, extra_length as u16);
        put_u16(out, 0); // comment
        put_u16(out, 0); // disk
        put_u16(out, 0); // internal attributes
        put_u32(out, ATTRIBUTES);
        put_u32(out, narrow(self.header));
        debug_assert_eq!(out.len() - start, CENTRAL_LENGTH);
        out.extend_from_slice(self.name.as_bytes());
        if !wide.is_empty() {
            put_u16(out, EXTRA_ZIP64);
            put_u16(out, wide.len() as u16);
            out.extend_from_slice(&wide);
        }
    }
}

/// The value, or the mark that says "see the ZIP64 record".
fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}
