//! What stands for Metal on other systems: a library that tests make (`tests/gpu/emulator/metal.cpp`), with the text of the
//! kernels compiled for the host. Nobody else has one, and then there is no device.
//!
//! As with Metal, nothing runs before somebody waits for it, so a step that is missing shows.

use std::ffi::{CString, OsStr, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use libloading::Library;

use crate::gpu::{DeviceInfo, GpuError};

/// Its name.
pub const LIBRARY: &str = "libmetal-emulated.so";

/// Threads of a threadgroup at most, of any kernel.
const MAX_THREADS: usize = 256;

/// The functions of the library.
struct Api {
    allocate: unsafe extern "C" fn(usize) -> *mut u8,
    free: unsafe extern "C" fn(*mut u8, usize),
    kernel: unsafe extern "C" fn(*const i8) -> *const c_void,
    run: unsafe extern "C" fn(*const c_void, u32, u32, u32, *const u64, usize) -> bool,
    used: AtomicUsize,
    _library: Library,
}

pub struct System {
    api: Arc<Api>,
    info: DeviceInfo,
}

/// Memory; commands share it, as they do there.
pub struct Memory(Arc<Region>);

struct Region {
    at: NonNull<u8>,
    bytes: usize,
    /// None where it is somebody else's.
    api: Option<Arc<Api>>,
}

// SAFETY: an address, of memory that any thread may use.
unsafe impl Send for Region {}
// SAFETY: the same.
unsafe impl Sync for Region {}

pub struct Pipeline(*const c_void);

pub struct Commands {
    api: Arc<Api>,
    list: Vec<Command>,
}

enum Command {
    Launch { kernel: *const c_void, grid: [u32; 2], threads: u32, arguments: Vec<u64> },
    Copy { from: (Arc<Region>, usize), to: (Arc<Region>, usize), bytes: usize },
}

pub struct Started(Commands);

impl System {
    pub fn open(library: &OsStr) -> Result<System, GpuError> {
        // SAFETY: loading runs nothing but what the library's language needs.
        let library = unsafe { Library::new(library) }.map_err(|_| GpuError::NoDevice)?;
        // SAFETY: the signatures are those of metal.cpp, and the library stays loaded.
        let (status, total, api) = unsafe {
            let status: unsafe extern "C" fn() -> i32 = *symbol(&library, "metal_status")?;
            let total: unsafe extern "C" fn() -> u64 = *symbol(&library, "metal_total_memory")?;
            let (status, total) = (status(), total());
            let api = Api {
                allocate: *symbol(&library, "metal_allocate")?,
                free: *symbol(&library, "metal_free")?,
                kernel: *symbol(&library, "metal_kernel")?,
                run: *symbol(&library, "metal_run")?,
                used: AtomicUsize::new(0),
                _library: library,
            };
            (status, total, api)
        };
        match status {
            0 => {
                let info = DeviceInfo { name: "emulated GPU".into(), capability: (7, 0), total_bytes: total };
                Ok(System { api: Arc::new(api), info })
            }
            1 => Err(GpuError::NoDevice),
            _ => Err(GpuError::Call { call: "newCommandQueue", error: "nothing was returned".into() }),
        }
    }

    /// The library has compiled it.
    pub fn compile(&mut self, _source: &str) -> Result<(), GpuError> {
        Ok(())
    }

    pub fn pipeline(&self, kernel: &str) -> Result<Pipeline, GpuError> {
        let missing = || GpuError::Shape(format!("there is no kernel {kernel}"));
        let name = CString::new(kernel).map_err(|_| missing())?;
        // SAFETY: the name ends with 0.
        let found = unsafe { (self.api.kernel)(name.as_ptr().cast()) };
        if found.is_null() { Err(missing()) } else { Ok(Pipeline(found)) }
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub fn used_bytes(&self) -> u64 {
        self.api.used.load(Ordering::Relaxed) as u64
    }

    pub fn memory(&self, bytes: usize) -> Option<Memory> {
        if self.used_bytes() + bytes as u64 > self.info.total_bytes {
            return None;
        }
        // SAFETY: a function of a number.
        let at = NonNull::new(unsafe { (self.api.allocate)(bytes) })?;
        self.api.used.fetch_add(bytes, Ordering::Relaxed);
        Some(Memory(Arc::new(Region { at, bytes, api: Some(self.api.clone()) })))
    }

    /// # Safety
    /// As of Metal's.
    pub unsafe fn wrap(&self, at: NonNull<u8>, bytes: usize) -> Option<Memory> {
        // As Metal, which takes nothing else.
        let are_pages = (at.as_ptr() as usize).is_multiple_of(super::PAGE) && bytes.is_multiple_of(super::PAGE);
        are_pages.then(|| Memory(Arc::new(Region { at, bytes, api: None })))
    }

    pub fn commands(&self) -> Result<Commands, GpuError> {
        Ok(Commands { api: self.api.clone(), list: Vec::new() })
    }
}

/// A function of the library.
///
/// # Safety
/// It has that signature.
unsafe fn symbol<'a, T>(library: &'a Library, name: &str) -> Result<libloading::Symbol<'a, T>, GpuError> {
    // SAFETY: the caller's promise.
    unsafe { library.get(name.as_bytes()) }.map_err(|_| GpuError::NoDevice)
}

