//! The table of tensors, read as a Gemma 2: every tensor found, its shape checked, norms made factors.

use std::collections::HashSet;

use super::config::Config;
use super::names::{Part, Scheme};
use super::table::{Entry, Table};
use super::{LayerTensors, Matrix, Tensors, WeightsError};
use crate::error::name_for_people;
use crate::kernels::Format;

/// Reads the whole model. `file` is named where a tensor is in no file.
pub(super) fn read_tensors(
    table: &Table,
    scheme: Scheme,
    config: &Config,
    file: &str,
) -> Result<Tensors, WeightsError> {
    let mut reader = Reader { table, scheme, file, used: HashSet::new() };
    let d_model = config.d_model;
    let n_query = config.n_heads * config.head_dim;
    let n_kv = config.n_kv_heads * config.head_dim;
    let embedding = reader.matrix(scheme.embedding(), config.n_vocab, d_model)?;
    let mut layers = Vec::new();
    for layer in 0..config.n_layers {
        let name = |part| scheme.layer(layer, part);
        layers.push(LayerTensors {
            pre_attn_norm: reader.norm(&name(Part::PreAttnNorm), d_model)?,
            wq: reader.matrix(&name(Part::Wq), n_query, d_model)?,
            wk: reader.matrix(&name(Part::Wk), n_kv, d_model)?,
            wv: reader.matrix(&name(Part::Wv), n_kv, d_model)?,
            wo: reader.matrix(&name(Part::Wo), d_model, n_query)?,
            post_attn_norm: reader.norm(&name(Part::PostAttnNorm), d_model)?,
            pre_ffn_norm: reader.norm(&name(Part::PreFfnNorm), d_model)?,
            w_gate: reader.matrix(&name(Part::WGate), config.d_ff, d_model)?,
            w_up: reader.matrix(&name(Part::WUp), config.d_ff, d_model)?,
            w_down: reader.matrix(&name(Part::WDown), d_model, config.d_ff)?,
            post_ffn_norm: reader.norm(&name(Part::PostFfnNorm), d_model)?,
        });
    }
    let output_norm = reader.norm(scheme.output_norm(), d_model)?;
    reader.check_output_matrix()?;
    reader.check_nothing_left(config.n_layers)?;
    Ok(Tensors { embedding, layers, output_norm })
}

struct Reader<'a> {
    table: &'a Table,
    scheme: Scheme,
    file: &'a str,
    used: HashSet<String>,
}

impl<'a> Reader<'a> {
    fn entry(&mut self, name: &str, shape: &[usize]) -> Result<&'a Entry, WeightsError> {
        let Some(entry) = self.table.entries.get(name) else {
            return Err(WeightsError::MissingTensor { file: self.file.to_owned(), tensor: name.to_owned() });
        };
        if entry.shape != shape {
            return Err(WeightsError::Shape {
                file: entry.file.to_string(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        self.used.insert(name.to_owned());
        Ok(entry)
    }

    fn matrix(&mut self, name: &str, n_rows: usize, n_cols: usize) -> Result<Matrix, WeightsError> {
        let entry = self.entry(name, &[n_rows, n_cols])?;
        let Some(format) = entry.format else {
            return Err(WeightsError::UnsupportedType {
                file: entry.file.to_string(),
                tensor: name.to_owned(),
                found: entry.type_name.clone(),
            });
        };
        let (name, bytes) = (name.to_owned(), entry.bytes.clone());
        Ok(Matrix { name, n_rows, n_cols, format, is_interleaved: false, bytes })
    }

    /// A norm's factors as F32. Every value is looked at anyway, so that a NaN is found here and by name.
    fn norm(&mut self, name: &str, len: usize) -> Result<Vec<f32>, WeightsError> {
        let entry = self.entry(name, &[len])?;
        let bytes: &[u8] = &entry.bytes;
        let mut factors: Vec<f32> = match entry.format {
            Some(Format::F32) => {
                let chunks = bytes.chunks_exact(4);
                chunks.map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Some(Format::F16) => {
                let chunks = bytes.chunks_exact(2);
                chunks.map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Some(Format::BF16) => {
                let chunks = bytes.chunks_exact(2);
                chunks.map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            _ => {
                return Err(WeightsError::NormType {
                    file: entry.file.to_string(),
                    tensor: name.to_owned(),
                    found: entry.type_name.clone(),
                });
            }
        };
        if let Some(position) = factors.iter().position(|factor| !factor.is_finite()) {
            return Err(WeightsError::NotFinite {
                file: entry.file.to_string(),
                tensor: name.to_owned(),
                position,
                value: factors[position],
            });
        }
        let offset = self.scheme.norm_offset();
        if offset != 0.0 {
            factors.iter_mut().for_each(|factor| *factor += offset);
        }
        Ok(factors)
    }

    /// A Gemma 2's output matrix is its embedding. A copy of it in the file is left out; another matrix is an error, since
    /// leaving it out would give wrong text. Comparing all of it would read half a gigabyte at each start, so 64 rows are
    /// compared, spread over the whole: a matrix that was trained apart differs in every row.
    fn check_output_matrix(&mut self) -> Result<(), WeightsError> {
        let name = self.scheme.output_matrix();
        let entries = &self.table.entries;
        let (Some(output), Some(embedding)) = (entries.get(name), entries.get(self.scheme.embedding())) else {
            return Ok(());
        };
        self.used.insert(name.to_owned());
        let same_kind = output.shape == embedding.shape && output.type_name == embedding.type_name;
        let n_rows = embedding.shape.first().copied().unwrap_or(0).max(1);
        let row_bytes = embedding.bytes.len() / n_rows;
        let same_row = |row: usize| {
            let range = row * row_bytes..(row + 1) * row_bytes;
            output.bytes.get(range.clone()) == embedding.bytes.get(range)
        };
        let step = n_rows.div_ceil(64);
        if same_kind && (0..n_rows).step_by(step).all(same_row) && same_row(n_rows - 1) {
            return Ok(());
        }
        Err(WeightsError::UntiedOutput { file: output.file.to_string(), tensor: name.to_owned() })
    }

    /// A tensor that nothing asked for (a bias, a layer too many) means that this is not the model it says it is.
    fn check_nothing_left(&self, n_layers: usize) -> Result<(), WeightsError> {
        let left = self
            .table
            .entries
            .iter()
            .filter(|(name, _)| !self.used.contains(name.as_str()) && !self.scheme.is_derived(name));
        // The first by name, so that the message is always the same.
        match left.min_by_key(|(name, _)| name.as_str()) {
            None => Ok(()),
            Some((name, entry)) => Err(WeightsError::UnexpectedTensor {
                file: entry.file.to_string(),
                tensor: name_for_people(name.as_bytes()),
                n_layers,
            }),
        }
    }
}
