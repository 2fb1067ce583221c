//! The line editor of `--chat`: keys, completion and the history file. The editing itself is rustyline's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::{Behavior, ColorMode, CompletionType};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::{FileHistory, History};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{
    Cmd, ConditionalEventHandler, Config, Context, Event, EventContext, EventHandler, Helper, KeyCode, KeyEvent,
    Modifiers, RepeatCount,
};

use super::super::error::CliError;
use super::super::terminal::Terminal;
use super::command::{completions, path_start};
use super::input::{Typed, is_open, unquoted};

/// Texts kept in the history file.
const MAX_HISTORY: usize = 1000;

/// Reads texts with editing. The terminal is in its usual mode between two of them.
pub struct Editor {
    editor: rustyline::Editor<ChatHelper, FileHistory>,
    /// Where texts are remembered, if they are.
    history: Option<PathBuf>,
    /// Ctrl-C came while there was text.
    had_text: Arc<AtomicBool>,
    /// Lines of the text that Enter behind a backslash has ended.
    continued: Arc<Mutex<Vec<usize>>>,
    terminal: Terminal,
}

impl Editor {
    /// An editor on this terminal: stdin and stdout, or the controlling terminal where stdout is something else.
    ///
    /// # Errors
    /// What the terminal says.
    pub fn open(
        terminal: &Terminal,
        keeps_history: bool,
        set_keys: Vec<&'static str>,
    ) -> Result<Editor, ReadlineError> {
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)?
            .history_ignore_dups(true)?
            .completion_type(CompletionType::List)
            .color_mode(if terminal.has_color { ColorMode::Enabled } else { ColorMode::Disabled })
            .behavior(if terminal.stdout_is_terminal { Behavior::Stdio } else { Behavior::PreferTerm })
            .build();
        let history = FileHistory::with_config(&config);
        let mut editor = rustyline::Editor::with_history(config, history)?;
        editor.set_helper(Some(ChatHelper { set_keys, files: FilenameCompleter::new() }));
        let had_text = Arc::new(AtomicBool::new(false));
        let interrupt = Interrupt { had_text: had_text.clone() };
        editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(interrupt)));
        editor.bind_sequence(KeyEvent::ctrl('J'), Cmd::Newline);
        let enter = KeyEvent(KeyCode::Enter, Modifiers::NONE);
        let continued = Arc::new(Mutex::new(Vec::new()));
        let backslash = Backslash { continued: continued.clone() };
        editor.bind_sequence(enter, EventHandler::Conditional(Box::new(backslash)));
        let mut editor = Editor { editor, history: None, had_text, continued, terminal: *terminal };
        if keeps_history {
            editor.load_history();
        }
        Ok(editor)
    }

    /// The next text, with `initial` in the line already; Up finds it again if it is remembered.
    ///
    /// # Errors
    /// A terminal that is gone.
    pub fn read(&mut self, prompt: &str, initial: &str, is_remembered: bool) -> Result<Typed, CliError> {
        self.had_text.store(false, Ordering::Relaxed);
        self.continued.lock().unwrap_or_else(PoisonError::into_inner).clear();
        match self.editor.readline_with_initial(prompt, (initial, "")) {
            Ok(text) => {
                let continued = self.continued.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let text = without_backslashes(&text, &continued);
                if is_remembered {
                    self.remember(&text);
                }
                Ok(Typed::Text(unquoted(&text)))
            }
            Err(ReadlineError::Interrupted) => Ok(Typed::Interrupt { had_text: self.had_text.load(Ordering::Relaxed) }),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(ReadlineError::Io(source)) => Err(CliError::Read { path: PathBuf::from("-"), source }),
            Err(error) => Err(CliError::System(format!("the terminal cannot be read: {error}"))),
        }
    }

    fn load_history(&mut self) {
        let Some(path) = history_file(|name| std::env::var_os(name).filter(|value| !value.is_empty()).map(Into::into))
        else {
            return;
        };
        let made = path.parent().map_or(Ok(()), create_private);
        let loaded = made.map_err(ReadlineError::from).and_then(|()| match self.editor.load_history(&path) {
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            loaded => loaded,
        });
        match loaded {
            Ok(()) => self.history = Some(path),
            Err(error) => {
                self.terminal.note(format!("nothing is remembered: `{}`: {error}", path.display()));
            }
        }
    }

    fn remember(&mut self, text: &str) {
        let is_new = self.editor.add_history_entry(text).unwrap_or(false);
        // At once, so that nothing is lost when the terminal is closed. The library creates the file with mode 0600.
        if is_new
            && let Some(path) = &self.history
            && let Err(error) = self.editor.history_mut().append(path)
        {
            self.terminal.note(format!("nothing more is remembered: `{}`: {error}", path.display()));
            self.history = None;
        }
    }
}

