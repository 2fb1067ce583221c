//! `--json` and `--stream-json`: replies for programs, in the words of llama.cpp's `/completion`.

use std::time::Duration;

use serde_json::{Value, json};

use super::error::CliError;
use super::reply::{Reply, Sink};
use super::terminal::print;
use crate::engine::{StopReason, Timings, Token};

/// Prints an object for each token where `is_streaming`, and nothing otherwise.
pub struct JsonLines {
    /// `--stream-json`
    pub is_streaming: bool,
}

impl Sink for JsonLines {
    fn write(&mut self, text: &str, token: Option<&Token>) -> Result<(), CliError> {
        if !self.is_streaming {
            return Ok(());
        }
        let ids: Vec<_> = token.iter().map(|token| token.id).collect();
        print_line(&json!({ "content": text, "tokens": ids, "stop": false }))
    }
}

/// Prints the object at the end: all of the reply, or with `is_streaming` all but its text.
///
/// # Errors
/// stdout that cannot be written.
pub fn print_end(reply: &Reply, model: &str, prompt: Option<&str>, is_streaming: bool) -> Result<(), CliError> {
    let is_cut = matches!(reply.reason, StopReason::TokenLimit | StopReason::ContextFull);
    // In the words of OpenAI, for programs that look for no others.
    let finish_reason = match is_cut && !reply.is_interrupted {
        true => Some("length"),
        false => (!reply.is_interrupted).then_some("stop"),
    };
    let (stop_type, stopping_word) = match &reply.reason {
        _ if reply.is_interrupted => ("interrupted", ""),
        StopReason::EndOfTurn => ("eos", ""),
        StopReason::StopString(word) => ("word", word.as_str()),
        StopReason::TokenLimit | StopReason::ContextFull => ("limit", ""),
        StopReason::Shutdown => ("none", ""),
    };
    let timings = &reply.timings;
    let mut end = json!({
        "content": if is_streaming { "" } else { &reply.text },
        "stop": true,
        "model": model,
        "stop_type": stop_type,
        "finish_reason": finish_reason,
        "stopping_word": stopping_word,
        "truncated": !reply.is_interrupted && reply.reason == StopReason::ContextFull,
        "tokens_evaluated": timings.prompt_tokens,
        "tokens_cached": timings.cached_tokens,
        "tokens_predicted": timings.decoded_tokens,
        "timings": numbers(timings),
    });
    if !reply.is_interrupted {
        end["seed"] = reply.seed.into();
    }
    if let Some(prompt) = prompt {
        end["prompt"] = prompt.into();
    }
    print_line(&end)
}

fn numbers(timings: &Timings) -> Value {
    let n_read = timings.computed_tokens();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    // JSON has no infinity: no time, no rate.
    let rate = |n: usize, time: Duration| (!time.is_zero()).then(|| n as f64 / time.as_secs_f64());
    json!({
        "prompt_n": n_read,
        "prompt_ms": ms(timings.prefill),
        "prompt_per_second": rate(n_read, timings.prefill),
        "predicted_n": timings.decoded_tokens,
        "predicted_ms": ms(timings.decode),
        "predicted_per_second": rate(timings.decode_steps(), timings.decode),
    })
}

fn print_line(value: &Value) -> Result<(), CliError> {
    print(&format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_without_a_time_are_null() {
        let value = numbers(&Timings { prompt_tokens: 5, cached_tokens: 5, ..Timings::default() });
        assert_eq!((&value["prompt_n"], &value["prompt_per_second"]), (&json!(0), &Value::Null));
    }
}
