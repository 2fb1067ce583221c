//! Flags that people know from llamafile and llama.cpp and that are none of ours: what they mean here. Each is turned into
//! ours, or accepted because it is so already or can change nothing, which is said, or refused with what to do instead.

use std::ffi::OsString;
use std::fmt::Write as _;

/// What arguments that are not ours came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Why some change nothing, a line each.
    pub notes: Vec<String>,
    /// One that makes no sense without a prompt.
    pub needs_prompt: Option<&'static str>,
}

/// A flag that is not ours.
struct Flag {
    names: &'static [&'static str],
    takes: Takes,
    then: Then,
}

/// What follows a flag.
#[derive(Clone, Copy)]
enum Takes {
    Nothing,
    Value,
    /// One of these words, or nothing.
    Perhaps(&'static [&'static str]),
}

#[derive(Clone, Copy)]
enum Then {
    /// It is so already.
    Is,
    /// So it is already, unless the value is one of these; then it is said why that changes nothing.
    IsBut(&'static [&'static str], &'static str),
    /// It can change nothing: why.
    Idle(&'static str),
    /// Ours that mean it.
    Means(&'static [&'static str]),
    /// `-v` that often.
    Verbosity,
    /// A chat, unless there is to be a single turn.
    Chat,
    /// One turn, for which there must be a prompt.
    OneTurn,
    /// What is wrong with it, and what to do; unless the value turns it off.
    Refused { unless: &'static [&'static str], what: &'static str, hint: &'static str },
}

/// What could not be made of a flag.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The flag and what is wrong with it.
    pub what: String,
    /// What to do instead.
    pub hint: &'static str,
}

const ON_OFF: &[&str] = &["on", "off", "auto", "1", "0", "true", "false", "enabled", "disabled"];
const OFF: &[&str] = &["off", "0", "false", "disabled"];
const THREADS: &str = "the system places the threads; `taskset`, `nice` and `numactl` tell it how";
const NO_GPU: &str = "this build has no code for GPUs";
const SAMPLER: &str = "this way of sampling is not in this version";
const SAMPLERS: &str =
    "`--temp`, `--top-k`, `--top-p`, `--min-p`, `--typical` and penalties are: `gemma2 help sampling`";
const DOWNLOAD: &str = "this program downloads nothing";
const FETCH: &str = "fetch the file yourself, and name it with `-m`";
const TEXT_ONLY: &str = "Gemma 2 reads text only";
const POSITIONS: &str = "positions are computed as the model was trained";
const LEAVE: &str = "leave it out";
const PROXY: &str = "put a web server such as Caddy or nginx in front of it";
const ADAPTERS: &str = "there are no adapters in this version";
const TEMPLATE: &str = "the chat template is the model file's own";

