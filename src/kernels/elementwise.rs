//! Kernels that run over vectors of numbers. What is left over at the end goes to the scalar ones.

use half::f16;

use super::blocks::BLOCK;
use super::q8::{Q8RowMut, SMALLEST_ABSMAX};
use super::scalar::{
    self, EXP_BIAS, EXP_MAX, EXP_MIN, EXP_POLYNOMIAL, GELU_CUBIC, GELU_LINEAR, LN_2_HIGH, LN_2_LOW, ROUNDER, SUMS,
    TANH_POLYNOMIAL, TANH_SMALL,
};
use super::simd::{Kernel, Simd};

pub(super) struct QuantizeRow<'a> {
    pub x: &'a [f32],
    pub row: Q8RowMut<'a>,
}

impl Kernel for QuantizeRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let magnitude = s.splat_i(i32::MAX);
        for (b, x) in self.x.chunks_exact(BLOCK).enumerate() {
            let mut absmax = s.splat_i(0);
            for x in x.chunks_exact(S::LANES) {
                // SAFETY: a chunk is a vector.
                let x = s.as_i(unsafe { s.load_f(x.as_ptr()) });
                absmax = s.max_i(absmax, s.and(x, magnitude));
            }
            let absmax = f32::from_bits(s.largest(absmax) as u32);
            if !(SMALLEST_ABSMAX..f32::INFINITY).contains(&absmax) {
                self.row.set_without_values(b, absmax);
                continue;
            }
            let inverse = s.splat(127.0 / absmax);
            let mut q = [0; BLOCK];
            let mut sums = [s.splat_i(0); 2];
            let chunks = x.chunks_exact(S::LANES).zip(q.chunks_exact_mut(S::LANES));
            for (i, (x, q)) in chunks.enumerate() {
                // SAFETY: the chunks have as many elements as a vector.
                unsafe {
                    let rounded = s.round(s.mul(s.load_f(x.as_ptr()), inverse));
                    s.store_i8(q.as_mut_ptr(), rounded);
                    let half = i / S::VECTORS;
                    sums[half] = s.add_i(sums[half], rounded);
                }
            }
            self.row.set(b, &q, absmax / 127.0, s.total(sums[0]), s.total(sums[1]));
        }
        self.row.clear_padding();
    }
}

pub(super) struct RmsNorm<'a> {
    pub x: &'a [f32],
    pub weight: &'a [f32],
    pub eps: f32,
    pub out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !self.x.len().is_multiple_of(SUMS) {
            return scalar::rms_norm(self.x, self.weight, self.eps, self.out);
        }
        let mut sums = [s.splat(0.0); 2];
        for x in self.x.chunks_exact(SUMS) {
            for v in 0..S::VECTORS {
                // SAFETY: 16 numbers are so many vectors.
                let x = unsafe { s.load_f(x.as_ptr().add(v * S::LANES)) };
                sums[v] = s.fma(x, x, sums[v]);
            }
        }
        let inverse = scalar::inverse_rms(s.fold_16(sums), self.x.len(), self.eps);
        let inverse = s.splat(inverse);
        let inputs = self.x.chunks_exact(S::LANES);
        let inputs = inputs.zip(self.weight.chunks_exact(S::LANES));
        for ((x, weight), out) in inputs.zip(self.out.chunks_exact_mut(S::LANES)) {
            // SAFETY: the chunks are vectors.
            unsafe {
                let x = s.mul(s.load_f(x.as_ptr()), inverse);
                s.store_f(out.as_mut_ptr(), s.mul(x, s.load_f(weight.as_ptr())));
            }
        }
    }
}

pub(super) struct GeluTanhMul<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub out: &'a mut [f32],
}

impl Kernel for GeluTanhMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (gates, gate_rest) = split(self.gate, S::LANES);
        let (ups, up_rest) = split(self.up, S::LANES);
        let (outs, out_rest) = self.out.split_at_mut(gates.len());
        let inputs = gates.chunks_exact(S::LANES).zip(ups.chunks_exact(S::LANES));
        for ((gate, up), out) in inputs.zip(outs.chunks_exact_mut(S::LANES)) {
            // SAFETY: the chunks are vectors.
            unsafe {
                let x = s.load_f(gate.as_ptr());
                let cubic = s.fma(s.mul(x, x), s.splat(GELU_CUBIC), s.splat(1.0));
                let e = exp(s, s.mul(s.mul(x, s.splat(GELU_LINEAR)), cubic));
                let gelu = s.div(x, s.add(s.splat(1.0), e));
                s.store_f(out.as_mut_ptr(), s.mul(gelu, s.load_f(up.as_ptr())));
            }
        }
        scalar::gelu_tanh_mul(gate_rest, up_rest, out_rest);
    }
}

pub(super) struct Softcap<'a> {
    pub x: &'a mut [f32],
    pub cap: f32,
}

impl Kernel for Softcap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut chunks = self.x.chunks_exact_mut(S::LANES);
        for x in &mut chunks {
            // SAFETY: a chunk is a vector.
            unsafe {
                let capped = soft_capped(s, s.load_f(x.as_ptr()), s.splat(self.cap));
                s.store_f(x.as_mut_ptr(), capped);
            }
        }
        scalar::softcap(chunks.into_remainder(), self.cap);
    }
}

pub(super) struct Rope<'a> {
    pub x: &'a mut [f32],
    pub cos: &'a [f32],
    pub sin: &'a [f32],
}

