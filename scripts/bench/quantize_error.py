#!/usr/bin/env python3
"""Errors of `gemma2 quantize` beside those of llama.cpp for the same types and the same weights.

    python3 quantize_error.py --gemma2 target/release/gemma2 --model DEMO.gguf --lib libggml-base.so

`--model` is any Gemma 2 as a GGUF file; its matrices are also replaced by Gaussian and by heavy-tailed numbers
(Student's t with 4 degrees of freedom). `--lib` is llama.cpp's ggml, whose ggml_quantize_chunk is what its
llama-quantize calls. Prints the rms of the difference relative to the rms of the weights. Exits with 1 where an error
of ours is larger.
"""
import argparse
import ctypes
import os
import subprocess
import sys
import tempfile

import gguf
import numpy as np

TYPES = ["Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0", "Q3_K_M", "Q2_K"]


def write_model(source, path, numbers):
    """A copy in F32, its matrices filled by numbers(shape), or as they are."""
    w = gguf.GGUFWriter(path, "gemma2")
    for f in source.fields.values():
        if f.name.startswith("GGUF.") or f.name in ("general.architecture", "general.file_type"):
            continue
        sub = f.types[1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        w.add_key_value(f.name, f.contents(), f.types[0], sub_type=sub)
    w.add_file_type(gguf.LlamaFileType.ALL_F32)
    for t in source.tensors:
        x = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        if x.ndim > 1 and numbers:
            x = numbers(x.shape).astype(np.float32)
        w.add_tensor(t.name, x)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def theirs(lib, x, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    y = np.zeros((x.shape[0], x.shape[1] // block * size), dtype=np.uint8)
    x = np.ascontiguousarray(x)
    lib.ggml_quantize_chunk(int(kind), x.ctypes.data, y.ctypes.data, 0, x.shape[0], x.shape[1], None)
    return gguf.quants.dequantize(y, kind)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--gemma2", required=True)
    ap.add_argument("--model", required=True)
    ap.add_argument("--lib", required=True)
    a = ap.parse_args()
    lib = ctypes.CDLL(a.lib, mode=os.RTLD_LAZY)
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    source = gguf.GGUFReader(a.model)
    random = np.random.default_rng(1)
    data = {"model": None, "Gaussian": lambda s: random.standard_normal(s) * 0.02, "heavy tails": lambda s: random.standard_t(4, s) * 0.02}
    worse = 0
    print("| weights | file type | block type | ours | llama.cpp |\n| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for name, numbers in data.items():
            path = os.path.join(folder, "f32.gguf")
            write_model(source, path, numbers)
            original = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
            for recipe in TYPES:
                out = os.path.join(folder, "out.gguf")
                subprocess.run([a.gemma2, "quantize", path, out, recipe, "--force", "-q"], check=True)
                sums = {}
                for t in gguf.GGUFReader(out).tensors:
                    x = original[t.name]
                    if x.ndim == 1:
                        continue
                    square = lambda y: float(np.sum((y.astype(np.float64) - x) ** 2))
                    s = sums.setdefault(t.tensor_type, [0.0, 0.0, 0.0])
                    s[0] += square(np.zeros_like(x))
                    s[1] += square(gguf.quants.dequantize(t.data, t.tensor_type))
                    s[2] += square(theirs(lib, x, t.tensor_type))
                for kind, (all_, our, their) in sums.items():
                    our, their = (our / all_) ** 0.5, (their / all_) ** 0.5
                    worse += our > their
                    print(f"| {name} | {recipe} | {kind.name} | {our:.5f} | {their:.5f} |{' WORSE' if our > their else ''}")
    sys.exit(worse > 0)


if __name__ == "__main__":
    main()
