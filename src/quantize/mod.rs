//! Weights in, a smaller GGUF file out: tensor by tensor, a bounded number of rows at a time, all threads at work.
//!
//! `recipe.rs` says which tensor gets which format, `encode.rs` makes the blocks with the factors that `search.rs` finds,
//! `metadata.rs` writes the header. The source may be anything that [`Source`] opens. A [`Plan`] knows the length before
//! anything is written, so that the new file can also be a member of an archive.

mod encode;
mod metadata;
mod recipe;
mod search;

pub use recipe::Recipe;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::bundle::{NewFile, free_space};
use crate::error::{Hint, bytes_for_people, name_for_people};
use crate::gguf::{GgmlType, TensorSink, Writer};
use crate::kernels::{Format, dequantize_row};
use crate::tokenizer::TokenizerError;
use crate::weights::{Matrix, Source, Tensor, Tensors, WeightsError};
use encode::encode_row;
use recipe::Proportions;

/// What to make.
#[derive(Clone, Debug)]
pub struct QuantizeOptions {
    /// The file to be made.
    pub output: PathBuf,
    /// Its type.
    pub recipe: Recipe,
    /// Replace an existing output.
    pub overwrite: bool,
    /// Threads.
    pub n_threads: usize,
}

/// How far the work is.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// The tensor at hand.
    pub tensor: &'a str,
    /// Weights done of all.
    pub done: u64,
    /// All weights.
    pub total: u64,
}

/// Called several times a second; `Break` ends the work with [`QuantizeError::Interrupted`].
pub type OnProgress<'a> = dyn FnMut(Progress<'_>) -> ControlFlow<()> + 'a;

/// A file that was not made. No half-made output is left.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say what the fields are.
pub enum QuantizeError {
    #[error(transparent)]
    Weights(Box<WeightsError>),
    #[error("the tokenizer cannot be converted: {0}")]
    Tokenizer(TokenizerError),
    #[error("the model has {0}, for which GGUF has no key")]
    NoKey(String),
    #[error("{0}")]
    Tensor(String),
    #[error("tensor `{tensor}` holds the value {value} in row {row}, which {recipe} cannot store")]
    Value { tensor: String, row: usize, value: f32, recipe: Recipe },
    #[error("`{}` exists already", .0.display())]
    Exists(PathBuf),
    #[error("`{}` is a file of the model itself", .0.display())]
    SameFile(PathBuf),
    #[error("no space for `{}`: it needs {} and {} are free", path.display(), bytes_for_people(*needed), bytes_for_people(*free))]
    NoSpace { path: PathBuf, needed: u64, free: u64 },
    #[error("`{}` cannot be written", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("no threads: {0}")]
    Threads(String),
    #[error("interrupted")]
    Interrupted,
}

impl From<WeightsError> for QuantizeError {
    fn from(error: WeightsError) -> QuantizeError {
        QuantizeError::Weights(Box::new(error))
    }
}

impl Hint for QuantizeError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            QuantizeError::Weights(error) => return error.hint(),
            QuantizeError::Tokenizer(error) => return error.hint(),
            QuantizeError::NoKey(_) | QuantizeError::Tensor(_) => {
                "use the safetensors as they are: `-m` takes the directory".into()
            }
            QuantizeError::Value { value, .. } if value.is_finite() => "take BF16, which has a larger range".into(),
            QuantizeError::Value { .. } => "the file is damaged; fetch it again".into(),
            QuantizeError::Exists(_) => "choose another name, or replace it with `--force`".into(),
            QuantizeError::SameFile(_) => "choose another name for the output".into(),
            QuantizeError::NoSpace { .. } => "free some space, or write to another disk".into(),
            QuantizeError::Io { .. } | QuantizeError::Threads(_) | QuantizeError::Interrupted => return None,
        })
    }
}

/// A new file before it is written: what each tensor becomes, and how long the whole will be.
pub struct Plan {
    recipe: Recipe,
    tensors: Tensors,
    /// Of each tensor, in the order of [`Tensors::by_gguf_name`].
    formats: Vec<Format>,
    writer: Writer,
    n_params: u64,
}

