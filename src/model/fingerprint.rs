//! What tells one model from another.

use sha2::{Digest, Sha256};

use super::{Config, Layer, Model};
use crate::ops::{Linear, Norm};

/// Rows of each matrix that are looked at, and bytes of each: enough to tell two models from each other and too few to
/// read a file that is not in memory.
const N_ROWS: usize = 4;
const N_BYTES: usize = 64;

/// A hash of the numbers of the model, of all norms, and of a sample of every matrix with its format.
pub(super) fn fingerprint(model: &Model) -> [u8; 32] {
    let mut hash = Sha256::new();
    add_config(&mut hash, &model.config);
    // A cache of another type cannot be read either.
    for kv_type in model.placement.front().kv_types() {
        hash.update(kv_type.name());
    }
    add_matrix(&mut hash, &model.embedding);
    for layer in &model.layers {
        let Layer { pre_attn_norm, wqkv, wo, post_attn_norm, pre_ffn_norm, w_gate_up, w_down, post_ffn_norm } = layer;
        for matrix in [wqkv, wo, w_gate_up, w_down] {
            add_matrix(&mut hash, matrix);
        }
        for norm in [pre_attn_norm, post_attn_norm, pre_ffn_norm, post_ffn_norm] {
            add_norm(&mut hash, norm);
        }
    }
    add_norm(&mut hash, &model.output_norm);
    hash.finalize().into()
}

fn add_config(hash: &mut Sha256, config: &Config) {
    let Config {
        n_layers,
        d_model,
        d_ff,
        n_heads,
        n_kv_heads,
        head_dim,
        n_vocab,
        n_ctx_train: _,
        rms_eps,
        rope_base,
        query_scale,
        attn_softcap,
        final_softcap,
        sliding_window,
        local_layers,
    } = config;
    for n in [n_layers, d_model, d_ff, n_heads, n_kv_heads, head_dim, n_vocab, sliding_window] {
        hash.update((*n as u64).to_le_bytes());
    }
    for x in [rms_eps, rope_base, query_scale, attn_softcap, final_softcap] {
        hash.update(x.to_le_bytes());
    }
    hash.update(local_layers.iter().map(|is_local| u8::from(*is_local)).collect::<Vec<u8>>());
}

fn add_matrix(hash: &mut Sha256, matrix: &Linear) {
    for part in matrix.parts() {
        hash.update(format!("{:?} {} {}", part.format, part.n_rows, part.n_cols));
        for at in 0..N_ROWS.min(part.n_rows) {
            let row = part.row(at * (part.n_rows - 1) / (N_ROWS - 1).max(1));
            hash.update(&row[..N_BYTES.min(row.len())]);
        }
    }
}

fn add_norm(hash: &mut Sha256, norm: &Norm) {
    hash.update(norm.factors().iter().flat_map(|factor| factor.to_le_bytes()).collect::<Vec<u8>>());
}