const FLAGS: &[Flag] = &[
    // How it runs.
    flag(&["-cnv", "--conversation", "-i", "--interactive", "-if", "--interactive-first"], Takes::Nothing, Then::Chat),
    flag(&["-no-cnv", "--no-conversation"], Takes::Nothing, Then::Means(&["--raw"])),
    flag(&["-st", "--single-turn", "--cli"], Takes::Nothing, Then::OneTurn),
    flag(&["--display-prompt"], Takes::Nothing, Then::Means(&["--echo"])),
    flag(&["--verbose-prompt"], Takes::Nothing, Then::Means(&["--verbose", "--verbose"])),
    flag(&["-lv", "--verbosity", "--log-verbosity"], Takes::Value, Then::Verbosity),
    flag(&["--log-disable"], Takes::Nothing, Then::Means(&["--quiet"])),
    flag(&["--perf", "--show-timings"], Takes::Nothing, Then::Means(&["--stats"])),
    flag(&["-ptc", "--print-token-count"], Takes::Value, Then::Means(&["--stats"])),
    flag(&["--unsecure"], Takes::Nothing, Then::Means(&["--no-sandbox"])),
    flag(&["--usage"], Takes::Nothing, Then::Means(&["--help"])),
    flag(&["--long-help"], Takes::Nothing, Then::Means(&["--help-all"])),
    // So it is already.
    flag(
        &[
            "--no-perf",
            "--no-show-timings",
            "--no-escape",
            "--context-shift",
            "--mmap",
            "--jinja",
            "--offline",
            "--no-mmproj",
        ],
        Takes::Nothing,
        Then::Is,
    ),
    flag(
        &["-cb", "--cont-batching", "--cache-prompt", "--slots", "--props", "--metrics", "--embedding", "--embeddings"],
        Takes::Nothing,
        Then::Is,
    ),
    flag(
        &["--ui", "--webui", "--recompile", "--nocompile", "--tinyblas", "-kvu", "--kv-unified"],
        Takes::Nothing,
        Then::Is,
    ),
    flag(
        &["-fa", "--flash-attn"],
        Takes::Perhaps(ON_OFF),
        Then::IsBut(OFF, "attention is always computed tile by tile, and never kept whole"),
    ),
    flag(&["--memory-f32"], Takes::Nothing, Then::Means(&["-ctk", "f32", "-ctv", "f32"])),
    // Nothing to change.
    flag(&["--nothink"], Takes::Nothing, Then::Idle("Gemma 2 has no thoughts apart from its answer")),
    flag(
        &["--penalize-nl", "--no-penalize-nl"],
        Takes::Nothing,
        Then::Idle("penalties are off unless `--repeat-penalty` and the like ask for them, and then for all tokens"),
    ),
    flag(
        &["--log-enable", "--log-new", "--log-append"],
        Takes::Nothing,
        Then::Idle("`-v` tells more, and a server writes to `--log-file FILE`"),
    ),
    flag(&["-w", "--workers"], Takes::Value, Then::Idle("`-np` says how many requests are computed side by side")),
    flag(
        &["-mmq", "--mul-mat-q", "-nommq", "--no-mul-mat-q"],
        Takes::Nothing,
        Then::Idle("weights are always multiplied as they are, quantized"),
    ),
    flag(
        &["-co", "--color"],
        Takes::Perhaps(&["on", "off", "auto"]),
        Then::Idle("`--chat` colors Markdown on a terminal, unless `--no-markdown` or NO_COLOR says otherwise"),
    ),
    flag(&["--warmup", "--no-warmup"], Takes::Nothing, Then::Idle("there is no warm-up run")),
    flag(&["--simple-io"], Takes::Nothing, Then::Idle("input that is no terminal is read line by line anyway")),
    flag(
        &["-mli", "--multiline-input"],
        Takes::Nothing,
        Then::Idle("Ctrl-J or a backslash before Enter begins a new line"),
    ),
    flag(&["--log-colors"], Takes::Perhaps(&["on", "off", "auto"]), Then::Idle("the log has no colors")),
    flag(&["--log-prefix", "--log-timestamps"], Takes::Nothing, Then::Idle("the log has one form")),
    flag(
        &[
            "-C",
            "--cpu-mask",
            "-Cr",
            "--cpu-range",
            "-Cb",
            "--cpu-mask-batch",
            "-Crb",
            "--cpu-range-batch",
            "--cpu-strict",
        ],
        Takes::Value,
        Then::Idle(THREADS),
    ),
    flag(
        &["--cpu-strict-batch", "--prio", "--prio-batch", "--poll", "--poll-batch"],
        Takes::Value,
        Then::Idle(THREADS),
    ),
    flag(&["--numa"], Takes::Perhaps(&["distribute", "isolate", "numactl"]), Then::Idle(THREADS)),
    flag(
        &["--threads-http"],
        Takes::Value,
        Then::Idle("the threads that answer HTTP do not compute, and two are enough"),
    ),
    flag(&["-to", "--timeout"], Takes::Value, Then::Idle("a reply may take as long as its client reads")),
    flag(
        &["-nocb", "--no-cont-batching"],
        Takes::Nothing,
        Then::Idle("requests are always computed side by side; `-np 1` takes one at a time"),
    ),
    flag(
        &[
            "--no-cache-prompt",
            "--cache-reuse",
            "-cram",
            "--cache-ram",
            "-ctxcp",
            "--ctx-checkpoints",
            "--swa-checkpoints",
        ],
        Takes::Perhaps(&[]),
        Then::Idle("a prompt that begins as one before is never read twice, and its reply is the same"),
    ),
    flag(
        &["--swa-full"],
        Takes::Nothing,
        Then::Idle("local layers keep what they can see, and a rollback reads the rest again"),
    ),
    flag(&["-dt", "--defrag-thold"], Takes::Value, Then::Idle("each slot has its own cache without gaps")),
    flag(
        &["--check-tensors"],
        Takes::Nothing,
        Then::Idle("headers, shapes and norms are always checked; `gemma2 verify` checks hashes"),
    ),
    flag(
        &["--fast", "--precise"],
        Takes::Nothing,
        Then::Idle("every instruction set computes the same bits; `--isa` takes another"),
    ),
    flag(
        &["-sps", "--slot-prompt-similarity"],
        Takes::Value,
        Then::Idle("the slot that shares the longest beginning is taken"),
    ),
    flag(&["-fit", "--fit"], Takes::Value, Then::Idle("`--preset auto` chooses a context that fits")),
    flag(
        &["--reasoning-format", "-rea", "--reasoning", "--reasoning-effort", "--reasoning-budget"],
        Takes::Value,
        Then::Idle("Gemma 2 has no thoughts apart from its answer"),
    ),
    flag(
        &["-lcs", "--lookup-cache-static", "-lcd", "--lookup-cache-dynamic"],
        Takes::Value,
        Then::Idle("`--lookup` guesses from the text itself"),
    ),
    flag(&["--sleep-idle-seconds"], Takes::Value, Then::Idle("weights are mapped, and an idle server takes no time")),
    flag(&["--v2"], Takes::Nothing, Then::Idle("there is one server")),
    flag(&["--no-jinja"], Takes::Nothing, Then::Idle("chat templates are Jinja; `--raw` goes without one")),
    flag(
        &["-kvo", "--kv-offload", "-nkvo", "--no-kv-offload", "--op-offload", "--no-op-offload", "--no-host"],
        Takes::Nothing,
        Then::Idle(NO_GPU),
    ),
    flag(
        &[
            "-sm",
            "--split-mode",
            "-ts",
            "--tensor-split",
            "-mg",
            "--main-gpu",
            "-dev",
            "--device",
            "-ot",
            "--override-tensor",
        ],
        Takes::Value,
        Then::Idle(NO_GPU),
    ),
    // What would change the result, and cannot be had.
    refused(
        &["--mirostat", "--dry-multiplier", "--xtc-probability", "--dynatemp-range"],
        &["0", "0.0"],
        SAMPLER,
        SAMPLERS,
    ),
    refused(&["--top-nsigma", "--top-n-sigma", "--adaptive-target"], &["-1", "-1.0"], SAMPLER, SAMPLERS),
    refused(
        &["--mirostat-lr", "--mirostat-ent", "--xtc-threshold", "--dynatemp-exp", "--adaptive-decay"],
        &[],
        SAMPLER,
        SAMPLERS,
    ),
    refused(
        &["--dry-base", "--dry-allowed-length", "--dry-penalty-last-n", "--dry-sequence-breaker"],
        &[],
        SAMPLER,
        SAMPLERS,
    ),
    refused(&["--tfs"], &["1", "1.0"], SAMPLER, SAMPLERS),
    refused(&["--cfg-negative-prompt", "--cfg-negative-prompt-file"], &[], SAMPLER, SAMPLERS),
    refused(&["--cfg-scale"], &["1", "1.0"], SAMPLER, SAMPLERS),
    refused(
        &["--samplers", "--sampler-seq", "--sampling-seq"],
        &[],
        "the order of sampling is fixed",
        "`gemma2 help sampling` tells it; each step can be turned off",
    ),
    refused(
        &["--in-prefix", "--in-suffix"],
        &[],
        "messages are put into the model's own template",
        "write the whole prompt yourself, with `--raw`",
    ),
    refused(&["--chat-template"], &["gemma", "gemma2"], TEMPLATE, "write the whole prompt yourself, with `--raw`"),
    refused(
        &["--chat-template-file", "--chat-template-kwargs"],
        &[],
        TEMPLATE,
        "write the whole prompt yourself, with `--raw`",
    ),
    refused(
        &["-mu", "--model-url", "-hf", "-hfr", "--hf-repo", "-hff", "--hf-file", "-hft", "--hf-token"],
        &[],
        DOWNLOAD,
        FETCH,
    ),
    refused(&["-dr", "--docker-repo", "-mmu", "--mmproj-url"], &[], DOWNLOAD, FETCH),
    refused(&["-mm", "--mmproj", "--image", "--audio", "--video"], &[], TEXT_ONLY, LEAVE),
    refused(
        &["--lora", "--lora-scaled", "--control-vector", "--control-vector-scaled"],
        &[],
        ADAPTERS,
        "merge it into the weights first",
    ),
    refused(
        &[
            "--rope-scaling",
            "--rope-scale",
            "--rope-freq-base",
            "--rope-freq-scale",
            "--yarn-orig-ctx",
            "--yarn-ext-factor",
        ],
        &["none", "0"],
        POSITIONS,
        LEAVE,
    ),
    refused(&["-gan", "--grp-attn-n"], &["1"], POSITIONS, LEAVE),
    refused(&["-gaw", "--grp-attn-w"], &[], POSITIONS, LEAVE),
    refused(&["--override-kv"], &[], "the model file's numbers are used as they are", LEAVE),
    refused(
        &["-md", "--model-draft", "--draft", "--draft-n", "--draft-max", "--draft-min"],
        &[],
        "no second model is used",
        "`--lookup N` guesses ahead without one",
    ),
    refused(
        &["--ssl-key-file", "--ssl-cert-file", "--path", "--api-prefix", "--url-prefix"],
        &[],
        "the server is plain HTTP at `/`",
        PROXY,
    ),
    refused(&["--listen"], &[], "the server's address is two flags here", "`--host HOST --port PORT`"),
    off(
        &["-ins", "--instruct", "-cml", "--chatml"],
        "messages are put into the model's own template",
        "leave it out, with `--chat` or `-p`",
    ),
    off(&["--random-prompt"], "a prompt is what you write", "`-p TEXT`"),
    off(&["--strace", "--ftrace"], "there is no tracer in this program", "`strace` and `perf` are programs for that"),
    off(&["--trap"], "no arithmetic of a model is an error here", LEAVE),
    off(&["--perplexity", "--all-logits"], "that is a tool of its own", "`gemma2 perplexity -m MODEL -f TEXT`"),
    off(&["--rerank", "--reranking"], "Gemma 2 is no model for ranking", LEAVE),
    off(
        &["--prompt-cache-all", "--prompt-cache-ro"],
        "`--prompt-cache` keeps the prompt only, and only where that is new",
        LEAVE,
    ),
];

