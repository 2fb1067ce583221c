#!/usr/bin/env python3
"""F32 GGUF -> Q6_K and Q4_K_M with the functions of llama.cpp, for tests of K-quants.

    python3 quantize.py --lib llama.cpp/build/bin/libggml-base.so --gguf export/gemma2-demo-f32.gguf --out OUTDIR

Blocks come from ggml_quantize_chunk; which tensor gets which type follows what llama.cpp's llama-quantize chose for
this model, so a whole build of llama.cpp is not needed: the library of its ggml directory is enough.
"""
import argparse
import ctypes
import os

import gguf
import numpy as np

Q = gguf.GGMLQuantizationType
RECIPES = {"q6_k": (gguf.LlamaFileType.MOSTLY_Q6_K, lambda n: Q.Q6_K),
           "q4_k_m": (gguf.LlamaFileType.MOSTLY_Q4_K_M, lambda n: Q.Q6_K if n == "token_embd.weight" or (n[4] in "23" and ("attn_v" in n or "ffn_down" in n)) else Q.Q4_K)}


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--lib", required=True, help="libggml-base.so of llama.cpp")
    ap.add_argument("--gguf", required=True, help="the F32 file")
    ap.add_argument("--out", default="export")
    a = ap.parse_args()
    lib = ctypes.CDLL(a.lib, mode=os.RTLD_LAZY)
    chunk = lib.ggml_quantize_chunk
    chunk.restype = ctypes.c_size_t
    chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    src = gguf.GGUFReader(a.gguf)
    for kind, (ft, pick) in RECIPES.items():
        path = os.path.join(a.out, f"gemma2-demo-{kind}.gguf")
        w = gguf.GGUFWriter(path, "gemma2")
        for f in src.fields.values():
            if f.name.startswith("GGUF.") or f.name in ("general.architecture", "general.file_type"):
                continue
            sub = f.types[1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
            w.add_key_value(f.name, f.contents(), f.types[0], sub_type=sub)
        w.add_file_type(ft)
        worst = 0.0
        for t in src.tensors:
            x = np.ascontiguousarray(t.data, dtype=np.float32)
            if x.ndim == 1:
                w.add_tensor(t.name, x)
                continue
            q = pick(t.name)
            block, size = gguf.GGML_QUANT_SIZES[q]
            y = np.zeros((x.shape[0], x.shape[1] // block * size), dtype=np.uint8)
            n = chunk(int(q), x.ctypes.data, y.ctypes.data, 0, x.shape[0], x.shape[1], None)
            assert n == y.size, (t.name, n, y.size)
            worst = max(worst, float(np.abs(gguf.quants.dequantize(y, q) - x).max() / x.std()))
            w.add_tensor(t.name, y, raw_dtype=q)
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()
        print(path, os.path.getsize(path), f"largest error {worst:.3f} standard deviations")


if __name__ == "__main__":
    main()
