//! Where an executable itself ends, by its own headers: what lies behind was appended.
//!
//! Needed for one question only: is a file without an archive's end a plain program, or a packed one whose download
//! stopped early? Hence "unknown" is a fine answer, and debug information or signatures behind the last segment count as
//! part of the program.

/// Length of the program at the start of `file`, `None` where the format is not known or its headers make no sense.
pub fn executable_end(file: &[u8]) -> Option<usize> {
    let end = match file.get(..4)? {
        b"\x7fELF" => elf_end(file)?,
        b"\xcf\xfa\xed\xfe" => mach_o_end(file)?,
        [b'M', b'Z', _, _] => pe_end(file)?,
        _ => return None,
    };
    usize::try_from(end).ok()
}

/// Whether `file` starts like a program for Windows.
pub fn is_windows_executable(file: &[u8]) -> bool {
    file.starts_with(b"MZ")
}

fn u16_at(file: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = file.get(at..at.checked_add(2)?)?;
    Some(u64::from(u16::from_le_bytes(bytes.try_into().ok()?)))
}

fn u32_at(file: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = file.get(at..at.checked_add(4)?)?;
    Some(u64::from(u32::from_le_bytes(bytes.try_into().ok()?)))
}

fn u64_at(file: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = file.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// ELF, 64-bit little-endian: the section table is usually last, else a section or a segment is.
fn elf_end(file: &[u8]) -> Option<u64> {
    const CLASS_64_LITTLE: &[u8] = &[2, 1];
    const SECTION_WITHOUT_BYTES: u64 = 8;
    if file.get(4..6)? != CLASS_64_LITTLE {
        return None;
    }
    let (segments, sections) = (u64_at(file, 32)?, u64_at(file, 40)?);
    let (segment_size, n_segments) = (u16_at(file, 54)?, u16_at(file, 56)?);
    let (section_size, n_sections) = (u16_at(file, 58)?, u16_at(file, 60)?);
    let mut end = sections.checked_add(section_size * n_sections)?;
    for i in 0..n_segments {
        let at = segments.checked_add(i * segment_size)?;
        end = end.max(u64_at(file, at.checked_add(8)?)?.checked_add(u64_at(file, at + 32)?)?);
    }
    for i in 0..n_sections {
        let at = sections.checked_add(i * section_size)?;
        if u32_at(file, at.checked_add(4)?)? != SECTION_WITHOUT_BYTES {
            end = end.max(u64_at(file, at + 24)?.checked_add(u64_at(file, at + 32)?)?);
        }
    }
    Some(end)
}

/// PE: the last section with bytes in the file.
fn pe_end(file: &[u8]) -> Option<u64> {
    let header = u32_at(file, 0x3c)?;
    let at = usize::try_from(header).ok()?;
    if file.get(at..at.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let n_sections = u16_at(file, header + 6)?;
    let table = header + 24 + u16_at(file, header + 20)?;
    let mut end = 0;
    for i in 0..n_sections {
        let at = table + i * 40;
        end = end.max(u32_at(file, at + 16)? + u32_at(file, at + 20)?);
    }
    Some(end)
}

/// Mach-O, 64-bit little-endian: the last segment.
fn mach_o_end(file: &[u8]) -> Option<u64> {
    const SEGMENT_64: u64 = 0x19;
    let n_commands = u32_at(file, 16)?;
    let (mut at, mut end) = (32, 0);
    // Each command has at least 8 bytes, so the reads fail before a lying count costs time.
    for _ in 0..n_commands {
        let (command, size) = (u32_at(file, at)?, u32_at(file, at + 4)?);
        if command == SEGMENT_64 {
            end = end.max(u64_at(file, at + 40)?.checked_add(u64_at(file, at + 48)?)?);
        }
        at += size.max(8);
    }
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A 64-bit ELF header whose section table, of no entries, ends at `end`.
    pub(crate) fn elf_header(end: u64) -> Vec<u8> {
        let mut header = vec![0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        header[40..48].copy_from_slice(&end.to_le_bytes());
        header
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_end_of_a_real_program_is_its_length() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(executable_end(&program), Some(program.len()));
    }

    #[test]
    fn the_end_of_a_windows_program_is_that_of_its_last_section() {
        let mut program = vec![0; 0x200];
        program[..2].copy_from_slice(b"MZ");
        program[0x3c] = 0x40;
        program[0x40..0x44].copy_from_slice(b"PE\0\0");
        program[0x46] = 1;
        let section = 0x40 + 24;
        program[section + 16..section + 20].copy_from_slice(&0x600u32.to_le_bytes());
        program[section + 20..section + 24].copy_from_slice(&0x400u32.to_le_bytes());
        assert_eq!(executable_end(&program), Some(0xa00));
    }

    #[test]
    fn broken_headers_never_panic() {
        let starts: [&[u8]; 3] = [b"\x7fELF\x02\x01", b"\xcf\xfa\xed\xfe", b"MZ"];
        for start in starts {
            let mut file = start.to_vec();
            for fill in [0, 0x40, 0xff] {
                file.truncate(start.len());
                file.resize(300, fill);
                for end in 0..file.len() {
                    let _ = executable_end(&file[..end]);
                }
            }
        }
        assert_eq!(executable_end(&elf_header(u64::MAX)), Some(usize::MAX));
    }
}
