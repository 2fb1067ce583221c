//! `--help`: what most people need, on one screen. `help TOPIC` goes deeper. `--help-all`, the man page and the README's
//! table have every flag, out of the table in `args.rs`.

use std::fmt::Write as _;

use super::args;
use super::error::CliError;
use super::foreign;
use super::nearest::nearest;

/// The text of `--help`.
pub const SHORT: &str = "\
gemma2: a llamafile for Gemma 2. Program, weights and chat page in one file.

Examples
  gemma2                                   chat in the browser
  gemma2 -p 'Capital of France?'           answer and exit
  git diff | gemma2 -c 0 -p 'Write a commit message' -f -
  gemma2 --chat                            chat in the terminal
  gemma2 -m gemma-2-2b-it-Q6_K.gguf -c 0   other weights, their whole context
  gemma2 --server --port 8081              OpenAI-compatible API, no browser

Model
  -m, --model PATH      .gguf, model directory, packed file or .llamafile; else
                        $GEMMA2_MODEL, the weights in this file, the only .gguf
                        beside it, or the built-in demo model
Context and speed
  -c, --ctx-size N      tokens of context (512); 0: the model's maximum
  -t, --threads N       CPU threads (physical cores)
  -np, --parallel N     requests answered side by side
      --preset NAME     auto, exact, speed or memory: several flags at once
Prompt
  -p, --prompt TEXT     answer this and exit
  -f, --file FILE       prompt from a file, - is stdin; beside -p it follows
  -e, --escape          \\n, \\t and other escapes in -p
  -sys, --system-prompt TEXT   instructions before the first message
      --raw             no chat template around the prompt
      --chat            chat in the terminal
Sampling
  -n, --n-predict N     most tokens to make (-1: to the end of the turn)
  -s, --seed N          same seed, same text
      --temp X          temperature (1.0); 0: always the likeliest token
      --top-k N, --top-p X, --min-p X          (64, 0.95, 0)
      --mode NAME       chat, factual or creative: several flags at once
  -r, --reverse-prompt TEXT   stop before this text
  -j, --json-schema SCHEMA    answer in JSON of this form
      --grammar TEXT          answer as this GBNF grammar says
Output
      --json            the answer as a JSON object; --stream-json as it comes
      --special         print control tokens too
      --stats           speed and token counts at the end
  -q, -v                only errors; more detail
Server
      --server          serve without opening a browser (also --nobrowser)
      --host ADDRESS, --port N                 (127.0.0.1, 8080)
      --api-key KEY     clients must send this key

Tools
  gemma2 pack -m WEIGHTS -o FILE     one file of program and weights
  gemma2 list|verify|unpack|upgrade FILE   look into such a file, or change it
  gemma2 info, gemma2 doctor         what the model is; whether all is well here
  gemma2 quantize, perplexity, bench, tokenize, completions

More: gemma2 help prompt|sampling|chat|gpu|api|llamafile|man
      gemma2 --help-all (every flag), gemma2 --version
";

/// What `help TOPIC` knows besides tools.
const TOPICS: &[(&str, &str)] =
    &[("prompt", PROMPT), ("sampling", SAMPLING), ("chat", CHAT), ("gpu", GPU), ("api", API)];

const PROMPT: &str = "\
How a prompt reaches the model

  gemma2 -p TEXT          one question, answered on stdout
  gemma2 -f FILE          the same with the text of a file; - is stdin
  gemma2 -p TEXT -f FILE  TEXT, a blank line, and then the file's text

A TEXT without turn markers is wrapped as one user turn, as the model was
trained to see it:

  <start_of_turn>user
  TEXT<end_of_turn>
  <start_of_turn>model

A TEXT that contains <start_of_turn> goes to the model as it is, and so does
any TEXT with --raw. <bos> is added once, whether it is written or not.

  -sys TEXT    instructions. Gemma has no role for them: they come before the
               first message, with a blank line between.
  -e           \\n, \\t, \\\" and \\xNN in -p, -r and -sys are escapes.
  --echo       prints the prompt first; --special also the control tokens.
  -c 0         the model's whole context. The default is 512 tokens, prompt and
               answer together; a prompt that does not fit is an error (6).

