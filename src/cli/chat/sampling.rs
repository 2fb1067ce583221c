//! The settings of sampling that `/set` changes, and their names in the page's chats.

use std::ffi::OsString;

use serde_json::{Map, Value, json};

use super::super::args::{Args, RunArgs};
use super::super::error::CliError;
use super::super::nearest::nearest;
use super::super::settings::{Generation, generation};
use super::super::usage_text;
use crate::engine::{Limit, Sampling};

/// The keys of `/set`: long flags of the command line.
pub const KEYS: &[&str] = &[
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "typical",
    "repeat-penalty",
    "repeat-last-n",
    "presence-penalty",
    "frequency-penalty",
    "n-predict",
    "seed",
    "reverse-prompt",
];

/// The page's names of settings, and the keys that mean the same.
const PAGE_NAMES: &[(&str, &str)] = &[
    ("temperature", "temp"),
    ("topK", "top-k"),
    ("topP", "top-p"),
    ("minP", "min-p"),
    ("repeatPenalty", "repeat-penalty"),
    ("repeatLastN", "repeat-last-n"),
    ("presencePenalty", "presence-penalty"),
    ("frequencyPenalty", "frequency-penalty"),
    ("maxTokens", "n-predict"),
    ("seed", "seed"),
];

/// The arguments with one setting changed, and what they mean.
///
/// # Errors
/// An unknown key, with the nearest one; a value that the command line would refuse too.
pub fn set(args: &RunArgs, key: &str, value: &str) -> Result<(RunArgs, Generation), CliError> {
    let wished = key.trim_start_matches('-').replace('_', "-");
    let known = match wished.as_str() {
        "temperature" => Some("temp"),
        wished => KEYS.iter().find(|key| **key == wished).copied(),
    };
    let Some(key) = known else {
        let hint = match nearest(&wished, KEYS.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys are {}", KEYS.join(", ")),
        };
        return Err(CliError::Usage { what: format!("there is no setting `{key}`"), hint });
    };
    let word = OsString::from(format!("--{key}={value}"));
    let typed = Args::parse_from_words(&[word], "").map_err(|error| CliError::Usage {
        what: usage_text(&error),
        hint: match generation(args) {
            Ok(now) => format!("it is {} now; `gemma2 help sampling` tells what is possible", value_of(&now, key)),
            Err(_) => "`gemma2 help sampling` tells what is possible".into(),
        },
    })?;
    let args = typed.run.or(args.clone());
    let meaning = generation(&args)?;
    Ok((args, meaning))
}

/// Every setting with its value, a line each.
pub fn list(generation: &Generation) -> String {
    let lines: Vec<String> = KEYS.iter().map(|key| format!("{key:18} {}", value_of(generation, key))).collect();
    lines.join("\n")
}

/// The same on one line.
pub fn on_one_line(generation: &Generation) -> String {
    let words: Vec<String> = KEYS.iter().map(|key| format!("{key} {}", value_of(generation, key))).collect();
    words.join(" · ")
}

/// What differs from Gemma's own defaults, under the page's names.
pub fn to_page(generation: &Generation) -> Map<String, Value> {
    let default = Generation { sampling: Sampling::default(), limit: Limit::EndOfTurn, ..generation.clone() };
    let mut out = Map::new();
    for (name, key) in PAGE_NAMES {
        let value = value_of(generation, key);
        if value == value_of(&default, key) {
            continue;
        }
        // 0.7 of 32 bits is 0.699999988 in JSON unless it goes through its decimal form.
        if let Ok(number) = serde_json::from_str::<Value>(&value) {
            out.insert((*name).into(), number);
        }
    }
    if let Some(system) = &generation.system_prompt {
        out.insert("system".into(), system.clone().into());
    }
    if !generation.stop.is_empty() {
        out.insert("stop".into(), json!(generation.stop));
    }
    out
}

/// The arguments with a page's settings; those that make no sense are left out, and named.
pub fn from_page(args: &RunArgs, settings: &Map<String, Value>) -> (RunArgs, Vec<String>) {
    let (mut args, mut refused) = (args.clone(), Vec::new());
    for (name, key) in PAGE_NAMES {
        let Some(value) = settings.get(*name) else { continue };
        let is_none = *key == "n-predict" && value.as_f64() == Some(0.0);
        let value = if is_none { "-1".to_owned() } else { value.to_string() };
        match set(&args, key, &value) {
            Ok((changed, _)) => args = changed,
            Err(_) => refused.push(format!("{name} {value}")),
        }
    }
    if let Some(system) = settings.get("system").and_then(Value::as_str) {
        args.system_prompt = Some(system.to_owned()).filter(|system| !system.trim().is_empty());
    }
    if let Some(stop) = settings.get("stop").and_then(Value::as_array) {
        args.reverse_prompt =
            stop.iter().filter_map(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned).collect();
    }
    (args, refused)
}

