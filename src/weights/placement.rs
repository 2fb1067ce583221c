//! Where weights lie: in the mapped file, or in memory of their own, perhaps in another float format.

use half::{bf16, f16};
use rayon::prelude::*;

use super::{LayerTensors, Matrix, Tensor, Tensors};
use crate::bundle::Bytes;
use crate::kernels::{Format, STRIP_ROWS, can_interleave, interleave};

/// Bytes between two calls of the progress callback.
const PIECE: usize = 16 << 20;

/// What becomes of weights before a model is made of them. The default leaves them where they are, and unread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Take them in this format, F32 or BF16.
    pub format: Option<Format>,
    /// Copy them into memory of their own.
    pub copy: bool,
    /// The same, and interleave the rows of those that can be ([`can_interleave`]), for products that read faster.
    pub interleave: bool,
    /// Keep them from being swapped out.
    pub lock: bool,
    /// Read them now rather than when they are first needed.
    pub read: bool,
}

/// Weights in their place.
pub struct Placed {
    /// The weights.
    pub tensors: Tensors,
    /// Why some could not be locked.
    pub unlocked: Option<std::io::Error>,
}

/// Weights that cannot be placed as asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
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

impl crate::error::Hint for PlaceError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            PlaceError::NotFloat { .. } => "leave `--dtype` out; `gemma2 quantize` makes other files",
            PlaceError::Memory { .. } => {
                "leave `--no-mmap`, `--repack` and `--dtype` out: mapped weights need no memory of their own"
            }
        };
        Some(hint.into())
    }
}

impl Tensors {
    /// The same weights, placed. A matrix that is in the format already stays where it is, unless it is to be copied.
    /// `on_progress` gets the bytes done and all bytes, of the files; it is not called where nothing is to be done.
    ///
    /// # Errors
    /// Another format for quantized weights; not enough memory. Memory that cannot be locked is no error.
    pub fn placed(self, placement: &Placement, on_progress: &mut dyn FnMut(u64, u64)) -> Result<Placed, PlaceError> {
        let total = self.matrix_bytes();
        let mut done = 0;
        let mut unlocked = None;
        let tensors = self.each_matrix(|matrix| {
            let mut progress = |n_bytes: usize| {
                done += n_bytes as u64;
                on_progress(done, total);
            };
            let matrix = match placement.format {
                Some(to) if to != matrix.format => matrix.converted(to, &mut progress)?,
                _ if placement.interleave && matrix.can_interleave() => matrix.interleaved(&mut progress)?,
                _ if placement.copy => matrix.copied(&mut progress)?,
                _ if placement.lock || placement.read => matrix.read(&mut progress),
                _ => matrix,
            };
            if placement.lock && unlocked.is_none() {
                unlocked = matrix.bytes.lock().err();
            }
            Ok(matrix)
        })?;
        Ok(Placed { tensors, unlocked })
    }

    /// Bytes of all matrices.
    fn matrix_bytes(&self) -> u64 {
        let bytes = |(_, tensor): (String, Tensor<'_>)| match tensor {
            Tensor::Matrix(matrix) => matrix.bytes.len() as u64,
            Tensor::Norm(_) => 0,
        };
        self.by_gguf_name().into_iter().map(bytes).sum()
    }

    fn each_matrix(self, mut place: impl FnMut(Matrix) -> Result<Matrix, PlaceError>) -> Result<Tensors, PlaceError> {
        let Tensors { embedding, layers, output_norm } = self;
        let embedding = place(embedding)?;
        let mut layer = |layer: LayerTensors| -> Result<LayerTensors, PlaceError> {
            Ok(LayerTensors {
                wq: place(layer.wq)?,
                wk: place(layer.wk)?,
                wv: place(layer.wv)?,
                wo: place(layer.wo)?,
                w_gate: place(layer.w_gate)?,
                w_up: place(layer.w_up)?,
                w_down: place(layer.w_down)?,
                ..layer
            })
        };
        let layers = layers.into_iter().map(&mut layer).collect::<Result<_, _>>()?;
        Ok(Tensors { embedding, layers, output_norm })
    }
}