stdout has the answer and nothing else, so it can be piped:

  gemma2 -c 0 -p 'Summarize this.' -f notes.txt > summary.txt
  while read -r line; do gemma2 -p \"Translate: $line\"; done < lines.txt
";

const SAMPLING: &str = "\
How the next token is chosen

From the model's scores, in this order; the defaults are Gemma's own:

  --logit-bias ID+X      adds to a token's score; ID-inf forbids it
  --repeat-penalty X     divides scores of tokens seen lately (1: off)
  --presence-penalty X, --frequency-penalty X      subtract from them (0: off)
  --repeat-last-n N      how far back penalties look (64)
  --top-k N              only the N likeliest (64; 0: off)
  --typical X            only the typical ones (1: off)
  --top-p X              the likeliest that make up X together (0.95; 1: off)
  --min-p X              none less likely than X times the likeliest (0: off)
  --temp X               flatter above 1, sharper below (1.0); 0 always takes
                         the likeliest and needs none of the others

  -s N         the start of the random numbers. Same seed, flags and machine:
               same text. Without it each run draws one; -v tells which.
  -n N         at most N tokens (-1: to the end of the turn, -2: until the
               context is full)
  -r TEXT      stops before TEXT (repeatable)
  --ignore-eos never ends the turn
  --grammar TEXT, --json-schema SCHEMA     only answers of this form

  --mode chat       Gemma's defaults
  --mode factual    the likeliest tokens only, for facts and code
  --mode creative   more surprise

What a mode stands for is printed when it is used; other flags win over it.
In --chat, /set changes these while it runs.
";

const CHAT: &str = "\
Chat in the terminal: gemma2 --chat

  Enter sends. Ctrl-J, or a backslash before Enter, begins a new line; so does
  Enter between \"\"\" and \"\"\". Pasted text is never sent by itself.
  Ctrl-C stops a reply and keeps what is there, or clears the line.
  Ctrl-D or /exit leaves. Up and Ctrl-R find what was typed before.
  Tab completes commands and file names.

  /regen /edit /undo /continue       work on the last exchange
  /system /set /seed /manual         change what follows
  /context /forget /clear            the context and what is in it
  /stats /tokens /prompt             look behind it
  /file /save /load /copy            texts in and out
  /help                              all of them; /help NAME tells more

/save and /load use the chat page's own format: a chat moves between both.
Replies go to stdout and everything else to stderr; when stdin is no terminal,
each line is one turn.

  --no-markdown   no colors for Markdown (also NO_COLOR, or TERM=dumb)
  --no-history    what is typed is not remembered in a file
  --prompt-cache FILE   what the model remembers is kept: a chat that is loaded
                        again goes on without being read again
  --ascii         only ASCII in what the program itself says
";

const GPU: &str = "\
GPU

Builds with the feature `cuda` have code for NVIDIA GPUs (compute capability 7.5
or later) and need nothing but the driver; those with `metal` for Apple's (M1 or
later, macOS 13 or later). `gemma2 info` lists what is found.

  -ngl 999      the whole model on the GPU, as far as its memory allows; what
                does not fit is computed by the CPU, and that is told
  -ngl N        the output head and the last N - 1 layers
  --gpu nvidia  the same as -ngl 999, and an error where there is none
  --gpu apple   the same for Apple's

Without such a build or a GPU, -ngl says so and goes on with the CPU. Replies are
the same either way, to the bit, but for weights in BF16 on NVIDIA GPUs, which
round what they multiply these with.

On the CPU, speed is bounded by memory: each token reads all weights once.
  - a smaller format (Q4_K_M rather than Q8_0) is faster in proportion:
    `gemma2 quantize IN OUT Q4_K_M`
  - more threads than physical cores do not help
  - `gemma2 doctor` measures this machine, `gemma2 bench` a model on it
";

const API: &str = "\
HTTP

  gemma2 --server --port 8081     serves; the page is at http://127.0.0.1:8081/
  gemma2 --api-key KEY            clients must send it as `Authorization: Bearer`

OpenAI's API; any client works with base URL http://127.0.0.1:8080/v1:
  POST /v1/chat/completions, /v1/responses, /v1/completions,
  /v1/embeddings; GET /v1/models

  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}]}'

llama.cpp's:
  POST /completion, /embedding, /tokenize, /detokenize, /apply-template
  GET /health, /props, /slots, /metrics

