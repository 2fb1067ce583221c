//! Shapes and threads over kernels.
//!
//! Every operation takes and returns [`Activations`] and exists three times: over our kernels and a thread pool
//! ([`Compute::Cpu`]), over our kernels on a GPU ([`Compute::Gpu`]), which give the same bits (but for weights in BF16,
//! see [`crate::gpu`]), and as plain candle
//! arithmetic in F32 ([`Compute::Candle`]), which is slow, exact and runs on any device that candle knows. The forward
//! pass is written once over all; tests hold the first against the last, and the second against the first.

mod activations;
mod attention;
mod buffers;
mod embedding;
mod gpu_cache;
mod kv_rows;
mod layer_cache;
mod linear;
mod placement;
mod replay;
mod residual;
mod rows;
mod step;

pub use crate::kernels::AttentionShape;
pub use activations::Activations;
pub use attention::{SequenceSpan, attention};
pub use embedding::embed;
pub use kv_rows::KvType;
pub use layer_cache::LayerCache;
pub use linear::{Linear, Weight};
pub use placement::Placement;
pub use replay::RECORDED_STEPS;
pub use residual::Residual;
pub use rows::{Norm, add, rms_norm, softcap};
pub use step::Step;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle_core::{CpuStorage, Layout, Result, Tensor};

use crate::gpu::Gpu;
use crate::kernels::Kernels;

/// Where arithmetic happens.
pub enum Compute {
    /// Our kernels on a pool of threads.
    Cpu(Cpu),
    /// Our kernels on a GPU.
    Gpu(Device),
    /// Candle's generic operations over weights widened to F32.
    Candle(candle_core::Device),
}

/// Kernels and the threads that run them.
pub struct Cpu {
    /// The instruction set in use.
    pub kernels: &'static Kernels,
    /// Its threads; a forward pass runs on them.
    pool: rayon::ThreadPool,
    /// Others for steps of several tokens, where their number differs.
    batch_pool: Option<rayon::ThreadPool>,
    /// How caches keep keys, and values.
    pub kv_types: [KvType; 2],
    buffers: buffers::Buffers,
}

/// A GPU as a place to compute.
pub struct Device {
    /// It.
    pub gpu: Gpu,
    /// How caches keep keys, and values.
    pub kv_types: [KvType; 2],
    recordings: replay::Recordings,
}

impl Compute {
    /// The CPU with `n_threads` threads and the given kernels.
    ///
    /// # Errors
    /// The system refuses to start threads.
    pub fn cpu(kernels: &'static Kernels, n_threads: usize) -> Result<Compute> {
        let pool = threads(n_threads, "compute")?;
        let (kv_types, buffers) = Default::default();
        Ok(Compute::Cpu(Cpu { kernels, pool, batch_pool: None, kv_types, buffers }))
    }

    /// The same with this many threads for steps of several tokens.
    ///
    /// # Errors
    /// The system refuses to start threads.
    pub fn with_batch_threads(mut self, n_threads: usize) -> Result<Compute> {
        if let Compute::Cpu(cpu) = &mut self {
            let is_other = n_threads != cpu.pool.current_num_threads();
            cpu.batch_pool = is_other.then(|| threads(n_threads, "batch")).transpose()?;
        }
        Ok(self)
    }

    /// A GPU.
    pub fn gpu(gpu: Gpu) -> Compute {
        Compute::Gpu(Device { gpu, kv_types: [KvType::default(); 2], recordings: replay::Recordings::default() })
    }

    /// The same with caches that keep keys and values in these types; candle's keep F32.
    pub fn with_kv_types(mut self, kv_types: [KvType; 2]) -> Compute {
        match &mut self {
            Compute::Cpu(cpu) => cpu.kv_types = kv_types,
            Compute::Gpu(device) => device.kv_types = kv_types,
            Compute::Candle(_) => {}
        }
        self
    }

    /// How caches keep keys, and values.
    pub fn kv_types(&self) -> [KvType; 2] {
        match self {
            Compute::Cpu(cpu) => cpu.kv_types,
            Compute::Gpu(device) => device.kv_types,
            Compute::Candle(_) => [KvType::F32; 2],
        }
    }

    /// The device that candle's tensors live on.
    pub fn device(&self) -> &candle_core::Device {
        match self {
            Compute::Cpu(_) | Compute::Gpu(_) => &candle_core::Device::Cpu,
            Compute::Candle(device) => device,
        }
    }

    /// Runs `f`, a step of this many tokens, on the threads for it, so that parallel loops inside find them without a
    /// hand-over each, and awake.
    pub fn install<R: Send>(&self, n_tokens: usize, f: impl FnOnce() -> R + Send) -> R {
        match self {
            Compute::Cpu(cpu) => {
                let pool = cpu.batch_pool.as_ref().filter(|_| n_tokens > 1).unwrap_or(&cpu.pool);
                pool.install(|| with_threads_awake(f))
            }
            Compute::Gpu(_) | Compute::Candle(_) => f(),
        }
    }
}

impl Cpu {
    /// Runs `f` on the threads of the step that it is a part of; outside of any, on those for one token.
    fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        match rayon::current_thread_index() {
            Some(_) => f(),
            None => self.pool.install(f),
        }
    }

    /// The most threads that share an operation.
    fn n_threads(&self) -> usize {
        let pools = std::iter::once(&self.pool).chain(&self.batch_pool);
        pools.map(rayon::ThreadPool::current_num_threads).max().unwrap_or(1)
    }
}

fn threads(n_threads: usize, name: &'static str) -> Result<rayon::ThreadPool> {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(n_threads.max(1));
    builder.thread_name(move |i| format!("{name}-{i}")).build().map_err(candle_core::Error::wrap)
}

/// Runs `f` on a thread of a pool while the pool's others look for its work without a pause.
///
/// Left alone they fall asleep within the few microseconds that a step of decode spends on one thread between two
/// products, of which it has over a hundred; waking them takes longer than that.
///
/// A thread may come to look while it waits, deep in another loop, for a part of its own; so it must give up in the end.
fn with_threads_awake<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    const PATIENCE: Duration = Duration::from_micros(300);

    /// Lets the others go, also when `f` panics.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    let done = AtomicBool::new(false);
    let me = rayon::current_thread_index();
    rayon::scope(|scope| {
        scope.spawn_broadcast(|_, context| {
            if Some(context.index()) == me {
                return;
            }
            let mut last_work = Instant::now();
            while !done.load(Ordering::Acquire) && last_work.elapsed() < PATIENCE {
                match rayon::yield_now() {
                    Some(rayon::Yield::Executed) => last_work = Instant::now(),
                    _ => std::hint::spin_loop(),
                }
            }
        });
        let _done = Done(&done);
        f()
    })
}

/// The values of a contiguous F32 tensor on the CPU, inside a custom op.
fn f32_values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a contiguous tensor was expected, not {layout:?}"),
    }
}

/// The same, to be changed in place.
fn f32_values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&mut values[start..end]),
        _ => candle_core::bail!("a contiguous tensor of F32 was expected, not {layout:?}"),
    }
}

/// `[.., width]` as (rows, width).
fn rows_and_width(layout: &Layout) -> Result<(usize, usize)> {
    let dims = layout.dims();
    match dims.split_last() {
        Some((&width, rows)) => Ok((rows.iter().product(), width)),
        None => candle_core::bail!("a scalar has no rows"),
    }
}

/// `cap * tanh(x / cap)`, in candle.
fn candle_softcap(x: &Tensor, cap: f32) -> Result<Tensor> {
    (x / f64::from(cap))?.tanh()? * f64::from(cap)
}
