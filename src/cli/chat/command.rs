//! What a line typed in the chat is: a message, or a command that begins with `/`.

use super::super::nearest::nearest;

/// A command as `/help` shows it and Tab completes it.
pub struct CommandInfo {
    /// With its slash.
    pub name: &'static str,
    /// What follows it.
    pub takes: &'static str,
    /// What it does, on one line.
    pub summary: &'static str,
    /// More, for `/help NAME`.
    pub details: &'static str,
}

/// Every command, in the order of `/help`.
pub const COMMANDS: &[CommandInfo] = &[
    info("/help", "[COMMAND]", "this list, or more about one command", ""),
    info("/clear", "", "begin a new chat", "The chat so far is gone unless it was saved with /save."),
    info(
        "/regen",
        "",
        "another reply to your last message",
        "The old reply stays in the chat as an alternative, and /save keeps both. With a fixed seed the n-th\n\
         alternative uses seed + n, so that the same session gives the same texts.",
    ),
    info(
        "/edit",
        "[TEXT]",
        "change your last message and ask again",
        "Without TEXT the message comes back into the line to be edited. The old one stays as an alternative.",
    ),
    info("/undo", "", "take back your last message and its reply", "All alternatives of the two go with them."),
    info(
        "/continue",
        "",
        "let the last reply go on where it stopped",
        "For a reply that Ctrl-C, a limit (-n) or the end of the context cut. The model may find that it was done.",
    ),
    info(
        "/system",
        "[TEXT|off]",
        "instructions before the first message",
        "Without TEXT shows them. Gemma has no role for them: they are put before your first message.",
    ),
    info("/context", "", "how full the context is", ""),
    info(
        "/forget",
        "",
        "leave out the oldest turns",
        "As many as it takes to have a quarter of the context free. They stay in the chat and in what /save writes;\n\
         the model does not get them any more. /forget again leaves out more.",
    ),
    info(
        "/set",
        "[KEY VALUE]",
        "a setting of sampling, as in /set temp 0.7",
        "The keys are the long flags of the command line: `gemma2 help sampling`. Without a key shows all of them.",
    ),
    info("/seed", "N", "start of the random numbers; -1 draws one", ""),
    info("/stats", "", "speed and token counts of the last reply", ""),
    info("/tokens", "[TEXT]", "the tokens of a text, or of the last message", ""),
    info(
        "/prompt",
        "",
        "exactly what the model got for the last reply",
        "Control tokens are shown as text; the count is of tokens.",
    ),
    info(
        "/file",
        "PATH",
        "send a text file with your next message",
        "UTF-8 text of at most 1 MiB, in a fence under its name. Several files may wait; /clear drops them.",
    ),
    info(
        "/save",
        "FILE",
        "write the chat into a file",
        "FILE.md is Markdown, to read; any other name is JSON that /load and the chat page's import read.",
    ),
    info("/load", "FILE", "go on with a chat from such a file", "Also one that was exported from the chat page."),
    info(
        "/copy",
        "",
        "put the last reply on the clipboard",
        "By the system's own program (pbcopy, wl-copy, xclip, xsel, clip.exe), or else through the terminal (OSC 52),\n\
         which not every terminal allows.",
    ),
    info(
        "/manual",
        "on|off",
        "write the replies yourself",
        "After each message you are asked for the model's reply at `<<< `; an empty line lets the model write it.\n\
         To show by example how replies should be.",
    ),
    info("/exit", "", "leave (also Ctrl-D)", ""),
];

const fn info(name: &'static str, takes: &'static str, summary: &'static str, details: &'static str) -> CommandInfo {
    CommandInfo { name, takes, summary, details }
}

/// A command with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `/help`, perhaps about one command.
    Help(Option<String>),
    /// `/clear`
    Clear,
    /// `/regen`
    Regenerate,
    /// `/edit`, perhaps with the new text.
    Edit(Option<String>),
    /// `/undo`
    Undo,
    /// `/continue`
    Continue,
    /// `/system`: show, set, or remove with an empty text.
    System(Option<String>),
    /// `/context`
    Context,
    /// `/forget`
    Forget,
    /// `/set`: show all, or set one.
    Set(Option<(String, String)>),
    /// `/stats`
    Stats,
    /// `/tokens`
    Tokens(Option<String>),
    /// `/prompt`
    Prompt,
    /// `/file`
    File(String),
    /// `/save`
    Save(String),
    /// `/load`
    Load(String),
    /// `/copy`
    Copy,
    /// `/manual`
    Manual(bool),
    /// `/exit`
    Exit,
}

