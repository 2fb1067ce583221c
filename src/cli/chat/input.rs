//! Where typed lines come from: an editor on a terminal that can have one, plain lines otherwise.

use std::io::BufRead;
use std::path::PathBuf;

use super::super::error::CliError;
use super::super::signals;
use super::super::terminal::{self, Terminal};
use super::editor::Editor;

/// What marks a text of several lines at both ends.
const QUOTES: &str = "\"\"\"";

/// What a person did at the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// Sent this.
    Text(String),
    /// Ctrl-C; whether it cleared something that had been typed.
    Interrupt {
        /// There was text.
        had_text: bool,
    },
    /// Ctrl-D, or the end of stdin.
    End,
}

/// The source of typed lines.
pub enum Input {
    /// A terminal that can be drawn on.
    Editor(Box<Editor>),
    /// Anything else.
    Lines(Lines),
}

/// Lines of stdin, from a thread of its own, so that Ctrl-C can be waited for too.
pub struct Lines {
    lines: async_channel::Receiver<Result<String, CliError>>,
    runtime: tokio::runtime::Runtime,
    is_terminal: bool,
}

impl Input {
    /// The editor where stdin is a terminal that is not `dumb`. `keeps_history` is about the file.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn open(terminal: &Terminal, keeps_history: bool, set_keys: Vec<&'static str>) -> Result<Input, CliError> {
        if terminal.can_edit() {
            match Editor::open(terminal, keeps_history, set_keys) {
                Ok(editor) => return Ok(Input::Editor(Box::new(editor))),
                Err(error) => terminal.note(format!("no line editing on this terminal: {error}")),
            }
        }
        Ok(Input::Lines(Lines::open(terminal.stdin_is_terminal)?))
    }

    /// Whether a person sits there who can be asked.
    pub fn is_interactive(&self) -> bool {
        match self {
            Input::Editor(_) => true,
            Input::Lines(lines) => lines.is_terminal,
        }
    }

    /// Whether a text can be offered to be changed.
    pub fn can_edit(&self) -> bool {
        matches!(self, Input::Editor(_))
    }

    /// The next text, with `initial` in the editor already.
    ///
    /// # Errors
    /// stdin that cannot be read.
    pub fn read(&mut self, prompt: &str, initial: &str) -> Result<Typed, CliError> {
        match self {
            Input::Editor(editor) => editor.read(prompt, initial, true),
            Input::Lines(lines) => lines.read(prompt),
        }
    }

    /// The answer to a question, which is not remembered.
    ///
    /// # Errors
    /// stdin that cannot be read.
    pub fn ask(&mut self, question: &str) -> Result<Typed, CliError> {
        match self {
            Input::Editor(editor) => editor.read(question, "", false),
            Input::Lines(lines) => lines.read(question),
        }
    }
}

impl Lines {
    fn open(is_terminal: bool) -> Result<Lines, CliError> {
        let (sender, lines) = async_channel::bounded(1);
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(move || {
                for line in std::io::stdin().lock().lines() {
                    let line = line.map_err(|source| CliError::Read { path: PathBuf::from("-"), source });
                    let is_last = line.is_err();
                    if sender.send_blocking(line).is_err() || is_last {
                        return;
                    }
                }
            })
            .map_err(|error| CliError::System(format!("no thread for stdin: {error}")))?;
        Ok(Lines { lines, runtime: signals::small_runtime()?, is_terminal })
    }

    /// On a terminal a text may take several lines; of a pipe each line is one.
    fn read(&mut self, prompt: &str) -> Result<Typed, CliError> {
        if self.is_terminal {
            terminal::prompt(prompt);
        }
        let mut typed = String::new();
        loop {
            let line = self.runtime.block_on(async {
                tokio::select! {
                    line = self.lines.recv() => Some(line),
                    () = signals::interrupt() => None,
                }
            });
            match line {
                None if !self.is_terminal => return Err(CliError::Interrupted),
                None => {
                    terminal::error_line("");
                    return Ok(Typed::Interrupt { had_text: !typed.is_empty() });
                }
                Some(Err(_)) => {
                    // Ctrl-D leaves the cursor behind the prompt.
                    if self.is_terminal {
                        terminal::error_line("");
                    }
                    return Ok(if typed.is_empty() { Typed::End } else { Typed::Text(unquoted(&typed)) });
                }
                Some(Ok(line)) => typed += &line?,
            }
            match typed.strip_suffix('\\') {
                Some(before) if self.is_terminal && !is_open(before) => typed = format!("{before}\n"),
                _ if self.is_terminal && is_open(&typed) => typed.push('\n'),
                _ => return Ok(Typed::Text(unquoted(&typed))),
            }
        }
    }
}

/// Whether the text begins with `"""` and does not end with it.
pub fn is_open(typed: &str) -> bool {
    typed.trim_start().strip_prefix(QUOTES).is_some_and(|rest| !rest.trim_end().ends_with(QUOTES))
}

/// The text without `"""` around it.
pub fn unquoted(typed: &str) -> String {
    let inside = typed.trim().strip_prefix(QUOTES).map(|rest| rest.strip_suffix(QUOTES).unwrap_or(rest));
    match inside {
        // A space, so that a text that begins with `/` stays a message.
        Some(text) => format!(" {}", text.trim_matches('\n')),
        None => typed.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_several_lines() {
        assert!(is_open("\"\"\"") && is_open("\"\"\"a\nb") && is_open(" \"\"\"a\"\" "));
        assert!(!is_open("\"\"\"a\nb\"\"\"") && !is_open("a \"\"\"") && !is_open("\"\"\"a\"\"\" \n"));
        assert_eq!(unquoted("\"\"\"\n/a\n  b\n\"\"\""), " /a\n  b");
        assert_eq!(unquoted("\"\"\"a"), " a");
        assert_eq!(unquoted("say \"\"\""), "say \"\"\"");
    }
}
