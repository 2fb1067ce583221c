#!/usr/bin/env python3
"""Write a Gemma 2 of full shape with random weights and an invented vocabulary, in BF16, in seconds.

    random_gguf.py 2b OUT.gguf

It costs as much to run as the real model and makes noise. Other than make_synthetic_gemma2.py this needs nothing but numpy,
and repeats 16 million random values all over: for machines on which nothing can be installed and time is short.
"""

import struct
import sys

import numpy as np

# layers, d_model, d_ff, heads, key-value heads, values of a head
SHAPES = {
    "tiny": (2, 256, 512, 2, 1, 64),
    "2b": (26, 2304, 9216, 8, 4, 256),
    "9b": (42, 3584, 14336, 16, 8, 256),
}
N_VOCAB = 256_000
ALIGNMENT = 32
F32, BF16 = 0, 30
NORMAL, CONTROL, BYTE = 1, 3, 6


def vocabulary():
    """(texts, scores, kinds): control tokens and bytes where Gemma has them, and words with a number."""
    texts = [f"\u2581w{i}" for i in range(N_VOCAB)]
    scores = [-float(i) for i in range(N_VOCAB)]
    kinds = [NORMAL] * N_VOCAB
    control = {0: "<pad>", 1: "<eos>", 2: "<bos>", 3: "<unk>", 106: "<start_of_turn>", 107: "<end_of_turn>"}
    for i, text in control.items():
        texts[i], kinds[i] = text, CONTROL
    for byte in range(256):
        texts[217 + byte], scores[217 + byte], kinds[217 + byte] = f"<0x{byte:02X}>", 0.0, BYTE
    return texts, scores, kinds


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, value):
    """A key with its value: `I` u32, `f` f32, `?` bool, `s` text, and lists of those."""
    numbers = {"I": 4, "i": 5, "f": 6, "?": 7, "s": 8}
    pack = text if kind[0] == "s" else lambda v: struct.pack("<" + kind[0], v)
    if kind.endswith("*"):
        body = struct.pack("<IIQ", 9, numbers[kind[0]], len(value)) + b"".join(map(pack, value))
    else:
        body = struct.pack("<I", numbers[kind[0]]) + pack(value)
    return text(key) + body


def main():
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: random_gguf.py {'|'.join(SHAPES)} OUT.gguf")
    layers, d_model, d_ff, heads, kv_heads, head_dim = SHAPES[sys.argv[1]]
    texts, scores, kinds = vocabulary()
    metadata = [
        entry("general.architecture", "s", "gemma2"),
        entry("general.name", "s", f"random Gemma 2 {sys.argv[1]}"),
        entry("gemma2.context_length", "I", 8192),
        entry("gemma2.embedding_length", "I", d_model),
        entry("gemma2.block_count", "I", layers),
        entry("gemma2.feed_forward_length", "I", d_ff),
        entry("gemma2.attention.head_count", "I", heads),
        entry("gemma2.attention.head_count_kv", "I", kv_heads),
        entry("gemma2.attention.key_length", "I", head_dim),
        entry("gemma2.attention.value_length", "I", head_dim),
        entry("gemma2.attention.layer_norm_rms_epsilon", "f", 1e-6),
        entry("gemma2.attention.sliding_window", "I", 4096),
        entry("gemma2.attn_logit_softcapping", "f", 50.0),
        entry("gemma2.final_logit_softcapping", "f", 30.0),
        entry("general.file_type", "I", 32),
        entry("tokenizer.ggml.model", "s", "llama"),
        entry("tokenizer.ggml.tokens", "s*", texts),
        entry("tokenizer.ggml.scores", "f*", scores),
        entry("tokenizer.ggml.token_type", "i*", kinds),
        entry("tokenizer.ggml.bos_token_id", "I", 2),
        entry("tokenizer.ggml.eos_token_id", "I", 1),
        entry("tokenizer.ggml.unknown_token_id", "I", 3),
        entry("tokenizer.ggml.padding_token_id", "I", 0),
        entry("tokenizer.ggml.add_bos_token", "?", True),
        entry("tokenizer.ggml.add_space_prefix", "?", False),
    ]
    tensors = [("token_embd.weight", (N_VOCAB, d_model))]
    for i in range(layers):
        norm = (d_model,)
        tensors += [
            (f"blk.{i}.attn_norm.weight", norm),
            (f"blk.{i}.attn_q.weight", (heads * head_dim, d_model)),
            (f"blk.{i}.attn_k.weight", (kv_heads * head_dim, d_model)),
            (f"blk.{i}.attn_v.weight", (kv_heads * head_dim, d_model)),
            (f"blk.{i}.attn_output.weight", (d_model, heads * head_dim)),
            (f"blk.{i}.post_attention_norm.weight", norm),
            (f"blk.{i}.ffn_norm.weight", norm),
            (f"blk.{i}.ffn_gate.weight", (d_ff, d_model)),
            (f"blk.{i}.ffn_up.weight", (d_ff, d_model)),
            (f"blk.{i}.ffn_down.weight", (d_model, d_ff)),
            (f"blk.{i}.post_ffw_norm.weight", norm),
        ]
    tensors.append(("output_norm.weight", (d_model,)))

    infos, sizes, at = [], [], 0
    for name, dims in tensors:
        size = int(np.prod(dims)) * (2 if len(dims) == 2 else 4)
        kind = BF16 if len(dims) == 2 else F32
        infos.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *reversed(dims), kind, at))
        sizes.append(size)
        at += (size + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT

    random = np.random.default_rng(1)
    # A length that no row divides, so that no row comes twice.
    values = random.standard_normal((1 << 24) + 1, dtype=np.float32) * np.float32(0.02)
    pool = (values.view(np.uint32) >> 16).astype(np.uint16)
    with open(sys.argv[2], "wb") as out:
        out.write(struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)))
        out.write(b"".join(metadata) + b"".join(infos))
        out.write(b"\0" * (-out.tell() % ALIGNMENT))
        for (_, dims), size in zip(tensors, sizes):
            if len(dims) == 1:
                out.write((1 + 0.1 * random.standard_normal(dims, dtype=np.float32)).astype(np.float32).tobytes())
            left, start = size // 2 if len(dims) == 2 else 0, int(random.integers(len(pool)))
            while left > 0:
                piece = pool[start : start + left]
                out.write(piece.data)
                left, start = left - len(piece), 0
            out.write(b"\0" * (-size % ALIGNMENT))


if __name__ == "__main__":
    main()
