//! A GPU through what its system has for it alone: memory, kernels of our own, and recordings of what a step does.
//!
//! - NVIDIA's (feature `cuda`): `kernels/*.cu` are compiled to PTX with the program, and the driver makes code for the device
//!   at hand out of what a model needs of it. No toolkit library is needed to run, and the driver itself is looked for only when somebody asks for
//!   a GPU.
//! - Apple's (feature `metal`): the text of `metal/kernels/*.metal` is in the program, and the system compiles it.
//!
//! The build script sets `gpu` to the one that is there. In a build without either everything here is there as well, but
//! for a device.
//!
//! Every kernel gives the bits that [`crate::kernels`] gives: the same running sums in the same order. So a model computes
//! the same whichever of its layers are where, and a test can compare with `==`. But for one case: matrix units take weights
//! in BF16 with activations rounded to it, and add in an order of their own ([`Gpu::matmul`]). There, too, what comes out for
//! a token does not depend on what else is computed with it.

// What stands for the driver in a build without code for GPUs. No value of its type can be made.
#[cfg(not(gpu))]
mod absent;
mod attention;
#[cfg(gpu = "cuda")]
mod driver;
mod graph;
// The driver alone looks into arguments.
#[cfg_attr(not(gpu), expect(dead_code, reason = "there is no driver"))]
mod launch;
mod layout;
mod memory;
#[cfg(gpu = "metal")]
mod metal;
mod products;

#[cfg(not(gpu))]
use absent::Driver;
#[cfg(gpu = "cuda")]
use driver::Driver;
#[cfg(gpu = "metal")]
use metal::Driver;

pub use attention::{Cells, LayerSpan, MAX_HEAD_DIM, SCORE_BYTES, StepPlan, StepTables};
pub use graph::Graph;
pub use layout::device_bytes;
pub use memory::{Buffer, Rows};
pub use products::Weights;

use std::ffi::OsStr;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::error::bytes_for_people;

/// Whose GPUs this build has code for.
pub const VENDOR: Option<Vendor> = Driver::VENDOR;

/// Who makes GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// CUDA.
    Nvidia,
    /// Metal.
    Apple,
}

/// Bytes that stay where they are as long as somebody has them.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A build without the feature for one.
    #[error("this build has no code for GPUs")]
    NoCode,
    /// The library is not there or is not what it should be.
    #[error("there is no NVIDIA driver ({0})")]
    NoDriver(String),
    /// The driver has none.
    #[error("{} finds no GPU", Driver::NAME)]
    NoDevice,
    /// Another maker's.
    #[error("`{name}` is none of Apple's own GPUs")]
    NotApple {
        /// Its name.
        name: String,
    },
    /// Its instructions are older than those of the kernels.
    #[error("`{name}` is too old: it has compute capability {major}.{minor}, and 7.5 is needed")]
    TooOld {
        /// Its name.
        name: String,
        /// The capability's first number.
        major: i32,
        /// And the second.
        minor: i32,
    },
    /// Not enough of its memory is left.
    #[error("the GPU has no memory for {} more", bytes_for_people(*.0))]
    Memory(u64),
    /// A function of the driver failed.
    #[error("{} failed: {call} says {error}", Driver::NAME)]
    Call {
        /// The function.
        call: &'static str,
        /// The driver's name of the error.
        error: String,
    },
    /// A shape that does not fit.
    #[error("{0}")]
    Shape(String),
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What the driver calls it.
    pub name: String,
    /// Its compute capability, or the number of its family among Apple's and 0.
    pub capability: (i32, i32),
    /// All of its memory.
    pub total_bytes: u64,
}

impl DeviceInfo {
    /// What it can, for people.
    pub fn generation(&self) -> String {
        Driver::generation(self.capability)
    }
}

/// A device that is ready. Clones are the same device.
#[derive(Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
}

struct Inner {
    driver: Arc<Driver>,
    /// Memory of steps.
    pool: Arc<memory::Pool>,
    /// That of the step that is being recorded.
    recording: Mutex<Option<Arc<memory::Pool>>>,
}

impl Gpu {
    /// The first device of the system's driver.
    ///
    /// # Errors
    /// Whatever keeps it from being used.
    pub fn open() -> Result<Gpu, GpuError> {
        Gpu::open_at(Driver::LIBRARY.as_ref())
    }

    /// The same of a driver library at another place.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub fn open_at(library: &OsStr) -> Result<Gpu, GpuError> {
        let driver = Arc::new(Driver::open(library)?);
        let pool = memory::Pool::new(driver.clone());
        Ok(Gpu { inner: Arc::new(Inner { driver, pool, recording: Mutex::default() }) })
    }

    /// What it is.
    pub fn info(&self) -> &DeviceInfo {
        self.inner.driver.info()
    }

    /// Bytes of its memory that are free now.
    ///
    /// # Errors
    /// The driver's.
    pub fn free_bytes(&self) -> Result<u64, GpuError> {
        self.inner.driver.free_bytes()
    }

    /// Waits until all that was begun is done.
    ///
    /// # Errors
    /// The driver's: that of whatever failed since the last time.
    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.inner.driver.synchronize()
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gpu").field(&self.info().name).finish()
    }
}

/// All devices of the system's driver.
///
/// # Errors
/// No code, no driver; a driver without devices is [`GpuError::NoDevice`].
pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
    Driver::devices()
}
