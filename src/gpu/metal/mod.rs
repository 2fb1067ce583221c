//! Apple's GPUs through Metal: memory that the CPU shares, and kernels of our own (`kernels/*.metal`), whose text is compiled
//! by the system when a GPU is first asked for.
//!
//! As CUDA's driver, this has addresses and one order of everything. An address is the GPU's own (Metal 3, macOS 13), so it
//! may be an argument or lie in memory; each kernel has all of its arguments in one structure. What is started goes into
//! command buffers of one queue, in order, each of which is told of all memory; who reads what the GPU wrote waits for all
//! of them.

#![expect(unsafe_code, reason = "memory that the GPU reads and writes")]

#[cfg(target_os = "macos")]
#[path = "apple.rs"]
mod system;
// Where there is no Metal: what tests have in its place.
#[cfg(not(target_os = "macos"))]
#[path = "emulated.rs"]
mod system;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::launch::{Argument, KERNELS, MAX_ARGUMENTS};
use super::{DeviceInfo, GpuError, SharedBytes, Vendor};
use system::{Commands, Memory, Pipeline, Started, System};

/// The kernels, one text.
const SOURCE: &str = concat!(
    include_str!("kernels/common.metal"),
    include_str!("kernels/rows.metal"),
    include_str!("kernels/attention.metal"),
    include_str!("kernels/matmul.metal"),
);

/// What wrapped memory begins and ends at: a page of Apple's processors, or of Intel's.
const PAGE: usize = if cfg!(target_arch = "aarch64") { 16 << 10 } else { 4 << 10 };
/// The kernels read words of so many bytes where a format's blocks allow for it, and copies are made of them.
const WORD: usize = 4;
/// Kernels after which the GPU begins while the next ones are still being put down.
const KERNELS_AT_ONCE: usize = 64;

/// A device with our kernels.
pub(super) struct Driver {
    system: System,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By their addresses.
    memories: BTreeMap<u64, Taken>,
    /// Somebody else's memory, and the address that was asked for. Several may have pages in common.
    wrapped: Vec<(u64, Taken)>,
    /// Memory that was given back, while what was started may still use it.
    leaving: Vec<Taken>,
    /// Those that were needed so far: to make one takes its time.
    pipelines: HashMap<&'static str, Pipeline>,
    /// What was put down and not begun, with its number of kernels.
    commands: Option<(Commands, usize)>,
    /// What has begun and was not waited for.
    begun: Vec<Started>,
}

/// Memory, and what has to live as long.
struct Taken {
    memory: Memory,
    bytes: usize,
    #[expect(dead_code, reason = "it is kept")]
    owner: Option<SharedBytes>,
}

// SAFETY: Metal's devices, queues, buffers and pipelines may be used from any thread. Command buffers and encoders may be
// used from one at a time, and are reached through the lock only.
unsafe impl Send for Driver {}
// SAFETY: the same.
unsafe impl Sync for Driver {}

impl Driver {
    /// In messages.
    pub const NAME: &'static str = "Metal";
    pub const VENDOR: Option<Vendor> = Some(Vendor::Apple);
    pub const LIBRARY: &'static str = system::LIBRARY;
    /// The kernels read rows as they lie in files, so that mapped files need no copy.
    pub const REARRANGES: bool = false;

    pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
        System::open(Self::LIBRARY.as_ref()).map(|system| vec![system.info().clone()])
    }

    pub fn open(library: &OsStr) -> Result<Driver, GpuError> {
        let mut system = System::open(library)?;
        system.compile(SOURCE)?;
        let driver = Driver { system, state: Mutex::default() };
        driver.prepare(&KERNELS)?;
        Ok(driver)
    }

    /// Makes these kernels ready where that has not been done.
    pub fn prepare(&self, kernels: &[&'static str]) -> Result<(), GpuError> {
        let pipelines = &mut self.lock().pipelines;
        kernels.iter().try_for_each(|kernel| {
            if let Entry::Vacant(entry) = pipelines.entry(kernel) {
                entry.insert(self.system.pipeline(kernel)?);
            }
            Ok(())
        })
    }

    pub fn info(&self) -> &DeviceInfo {
        self.system.info()
    }

    /// What a device's `capability` means.
    pub fn generation((family, _): (i32, i32)) -> String {
        format!("Apple family {family}")
    }

    pub fn free_bytes(&self) -> Result<u64, GpuError> {
        Ok(self.info().total_bytes.saturating_sub(self.system.used_bytes()))
    }

    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.lock().wait()
    }

    /// Memory of `bytes` bytes, which are more than 0.
    pub fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        let memory = self.system.memory(bytes).ok_or(GpuError::Memory(bytes as u64))?;
        Ok(self.lock().put(Taken { memory, bytes, owner: None }))
    }

    /// The address of these very bytes, where the GPU can read them: on both sides of the same memory. Nobody may write
    /// there.
    pub fn wrap(&self, bytes: &SharedBytes) -> Option<u64> {
        let slice = (**bytes).as_ref();
        let start = slice.as_ptr() as usize;
        let end = start.checked_add(slice.len())?.checked_next_multiple_of(PAGE)?;
        let before = start % PAGE;
        if slice.is_empty() || !start.is_multiple_of(WORD) {
            return None;
        }
        let first = NonNull::new(slice.as_ptr().wrapping_sub(before).cast_mut())?;
        // SAFETY: the pages of bytes that can be read can be read as a whole, and they stay as long as the owner does, which
        // is kept beside them.
        let memory = unsafe { self.system.wrap(first, end - start + before) }?;
        let at = memory.address() + before as u64;
        let taken = Taken { memory, bytes: before + slice.len(), owner: Some(bytes.clone()) };
        let mut state = self.lock();
        state.add(&taken.memory);
        state.wrapped.push((at, taken));
        Some(at)
    }

    /// Gives memory back: now, or when whatever uses it is done.
    pub fn free(&self, at: u64) {
        let mut state = self.lock();
        let wrapped = state.wrapped.iter().position(|(wrapped, _)| *wrapped == at);
        let taken = match wrapped {
            Some(i) => Some(state.wrapped.swap_remove(i).1),
            None => state.memories.remove(&at),
        };
        if let Some(taken) = taken
            && !state.is_idle()
        {
            state.leaving.push(taken);
        }
    }

    /// Has `fill` write the bytes.
    pub fn upload(&self, to: u64, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), GpuError> {
        let mut state = self.lock();
        if !are_words(to, len) {
            state.wait()?;
        }
        if state.is_idle() {
            let at = state.host(to, len)?;
            // SAFETY: the range lies in the memory, nobody else has the lock, and the GPU has nothing to do.
            fill(unsafe { slice::from_raw_parts_mut(at.as_ptr(), len) });
            return Ok(());
        }
        // What was started before may still read what is there: in its order, then.
        let staged = self.system.memory(len).ok_or(GpuError::Memory(len as u64))?;
        // SAFETY: it is as long, and new.
        fill(unsafe { slice::from_raw_parts_mut(staged.contents().as_ptr(), len) });
        let State { memories, commands, .. } = &mut *state;
        let (memory, offset) = find(memories, to, len)?;
        commands_of(commands, &self.system)?.0.copy((&staged, 0), (memory, offset), len)
    }

    /// Has `take` read the bytes as they are after all that was started before.
    pub fn download(&self, from: u64, len: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), GpuError> {
        let mut state = self.lock();
        state.wait()?;
        let at = state.host(from, len)?;
        // SAFETY: the range lies in the memory, nobody else has the lock, and the GPU has nothing to do.
        take(unsafe { slice::from_raw_parts(at.as_ptr(), len) });
        Ok(())
    }

    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), GpuError> {
        let mut state = self.lock();
        if !(are_words(from, bytes) && are_words(to, bytes)) {
            state.wait()?;
            let (from, to) = (state.host(from, bytes)?, state.host(to, bytes)?);
            // SAFETY: both ranges lie in their memory, nobody else has the lock, and the GPU has nothing to do.
            unsafe { ptr::copy(from.as_ptr(), to.as_ptr(), bytes) };
            return Ok(());
        }
        let State { memories, commands, .. } = &mut *state;
        let (from, to) = (find(memories, from, bytes)?, find(memories, to, bytes)?);
        commands_of(commands, &self.system)?.0.copy(from, to, bytes)
    }

    /// Command buffers are filled once for each run.
    pub fn start_recording(&self) -> Result<(), GpuError> {
        Err(no_recordings())
    }

    pub fn end_recording(&self) -> Result<u64, GpuError> {
        Err(no_recordings())
    }

    pub fn run_recording(&self, _handle: u64) -> Result<(), GpuError> {
        Err(no_recordings())
    }

    pub fn free_recording(&self, _handle: u64) {}

    /// Puts a kernel on a grid of threadgroups behind all that was started before.
    pub fn launch(
        &self,
        kernel: &'static str,
        grid: [u32; 2],
        threads: u32,
        arguments: &[Argument],
    ) -> Result<(), GpuError> {
        if arguments.len() > MAX_ARGUMENTS {
            return Err(GpuError::Shape(format!("{} arguments of {kernel} are too many", arguments.len())));
        }
        let mut state = self.lock();
        let State { memories, wrapped, pipelines, commands, begun, .. } = &mut *state;
        let pipeline = match pipelines.entry(kernel) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(self.system.pipeline(kernel)?),
        };
        if threads as usize > pipeline.max_threads() {
            return Err(GpuError::Shape(format!("{threads} threads of {kernel} are too many for this GPU")));
        }
        let (current, n_kernels) = commands_of(commands, &self.system)?;
        let all = || memories.values().chain(wrapped.iter().map(|(_, taken)| taken)).map(|taken| &taken.memory);
        current.launch(pipeline, grid, threads, &structure(arguments), all)?;
        *n_kernels += 1;
        if *n_kernels >= KERNELS_AT_ONCE
            && let Some((commands, _)) = commands.take()
        {
            begun.push(commands.start());
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // The GPU may still be using the memory that goes now. There is nobody to tell of an error.
        let _ = self.synchronize();
    }
}