impl Matrix {
    fn read(self, progress: &mut dyn FnMut(usize)) -> Matrix {
        for piece in self.pieces() {
            piece.read();
            progress(piece.len());
        }
        self
    }

    fn copied(self, progress: &mut dyn FnMut(usize)) -> Result<Matrix, PlaceError> {
        let copy = self.bytes.copied(PIECE, progress);
        let bytes = copy.map_err(|_| PlaceError::Memory { name: self.name.clone(), n_bytes: self.bytes.len() })?;
        // Otherwise all would be in memory twice until the end.
        self.bytes.release();
        Ok(Matrix { bytes, ..self })
    }

    fn can_interleave(&self) -> bool {
        !self.is_interleaved && can_interleave(self.format, self.n_rows, self.n_cols)
    }

    /// Takes as much memory as the rows, which are given back as they are read.
    fn interleaved(self, progress: &mut dyn FnMut(usize)) -> Result<Matrix, PlaceError> {
        let n_bytes = self.bytes.len();
        let strip = n_bytes / self.n_rows.max(1) * STRIP_ROWS;
        let piece = (PIECE / strip.max(1)).max(1) * strip;
        let strips = Bytes::filled(n_bytes, |strips| {
            for (at, to) in (0..n_bytes).step_by(piece.max(1)).zip(strips.chunks_mut(piece.max(1))) {
                let Some(from) = self.bytes.slice(at..at + to.len()) else { break };
                to.par_chunks_mut(strip).zip(from.par_chunks(strip)).for_each(|(to, from)| {
                    interleave(self.format, self.n_cols, from, to);
                });
                from.release();
                progress(from.len());
            }
        });
        let bytes = strips.map_err(|_| PlaceError::Memory { name: self.name.clone(), n_bytes })?;
        Ok(Matrix { is_interleaved: true, bytes, ..self })
    }