/// What was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    Empty,
    /// Words for the model.
    Message(String),
    /// A command.
    Command(Command),
    /// Looks like a command and is none: what is wrong and what to do.
    Wrong(String),
}

/// Reads what was typed. A `/` at the very start and a word of letters make a command; `/usr/bin` and ` /help` are messages.
pub fn parse(typed: &str) -> Line {
    if typed.trim().is_empty() {
        return Line::Empty;
    }
    let (name, rest) = typed.split_once(char::is_whitespace).unwrap_or((typed, ""));
    let is_command = name.strip_prefix('/').is_some_and(|word| word.chars().all(|c| c.is_ascii_alphabetic()));
    if !is_command {
        return Line::Message(typed.trim().to_owned());
    }
    match command(name, rest.trim()) {
        Ok(command) => Line::Command(command),
        Err(wrong) => Line::Wrong(wrong),
    }
}

fn command(name: &str, rest: &str) -> Result<Command, String> {
    let optional = || (!rest.is_empty()).then(|| rest.to_owned());
    let name = match name {
        "/quit" | "/bye" => "/exit",
        "/" | "/?" => "/help",
        name => name,
    };
    let Some(info) = find(name) else {
        let near = nearest(name, COMMANDS.iter().map(|info| info.name));
        let hint = near.map_or_else(|| "/help lists them".into(), |near| format!("did you mean {near}?"));
        return Err(format!("`{name}` is no command; {hint} (a message may begin with a space and then /)"));
    };
    let needed = || optional().ok_or_else(|| format!("write {} {}", info.name, info.takes));
    let command = match name {
        "/help" => Command::Help(optional()),
        "/edit" => Command::Edit(optional()),
        "/system" if rest == "off" => Command::System(Some(String::new())),
        "/system" => Command::System(optional()),
        "/set" => Command::Set(match optional() {
            None => None,
            Some(rest) => {
                let (key, value) = rest.split_once([' ', '=']).ok_or("write /set KEY VALUE, as in /set temp 0.7")?;
                Some((key.to_owned(), value.trim().to_owned()))
            }
        }),
        "/seed" => Command::Set(Some(("seed".into(), needed()?))),
        "/tokens" => Command::Tokens(optional()),
        "/file" => Command::File(needed()?),
        "/save" => Command::Save(needed()?),
        "/load" => Command::Load(needed()?),
        "/manual" => match rest {
            "on" => Command::Manual(true),
            "off" => Command::Manual(false),
            _ => return Err("write /manual on or /manual off".into()),
        },
        _ if !rest.is_empty() => return Err(format!("{name} takes nothing after it")),
        "/clear" => Command::Clear,
        "/regen" => Command::Regenerate,
        "/undo" => Command::Undo,
        "/continue" => Command::Continue,
        "/context" => Command::Context,
        "/forget" => Command::Forget,
        "/stats" => Command::Stats,
        "/prompt" => Command::Prompt,
        "/copy" => Command::Copy,
        _ => Command::Exit,
    };
    Ok(command)
}

fn find(name: &str) -> Option<&'static CommandInfo> {
    COMMANDS.iter().find(|info| info.name == name)
}

/// The text of `/help`, or of `/help NAME`.
pub fn help(about: Option<&str>) -> String {
    let Some(about) = about else {
        let width = COMMANDS.iter().map(|info| info.name.len() + 1 + info.takes.len()).max().unwrap_or_default();
        let mut out = String::new();
        for info in COMMANDS {
            out += &format!("{:width$}  {}\n", format!("{} {}", info.name, info.takes), info.summary);
        }
        out += "\nEnter sends. Ctrl-J, or a \\ before Enter, begins a new line; so does Enter between \"\"\" and \"\"\".\n\
                Ctrl-C stops a reply and keeps what is there. Up and Ctrl-R find what was typed before.";
        return out;
    };
    let name = if about.starts_with('/') { about.to_owned() } else { format!("/{about}") };
    match find(&name) {
        None => format!("`{about}` is no command; /help lists them"),
        Some(info) => {
            let first = format!("{} {}", info.name, info.takes);
            let mut out = format!("{}\n{}", first.trim_end(), info.summary);
            if !info.details.is_empty() {
                out = format!("{out}\n{}", info.details);
            }
            out
        }
    }
}