impl Memory {
    /// The GPU is this process.
    pub fn address(&self) -> u64 {
        self.0.at.as_ptr() as u64
    }

    pub fn contents(&self) -> NonNull<u8> {
        self.0.at
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Some(api) = &self.api {
            // SAFETY: the library gave it, for so many bytes.
            unsafe { (api.free)(self.at.as_ptr(), self.bytes) };
            api.used.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

impl Pipeline {
    pub fn max_threads(&self) -> usize {
        MAX_THREADS
    }
}

impl Commands {
    pub fn launch<'a, I: Iterator<Item = &'a Memory>>(
        &mut self,
        pipeline: &Pipeline,
        grid: [u32; 2],
        threads: u32,
        arguments: &[u8],
        _all: impl FnOnce() -> I,
    ) -> Result<(), GpuError> {
        // Aligned as the structure is.
        let arguments = arguments.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        self.list.push(Command::Launch { kernel: pipeline.0, grid, threads, arguments });
        Ok(())
    }

    /// All memory is there.
    pub fn add(&self, _memory: &Memory) {}

    pub fn copy(
        &mut self,
        (from, from_at): (&Memory, usize),
        (to, to_at): (&Memory, usize),
        bytes: usize,
    ) -> Result<(), GpuError> {
        self.list.push(Command::Copy { from: (from.0.clone(), from_at), to: (to.0.clone(), to_at), bytes });
        Ok(())
    }

    pub fn start(self) -> Started {
        Started(self)
    }
}

impl Started {
    pub fn wait(self) -> Result<(), GpuError> {
        let Commands { api, list } = self.0;
        for command in list {
            match command {
                Command::Copy { from: (from, from_at), to: (to, to_at), bytes } => {
                    // As Metal, which takes nothing else.
                    let are_words = [from_at, to_at, bytes].iter().all(|n| n.is_multiple_of(super::WORD));
                    if !are_words || from_at + bytes > from.bytes || to_at + bytes > to.bytes {
                        return Err(GpuError::Call { call: "a command buffer", error: "invalid copy".into() });
                    }
                    // SAFETY: both ranges lie in their memory, which is kept.
                    unsafe { ptr::copy(from.at.as_ptr().add(from_at), to.at.as_ptr().add(to_at), bytes) };
                }
                Command::Launch { kernel, grid: [x, y], threads, arguments } => {
                    let bytes = size_of_val(&arguments[..]);
                    // SAFETY: the library's own kernel and so many bytes; what they point to is kept until the end of this.
                    if !unsafe { (api.run)(kernel, x, y, threads, arguments.as_ptr(), bytes) } {
                        return Err(GpuError::Call { call: "a command buffer", error: "invalid arguments".into() });
                    }
                }
            }
        }
        Ok(())
    }
}