    /// Rounded to nearest where `to` is narrower.
    fn converted(self, to: Format, progress: &mut dyn FnMut(usize)) -> Result<Matrix, PlaceError> {
        let (from_size, widen): (usize, fn(&[u8]) -> f32) = match self.format {
            Format::F32 => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Format::F16 => (2, |b| f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Format::BF16 => (2, |b| bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            from => return Err(PlaceError::NotFloat { name: self.name, from }),
        };
        let to_size = if to == Format::F32 { 4 } else { 2 };
        let n_bytes = (self.bytes.len() / from_size).saturating_mul(to_size);
        let mut out: Vec<u8> = Vec::new();
        if out.try_reserve_exact(n_bytes).is_err() {
            return Err(PlaceError::Memory { name: self.name, n_bytes });
        }
        out.resize(n_bytes, 0);
        let narrow = |value: f32, out: &mut [u8]| match to_size {
            4 => out.copy_from_slice(&value.to_le_bytes()),
            _ => out.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
        };
        // Parts large enough to be worth a thread's while.
        const PART: usize = 1 << 16;
        for (out, piece) in out.chunks_mut(PIECE / from_size * to_size).zip(self.pieces()) {
            let parts = out.par_chunks_mut(PART * to_size).zip(piece.par_chunks(PART * from_size));
            parts.for_each(|(out, bytes)| {
                for (out, bytes) in out.chunks_exact_mut(to_size).zip(bytes.chunks_exact(from_size)) {
                    narrow(widen(bytes), out);
                }
            });
            piece.release();
            progress(piece.len());
        }
        Ok(Matrix { format: to, bytes: Bytes::from(out), ..self })
    }

    fn pieces(&self) -> impl Iterator<Item = Bytes> + '_ {
        let n_bytes = self.bytes.len();
        (0..n_bytes).step_by(PIECE).filter_map(move |at| self.bytes.slice(at..n_bytes.min(at + PIECE)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(format: Format, bytes: Vec<u8>, n_cols: usize) -> Matrix {
        let n_rows = bytes.len() / format.row_bytes(n_cols).unwrap();
        Matrix { name: "w".into(), n_rows, n_cols, format, is_interleaved: false, bytes: bytes.into() }
    }

    fn tensors(n_bytes: usize) -> Tensors {
        let embedding = matrix(Format::F32, vec![7; n_bytes], n_bytes / 4);
        Tensors { embedding, layers: Vec::new(), output_norm: Vec::new() }
    }

    #[test]
    fn floats_become_other_floats() {
        let values = [1.0_f32, -2.5, 1.003_906_3, 3.0e38];
        let bf: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        let wide = matrix(Format::BF16, bf.clone(), 4).converted(Format::F32, &mut |_| ()).unwrap();
        let expected: Vec<u8> = values.iter().flat_map(|v| bf16::from_f32(*v).to_f32().to_le_bytes()).collect();
        assert_eq!((wide.format, &wide.bytes[..]), (Format::F32, &expected[..]));
        let back = wide.converted(Format::BF16, &mut |_| ()).unwrap();
        assert_eq!(&back.bytes[..], &bf[..], "and back without a loss");
        let half: Vec<u8> = values[..2].iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        let wide = matrix(Format::F16, half, 2).converted(Format::F32, &mut |_| ()).unwrap();
        assert_eq!(&wide.bytes[..], [1.0_f32.to_le_bytes(), (-2.5_f32).to_le_bytes()].concat());
    }

    #[test]
    fn quantized_weights_are_refused() {
        let error = matrix(Format::Q8_0, vec![0; 34], 32).converted(Format::F32, &mut |_| ()).unwrap_err();
        assert_eq!(error, PlaceError::NotFloat { name: "w".into(), from: Format::Q8_0 });
    }

    #[test]
    fn rows_are_interleaved_where_they_can_be() {
        let rows: Vec<u8> = (0..32 * 144).map(|i| (i % 251) as u8).collect();
        let placement = Placement { interleave: true, ..Placement::default() };
        for (n_rows, is_interleaved) in [(32, true), (31, false)] {
            let bytes = rows[..n_rows * 144].to_vec();
            let embedding = matrix(Format::Q4_K, bytes.clone(), 256);
            let tensors = Tensors { embedding, layers: Vec::new(), output_norm: Vec::new() };
            let mut done = 0;
            let placed = tensors.placed(&placement, &mut |n_bytes, _| done = n_bytes).unwrap().tensors.embedding;
            assert_eq!((placed.is_interleaved, done > 0), (is_interleaved, is_interleaved));
            let mut back = placed.bytes.to_vec();
            if is_interleaved {
                crate::kernels::deinterleave(Format::Q4_K, 256, &placed.bytes, &mut back);
            }
            assert_eq!(back, bytes, "{n_rows} rows");
        }
    }

    #[test]
    fn progress_is_told_in_pieces_up_to_all_of_it() {
        let n_bytes = 2 * PIECE + 12;
        let placements = [
            Placement { copy: true, ..Placement::default() },
            Placement { read: true, ..Placement::default() },
            Placement { lock: true, ..Placement::default() },
            Placement { format: Some(Format::BF16), ..Placement::default() },
        ];
        for placement in placements {
            let mut told = Vec::new();
            let placed = tensors(n_bytes).placed(&placement, &mut |done, total| told.push((done, total))).unwrap();
            let total = n_bytes as u64;
            assert_eq!(told, [(PIECE as u64, total), (2 * PIECE as u64, total), (total, total)], "{placement:?}");
            if placement.format.is_none() {
                assert!(placed.tensors.embedding.bytes.iter().all(|byte| *byte == 7));
            }
        }
        tensors(8).placed(&Placement::default(), &mut |_, _| panic!("there is nothing to do")).unwrap();
    }
}