const fn flag(names: &'static [&'static str], takes: Takes, then: Then) -> Flag {
    Flag { names, takes, then }
}

const fn refused(
    names: &'static [&'static str],
    unless: &'static [&'static str],
    what: &'static str,
    hint: &'static str,
) -> Flag {
    Flag { names, takes: Takes::Value, then: Then::Refused { unless, what, hint } }
}

const fn off(names: &'static [&'static str], what: &'static str, hint: &'static str) -> Flag {
    Flag { names, takes: Takes::Nothing, then: Then::Refused { unless: &[], what, hint } }
}

/// Reads flags that are not ours out of a command line.
#[derive(Default)]
pub struct Translation {
    /// Ours in their place.
    pub foreign: Foreign,
    wants_chat: bool,
}

impl Translation {
    /// The flag in `text` and the words after it: ours that mean the same, and how many of the words belong to it. `None`
    /// for any other flag.
    ///
    /// # Errors
    /// One that cannot be had here.
    pub fn read(&mut self, text: &str, after: &[OsString]) -> Result<Option<(Vec<OsString>, usize)>, Refusal> {
        let (name, joined) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let Some((flag, name)) = find(name) else { return Ok(None) };
        let next = after.first().and_then(|word| word.to_str());
        let (value, n_used) = match (flag.takes, joined) {
            (_, Some(value)) => (Some(value), 0),
            (Takes::Value, None) => (next, usize::from(!after.is_empty())),
            (Takes::Perhaps(words), None) => {
                let is_its = |word: &&str| words.contains(word) || (words.is_empty() && word.parse::<i64>().is_ok());
                let value = next.filter(is_its);
                (value, usize::from(value.is_some()))
            }
            (Takes::Nothing, None) => (None, 0),
        };
        let shown = match value {
            Some(value) => format!("`{name} {value}`"),
            None => format!("`{name}`"),
        };
        let ours = self.apply(flag.then, name, &shown, value)?;
        Ok(Some((ours.into_iter().map(OsString::from).collect(), n_used)))
    }

