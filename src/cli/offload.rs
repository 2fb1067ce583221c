//! Which part of a model a GPU computes: what was asked for, and how much of that fits.

use super::args::{Gpu as Which, RunArgs};
use super::error::CliError;
use super::settings::ComputeSettings;
use crate::error::bytes_for_people;
use crate::gpu::{DeviceInfo, Gpu, GpuError, MAX_HEAD_DIM, SCORE_BYTES, VENDOR, Vendor, device_bytes, devices};
use crate::kernels::Format;
use crate::model::Config;
use crate::ops::RECORDED_STEPS;
use crate::weights::{LayerTensors, Matrix, Tensors};

/// A GPU that is to compute the last layers.
#[derive(Clone, Debug)]
pub struct Offload {
    /// It.
    pub gpu: Gpu,
    /// How many of the last parts, of which the output head is one, at most.
    pub n_parts: usize,
}

/// What goes to the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The first part there; the layers are counted from 0, and the output head follows them.
    pub start: usize,
    /// All parts.
    pub n_parts: usize,
    /// Their weights and their keys and values, in bytes.
    pub bytes: u64,
    /// Memory kept free for a step.
    reserve: u64,
    /// Memory of the GPU that was free.
    free: u64,
    /// Values of a head, where the kernels do not take as many.
    too_wide: Option<usize>,
}

/// `-ngl` where `--gpu nvidia` or `apple` stands alone.
const ALL: usize = usize::MAX;
/// Kept free beside what is counted: the driver's own needs, and a layer's cache that moves as it grows.
const MARGIN: u64 = 128 << 20;

impl Offload {
    /// Opens the GPU that the flags ask for. Where there is none, that is an error for who named it, and otherwise a warning.
    ///
    /// # Errors
    /// `--gpu nvidia`, `apple` or `amd` without one.
    pub fn wanted(args: &RunArgs, warnings: &mut Vec<String>) -> Result<Option<Offload>, CliError> {
        let n_parts = match (args.gpu, args.n_gpu_layers) {
            (Some(Which::Disable), _) | (_, Some(0)) | (None | Some(Which::Auto), None) => return Ok(None),
            (Some(Which::Apple), _) if VENDOR != Some(Vendor::Apple) => {
                return Err(named("apple", "this program has no code for Apple's GPUs"));
            }
            (Some(Which::Nvidia), _) if VENDOR == Some(Vendor::Apple) => {
                return Err(named("nvidia", "this program has no code for NVIDIA's GPUs"));
            }
            (Some(Which::Amd), _) => {
                return Err(named("amd", "this program has no code for AMD's GPUs"));
            }
            (_, Some(n)) => n as usize,
            (Some(Which::Nvidia | Which::Apple), None) => ALL,
        };
        match (Gpu::open(), args.gpu) {
            (Ok(gpu), _) => Ok(Some(Offload { gpu, n_parts })),
            (Err(error), Some(Which::Nvidia)) => Err(named("nvidia", &error.to_string())),
            (Err(error), Some(Which::Apple)) => Err(named("apple", &error.to_string())),
            (Err(error), _) => {
                warnings.push(format!("`-ngl`: {error}; going on with the CPU"));
                Ok(None)
            }
        }
    }

    /// Has the kernels for the formats of these matrices, or for the one that they are converted to, made ready.
    ///
    /// # Errors
    /// A GPU that does not answer.
    pub fn prepare(&self, tensors: &Tensors, converted: Option<Format>) -> Result<(), GpuError> {
        let all = tensors.layers.iter().flat_map(matrices).chain([&tensors.embedding]);
        let used: Vec<Format> = all.map(|matrix| matrix.format).collect();
        let prepared = |format: &Format| converted == Some(*format) || (converted.is_none() && used.contains(format));
        Format::ALL.into_iter().filter(prepared).try_for_each(|format| self.gpu.prepare(format))
    }

    /// How much of the model goes there, and how much fits beside the keys and values of `n_slots` full slots.
    ///
    /// # Errors
    /// A GPU that does not answer.
    pub fn plan(
        &self,
        config: &Config,
        tensors: &Tensors,
        (n_ctx, n_slots): (usize, usize),
        compute: &ComputeSettings,
    ) -> Result<Plan, GpuError> {
        let free = self.gpu.free_bytes()?;
        let n_parts = config.n_layers + 1;
        let reserve = MARGIN.saturating_add(step_bytes(config, (n_ctx, n_slots), compute));
        let room = free.saturating_sub(reserve);
        // The kernels keep a head's queries in memory of a fixed size.
        let too_wide = Some(config.head_dim).filter(|n| *n > MAX_HEAD_DIM);
        let most = if too_wide.is_some() { 0 } else { self.n_parts.min(n_parts) };
        let mut plan = Plan { start: n_parts, n_parts, bytes: 0, reserve, free, too_wide };
        for part in (n_parts - most..n_parts).rev() {
            let bytes = match tensors.layers.get(part) {
                Some(layer) => layer_bytes(layer).saturating_add(cache_bytes(config, part, n_ctx, n_slots, compute)),
                None => matrix_bytes(&tensors.embedding),
            };
            let bytes = plan.bytes.saturating_add(bytes);
            if bytes > room {
                break;
            }
            (plan.start, plan.bytes) = (part, bytes);
        }
        Ok(plan)
    }

