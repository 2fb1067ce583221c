//! `--help`: what most people need, on one screen. `--help-all` has every flag, from the table in `args.rs`.

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
      --repeat-penalty X                       (1.0: off)
  -r, --reverse-prompt TEXT   stop before this text
  -j, --json-schema SCHEMA    answer in JSON of this form
      --grammar TEXT          answer as this GBNF grammar says
Output
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
  gemma2 tokenize TEXT, gemma2 info, gemma2 completions SHELL

More: gemma2 --help-all; gemma2 pack --help; gemma2 --version
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_fits_a_terminal_and_names_only_flags_that_exist() {
        assert!(SHORT.lines().count() <= 60);
        for line in SHORT.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let command = super::super::args::command("0");
        let known: Vec<String> = command
            .get_arguments()
            .flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default())
            .map(|long| format!("--{long}"))
            .chain(["--help".into(), "--version".into()])
            .collect();
        for word in SHORT.split([' ', '\n', ',', ';', ')', '(']).filter(|w| w.starts_with("--")) {
            assert!(known.iter().any(|flag| flag == word), "{word}");
        }
    }
}