impl Plan {
    /// Decides. No weights are read but norms.
    ///
    /// # Errors
    /// Weights that are no Gemma 2, or that GGUF cannot describe.
    pub fn new(source: &Source, recipe: Recipe) -> Result<Plan, QuantizeError> {
        let tensors = source.tensors()?;
        let config = source.config();
        let model = Proportions { n_layers: config.n_layers, group: config.n_heads / config.n_kv_heads };
        let mut writer = Writer::new();
        metadata::write_metadata(&mut writer, source, recipe)?;
        let mut formats = Vec::new();
        for (name, tensor) in tensors.by_gguf_name() {
            let (shape, format) = match tensor {
                Tensor::Norm(factors) => (vec![factors.len()], Format::F32),
                Tensor::Matrix(m) => (vec![m.n_rows, m.n_cols], recipe.format(&name, m.n_cols, model)),
            };
            let planned = writer.tensor(&name, &shape, ggml_type(format));
            planned.map_err(|error| QuantizeError::Tensor(error.to_string()))?;
            formats.push(format);
        }
        Ok(Plan { recipe, tensors, formats, writer, n_params: source.n_params() })
    }

    /// Length of the file in bytes.
    pub fn n_bytes(&self) -> u64 {
        self.writer.n_bytes()
    }

    /// Writes the file, with exactly [`n_bytes`](Self::n_bytes) bytes. Tensors that have their new format already are copied
    /// as they are; norms are stored as F32 factors. At any time about `CHUNK_BYTES` of output are in memory; pages of the
    /// source are given back when they have been read.
    ///
    /// # Errors
    /// What `out` says, or a [`QuantizeError`].
    pub fn write(&self, out: impl Write, n_threads: usize, on_progress: &mut OnProgress<'_>) -> Result<(), Stop> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads.max(1)).build();
        let pool = pool.map_err(|error| Stop::Error(QuantizeError::Threads(error.to_string())))?;
        let sink = self.writer.clone().start(out)?;
        let mut work = Work { recipe: self.recipe, sink, on_progress, done: 0, total: self.n_params };
        for ((name, tensor), &format) in self.tensors.by_gguf_name().iter().zip(&self.formats) {
            match tensor {
                Tensor::Norm(factors) => work.write_norm(name, factors)?,
                Tensor::Matrix(m) => work.write_matrix(name, m, format, &pool)?,
            }
        }
        work.sink.finish()?;
        Ok(())
    }
}

/// Makes the file and returns its length. See [`Plan::write`].
///
/// # Errors
/// See [`QuantizeError`]; the output is untouched then.
pub fn quantize(
    source: &Source,
    options: &QuantizeOptions,
    on_progress: &mut OnProgress<'_>,
) -> Result<u64, QuantizeError> {
    let output = &options.output;
    check_output(source, options)?;
    let plan = Plan::new(source, options.recipe)?;
    let needed = plan.n_bytes();
    if let Some(free) = free_space(output).filter(|free| *free < needed) {
        return Err(QuantizeError::NoSpace { path: output.clone(), needed, free });
    }
    let io_error = |source: io::Error| QuantizeError::Io { path: output.clone(), source };
    let new_file = NewFile::create(output, false).map_err(io_error)?;
    let written = plan.write(new_file.in_large_pages(), options.n_threads, on_progress);
    written.and_then(|()| Ok(new_file.file().sync_all()?)).map_err(|stop| match stop {
        Stop::Error(error) => error,
        Stop::Io(error) if error.kind() == io::ErrorKind::StorageFull => {
            QuantizeError::NoSpace { path: output.clone(), needed, free: free_space(output).unwrap_or(0) }
        }
        Stop::Io(error) => io_error(error),
    })?;
    new_file.rename_to(output).map_err(io_error)?;
    Ok(needed)
}

/// Bytes of output that are made together.
const CHUNK_BYTES: usize = 8 << 20;

/// Why writing ends early.
#[derive(Debug)]
pub enum Stop {
    /// The output does not take what it is given.
    Io(io::Error),
    /// Anything else.
    Error(QuantizeError),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        Stop::Io(error)
    }
}

struct Work<'a, 'b, W: Write> {
    recipe: Recipe,
    sink: TensorSink<W>,
    on_progress: &'a mut OnProgress<'b>,
    done: u64,
    total: u64,
}

impl<W: Write> Work<'_, '_, W> {
    fn write_norm(&mut self, name: &str, factors: &[f32]) -> Result<(), Stop> {
        let bytes: Vec<u8> = factors.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.sink.write(&bytes)?;
        self.report(name, factors.len())
    }

