//! From files to a running engine, in the order in which mistakes are cheapest: headers, vocabulary, memory, weights.

use std::sync::Arc;
use std::time::Instant;

use super::error::CliError;
use super::loading::Loading;
use super::locate::{Located, Place};
use super::machine::available_memory;
use super::settings::ComputeSettings;
use super::terminal::Terminal;
use crate::chat::ChatTemplate;
use crate::engine::{Engine, EngineOptions};
use crate::error::bytes_for_people;
use crate::kernels::Format;
use crate::model::{Config, Model};
use crate::ops::{Compute, Placement};
use crate::tokenizer::Tokenizer;
use crate::weights::{self, Source};

/// Requests that may wait for a slot of a server.
const MAX_QUEUE: usize = 64;

/// A model whose headers are read and whose weights are not touched.
pub struct Opened {
    /// The tensors, the vocabulary and the numbers.
    pub source: Source,
    /// Where it was found.
    pub place: Place,
    /// Tokens of context of each slot.
    pub n_ctx: usize,
}

/// A model that is ready.
pub struct Loaded {
    /// It.
    pub model: Model,
    /// A GPU computes all of it.
    pub is_on_gpu: bool,
    /// The rows of its weights are interleaved in memory.
    pub is_interleaved: bool,
}

/// A model at work.
pub struct Started {
    /// It.
    pub engine: Engine,
    /// See [`Loaded`].
    pub is_on_gpu: bool,
    /// See [`Loaded`].
    pub is_interleaved: bool,
}

impl Opened {
    /// Reads the headers and settles the context: 0 is the model's maximum, and more than that is clamped, and said.
    ///
    /// # Errors
    /// Files that are no Gemma 2.
    pub fn new(located: Located, n_ctx: usize, terminal: &Terminal) -> Result<Opened, CliError> {
        let source = Source::open(located.files)?;
        let n_ctx_train = source.config().n_ctx_train;
        let n_ctx = match n_ctx {
            0 => n_ctx_train,
            n if n > n_ctx_train => {
                terminal.note(format!("`-c {n}` is more than the model's {n_ctx_train}; using {n_ctx_train}"));
                n_ctx_train
            }
            n => n,
        };
        Ok(Opened { source, place: located.place, n_ctx })
    }

    /// The name in the APIs and messages: the file's, without folder and ending.
    pub fn id(&self) -> String {
        let file = self.source.file();
        let base = file.rsplit(['/', '\\']).next().unwrap_or(file);
        match base.strip_suffix(".gguf") {
            Some(stem) => stem.split("-00001-of-").next().unwrap_or(stem).to_owned(),
            None => self.source.name().to_owned(),
        }
    }

    /// The vocabulary.
    ///
    /// # Errors
    /// A vocabulary that is not Gemma's kind.
    pub fn tokenizer(&self) -> Result<Arc<Tokenizer>, CliError> {
        tokenizer(&self.source).map(Arc::new)
    }

    /// The model's chat template; `None` where it has none, so that prompts go to it as they are.
    ///
    /// # Errors
    /// A template that is not valid.
    pub fn template(&self) -> Result<Option<ChatTemplate>, CliError> {
        let template = self.source.chat_template();
        Ok(template.map(|template| ChatTemplate::new(Some(template))).transpose()?)
    }

    /// Whether there is enough memory, told before it runs out. Returns the number of slots: the asked for one, or for a
    /// server that was not told how many, as many as fit.
    ///
    /// # Errors
    /// [`CliError::Memory`] with the context that would fit.
    pub fn check_memory(&self, compute: &ComputeSettings, terminal: &Terminal) -> Result<usize, CliError> {
        let Some(available) = available_memory() else {
            return Ok(compute.n_parallel);
        };
        let is_copied = compute.no_mmap || compute.repack == Some(true);
        let copied = match (compute.dtype.filter(|_| self.is_convertible()), is_copied) {
            (Some(Format::F32), _) => self.source.n_params().saturating_mul(4),
            (Some(_), _) => self.source.n_params().saturating_mul(2),
            (None, true) => self.source.weight_bytes(),
            (None, false) => 0,
        };
        let fit = fit_memory(self.source.config(), copied, self.n_ctx, compute, available)?;
        if fit < compute.n_parallel {
            terminal.note(format!("memory is enough for {fit} of {} slots (`-np`)", compute.n_parallel));
        }
        Ok(fit)
    }