    /// What all of them together add.
    pub fn finish(self) -> (Option<&'static str>, Foreign) {
        let is_chat = self.wants_chat && self.foreign.needs_prompt.is_none();
        (is_chat.then_some("--chat"), self.foreign)
    }

    fn apply(
        &mut self,
        then: Then,
        name: &'static str,
        shown: &str,
        value: Option<&str>,
    ) -> Result<Vec<&'static str>, Refusal> {
        let mut idle = |why: &str| self.foreign.notes.push(format!("{shown} changes nothing: {why}"));
        match then {
            Then::Is => {}
            Then::IsBut(others, why) if value.is_some_and(|value| others.contains(&value)) => idle(why),
            Then::IsBut(..) => {}
            Then::Idle(why) => idle(why),
            Then::Means(ours) => return Ok(ours.to_vec()),
            Then::Verbosity => {
                let level: usize = value.and_then(|value| value.parse().ok()).unwrap_or(0);
                return Ok(vec!["--verbose"; level.min(2)]);
            }
            Then::Chat => self.wants_chat = true,
            Then::OneTurn => self.foreign.needs_prompt = Some(name),
            Then::Refused { unless, .. } if value.is_some_and(|value| unless.contains(&value)) => {}
            Then::Refused { what, hint, .. } => return Err(Refusal { what: format!("{shown}: {what}"), hint }),
        }
        Ok(Vec::new())
    }
}