    fn write_matrix(&mut self, name: &str, m: &Matrix, format: Format, pool: &rayon::ThreadPool) -> Result<(), Stop> {
        // Both are known: the source and the writer have checked the rows.
        let row_bytes = |format: Format| format.row_bytes(m.n_cols).unwrap_or(0).max(1);
        let (old_bytes, new_bytes) = (row_bytes(m.format), row_bytes(format));
        let n_rows = (CHUNK_BYTES / new_bytes).clamp(1, m.n_rows);
        let mut out = vec![0; if format == m.format { 0 } else { n_rows * new_bytes }];
        for (chunk, rows) in m.bytes.chunks(n_rows * old_bytes).enumerate() {
            let n = rows.len() / old_bytes;
            if format == m.format {
                self.sink.write(rows)?;
            } else {
                let out = &mut out[..n * new_bytes];
                let bad = pool.install(|| encode_rows(m, rows, format, out));
                if let Some((row, value)) = bad {
                    let row = chunk * n_rows + row;
                    let tensor = name_for_people(m.name.as_bytes());
                    return Err(Stop::Error(QuantizeError::Value { tensor, row, value, recipe: self.recipe }));
                }
                self.sink.write(out)?;
            }
            self.report(name, n * m.n_cols)?;
            // What has been read would otherwise count as this program's memory: gigabytes for an embedding.
            let start = chunk * n_rows * old_bytes;
            if let Some(done) = m.bytes.slice(start..start + rows.len()) {
                done.release();
            }
        }
        Ok(())
    }

    fn report(&mut self, tensor: &str, n_values: usize) -> Result<(), Stop> {
        self.done += n_values as u64;
        match (self.on_progress)(Progress { tensor, done: self.done, total: self.total }) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Stop::Error(QuantizeError::Interrupted)),
        }
    }
}

/// Encodes rows, on all threads. Returns a row and its value that the format cannot store, if there is one.
fn encode_rows(m: &Matrix, rows: &[u8], format: Format, out: &mut [u8]) -> Option<(usize, f32)> {
    let old_bytes = m.format.row_bytes(m.n_cols)?;
    let new_bytes = format.row_bytes(m.n_cols)?;
    let most = if matches!(format, Format::F32 | Format::BF16) { f32::MAX } else { MAX_F16 };
    let pairs = rows.par_chunks(old_bytes).zip(out.par_chunks_mut(new_bytes)).enumerate();
    pairs
        .map_init(
            || vec![0.0f32; m.n_cols],
            |values, (row, (old, new))| {
                dequantize_row(m.format, old, values);
                if let Some(value) = values.iter().find(|v| v.is_nan() || v.abs() > most) {
                    return Some((row, *value));
                }
                encode_row(format, values, new);
                None
            },
        )
        .find_map_first(|bad| bad)
}

/// The largest f16; scales are no larger than values.
const MAX_F16: f32 = 65504.0;

fn ggml_type(format: Format) -> GgmlType {
    match format {
        Format::F32 => GgmlType::F32,
        Format::F16 => GgmlType::F16,
        Format::BF16 => GgmlType::BF16,
        Format::Q4_0 => GgmlType::Q4_0,
        Format::Q4_1 => GgmlType::Q4_1,
        Format::Q5_0 => GgmlType::Q5_0,
        Format::Q5_1 => GgmlType::Q5_1,
        Format::Q8_0 => GgmlType::Q8_0,
        Format::Q2_K => GgmlType::Q2_K,
        Format::Q3_K => GgmlType::Q3_K,
        Format::Q4_K => GgmlType::Q4_K,
        Format::Q5_K => GgmlType::Q5_K,
        Format::Q6_K => GgmlType::Q6_K,
        Format::IQ4_NL => GgmlType::IQ4_NL,
        Format::IQ4_XS => GgmlType::IQ4_XS,
    }
}

fn check_output(source: &Source, options: &QuantizeOptions) -> Result<(), QuantizeError> {
    let output = &options.output;
    if output.is_dir() || output.file_name().is_none() {
        let source = io::ErrorKind::IsADirectory.into();
        return Err(QuantizeError::Io { path: output.clone(), source });
    }
    if !output.exists() {
        return Ok(());
    }
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let is_input = real(output).is_some() && real(output) == real(Path::new(source.file()));
    if is_input {
        return Err(QuantizeError::SameFile(output.clone()));
    }
    if !options.overwrite {
        return Err(QuantizeError::Exists(output.clone()));
    }
    Ok(())
}