    /// What a plan means, and whether it is less than was asked for.
    pub fn tell(&self, plan: &Plan) -> (String, bool) {
        let Plan { start, n_parts, bytes, reserve, free, too_wide } = *plan;
        let name = &self.gpu.info().name;
        let n_layers = n_parts - 1;
        let is_short = n_parts - start < self.n_parts.min(n_parts);
        let (free, needed) = (bytes_for_people(free), bytes_for_people(reserve));
        let short = match too_wide {
            Some(n) => format!("its heads have {n} values, and {MAX_HEAD_DIM} are the most"),
            None => format!("{free} of its memory are free, of which a step may need {needed}"),
        };
        let rest = if is_short { format!("; the CPU computes the rest: {short}") } else { String::new() };
        let what = match n_parts - start {
            0 => return (format!("nothing of the model is put on {name}: {short}"), is_short),
            1 => "the output head".to_owned(),
            n => format!("{} of {n_layers} layers and the output head", n - 1),
        };
        (format!("{what} on {name}, {}{rest}", bytes_for_people(bytes)), is_short)
    }
}

impl Plan {
    /// Whether the CPU computes nothing.
    pub fn is_whole(&self) -> bool {
        self.start == 0
    }
}

/// What `info` and `doctor` say of GPUs.
pub fn describe_devices() -> String {
    match devices() {
        Ok(devices) => devices.iter().map(describe).collect::<Vec<_>>().join("; "),
        Err(error) => format!("none: {error}"),
    }
}

fn describe(device: &DeviceInfo) -> String {
    format!("{} ({}, {})", device.name, bytes_for_people(device.total_bytes), device.generation())
}

fn named(which: &str, why: &str) -> CliError {
    CliError::Usage {
        what: format!("`--gpu {which}` is not possible: {why}"),
        hint: "leave `--gpu` out, and the CPU computes; `gemma2 info` tells what this program finds".into(),
    }
}

fn matrix_bytes(matrix: &Matrix) -> u64 {
    device_bytes(matrix.format, matrix.n_rows, matrix.n_cols).map_or(u64::MAX, |bytes| bytes as u64)
}

fn matrices(layer: &LayerTensors) -> [&Matrix; 7] {
    [&layer.wq, &layer.wk, &layer.wv, &layer.wo, &layer.w_gate, &layer.w_up, &layer.w_down]
}

fn layer_bytes(layer: &LayerTensors) -> u64 {
    matrices(layer).into_iter().map(matrix_bytes).fold(0, u64::saturating_add)
}

/// Keys and values of one layer, for all slots.
fn cache_bytes(config: &Config, layer: usize, n_ctx: usize, n_slots: usize, compute: &ComputeSettings) -> u64 {
    let local = n_ctx.min(config.sliding_window.saturating_add(compute.n_ubatch));
    let positions = if config.local_layers[layer] { local } else { n_ctx } as u64;
    let row_bytes: usize = compute.kv_types.iter().filter_map(|one| one.row_bytes(config.head_dim)).sum();
    positions.saturating_mul((config.n_kv_heads * row_bytes) as u64).saturating_mul(n_slots as u64)
}

/// Activations of the longest step: prompt tokens and each slot's guesses, at each point of a layer, and their logits.
fn step_bytes(config: &Config, (n_ctx, n_slots): (usize, usize), compute: &ComputeSettings) -> u64 {
    let n_guesses = n_slots.saturating_mul(compute.n_lookup + 1);
    let n_tokens = compute.n_ubatch.saturating_add(n_guesses);
    let qkv = (config.n_heads + 2 * config.n_kv_heads) * config.head_dim;
    let row = 4 * config.d_model + 2 * qkv + 4 * config.d_ff;
    let values = n_tokens.saturating_mul(row).saturating_add(n_guesses.saturating_mul(2 * config.n_vocab));
    // A recorded step computes in memory of its own.
    let a_recorded_row = config.n_vocab.saturating_add(row).saturating_add(config.n_heads.saturating_mul(n_ctx));
    let recorded = RECORDED_STEPS.saturating_mul(n_slots).saturating_mul(a_recorded_row);
    (values.saturating_add(recorded) as u64).saturating_mul(size_of::<f32>() as u64).saturating_add(SCORE_BYTES as u64)
}
