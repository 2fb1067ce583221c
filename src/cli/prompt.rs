//! The text of a one-shot prompt, and what the model gets of it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::args::RunArgs;
use super::error::CliError;
use crate::chat::{self, ChatTemplate, Message};
use crate::tokenizer::{Special, TokenId, Tokenizer};

/// What a text must contain to be taken for a rendered prompt.
const TURN_MARKER: &str = "<start_of_turn>";

/// Where the text comes from: `-p`, `-f`, or both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptSource {
    text: Option<String>,
    file: Option<PathBuf>,
}

/// A prompt as the model gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// Its tokens, `<bos>` first.
    pub tokens: Vec<TokenId>,
    /// What `--echo` shows: what was typed, or all of it with control tokens.
    pub echo: String,
}

impl PromptSource {
    /// `None` where the arguments have no prompt.
    pub fn of(args: &RunArgs) -> Option<PromptSource> {
        let (text, file) = (args.prompt.clone(), args.file.clone());
        (text.is_some() || file.is_some()).then_some(PromptSource { text, file })
    }

    /// The text. `allow_empty` where the model may start from nothing.
    ///
    /// # Errors
    /// A file that cannot be read or is no UTF-8, no text at all.
    pub fn read(&self, allow_empty: bool) -> Result<String, CliError> {
        let from_file = self.file.as_deref().map(read_text).transpose()?;
        let text = match (&self.text, from_file) {
            (Some(text), Some(from_file)) => format!("{text}\n\n{from_file}"),
            (Some(text), None) => text.clone(),
            (None, from_file) => from_file.unwrap_or_default(),
        };
        if text.trim().is_empty() && !allow_empty {
            return Err(CliError::Usage {
                what: "the prompt is empty".into(),
                hint: "write a text after `-p`, or `--raw` to start from nothing".into(),
            });
        }
        Ok(text)
    }
}

/// Text of a file, or of stdin for `-`.
///
/// # Errors
/// A file that cannot be read or is no UTF-8.
pub fn read_text(path: &Path) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => io::stdin().lock().read_to_end(&mut bytes).map(|_| ()),
        false => std::fs::read(path).map(|content| bytes = content),
    };
    read.map_err(|source| CliError::Read { path: path.to_owned(), source })?;
    String::from_utf8(bytes)
        .map_err(|error| CliError::NotUtf8 { path: path.to_owned(), position: error.utf8_error().valid_up_to() })
}

/// What the model gets. A text with turn markers, any text with `is_raw`, and any text for a model without a chat
/// template goes as it is, control tokens parsed; every other text is one user turn.
///
/// # Errors
/// A system prompt that has no place in a raw prompt; a template that refuses.
pub fn encode(
    text: &str,
    is_raw: bool,
    system_prompt: Option<&str>,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
    show_control: bool,
) -> Result<Prompt, CliError> {
    let template = template.filter(|_| !is_raw && !text.contains(TURN_MARKER));
    let Some(template) = template else {
        if system_prompt.is_some() {
            return Err(CliError::usage("`-sys` has no place in a prompt that goes to the model as it is"));
        }
        let tokens = tokenizer.with_bos(tokenizer.encode(text, Special::Parse));
        return Ok(Prompt { tokens, echo: text.into() });
    };
    let segments = template.render(&messages(system_prompt, text), false)?;
    let echo = if show_control { chat::text(&segments) } else { format!("{}\n", text.trim()) };
    Ok(Prompt { tokens: chat::encode(tokenizer, &segments), echo })
}

/// A conversation of one message.
pub fn messages(system_prompt: Option<&str>, text: &str) -> Vec<Message> {
    let message = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let system = system_prompt.map(|content| message("system", content));
    system.into_iter().chain([message("user", text)]).collect()
}

/// Undoes escapes of C as llama.cpp knows them. Unknown ones stay as they are.
///
/// # Errors
/// Bytes that are no text.
pub fn unescape(text: &str) -> Result<String, CliError> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let Some((&escape, after)) = rest.split_first() else {
            out.push(b'\\');
            break;
        };
        let (bytes, n_used): (&[u8], usize) = match escape {
            b'n' => (b"\n", 1),
            b'r' => (b"\r", 1),
            b't' => (b"\t", 1),
            b'"' | b'\'' | b'\\' => (&[escape], 1),
            b'x' => match after.get(..2).and_then(hex_byte) {
                Some(byte) => (&[byte], 3),
                None => (b"\\", 0),
            },
            _ => (b"\\", 0),
        };
        out.extend_from_slice(bytes);
        rest = &rest[n_used..];
    }
    String::from_utf8(out).map_err(|_| CliError::usage("`-e`: the \\x escapes do not make UTF-8 text"))
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_those_of_llama_cpp() {
        let check = |text: &str, expected: &str| assert_eq!(unescape(text).unwrap(), expected, "{text}");
        check(r#"a\nb\tc\rd\"e\'f\\n"#, "a\nb\tc\rd\"e'f\\n");
        check(r"\x41\xc3\xa4\x4", "Aä\\x4");
        check(r"\q\", "\\q\\");
        check("ä\\nö", "ä\nö");
        assert_eq!(unescape(r"\xff").unwrap_err().exit_status(), 2);
    }

    #[test]
    fn a_file_follows_the_text_after_a_blank_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompt.txt");
        std::fs::write(&path, "from the file\n").unwrap();
        let source = |text: Option<&str>| PromptSource { text: text.map(Into::into), file: Some(path.clone()) };
        assert_eq!(source(None).read(false).unwrap(), "from the file\n");
        assert_eq!(source(Some("typed")).read(false).unwrap(), "typed\n\nfrom the file\n");
        std::fs::write(&path, b"ok \xff").unwrap();
        let error = source(None).read(false).unwrap_err();
        assert!(error.to_string().contains("byte 3"), "{error}");
        std::fs::remove_file(&path).unwrap();
        let error = source(None).read(false).unwrap_err();
        assert!(crate::error::render(&error).contains("prompt.txt"), "{error}");
    }

    #[test]
    fn an_empty_prompt_is_an_error_unless_raw() {
        let source = PromptSource { text: Some(" \n".into()), file: None };
        assert_eq!(source.read(false).unwrap_err().exit_status(), 2);
        assert_eq!(source.read(true).unwrap(), " \n");
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_escapes(text in "[\\\\xXnt0-9a-fä]{0,20}") {
            let _ = unescape(&text);
        }
    }
}