impl State {
    fn put(&mut self, taken: Taken) -> u64 {
        let at = taken.memory.address();
        self.add(&taken.memory);
        self.memories.insert(at, taken);
        at
    }

    /// Kernels that are put down from here on may use it.
    fn add(&self, memory: &Memory) {
        if let Some((commands, _)) = &self.commands {
            commands.add(memory);
        }
    }

    fn is_idle(&self) -> bool {
        self.commands.is_none() && self.begun.is_empty()
    }

    /// Begins what was put down, and waits until nothing is left to do.
    fn wait(&mut self) -> Result<(), GpuError> {
        self.begun.extend(self.commands.take().map(|(commands, _)| commands.start()));
        // All of them, also after an error: nothing may be running afterwards.
        let done: Vec<Result<(), GpuError>> = self.begun.drain(..).map(Started::wait).collect();
        self.leaving.clear();
        done.into_iter().collect()
    }

    /// Where `bytes` bytes from an address on are for the CPU.
    fn host(&self, at: u64, bytes: usize) -> Result<NonNull<u8>, GpuError> {
        let (memory, offset) = find(&self.memories, at, bytes)?;
        // SAFETY: the offset lies in the memory.
        Ok(unsafe { memory.contents().add(offset) })
    }
}

/// Whether a range is whole words: the GPU copies nothing else.
fn are_words(at: u64, bytes: usize) -> bool {
    at.is_multiple_of(WORD as u64) && bytes.is_multiple_of(WORD)
}

/// The memory of an address and the byte in it, where `bytes` bytes follow.
fn find(memories: &BTreeMap<u64, Taken>, at: u64, bytes: usize) -> Result<(&Memory, usize), GpuError> {
    let found = memories.range(..=at).next_back().and_then(|(start, taken)| {
        let offset = usize::try_from(at - start).ok()?;
        (offset.checked_add(bytes)? <= taken.bytes).then_some((&taken.memory, offset))
    });
    found.ok_or_else(|| GpuError::Shape(format!("{bytes} bytes at {at:#x} are no memory of the GPU")))
}

/// Arguments as a structure has them in memory: each at a multiple of its size, and the whole of 8 bytes.
fn structure(arguments: &[Argument]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(arguments.len() * size_of::<u64>());
    let mut put = |value: &[u8], alignment| {
        bytes.resize(bytes.len().next_multiple_of(alignment), 0);
        bytes.extend(value);
    };
    for argument in arguments {
        match argument {
            Argument::U64(value) => put(&value.to_le_bytes(), size_of::<u64>()),
            Argument::U32(value) => put(&value.to_le_bytes(), size_of::<u32>()),
            Argument::F32(value) => put(&value.to_le_bytes(), size_of::<f32>()),
            Argument::Parts(parts) => parts.iter().for_each(|part| put(&part.bytes(), size_of::<u64>())),
        }
    }
    bytes.resize(bytes.len().next_multiple_of(size_of::<u64>()), 0);
    bytes
}

fn no_recordings() -> GpuError {
    GpuError::Call { call: "a recording", error: "there are none".into() }
}

/// What is being put down.
fn commands_of<'a>(
    commands: &'a mut Option<(Commands, usize)>,
    system: &System,
) -> Result<&'a mut (Commands, usize), GpuError> {
    match commands {
        Some(commands) => Ok(commands),
        None => Ok(commands.insert((system.commands()?, 0))),
    }
}

#[cfg(test)]
mod tests {
    use super::structure;
    use crate::gpu::launch::Argument::{F32, U32, U64};

    #[test]
    fn arguments_lie_as_in_a_structure() {
        let bytes = structure(&[U32(1), U64(2), F32(0.0), U32(3), U32(4)]);
        let expected =
            [[1, 0, 0, 0, 0, 0, 0, 0], [2, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 3, 0, 0, 0], [4, 0, 0, 0, 0, 0, 0, 0]];
        assert_eq!(bytes, expected.concat());
    }
}