impl Kernel for Rope<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if !self.cos.len().is_multiple_of(S::LANES) {
            return scalar::rope(self.x, self.cos, self.sin);
        }
        let (low, high) = self.x.split_at_mut(self.cos.len());
        let pairs = low.chunks_exact_mut(S::LANES).zip(high.chunks_exact_mut(S::LANES));
        let angles = self.cos.chunks_exact(S::LANES).zip(self.sin.chunks_exact(S::LANES));
        for ((a, b), (cos, sin)) in pairs.zip(angles) {
            // SAFETY: the chunks are vectors.
            unsafe {
                let (x, y) = (s.load_f(a.as_ptr()), s.load_f(b.as_ptr()));
                let (cos, sin) = (s.load_f(cos.as_ptr()), s.load_f(sin.as_ptr()));
                let minus_y = s.as_f(s.xor(s.as_i(y), s.splat_i(i32::MIN)));
                s.store_f(a.as_mut_ptr(), s.fma(minus_y, sin, s.mul(x, cos)));
                s.store_f(b.as_mut_ptr(), s.fma(x, sin, s.mul(y, cos)));
            }
        }
    }
}

pub(super) struct Add<'a> {
    pub x: &'a mut [f32],
    pub y: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Nothing but lanes: the compiler vectorizes it.
        self.x.iter_mut().zip(self.y).for_each(|(x, y)| *x += y);
    }
}

pub(super) struct AddScaled<'a> {
    pub x: &'a mut [f32],
    pub y: &'a [f32],
    pub factor: f32,
}

impl Kernel for AddScaled<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (ys, y_rest) = split(self.y, S::LANES);
        let (xs, x_rest) = self.x.split_at_mut(ys.len());
        for (x, y) in xs.chunks_exact_mut(S::LANES).zip(ys.chunks_exact(S::LANES)) {
            // SAFETY: the chunks are vectors.
            unsafe {
                let sum = s.fma(s.load_f(y.as_ptr()), s.splat(self.factor), s.load_f(x.as_ptr()));
                s.store_f(x.as_mut_ptr(), sum);
            }
        }
        scalar::add_scaled(x_rest, y_rest, self.factor);
    }
}

pub(super) struct Scale<'a> {
    pub x: &'a mut [f32],
    pub factor: f32,
}

impl Kernel for Scale<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Nothing but lanes: the compiler vectorizes it.
        self.x.iter_mut().for_each(|x| *x *= self.factor);
    }
}

pub(super) struct F32ToF16<'a> {
    pub x: &'a [f32],
    pub out: &'a mut [f16],
}

impl Kernel for F32ToF16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (xs, x_rest) = split(self.x, S::LANES);
        let (outs, out_rest) = self.out.split_at_mut(xs.len());
        for (x, out) in xs.chunks_exact(S::LANES).zip(outs.chunks_exact_mut(S::LANES)) {
            // SAFETY: the chunks are vectors.
            unsafe { s.store_f16(out.as_mut_ptr(), s.load_f(x.as_ptr())) };
        }
        scalar::f32_to_f16(x_rest, out_rest);
    }
}

/// The part of `x` that is whole vectors, and the rest.
#[inline(always)]
fn split(x: &[f32], lanes: usize) -> (&[f32], &[f32]) {
    x.split_at(x.len() / lanes * lanes)
}

/// See [`scalar::exp`].
#[inline(always)]
pub(super) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    let shifted = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUNDER));
    let n = s.sub(shifted, s.splat(ROUNDER));
    let r = s.fma(n, s.splat(-LN_2_HIGH), x);
    let r = s.fma(n, s.splat(-LN_2_LOW), r);
    let mut p = s.splat(EXP_POLYNOMIAL[0]);
    for coefficient in &EXP_POLYNOMIAL[1..] {
        p = s.fma(p, r, s.splat(*coefficient));
    }
    let exponent = s.add_i(s.as_i(shifted), s.splat_i(EXP_BIAS as i32));
    let power = s.as_f(s.shift_left(exponent, 23));
    let y = s.mul(s.fma(s.mul(r, r), p, s.add(r, s.splat(1.0))), power);
    let y = s.if_less(x, s.splat(EXP_MIN), s.splat(0.0), y);
    s.if_less(s.splat(EXP_MAX), x, s.splat(f32::INFINITY), y)
}

/// See [`scalar::tanh`].
#[inline(always)]
fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let sign = s.and(s.as_i(x), s.splat_i(i32::MIN));
    let magnitude = s.as_f(s.and(s.as_i(x), s.splat_i(i32::MAX)));
    let square = s.mul(x, x);
    let mut p = s.splat(TANH_POLYNOMIAL[0]);
    for coefficient in &TANH_POLYNOMIAL[1..] {
        p = s.fma(p, square, s.splat(*coefficient));
    }
    let small = s.fma(s.mul(p, square), x, x);
    let e = s.add(exp(s, s.add(magnitude, magnitude)), s.splat(1.0));
    let large = s.sub(s.splat(1.0), s.div(s.splat(2.0), e));
    // `large` is not negative, so that its sign can be put in.
    let large = s.as_f(s.or(s.as_i(large), sign));
    s.if_less(magnitude, s.splat(TANH_SMALL), small, large)
}

/// See [`scalar::soft_capped`].
#[inline(always)]
pub(super) fn soft_capped<S: Simd>(s: S, x: S::F, cap: S::F) -> S::F {
    s.mul(tanh(s, s.div(x, cap)), cap)
}