/// The sampling parameters of a reply, as the page records them; the seed is the one that was used.
pub fn params(generation: &Generation, seed: Option<u64>) -> Map<String, Value> {
    let sampling = &generation.sampling;
    let number = |value: f32| serde_json::from_str::<Value>(&value.to_string()).unwrap_or_default();
    let mut out = Map::new();
    out.insert("temperature".into(), number(sampling.temperature));
    out.insert("top_k".into(), sampling.top_k.into());
    out.insert("top_p".into(), number(sampling.top_p));
    out.insert("min_p".into(), number(sampling.min_p));
    out.insert("repeat_penalty".into(), number(sampling.repeat_penalty));
    out.insert("repeat_last_n".into(), sampling.repeat_last_n.into());
    out.insert("presence_penalty".into(), number(sampling.presence_penalty));
    out.insert("frequency_penalty".into(), number(sampling.frequency_penalty));
    if let Some(seed) = seed {
        out.insert("seed".into(), seed.into());
    }
    out
}

fn value_of(generation: &Generation, key: &str) -> String {
    let sampling = &generation.sampling;
    match key {
        "temp" => sampling.temperature.to_string(),
        "top-k" => sampling.top_k.to_string(),
        "top-p" => sampling.top_p.to_string(),
        "min-p" => sampling.min_p.to_string(),
        "typical" => sampling.typical_p.to_string(),
        "repeat-penalty" => sampling.repeat_penalty.to_string(),
        "repeat-last-n" => sampling.repeat_last_n.to_string(),
        "presence-penalty" => sampling.presence_penalty.to_string(),
        "frequency-penalty" => sampling.frequency_penalty.to_string(),
        "n-predict" => match generation.limit {
            Limit::Tokens(n) => n.to_string(),
            Limit::EndOfTurn if generation.ignore_eos => "-2".into(),
            Limit::EndOfTurn => "-1".into(),
        },
        "seed" => sampling.seed.map_or_else(|| "-1".into(), |seed| seed.to_string()),
        _ => generation.stop.join(" | "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(args: &RunArgs) -> Generation {
        generation(args).unwrap()
    }

    #[test]
    fn settings_are_those_of_the_command_line() {
        let (args, generation) = set(&RunArgs::default(), "temp", "0.25").unwrap();
        assert_eq!(generation.sampling.temperature, 0.25);
        let (args, generation) = set(&args, "top_k", "3").unwrap();
        assert_eq!((generation.sampling.temperature, generation.sampling.top_k), (0.25, 3));
        let (_, generation) = set(&args, "--seed", "-1").unwrap();
        assert_eq!(generation.sampling.seed, None);
        let (_, generation) = set(&args, "n-predict", "7").unwrap();
        assert_eq!(generation.limit, Limit::Tokens(7));
    }

    #[test]
    fn wrong_settings_are_refused_with_a_hint() {
        let text = |key, value| crate::error::render(&set(&RunArgs::default(), key, value).unwrap_err());
        assert!(text("tmp", "1").contains("did you mean `temp`?"));
        assert!(text("model", "x").contains("the keys are temp"));
        assert!(text("temp", "hot").contains("--temp") && text("temp", "-1").contains("--temp"));
        assert!(text("top-p", "2").contains("from 0 to 1"));
    }

    #[test]
    fn every_key_is_a_flag_and_listed() {
        let shown = list(&meaning(&RunArgs::default()));
        for key in KEYS {
            let value = if *key == "reverse-prompt" { "x" } else { "1" };
            assert!(set(&RunArgs::default(), key, value).is_ok(), "{key}");
            assert!(shown.lines().any(|line| line.starts_with(key)), "{key}");
        }
    }

    #[test]
    fn settings_move_between_the_page_and_the_terminal() {
        let page = json!({ "temperature": 0.7, "topK": 40, "maxTokens": 0, "seed": 5, "system": "Be brief.", "stop": ["X"],
            "topP": 7, "probabilities": 3 });
        let (args, refused) = from_page(&RunArgs::default(), page.as_object().unwrap());
        assert_eq!(refused, ["topP 7"]);
        let written = Value::Object(to_page(&meaning(&args)));
        let expected = json!({ "temperature": 0.7, "topK": 40, "seed": 5, "system": "Be brief.", "stop": ["X"] });
        assert_eq!(written, expected);
    }
}
