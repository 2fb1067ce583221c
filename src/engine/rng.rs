//! The random stream of one request.
//!
//! A generator of our own rather than a crate's "standard" one: a seed that a person wrote down must give the same
//! stream with every later version of this program, and crates reserve the right to change theirs.

use std::hash::{BuildHasher, RandomState};

/// xoshiro256** by Blackman and Vigna (<https://prng.di.unimi.it/xoshiro256starstar.c>), seeded through SplitMix64 as
/// its authors recommend. Integer arithmetic only, so every platform gives the same stream.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Rng {
        let mut x = seed;
        let state = std::array::from_fn(|_| split_mix_64(&mut x));
        Rng { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let s = &mut self.state;
        let out = s[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        out
    }

    /// A number in `0.0..1.0`, a multiple of 2^-53.
    pub fn next_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// A seed for a request that names none, from the randomness the system gives the standard library's hash maps.
///
/// It has 32 bits, so that it can be typed again and passes through JSON readers that know only doubles.
pub fn random_seed() -> u64 {
    RandomState::new().hash_one("seed") >> 32
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
fn split_mix_64(x: &mut u64) -> u64 {
    *x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *x;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generators_match_their_authors_programs() {
        let mut x = 0;
        assert_eq!(split_mix_64(&mut x), 0xe220_a839_7b1d_cdaf);
        let mut x = 1_234_567;
        let got: [u64; 3] = std::array::from_fn(|_| split_mix_64(&mut x));
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
        let mut rng = Rng { state: [1, 2, 3, 4] };
        let got: [u64; 4] = std::array::from_fn(|_| rng.next_u64());
        assert_eq!(got, [11_520, 0, 1_509_978_240, 1_215_971_899_390_074_240]);
    }

    #[test]
    fn uniform_numbers_stay_below_one_and_fill_the_range() {
        let mut rng = Rng::new(1);
        let mut buckets = [0u32; 10];
        for _ in 0..100_000 {
            let x = rng.next_f64();
            assert!((0.0..1.0).contains(&x));
            buckets[(x * 10.0) as usize] += 1;
        }
        assert!(buckets.iter().all(|&n| (9_600..10_400).contains(&n)), "{buckets:?}");
    }

    #[test]
    fn drawn_seeds_differ_and_fit_32_bits() {
        let (a, b) = (random_seed(), random_seed());
        assert_ne!(a, b);
        assert!(a <= u64::from(u32::MAX) && b <= u64::from(u32::MAX));
    }
}
