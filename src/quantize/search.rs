//! Which scale (and minimum) stores a few weights best: plain least squares over a grid of candidates, then refined.
//!
//! Stored weights are `scale * q` or `scale * q - min` with whole numbers `q` of few bits. For given `q` the best factors
//! are a linear regression, and for given factors the best `q` is the nearest one. The first makes each candidate's error
//! a formula of a few sums, and taking turns improves the best candidate until nothing changes. All loops run over
//! [`LANES`] numbers side by side, which compilers make vector code of.

/// Sums that run side by side.
const LANES: usize = 16;

/// Rounds to the nearest whole number, for less than 2^22 in magnitude: in one addition and one subtraction.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    (x + ROUNDER) - ROUNDER
}

/// The whole number from `low` to `high` that is nearest to `x`; `low` for what is no number.
#[inline(always)]
pub(super) fn round_within(x: f32, low: f32, high: f32) -> f32 {
    let x = if x > low { x } else { low };
    let x = if x < high { x } else { high };
    round(x)
}

/// `[sum of f(x)[0], sum of f(x)[1], ..]`
#[inline(always)]
pub(super) fn sums<const N: usize, const M: usize>(x: &[f32; N], f: impl Fn(f32) -> [f32; M]) -> [f32; M] {
    let mut lanes = [[0.0f32; LANES]; M];
    for x in x.chunks_exact(LANES) {
        for l in 0..LANES {
            let terms = f(x[l]);
            for m in 0..M {
                lanes[m][l] += terms[m];
            }
        }
    }
    lanes.map(|lanes| {
        let mut lanes = lanes;
        let mut n = LANES;
        while n > 1 {
            n /= 2;
            for l in 0..n {
                lanes[l] += lanes[l + n];
            }
        }
        lanes[0]
    })
}

/// The sum of `(x - (scale * q - min))^2` with the best `q` from `low` to `high`.
#[inline(always)]
pub(super) fn squared_error<const N: usize>(x: &[f32; N], scale: f32, min: f32, low: f32, high: f32) -> f32 {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let [error] = sums(x, |x| {
        let q = round_within((x + min) * inverse, low, high);
        let difference = x - (scale * q - min);
        [difference * difference]
    });
    error
}

/// How far beyond and within its range the largest value may fall, in steps of the grid; and how often the best
/// candidate is refined.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub beyond: i32,
    pub within: i32,
    pub step: f32,
    pub n_refinements: usize,
}

/// The scale with which `scale * q`, `q` from `low` (negative) to `high`, is nearest to `x`. It may be negative: there is
/// one more number on one side.
#[inline(always)]
pub(super) fn best_scale<const N: usize>(x: &[f32; N], low: f32, high: f32, grid: Grid) -> f32 {
    let extreme = x.iter().fold(0.0f32, |most, &x| if x.abs() > most.abs() { x } else { most });
    if extreme == 0.0 {
        return 0.0;
    }
    // With q fixed, the scale is sum(x q) / sum(q^2), and the squared error sum(x^2) less this gain.
    let fit = |inverse: f32| -> (f32, f32) {
        let [xq, qq] = sums(x, |x| {
            let q = round_within(x * inverse, low, high);
            [x * q, q * q]
        });
        if qq > 0.0 { (xq * xq / qq, xq / qq) } else { (0.0, 0.0) }
    };
    let mut best = (0.0, 0.0);
    for i in -grid.within..=grid.beyond {
        let shift = grid.step * i as f32;
        for inverse in [(low - shift) / extreme, (high + shift) / extreme] {
            let fit = fit(inverse);
            if fit.0 > best.0 {
                best = fit;
            }
        }
    }
    for _ in 0..grid.n_refinements {
        let refined = fit(1.0 / best.1);
        if refined.0 <= best.0 {
            break;
        }
        best = refined;
    }
    best.1
}