/// The file in the folder that the system has for such things. `variable` looks into the environment.
fn history_file(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let below = |name: &str, rest: &str| variable(name).map(|folder| folder.join(rest));
    let state = variable("XDG_STATE_HOME").or_else(|| {
        if cfg!(windows) {
            variable("LOCALAPPDATA")
        } else if cfg!(target_os = "macos") {
            below("HOME", "Library/Application Support")
        } else {
            below("HOME", ".local/state")
        }
    });
    Some(state?.join("gemma2").join("chat-history"))
}

/// Creates folders; nobody else may look into the new ones.
fn create_private(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Remembers whether there was text, which the library does not tell.
struct Interrupt {
    had_text: Arc<AtomicBool>,
}

impl ConditionalEventHandler for Interrupt {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        self.had_text.store(!context.line().is_empty(), Ordering::Relaxed);
        Some(Cmd::Interrupt)
    }
}

/// Enter behind a backslash begins a new line. Which lines these are is noted, so that only typed backslashes go: pasted
/// text keeps its own.
struct Backslash {
    continued: Arc<Mutex<Vec<usize>>>,
}

impl ConditionalEventHandler for Backslash {
    fn handle(&self, _: &Event, _: RepeatCount, _: bool, context: &EventContext<'_>) -> Option<Cmd> {
        let line = context.line();
        let is_behind = context.pos() == line.len() && line.ends_with('\\') && !is_open(line);
        if is_behind {
            let number = line.matches('\n').count();
            self.continued.lock().unwrap_or_else(PoisonError::into_inner).push(number);
        }
        is_behind.then_some(Cmd::Newline)
    }
}

/// The text without the backslash at the end of these lines.
fn without_backslashes(text: &str, lines: &[usize]) -> String {
    let kept = text.split('\n').enumerate().map(|(number, line)| match lines.contains(&number) {
        true => line.strip_suffix('\\').unwrap_or(line),
        false => line,
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Completion, and Enter between quotes.
struct ChatHelper {
    set_keys: Vec<&'static str>,
    files: FilenameCompleter,
}

impl Helper for ChatHelper {}

impl Hinter for ChatHelper {
    type Hint = String;
}

impl Highlighter for ChatHelper {}

impl Validator for ChatHelper {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match is_open(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Completer for ChatHelper {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let line = &line[..at];
        if path_start(line).is_some() {
            return self.files.complete_path(line, at);
        }
        let (start, words) = completions(line, &self.set_keys);
        let pair = |word: String| Pair { display: word.trim_end().to_owned(), replacement: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_backslashes_that_were_typed_to_go_on_are_gone() {
        assert_eq!(without_backslashes("a\\\nb\\\nc\\", &[0]), "a\nb\\\nc\\");
        assert_eq!(without_backslashes("a\\\nb", &[]), "a\\\nb");
        assert_eq!(without_backslashes("a\nb", &[0, 7]), "a\nb");
    }

    #[test]
    #[cfg(all(unix, not(target_os = "macos")))]
    fn the_history_lies_where_the_system_keeps_such_things() {
        let file = |variables: &'static [(&str, &str)]| {
            history_file(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
        };
        assert_eq!(file(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s/gemma2/chat-history".into()));
        assert_eq!(file(&[("HOME", "/h")]), Some("/h/.local/state/gemma2/chat-history".into()));
        assert_eq!(file(&[]), None);
    }
}
