//! The clipboard: the system's own program where there is one, the terminal otherwise.

use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

/// Programs that take the clipboard's new text from stdin, the first usable one is taken. `variable` looks into the
/// environment. Not over ssh: the clipboard that is meant is where the person sits.
pub fn programs(variable: impl Fn(&str) -> Option<OsString>) -> Vec<(&'static str, &'static [&'static str])> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let mut programs: Vec<(&'static str, &'static [&'static str])> = Vec::new();
    if is_set("SSH_CONNECTION") {
        return programs;
    }
    if cfg!(target_os = "macos") {
        programs.push(("pbcopy", &[]));
    }
    if cfg!(windows) || is_set("WSL_DISTRO_NAME") {
        programs.push(("clip.exe", &[]));
    }
    if is_set("WAYLAND_DISPLAY") {
        programs.push(("wl-copy", &[]));
    }
    if is_set("DISPLAY") {
        programs.push(("xclip", &["-selection", "clipboard"]));
        programs.push(("xsel", &["--clipboard", "--input"]));
    }
    programs
}

/// Whether a program took the text.
pub fn by_program(program: &str, args: &[&str], text: &str) -> bool {
    let child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(mut child) = child else {
        return false;
    };
    let is_written = child.stdin.take().is_some_and(|mut stdin| stdin.write_all(text.as_bytes()).is_ok());
    child.wait().is_ok_and(|status| status.success()) && is_written
}

/// The escape sequence that asks a terminal to put the text on the clipboard (xterm's OSC 52).
pub fn escape_sequence(text: &str) -> String {
    format!("\x1b]52;c;{}\x07", base64(text.as_bytes()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let is_padding = digit > chunk.len();
            let index = (bits >> (18 - 6 * digit)) & 63;
            out.push(if is_padding { '=' } else { char::from(DIGITS[index as usize]) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("ä?", "w6Q/"),
        ] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(escape_sequence("f"), "\x1b]52;c;Zg==\x07");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_program_fits_the_desktop() {
        let names = |variables: &[(&str, &str)]| -> Vec<&str> {
            let found = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
            programs(found).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(&[("WAYLAND_DISPLAY", "w"), ("DISPLAY", ":0")]), ["wl-copy", "xclip", "xsel"]);
        assert_eq!(names(&[("DISPLAY", ":0"), ("SSH_CONNECTION", "x")]), [""; 0]);
        assert_eq!(names(&[("WSL_DISTRO_NAME", "Debian")]), ["clip.exe"]);
        assert_eq!(names(&[]), [""; 0]);
    }
}