/// Whether this is one of the flags of one dash and several letters, which the parser would take for others.
pub fn is_short(name: &str) -> bool {
    !name.starts_with("--") && name.len() > 2 && find(name).is_some()
}

fn find(name: &str) -> Option<(&'static Flag, &'static str)> {
    FLAGS.iter().find_map(|flag| Some((flag, *flag.names.iter().find(|known| **known == name)?)))
}

/// `help llamafile`: all of them.
pub fn help() -> String {
    let mut out = String::from(
        "Flags of llamafile and llama.cpp\n\n\
         Most work as they do there (`gemma2 --help-all`). These are not flags of this\nprogram, and mean:\n",
    );
    for flag in FLAGS {
        let meaning = match flag.then {
            Then::Is => "it is so already".to_owned(),
            Then::IsBut(_, why) | Then::Idle(why) => format!("changes nothing: {why}"),
            Then::Means(ours) => format!("as {}", ours.join(" ")),
            Then::Verbosity => "as -v, or for 2 and more -vv".into(),
            Then::Chat => "as --chat, unless a single turn is asked for".into(),
            Then::OneTurn => "as -p and -f do alone".into(),
            Then::Refused { what, hint, .. } => format!("an error: {what}; {hint}"),
        };
        let _ = write!(out, "\n{}\n    {meaning}\n", flag.names.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<(Vec<String>, Foreign), Refusal> {
        let words: Vec<OsString> = words.iter().map(Into::into).collect();
        let (mut translation, mut ours, mut at) = (Translation::default(), Vec::new(), 0);
        while at < words.len() {
            let text = words[at].to_str().unwrap();
            let (more, n_used) =
                translation.read(text, &words[at + 1..])?.unwrap_or_else(|| (vec![words[at].clone()], 0));
            ours.extend(more.into_iter().map(|word| word.into_string().unwrap()));
            at += 1 + n_used;
        }
        let (chat, foreign) = translation.finish();
        ours.extend(chat.map(str::to_owned));
        Ok((ours, foreign))
    }

    #[test]
    fn flags_become_ours_with_their_values() {
        let check = |words: &[&str], expected: &[&str]| assert_eq!(read(words).unwrap().0, expected, "{words:?}");
        check(&["-cnv"], &["--chat"]);
        check(&["-i", "-c", "0"], &["-c", "0", "--chat"]);
        check(&["-cnv", "-st", "-p", "x"], &["-p", "x"]);
        check(&["-lv", "3", "-n", "1"], &["--verbose", "--verbose", "-n", "1"]);
        check(&["--log-disable"], &["--quiet"]);
        check(&["-fa", "on", "-p", "x"], &["-p", "x"]);
        check(&["-fa", "-p", "x"], &["-p", "x"]);
        check(&["--mirostat", "0"], &[]);
        check(&["--cache-reuse", "256", "--no-cache-prompt"], &[]);
    }

    #[test]
    fn what_changes_nothing_is_told_with_the_reason() {
        let notes = |words: &[&str]| read(words).unwrap().1.notes;
        assert_eq!(notes(&["--prio", "2"]), [format!("`--prio 2` changes nothing: {THREADS}")]);
        assert_eq!(notes(&["-fa=off"]).len(), 1);
        assert!(notes(&["-fa", "on", "-cb", "--jinja"]).is_empty(), "so it is already");
        assert_eq!(read(&["--cli"]).unwrap().1.needs_prompt, Some("--cli"));
    }

    #[test]
    fn what_would_change_the_result_is_refused_with_a_way_out() {
        for words in [&["--mirostat", "2"][..], &["-hf", "a/b"], &["--image", "x.png"], &["--rerank"]] {
            let refusal = read(words).unwrap_err();
            assert!(refusal.what.contains(words[0]) && !refusal.hint.is_empty(), "{refusal:?}");
        }
    }

    #[test]
    fn each_name_is_there_once_and_explained() {
        let mut names: Vec<&str> = FLAGS.iter().flat_map(|flag| flag.names).copied().collect();
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names);
        let text = help();
        assert!(names.iter().all(|name| text.contains(name)));
    }
}
