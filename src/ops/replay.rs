//! Steps of a GPU that are recorded once and replayed.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Error, Result};

use super::{Activations, Compute, Step};
use crate::gpu::{Graph, Rows, StepTables};

/// Recorded steps that a device remembers; beyond, the oldest is forgotten.
pub const RECORDED_STEPS: usize = 8;

/// Recorded steps of one model.
#[derive(Default)]
pub(super) struct Recordings {
    /// With the rows and the bound of keys that each is for.
    all: Mutex<Vec<(usize, usize, Arc<Recording>)>>,
}

struct Recording {
    graph: Graph,
    /// What it reads,
    x: Rows,
    tables: Arc<StepTables>,
    /// and what it makes.
    out: Activations,
}

impl Compute {
    /// `f` of embeddings and a step, both of which are on the host. On a GPU it is run from a recording after the first
    /// time that there are as many rows and, about, as many keys. So `f` must start the same operations each time, on this
    /// device alone, and may not look at values.
    ///
    /// # Errors
    /// As of `f`.
    pub fn replayed(
        &self,
        x: Activations,
        step: &Step,
        mut f: impl FnMut(Activations, &Step) -> Result<Activations>,
    ) -> Result<Activations> {
        let (Compute::Gpu(device), Some(plan), Activations::Tensor(tensor)) = (self, step.plan(), &x) else {
            return f(x, step);
        };
        let (n_rows, width) = tensor.dims2()?;
        let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        let key = (n_rows, plan.n_keys());
        let recording = match device.recordings.find(key) {
            Some(recording) => {
                recording.x.replace(&values).and_then(|()| recording.tables.replace(plan)).map_err(Error::wrap)?;
                recording
            }
            None => {
                let rows = device.gpu.rows_of(&values, width).map_err(Error::wrap)?;
                let tables = step.tables(&device.gpu)?;
                let Some((graph, out)) = device.gpu.record(|| f(Activations::Gpu(rows.clone()), step).ok()) else {
                    // Without, or with an error that shows again.
                    return f(Activations::Gpu(rows), step);
                };
                device.recordings.add(key, Recording { graph, x: rows, tables, out })
            }
        };
        recording.graph.run().map_err(Error::wrap)?;
        Ok(recording.out.clone())
    }
}

impl Recordings {
    fn find(&self, (n_rows, n_keys): (usize, usize)) -> Option<Arc<Recording>> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(rows, keys, _)| (*rows, *keys) == (n_rows, n_keys)).map(|(.., found)| found.clone())
    }

    fn add(&self, (n_rows, n_keys): (usize, usize), recording: Recording) -> Arc<Recording> {
        let recording = Arc::new(recording);
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= RECORDED_STEPS {
            all.remove(0);
        }
        all.push((n_rows, n_keys, recording.clone()));
        recording
    }
}