Ollama's, for its clients (OLLAMA_HOST=http://127.0.0.1:8080):
  POST /api/chat, /api/generate, /api/embed, /api/show; GET /api/tags, /api/ps

Anthropic's, with base URL http://127.0.0.1:8080:
  POST /v1/messages, /v1/messages/count_tokens

`\"stream\": true` sends tokens as they are made, and all chats take tools.
/openapi.json describes it all. Only this computer can connect unless --host says
otherwise; then --allow-host adds public names. -np N requests are answered side
by side, each with its own context of -c tokens.
";

/// The text of `help`, of `help TOPIC`, or of a tool's `--help`.
///
/// # Errors
/// A topic that is none, with the nearest one.
pub fn topic(name: Option<&str>, version: &'static str) -> Result<String, CliError> {
    let Some(name) = name else {
        return Ok(SHORT.to_owned());
    };
    if name == "man" {
        return Ok(man_page());
    }
    if let Some((_, text)) = TOPICS.iter().find(|(topic, _)| *topic == name) {
        return Ok((*text).to_owned());
    }
    if name == "llamafile" {
        return Ok(foreign::help());
    }
    let mut command = args::command(version);
    command.build();
    let tools: Vec<String> = command.get_subcommands().map(|tool| tool.get_name().to_owned()).collect();
    if let Some(tool) = command.find_subcommand_mut(name) {
        return Ok(tool.render_long_help().to_string());
    }
    let known = TOPICS.iter().map(|(topic, _)| *topic).chain(["llamafile", "man"]);
    let near = nearest(name, known.clone().chain(tools.iter().map(String::as_str)));
    let all = known.collect::<Vec<_>>().join(", ");
    Err(CliError::Usage {
        what: format!("there is no help about `{name}`"),
        hint: match near {
            Some(near) => format!("did you mean `gemma2 help {near}`?"),
            None => format!("the topics are {all}, and every tool"),
        },
    })
}

/// A flag or tool argument as help shows it.
struct Row {
    names: String,
    text: String,
}

/// Flags of a command by heading, in the order of the table.
fn rows(command: &clap::Command) -> Vec<(String, Vec<Row>)> {
    let mut groups: Vec<(String, Vec<Row>)> = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let heading = arg.get_help_heading().unwrap_or("Other").to_owned();
        let mut names: Vec<String> = arg.get_short().map(|short| format!("-{short}")).into_iter().collect();
        names.extend(arg.get_long_and_visible_aliases().unwrap_or_default().iter().map(|long| format!("--{long}")));
        let value = match arg.get_action().takes_values() {
            true => {
                arg.get_value_names().unwrap_or_default().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            false => String::new(),
        };
        let names = [names.join(", "), value].join(" ").trim().to_owned();
        let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let values: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
        if arg.get_action().takes_values() && !values.is_empty() {
            let _ = write!(text, " [{}]", values.join(", "));
        }
        let row = Row { names, text };
        match groups.iter_mut().find(|(known, _)| *known == heading) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((heading, vec![row])),
        }
    }
    groups
}

/// The man page, in troff's `man` macros.
pub fn man_page() -> String {
    let mut command = args::command(env!("CARGO_PKG_VERSION"));
    command.build();
    let mut out = format!(".TH GEMMA2 1 \"\" \"gemma2 {}\"\n.SH NAME\n", env!("CARGO_PKG_VERSION"));
    out += "gemma2 \\- a llamafile for Gemma 2: program, weights and chat page in one file\n.SH SYNOPSIS\n";
    out += ".B gemma2\n[\\fIOPTION\\fR]...\n.br\n.B gemma2\n\\fITOOL\\fR [\\fIOPTION\\fR]...\n.SH EXAMPLES\n.nf\n";
    let examples = SHORT.lines().skip_while(|line| *line != "Examples").skip(1).take_while(|line| !line.is_empty());
    for line in examples {
        let _ = writeln!(out, "{}", troff(line.trim_start()));
    }
    out += ".fi\n";
    for (heading, rows) in rows(&command) {
        let _ = writeln!(out, ".SH {}", troff(&heading.to_uppercase()));
        push_rows(&mut out, &rows);
    }
    for tool in command.get_subcommands() {
        let about = tool.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, ".SH GEMMA2 {}\n{}.", troff(&tool.get_name().to_uppercase()), troff(&about));
        for (_, rows) in rows(tool) {
            push_rows(&mut out, &rows);
        }
    }
    out +=
        ".SH ENVIRONMENT\n.TP\n.B GEMMA2_MODEL\nWeights, where \\-m does not name any.\n.TP\n.B NO_COLOR\nNo colors.\n";
    out += ".SH EXIT STATUS\n0 done; 1 it failed while running; 2 usage; 3 model file; 4 network; 5 memory; \
            6 the prompt does not fit; 130 Ctrl\\-C; 141 the reader closed the pipe.\n";
    out
}

