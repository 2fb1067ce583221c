//! Steps that are recorded once and then run again as they are.
//!
//! A step of one token starts a few hundred kernels that take microseconds each; a recording is started at once. It names
//! memory by address, so it keeps what the step computed in, and what differs from step to step is read from memory.

use std::sync::{Arc, PoisonError};

use super::memory::Pool;
use super::{Driver, Gpu, GpuError};

/// A recorded step.
pub struct Graph {
    driver: Arc<Driver>,
    handle: u64,
    /// What its kernels compute in.
    _memory: Arc<Pool>,
}

impl Gpu {
    /// Records what `f` starts on this device, which is not run. `f` may not wait for the device, nor read or write its
    /// memory from the host. What it returns lives in memory of the recording. `None` where the driver cannot record, or
    /// when this did not go well; then `f` may have been called or not.
    ///
    /// While a step is recorded, nobody else may use the device.
    pub fn record<T>(&self, f: impl FnOnce() -> Option<T>) -> Option<(Graph, T)> {
        let driver = &self.inner.driver;
        driver.start_recording().ok()?;
        let memory = Pool::new(driver.clone());
        self.set_recording(Some(memory.clone()));
        let made = f();
        self.set_recording(None);
        // Ended also where `f` failed.
        let handle = driver.end_recording().ok()?;
        let graph = Graph { driver: driver.clone(), handle, _memory: memory };
        made.map(|made| (graph, made))
    }

    /// Where a step's memory comes from.
    pub(super) fn pool(&self) -> Arc<Pool> {
        let recording = self.inner.recording.lock().unwrap_or_else(PoisonError::into_inner);
        recording.as_ref().unwrap_or(&self.inner.pool).clone()
    }

    fn set_recording(&self, memory: Option<Arc<Pool>>) {
        *self.inner.recording.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }
}

impl Graph {
    /// Starts all that was recorded, behind what was started before.
    ///
    /// # Errors
    /// The driver's.
    pub fn run(&self) -> Result<(), GpuError> {
        self.driver.run_recording(self.handle)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.driver.free_recording(self.handle);
    }
}
