//! Weights in another float format, in memory of their own.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{LayerTensors, Matrix, Tensors};
use crate::bundle::Bytes;
use crate::kernels::Format;

/// Weights that cannot be converted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// Only floats become other floats here.
    #[error("tensor `{name}` is {from:?}, and only F32, F16 and BF16 weights can be taken as another type")]
    NotFloat {
        /// The tensor.
        name: String,
        /// What it is.
        from: Format,
    },
    /// The system has no more.
    #[error("no memory for the {n_bytes} bytes of tensor `{name}`")]
    Memory {
        /// The tensor.
        name: String,
        /// What it needs.
        n_bytes: usize,
    },
}

impl crate::error::Hint for ConvertError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            ConvertError::NotFloat { .. } => "leave `--dtype` out; `gemma2 quantize` makes other files",
            ConvertError::Memory { .. } => "leave `--dtype` out: mapped weights need no memory of their own",
        };
        Some(hint.into())
    }
}

impl Tensors {
    /// The same weights as `to`, which is F32 or BF16; rounded to nearest where it is narrower. Matrices that are in this
    /// format already stay where they are.
    ///
    /// # Errors
    /// Quantized weights; not enough memory.
    pub fn converted(self, to: Format) -> Result<Tensors, ConvertError> {
        let Tensors { embedding, layers, output_norm } = self;
        let convert = |layer: LayerTensors| -> Result<LayerTensors, ConvertError> {
            Ok(LayerTensors {
                wq: layer.wq.converted(to)?,
                wk: layer.wk.converted(to)?,
                wv: layer.wv.converted(to)?,
                wo: layer.wo.converted(to)?,
                w_gate: layer.w_gate.converted(to)?,
                w_up: layer.w_up.converted(to)?,
                w_down: layer.w_down.converted(to)?,
                ..layer
            })
        };
        let layers = layers.into_iter().map(convert).collect::<Result<_, _>>()?;
        Ok(Tensors { embedding: embedding.converted(to)?, layers, output_norm })
    }
}

impl Matrix {
    fn converted(self, to: Format) -> Result<Matrix, ConvertError> {
        if self.format == to {
            return Ok(self);
        }
        let (from_size, widen): (usize, fn(&[u8]) -> f32) = match self.format {
            Format::F32 => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Format::F16 => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Format::BF16 => (2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            from => return Err(ConvertError::NotFloat { name: self.name, from }),
        };
        let to_size = if to == Format::F32 { 4 } else { 2 };
        let n_bytes = (self.bytes.len() / from_size).saturating_mul(to_size);
        let mut out: Vec<u8> = Vec::new();
        if out.try_reserve_exact(n_bytes).is_err() {
            return Err(ConvertError::Memory { name: self.name, n_bytes });
        }
        out.resize(n_bytes, 0);
        let narrow = |value: f32, out: &mut [u8]| match to_size {
            4 => out.copy_from_slice(&value.to_le_bytes()),
            _ => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        };
        // Pieces large enough to be worth a thread's while.
        const PIECE: usize = 1 << 16;
        let pieces = out.par_chunks_mut(PIECE * to_size).zip(self.bytes.par_chunks(PIECE * from_size));
        pieces.for_each(|(out, bytes)| {
            for (out, bytes) in out.chunks_exact_mut(to_size).zip(bytes.chunks_exact(from_size)) {
                narrow(widen(bytes), out);
            }
        });
        Ok(Matrix { format: to, bytes: Bytes::from(out), ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(format: Format, bytes: Vec<u8>, n_cols: usize) -> Matrix {
        Matrix { name: "w".into(), n_rows: 1, n_cols, format, bytes: bytes.into() }
    }

    #[test]
    fn floats_become_other_floats() {
        let values = [1.0_f32, -2.5, 1.003_906_3, 3.0e38];
        let bf: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let wide = matrix(Format::BF16, bf.clone(), 4).converted(Format::F32).unwrap();
        let expected: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_f32().to_le_bytes()).collect();
        assert_eq!((wide.format, &wide.bytes[..]), (Format::F32, &expected[..]));
        let back = wide.converted(Format::BF16).unwrap();
        assert_eq!(&back.bytes[..], &bf[..], "and back without a loss");
        let half: Vec<u8> = values[..2].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let wide = matrix(Format::F16, half, 2).converted(Format::F32).unwrap();
        assert_eq!(&wide.bytes[..], [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat());
    }

    #[test]
    fn quantized_weights_are_refused() {
        let error = matrix(Format::Q8_0, vec![0; 34], 32).converted(Format::F32).unwrap_err();
        assert_eq!(error, ConvertError::NotFloat { name: "w".into(), from: Format::Q8_0 });
    }
}