/// What can stand where `line` ends, and where in the line it begins. Nothing where a path or words are expected.
pub fn completions(line: &str, set_keys: &[&str]) -> (usize, Vec<String>) {
    let Some((name, rest)) = line.split_once(' ') else {
        let names = COMMANDS.iter().filter(|info| line.starts_with('/') && info.name.starts_with(line));
        let space = |info: &CommandInfo| if info.takes.is_empty() { "" } else { " " };
        return (0, names.map(|info| format!("{}{}", info.name, space(info))).collect());
    };
    let start = line.len() - rest.len();
    let words: Vec<&str> = match name {
        "/help" => COMMANDS.iter().map(|info| &info.name[1..]).collect(),
        "/set" => set_keys.to_vec(),
        "/manual" => vec!["on", "off"],
        "/system" => vec!["off"],
        _ => Vec::new(),
    };
    (start, words.into_iter().filter(|word| word.starts_with(rest)).map(str::to_owned).collect())
}

/// Where the path begins in a line that is completed with the names of files.
pub fn path_start(line: &str) -> Option<usize> {
    ["/file ", "/save ", "/load "].iter().find(|name| line.starts_with(**name)).map(|name| name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str, expected: Command) {
        assert_eq!(parse(typed), Line::Command(expected), "{typed:?}");
    }

    #[test]
    fn commands_are_read_with_their_arguments() {
        check("/help", Command::Help(None));
        check("/help set", Command::Help(Some("set".into())));
        check("/clear  ", Command::Clear);
        check("/quit", Command::Exit);
        check("/system Be brief.\nAlways.", Command::System(Some("Be brief.\nAlways.".into())));
        check("/system off", Command::System(Some(String::new())));
        check("/set temp 0.5", Command::Set(Some(("temp".into(), "0.5".into()))));
        check("/set temp=0.5", Command::Set(Some(("temp".into(), "0.5".into()))));
        check("/seed 7", Command::Set(Some(("seed".into(), "7".into()))));
        check("/save my chat.json", Command::Save("my chat.json".into()));
        check("/manual on", Command::Manual(true));
    }

    #[test]
    fn every_command_in_the_table_is_one() {
        for info in COMMANDS {
            let argument = match info.takes {
                "on|off" => " on",
                "" => "",
                takes if takes.starts_with('[') => "",
                _ => " 5",
            };
            let typed = format!("{}{argument}", info.name);
            assert!(matches!(parse(&typed), Line::Command(_)), "{typed}");
            assert!(help(Some(info.name)).contains(info.summary));
        }
    }

    #[test]
    fn what_only_looks_like_a_command_is_a_message() {
        for text in ["/usr/bin is what?", " /help", "1 / 2", "\"/help\"", "//"] {
            assert_eq!(parse(text), Line::Message(text.trim().into()));
        }
        assert_eq!(parse(" \n"), Line::Empty);
    }

    #[test]
    fn a_mistyped_command_is_answered_with_the_nearest() {
        for (typed, near) in [("/regenerate", "/regen"), ("/sav x", "/save"), ("/sytem", "/system"), ("/hepl", "/help")]
        {
            let Line::Wrong(text) = parse(typed) else { panic!("{typed}") };
            assert!(text.contains(&format!("did you mean {near}?")), "{text}");
        }
        let Line::Wrong(text) = parse("/nonsense") else { panic!() };
        assert!(text.contains("`/nonsense` is no command; /help lists them"), "{text}");
        for typed in ["/save", "/set temp", "/manual maybe", "/clear all"] {
            assert!(matches!(parse(typed), Line::Wrong(_)), "{typed}");
        }
    }

    #[test]
    fn commands_and_their_words_are_completed() {
        let complete = |line: &str| completions(line, &["temp", "top-k", "top-p"]);
        assert_eq!(complete("/re"), (0, vec!["/regen".into()]));
        assert_eq!(complete("/se"), (0, vec!["/set ".into(), "/seed ".into()]));
        assert_eq!(complete("/set to"), (5, vec!["top-k".into(), "top-p".into()]));
        assert_eq!(complete("/help ma"), (6, vec!["manual".into()]));
        assert_eq!(complete("hello"), (0, vec![]));
        assert_eq!(path_start("/load a"), Some(6));
        assert_eq!(path_start("load a"), None);
    }
}
