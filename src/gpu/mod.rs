//! An NVIDIA GPU through its driver alone: memory, kernels of our own (`kernels/*.cu`), and recordings of what a step does.
//!
//! The kernels are compiled to PTX when the program is built with the feature `cuda`, and the driver makes code for the
//! device at hand out of it. No toolkit library is needed to run, and the driver itself is looked for only when somebody
//! asks for a GPU. In a build without the feature everything here is there as well, but for a device.
//!
//! Every kernel gives the bits that [`crate::kernels`] gives: the same running sums in the same order. So a model computes
//! the same whichever of its layers are where, and a test can compare with `==`.

// What stands for the driver in a build without code for GPUs. No value of its type can be made.
#[cfg(not(feature = "cuda"))]
mod absent;
mod attention;
#[cfg(feature = "cuda")]
mod driver;
mod graph;
// The driver alone looks into arguments.
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "there is no driver"))]
mod launch;
mod layout;
mod memory;
mod products;

#[cfg(not(feature = "cuda"))]
use absent::Driver;
#[cfg(feature = "cuda")]
use driver::Driver;

pub use attention::{Cells, LayerSpan, MAX_HEAD_DIM, SCORE_BYTES, StepPlan, StepTables};
pub use graph::Graph;
pub use layout::device_bytes;
pub use memory::{Buffer, Rows};
pub use products::Weights;

use std::ffi::OsStr;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::error::bytes_for_people;

/// Why a GPU cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GpuError {
    /// A build without the feature `cuda`.
    #[error("this build has no code for GPUs")]
    NoCode,
    /// The library is not there or is not what it should be.
    #[error("there is no NVIDIA driver ({0})")]
    NoDriver(String),
    /// The driver has none.
    #[error("the NVIDIA driver finds no GPU")]
    NoDevice,
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
    #[error("the NVIDIA driver failed: {call} says {error}")]
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
    /// Its compute capability.
    pub capability: (i32, i32),
    /// All of its memory.
    pub total_bytes: u64,
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