    /// Whether `--dtype` can apply: the weights are those of a safetensors model.
    fn is_convertible(&self) -> bool {
        self.source.gguf().is_none()
    }

    /// Refuses `--dtype` for a GGUF file, and says where a preset's does not apply.
    ///
    /// # Errors
    /// It was asked for.
    pub fn check_dtype(&self, compute: &ComputeSettings, terminal: &Terminal) -> Result<(), CliError> {
        match compute.dtype {
            Some(_) if self.is_convertible() => Ok(()),
            Some(_) if compute.is_dtype_given => Err(CliError::Usage {
                what: "`--dtype` is for safetensors models, and this is a GGUF file".into(),
                hint: "leave it out, or make another file with `gemma2 quantize IN OUT BF16`".into(),
            }),
            Some(_) => {
                terminal.detail("`--dtype` of the preset does not apply: a GGUF file is used as it is");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Whether products are faster for it, and a copy of the weights leaves as much memory free again: they are read at the
    /// start anyway then.
    fn is_interleaving_worth_it(&self, compute: &ComputeSettings) -> bool {
        let needed = self.source.weight_bytes().saturating_mul(2);
        let is_faster = compute.offload.is_none() && compute.kernels.is_faster_interleaved();
        is_faster && available_memory().is_some_and(|free| free > needed)
    }

    /// Has the GPU's kernels for the model's formats made ready, if there is one to compute on.
    ///
    /// # Errors
    /// Weights that do not make a Gemma 2; a GPU that does not answer.
    pub fn prepare_gpu(&self, compute: &ComputeSettings) -> Result<(), CliError> {
        let Some(offload) = &compute.offload else { return Ok(()) };
        let converted = compute.dtype.filter(|_| self.is_convertible());
        Ok(offload.prepare(&self.source.tensors()?, converted)?)
    }

    /// Takes the weights, and puts them where they are computed with: for `n_parallel` sequences, if a GPU's memory is
    /// short.
    ///
    /// # Errors
    /// Weights that do not make a Gemma 2; not enough memory for `--no-mmap` or `--dtype`; a GPU that does not answer.
    pub fn model(
        &self,
        compute: &ComputeSettings,
        n_parallel: usize,
        loading: &mut Loading<'_>,
    ) -> Result<Loaded, CliError> {
        let weight_bytes = self.source.weight_bytes();
        let placement = weights::Placement {
            format: compute.dtype.filter(|_| self.is_convertible()),
            copy: compute.no_mmap,
            interleave: compute.repack.unwrap_or(loading.is_for_long() && self.is_interleaving_worth_it(compute)),
            lock: compute.mlock,
            // What does not fit would only push itself out of memory again.
            read: loading.is_for_long() && available_memory().is_some_and(|free| free > weight_bytes),
        };
        let weights::Placed { tensors, unlocked } =
            self.source.tensors()?.placed(&placement, &mut |done, total| loading.update(done, total))?;
        loading.erase();
        let is_interleaved = placement.interleave;
        if is_interleaved {
            loading
                .terminal()
                .detail("weights  in memory, with their rows interleaved (`--no-repack` leaves them in the file)");
        }
        if let Some(error) = unlocked {
            let size = bytes_for_people(weight_bytes);
            let what = format!("`--mlock`: {size} cannot be locked ({error}); `ulimit -l` is the limit");
            loading.terminal().note(what);
        }
        let config = self.source.config();
        let on_cpu = Compute::cpu(compute.kernels, compute.n_threads).map_err(crate::model::ModelError::from)?;
        let on_cpu = on_cpu.with_batch_threads(compute.n_threads_batch).map_err(crate::model::ModelError::from)?;
        let mut placement = Placement::from(on_cpu.with_kv_types(compute.kv_types));
        let mut is_on_gpu = false;
        if let Some(offload) = &compute.offload {
            let plan = offload.plan(config, &tensors, (self.n_ctx, n_parallel), compute)?;
            let (text, is_short) = offload.tell(&plan);
            if is_short {
                loading.terminal().note(format!("`-ngl`: {text}"))
            } else {
                loading.terminal().detail(format!("GPU      {text}"))
            }
            is_on_gpu = plan.is_whole();
            placement = placement.split(plan.start, Compute::gpu(offload.gpu.clone()).with_kv_types(compute.kv_types));
        }
        let model = Model::new(config.clone(), tensors, placement, compute.n_ubatch)?;
        Ok(Loaded { model, is_on_gpu, is_interleaved })
    }

    /// Takes the weights and starts the engine.
    ///
    /// # Errors
    /// Weights that do not make a Gemma 2; not enough memory for a copy.
    pub fn start(
        self,
        tokenizer: Arc<Tokenizer>,
        n_parallel: usize,
        compute: &ComputeSettings,
        loading: Loading<'_>,
    ) -> Result<Engine, CliError> {
        self.start_and_tell(tokenizer, n_parallel, compute, loading).map(|started| started.engine)
    }

    /// The same, and what became of the weights.
    ///
    /// # Errors
    /// As [`Opened::start`].
    pub fn start_and_tell(
        self,
        tokenizer: Arc<Tokenizer>,
        n_parallel: usize,
        compute: &ComputeSettings,
        mut loading: Loading<'_>,
    ) -> Result<Started, CliError> {
        let start = Instant::now();
        let Loaded { model, is_on_gpu, is_interleaved } = self.model(compute, n_parallel, &mut loading)?;
        loading.terminal().trace(format!("weights  taken in {:.2} s", start.elapsed().as_secs_f64()));
        loading.terminal().detail(format!(
            "engine   {n_parallel} × {} tokens of context, {} prompt tokens a step",
            self.n_ctx, compute.n_ubatch
        ));
        let options = EngineOptions {
            n_ctx: self.n_ctx,
            n_parallel,
            n_ubatch: compute.n_ubatch,
            max_queue: MAX_QUEUE,
            n_lookup: compute.n_lookup,
        };
        Ok(Started { engine: Engine::start(model, tokenizer, options), is_on_gpu, is_interleaved })
    }
}

fn tokenizer(source: &Source) -> Result<Tokenizer, CliError> {
    let vocabulary = source.vocabulary();
    let tokenizer = Tokenizer::from_vocabulary(vocabulary)
        .map_err(|error| CliError::Tokenizer { file: vocabulary.file().to_owned(), source: Box::new(error) })?;
    source.check_vocabulary_size(tokenizer.n_vocab())?;
    Ok(tokenizer)
}

/// Bytes of one slot's keys and values, for every position that a layer keeps.
pub fn kv_cache_bytes(config: &Config, n_ctx: usize, compute: &ComputeSettings) -> u64 {
    let local = n_ctx.min(config.sliding_window.saturating_add(compute.n_ubatch));
    let positions: u64 = config.local_layers.iter().map(|&is_local| if is_local { local } else { n_ctx } as u64).sum();
    // A type that cannot hold such heads is refused later.
    let row_bytes = compute.kv_types.map(|one| one.row_bytes(config.head_dim).unwrap_or_default());
    positions.saturating_mul((config.n_kv_heads * (row_bytes[0] + row_bytes[1])) as u64)
}

/// Slots that fit beside the copied `weights`, at most as many as asked for.
fn fit_memory(
    config: &Config,
    weights: u64,
    n_ctx: usize,
    compute: &ComputeSettings,
    available: u64,
) -> Result<usize, CliError> {
    let slots_at = |n_ctx: usize| {
        let slot = kv_cache_bytes(config, n_ctx, compute).max(1);
        usize::try_from(available.saturating_sub(weights) / slot).unwrap_or(usize::MAX)
    };
    let needed_slots = if compute.is_parallel_given { compute.n_parallel } else { 1 };
    let fit = slots_at(n_ctx).min(compute.n_parallel);
    if fit >= needed_slots {
        return Ok(fit);
    }
    let slots = kv_cache_bytes(config, n_ctx, compute).saturating_mul(needed_slots as u64);
    // The largest power of two that fits is easy to type and to remember.
    let smaller = (6..20).map(|log2| 1usize << log2).rev().find(|&n| n < n_ctx && slots_at(n) >= needed_slots);
    Err(CliError::Memory {
        what: format!(
            "a context of {n_ctx} tokens needs {} of memory and {} are free",
            bytes_for_people(weights.saturating_add(slots)),
            bytes_for_people(available)
        ),
        hint: match smaller {
            Some(n) => format!("`-c {n}` fits"),
            None if compute.no_mmap => "leave `--no-mmap` out, or use a smaller quantization".into(),
            None if compute.repack == Some(true) => "leave `--repack` out, or use a smaller quantization".into(),
            None => "close other programs, or use a smaller model".into(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::RunArgs;
    use crate::cli::settings::Settings;
    use crate::ops::KvType;

    /// Gemma 2 2B's numbers.
    fn config() -> Config {
        Config {
            n_layers: 26,
            d_model: 2304,
            d_ff: 9216,
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: 256,
            n_vocab: 256_000,
            n_ctx_train: 8192,
            rms_eps: 1e-6,
            rope_base: 10_000.0,
            query_scale: 0.0625,
            attn_softcap: 50.0,
            final_softcap: 30.0,
            sliding_window: 4096,
            local_layers: (0..26).map(|layer| layer % 2 == 0).collect(),
        }
    }

    fn compute(line: RunArgs) -> ComputeSettings {
        Settings::resolve(line, RunArgs::default()).unwrap().compute
    }

    #[test]
    fn a_slot_needs_what_its_layers_keep() {
        let usual = compute(RunArgs::default());
        // 26 layers, 2 of keys and values, 2 bytes, 4 heads of 256.
        assert_eq!(kv_cache_bytes(&config(), 512, &usual), 26 * 512 * 4096);
        assert_eq!(kv_cache_bytes(&config(), 8192, &usual), 13 * (8192 + 4608) * 4096);
        let small = compute(RunArgs { cache_type_k: Some(KvType::Q8_0), ..RunArgs::default() });
        assert_eq!(kv_cache_bytes(&config(), 512, &small), 26 * 512 * 4 * (272 + 512));
    }

    #[test]
    fn too_little_memory_is_told_with_a_context_that_fits() {
        let one = compute(RunArgs { prompt: Some("x".into()), ..RunArgs::default() });
        assert_eq!(fit_memory(&config(), 0, 8192, &one, 700_000_000).unwrap(), 1);
        let error = fit_memory(&config(), 0, 8192, &one, 300_000_000).unwrap_err();
        assert_eq!(error.exit_status(), 5);
        let text = crate::error::render(&error);
        assert!(text.contains("`-c 2048` fits"), "{text}");
        let copied = ComputeSettings { no_mmap: true, ..one };
        let error = fit_memory(&config(), 2_000_000_000, 64, &copied, 1_000_000_000).unwrap_err();
        assert!(crate::error::render(&error).contains("leave `--no-mmap` out"), "{error}");
    }

    #[test]
    fn a_server_takes_the_slots_that_fit_unless_it_was_told() {
        let free = compute(RunArgs::default());
        assert_eq!(fit_memory(&config(), 0, 8192, &free, 1_500_000_000).unwrap(), 2);
        assert_eq!(fit_memory(&config(), 0, 512, &free, 1_500_000_000).unwrap(), 4);
        let told = compute(RunArgs { parallel: Some(4), ..RunArgs::default() });
        assert!(fit_memory(&config(), 0, 8192, &told, 1_500_000_000).is_err());
    }
}