/// Scale and minimum, neither negative, with which `scale * q - min`, `q` from 0 to `high`, is nearest to `x`.
#[inline(always)]
pub(super) fn best_scale_and_min<const N: usize>(x: &[f32; N], high: f32, grid: Grid) -> (f32, f32) {
    let largest = x.iter().fold(f32::MIN, |most, &x| if x > most { x } else { most });
    let smallest = x.iter().fold(0.0f32, |least, &x| if x < least { x } else { least });
    let range = largest - smallest;
    if range <= 0.0 {
        // All are zero, or none is above it.
        return (0.0, -smallest);
    }
    let n = N as f32;
    let [sum_x] = sums(x, |x| [x]);
    let fit = |inverse: f32, min: f32| -> (f32, (f32, f32)) {
        let [q, qq, xq] = sums(x, |x| {
            let q = round_within((x + min) * inverse, 0.0, high);
            [q, q * q, x * q]
        });
        let determinant = n * qq - q * q;
        if determinant <= 0.0 {
            return (f32::MIN, (0.0, 0.0));
        }
        let scale = (n * xq - q * sum_x) / determinant;
        let min = (q * xq - qq * sum_x) / determinant;
        if min >= 0.0 { (scale * xq - min * sum_x, (scale, min)) } else { (xq * xq / qq, (xq / qq, 0.0)) }
    };
    let mut best = (f32::MIN, (range / high, -smallest));
    for i in -grid.within..=grid.beyond {
        let steps = high + grid.step * i as f32;
        let fit = fit(steps / range, -smallest);
        if fit.0 > best.0 {
            best = fit;
        }
    }
    for _ in 0..grid.n_refinements {
        let refined = fit(1.0 / best.1.0, best.1.1);
        if refined.0 <= best.0 {
            break;
        }
        best = refined;
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { beyond: 8, within: 8, step: 0.125, n_refinements: 4 };

    #[test]
    fn rounding_is_to_the_nearest_and_stays_within() {
        for i in -4000..4000 {
            let x = i as f32 / 97.0;
            assert_eq!(round(x), x.round_ties_even(), "{x}");
            assert_eq!(round_within(x, -8.0, 7.0), x.round_ties_even().clamp(-8.0, 7.0));
        }
        assert_eq!(round_within(f32::NAN, -8.0, 7.0), -8.0);
    }

    #[test]
    fn what_can_be_stored_exactly_is_found_exactly() {
        let x: [f32; 16] = std::array::from_fn(|i| 0.25 * (i as f32 - 8.0));
        assert_eq!(best_scale(&x, -8.0, 7.0, GRID), 0.25);
        assert_eq!(best_scale(&x.map(|x| -x), -8.0, 7.0, GRID), -0.25);
        let x: [f32; 32] = std::array::from_fn(|i| 0.5 * (i % 16) as f32 - 3.0);
        let (scale, min) = best_scale_and_min(&x, 15.0, GRID);
        assert!((scale - 0.5).abs() < 1e-6 && (min - 3.0).abs() < 1e-5, "{scale} {min}");
        assert!(squared_error(&x, scale, min, 0.0, 15.0) < 1e-9);
    }

    #[test]
    fn blocks_without_a_range_have_factors_that_are_numbers() {
        assert_eq!(best_scale(&[0.0; 16], -8.0, 7.0, GRID), 0.0);
        assert_eq!(best_scale_and_min(&[0.0; 32], 15.0, GRID), (0.0, 0.0));
        let (scale, min) = best_scale_and_min(&[-2.0; 32], 15.0, GRID);
        assert!(squared_error(&[-2.0; 32], scale, min, 0.0, 15.0) < 1e-9, "{scale} {min}");
        let (scale, min) = best_scale_and_min(&[3.0; 32], 15.0, GRID);
        assert!(squared_error(&[3.0; 32], scale, min, 0.0, 15.0) < 1e-9, "{scale} {min}");
    }
}