fn push_rows(out: &mut String, rows: &[Row]) {
    for row in rows {
        let _ = writeln!(out, ".TP\n.B {}\n{}", troff(&row.names), troff(&row.text));
    }
}

/// Text that troff prints as it is.
fn troff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// The README's table of flags.
    fn flag_table() -> String {
        let mut out = String::from("| flag | what it does |\n| --- | --- |\n");
        let cell = |text: &str| text.replace('|', "\\|").replace('<', "&lt;");
        for (heading, rows) in rows(&args::command("0")) {
            let _ = writeln!(out, "| **{heading}** | |");
            for row in rows {
                let _ = writeln!(out, "| `{}` | {} |", row.names, cell(&row.text));
            }
        }
        out
    }

    /// Compares a file with what it should be, or writes it where `GEMMA2_BLESS` is set.
    fn check_file(path: &str, expected: impl Fn(&str) -> String) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let expected = expected(&old);
        if std::env::var_os("GEMMA2_BLESS").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let new = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(new == expected, "{} is not up to date: run this test with GEMMA2_BLESS=1", path.display());
    }

    #[test]
    fn the_help_fits_a_terminal_and_names_only_flags_that_exist() {
        assert!(SHORT.lines().count() <= 60, "{} lines", SHORT.lines().count());
        assert_eq!(SHORT.lines().skip(3).take_while(|line| line.starts_with("  ")).count(), 6, "examples come first");
        let command = args::command("0");
        let known: Vec<String> = command
            .get_arguments()
            .flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default())
            .map(|long| format!("--{long}"))
            .chain(["--help".into(), "--version".into()])
            .collect();
        let texts = TOPICS.iter().map(|(_, text)| *text).chain([SHORT]);
        for text in texts {
            for line in text.lines() {
                assert!(line.chars().count() <= 88, "{line}");
            }
            for word in text.split([' ', '\n', ',', ';', ')', '(', ':', '\'', '`']).filter(|w| w.starts_with("--")) {
                let word = word.trim_end_matches('.');
                assert!(known.iter().any(|flag| flag == word), "{word}");
            }
        }
        assert!(SHORT.lines().all(|line| line.chars().count() <= 80));
    }

    #[test]
    fn every_topic_and_every_tool_has_help() {
        for name in ["prompt", "sampling", "chat", "gpu", "api", "llamafile", "man", "pack", "doctor"] {
            assert!(topic(Some(name), "0").unwrap().lines().count() > 3, "{name}");
        }
        let text = crate::error::render(&topic(Some("samplin"), "0").unwrap_err());
        assert!(text.contains("did you mean `gemma2 help sampling`?"), "{text}");
        let text = crate::error::render(&topic(Some("weather"), "0").unwrap_err());
        assert!(text.contains("the topics are prompt"), "{text}");
    }

    #[test]
    fn the_man_page_is_made_of_the_flags() {
        check_file("assets/gemma2.1", |_| man_page());
    }

    #[test]
    fn the_readme_s_table_is_made_of_the_flags() {
        const BEGIN: &str = "<!-- flags -->\n";
        const END: &str = "<!-- end of flags -->";
        check_file("README.md", |old| {
            let (before, rest) = old.split_once(BEGIN).expect("the README marks the table");
            let (_, after) = rest.split_once(END).expect("the README marks the end of the table");
            format!("{before}{BEGIN}{}{END}{after}", flag_table())
        });
    }

    #[test]
    fn troff_takes_no_text_for_a_request() {
        assert_eq!(troff(".gguf \\n -c"), "\\&.gguf \\en \\-c");
    }
}
