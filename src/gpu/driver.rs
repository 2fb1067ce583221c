//! The driver API of CUDA, as much of it as is needed, found in the driver's library at run time.
//!
//! Source: the CUDA Driver API reference. The functions that are needed and their numbers have been the same since CUDA 4;
//! newer drivers keep them. Those that record are newer (CUDA 11.4), and done without where they are missing.

#![expect(unsafe_code, reason = "functions of a library that is loaded at run time")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::{ptr, slice};

use libloading::Library;

use super::launch::{Argument, KERNELS, MAX_ARGUMENTS};
use super::{DeviceInfo, GpuError, SharedBytes, Vendor};

/// The kernels in the driver's own assembly language, and the names of those in each part. The driver compiles a part when
/// one of its kernels is first needed: those for products, by far the most, are a part for each format.
const MODULES: &[(&[&str], &str)] = include!(concat!(env!("OUT_DIR"), "/modules.rs"));

/// Bytes of the host's memory that the device reads and writes by itself.
const STAGING_BYTES: usize = 16 << 20;

/// `CUresult`; 0 is success.
type Status = c_int;
const OUT_OF_MEMORY: Status = 2;
const NO_DEVICE: Status = 100;
/// What stands in for a driver where programs are built.
const STUB_LIBRARY: Status = 34;
/// `CUdevice_attribute`
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
/// What the PTX is compiled for.
const OLDEST: (i32, i32) = (7, 5);

/// A stream that waits for no other (`CU_STREAM_NON_BLOCKING`).
const NON_BLOCKING: c_uint = 1;
/// While a stream records, its thread may still take memory (`CU_STREAM_CAPTURE_MODE_RELAXED`).
const RELAXED: c_int = 2;
/// `CU_JIT_ERROR_LOG_BUFFER` and `CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES`
const ERROR_LOG: c_int = 5;
const ERROR_LOG_BYTES: c_int = 6;

/// Declares the table of functions and how it is filled.
macro_rules! api {
    (
        needed { $($name:ident = $symbol:literal: fn($($argument:ty),*);)* }
        optional { $($optional:ident = $optional_symbol:literal: fn($($optional_argument:ty),*);)* }
    ) => {
        struct Api {
            $($name: unsafe extern "system" fn($($argument),*) -> Status,)*
            $($optional: Option<unsafe extern "system" fn($($optional_argument),*) -> Status>,)*
            /// The functions are its. It is never unloaded: the driver has threads of its own, which would run on in code
            /// that is gone.
            _library: ManuallyDrop<Library>,
        }

        impl Api {
            fn load(library: &OsStr) -> Result<Api, libloading::Error> {
                // SAFETY: loading runs the library's initializers, those of the system's graphics driver.
                let library = ManuallyDrop::new(unsafe { Library::new(library) }?);
                // SAFETY: the signatures are those of the reference, and the table keeps the library loaded.
                unsafe {
                    Ok(Api {
                        $($name: *library.get(concat!($symbol, "\0").as_bytes())?,)*
                        $($optional: library.get(concat!($optional_symbol, "\0").as_bytes()).ok().map(|found| *found),)*
                        _library: library,
                    })
                }
            }
        }
    };
}

api! {
    needed {
        init = "cuInit": fn(c_uint);
        error_name = "cuGetErrorName": fn(Status, *mut *const c_char);
        device_count = "cuDeviceGetCount": fn(*mut c_int);
        device = "cuDeviceGet": fn(*mut c_int, c_int);
        device_name = "cuDeviceGetName": fn(*mut c_char, c_int, c_int);
        device_memory = "cuDeviceTotalMem_v2": fn(*mut usize, c_int);
        device_attribute = "cuDeviceGetAttribute": fn(*mut c_int, c_int, c_int);
        retain_context = "cuDevicePrimaryCtxRetain": fn(*mut *mut c_void, c_int);
        release_context = "cuDevicePrimaryCtxRelease_v2": fn(c_int);
        set_context = "cuCtxSetCurrent": fn(*mut c_void);
        create_stream = "cuStreamCreate": fn(*mut *mut c_void, c_uint);
        destroy_stream = "cuStreamDestroy_v2": fn(*mut c_void);
        synchronize = "cuStreamSynchronize": fn(*mut c_void);
        load_module = "cuModuleLoadData": fn(*mut *mut c_void, *const c_void);
        load_module_and_tell = "cuModuleLoadDataEx": fn(
            *mut *mut c_void, *const c_void, c_uint, *mut c_int, *mut *mut c_void
        );
        unload_module = "cuModuleUnload": fn(*mut c_void);
        function = "cuModuleGetFunction": fn(*mut *mut c_void, *mut c_void, *const c_char);
        memory = "cuMemGetInfo_v2": fn(*mut usize, *mut usize);
        allocate = "cuMemAlloc_v2": fn(*mut u64, usize);
        free = "cuMemFree_v2": fn(u64);
        allocate_on_host = "cuMemHostAlloc": fn(*mut *mut c_void, usize, c_uint);
        free_on_host = "cuMemFreeHost": fn(*mut c_void);
        upload = "cuMemcpyHtoDAsync_v2": fn(u64, *const c_void, usize, *mut c_void);
        download = "cuMemcpyDtoHAsync_v2": fn(*mut c_void, u64, usize, *mut c_void);
        copy = "cuMemcpyDtoDAsync_v2": fn(u64, u64, usize, *mut c_void);
        launch = "cuLaunchKernel": fn(
            *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
            *mut *mut c_void
        );
    }
    optional {
        begin_capture = "cuStreamBeginCapture_v2": fn(*mut c_void, c_int);
        end_capture = "cuStreamEndCapture": fn(*mut c_void, *mut *mut c_void);
        instantiate = "cuGraphInstantiateWithFlags": fn(*mut *mut c_void, *mut c_void, u64);
        destroy_graph = "cuGraphDestroy": fn(*mut c_void);
        run_graph = "cuGraphLaunch": fn(*mut c_void, *mut c_void);
        destroy_executable = "cuGraphExecDestroy": fn(*mut c_void);
    }
}

/// Calls a function of the table; an error has its name.
macro_rules! call {
    ($api:expr, $function:ident($($argument:expr),*)) => {{
        let api: &Api = $api;
        // SAFETY: pointers are to variables that outlive the call, sizes are theirs; handles come from the same library.
        let status = unsafe { (api.$function)($($argument),*) };
        api.check(stringify!($function), status)
    }};
}

/// The same of a function that older drivers lack.
macro_rules! call_optional {
    ($api:expr, $function:ident($($argument:expr),*)) => {{
        let api: &Api = $api;
        match api.$function {
            // SAFETY: as above.
            Some(function) => api.check(stringify!($function), unsafe { function($($argument),*) }),
            None => Err(GpuError::Call { call: stringify!($function), error: "it is not there".into() }),
        }
    }};
}

impl Api {
    fn check(&self, call: &'static str, status: Status) -> Result<(), GpuError> {
        match status {
            0 => Ok(()),
            NO_DEVICE => Err(GpuError::NoDevice),
            STUB_LIBRARY => Err(GpuError::NoDriver("the library that was found only stands in for one".into())),
            _ => Err(GpuError::Call { call, error: self.name_of(status) }),
        }
    }

    fn name_of(&self, status: Status) -> String {
        let mut name = ptr::null();
        // SAFETY: the driver answers with a string of its own that stays, or with an error and no string.
        let name = unsafe {
            let found = (self.error_name)(status, &mut name) == 0 && !name.is_null();
            found.then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        };
        name.unwrap_or_else(|| format!("error {status}"))
    }

    fn info(&self, device: c_int) -> Result<DeviceInfo, GpuError> {
        let mut name: [c_char; 256] = [0; 256];
        call!(self, device_name(name.as_mut_ptr(), name.len() as c_int - 1, device))?;
        // SAFETY: the last byte is 0 whatever the driver wrote.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let mut total = 0;
        call!(self, device_memory(&mut total, device))?;
        let attribute = |which| {
            let mut value = 0;
            call!(self, device_attribute(&mut value, which, device)).map(|()| value)
        };
        let capability = (attribute(CAPABILITY_MAJOR)?, attribute(CAPABILITY_MINOR)?);
        Ok(DeviceInfo { name, capability, total_bytes: total as u64 })
    }

    /// The library, initialized, and its devices.
    fn start(library: &OsStr) -> Result<(Api, Vec<c_int>), GpuError> {
        let api = Api::load(library).map_err(|_| GpuError::NoDriver(library.to_string_lossy().into_owned()))?;
        call!(&api, init(0))?;
        let mut count = 0;
        call!(&api, device_count(&mut count))?;
        let device = |ordinal| {
            let mut device = 0;
            call!(&api, device(&mut device, ordinal)).map(|()| device)
        };
        let devices = (0..count).map(device).collect::<Result<Vec<c_int>, GpuError>>()?;
        if devices.is_empty() { Err(GpuError::NoDevice) } else { Ok((api, devices)) }
    }
}

/// A device with its context and our kernels.
pub(super) struct Driver {
    api: Api,
    device: c_int,
    context: *mut c_void,
    /// Everything runs in its order.
    stream: *mut c_void,
    /// Who records, and so may do nothing that is done at once.
    recording: Mutex<Option<ThreadId>>,
    staging: Mutex<Staging>,
    loaded: Mutex<Loaded>,
    info: DeviceInfo,
}

/// Where bytes are on their way to the device and back: memory that the system may not move, so that the device copies at
/// its full speed, and that nobody else writes, so that it may do so when it comes to it.
struct Staging {
    /// [`STAGING_BYTES`] of them.
    at: *mut u8,
    /// Bytes at the beginning that the device may still be about to read.
    used: usize,
}

/// What was compiled.
#[derive(Default)]
struct Loaded {
    modules: Vec<*mut c_void>,
    functions: HashMap<&'static str, *mut c_void>,
}

// SAFETY: the handles may be used from any thread; each call makes its thread enter the context first. The staging memory is
// reached through its lock only.
unsafe impl Send for Driver {}
// SAFETY: the same; the driver locks its own data.
unsafe impl Sync for Driver {}

impl Driver {
    /// In messages.
    pub const NAME: &'static str = "the NVIDIA driver";
    pub const VENDOR: Option<Vendor> = Some(Vendor::Nvidia);
    /// The kernels want rows as `layout.rs` arranges them.
    pub const REARRANGES: bool = true;
    /// Its name where the driver is installed.
    pub const LIBRARY: &'static str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };

    pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
        let (api, devices) = Api::start(Self::LIBRARY.as_ref())?;
        devices.into_iter().map(|device| api.info(device)).collect()
    }

    pub fn open(library: &OsStr) -> Result<Driver, GpuError> {
        let (api, devices) = Api::start(library)?;
        let device = *devices.first().ok_or(GpuError::NoDevice)?;
        let info = api.info(device)?;
        if info.capability < OLDEST {
            let (major, minor) = info.capability;
            return Err(GpuError::TooOld { name: info.name, major, minor });
        }
        let mut context = ptr::null_mut();
        call!(&api, retain_context(&mut context, device))?;
        // From here on, dropping it gives everything back.
        let staging = Mutex::new(Staging { at: ptr::null_mut(), used: 0 });
        let (stream, recording, loaded) = (ptr::null_mut(), Mutex::default(), Mutex::default());
        let mut driver = Driver { api, device, context, stream, recording, staging, loaded, info };
        driver.enter()?;
        call!(&driver.api, create_stream(&mut driver.stream, NON_BLOCKING))?;
        let mut at = ptr::null_mut();
        call!(&driver.api, allocate_on_host(&mut at, STAGING_BYTES, 0))?;
        driver.staging.get_mut().unwrap_or_else(PoisonError::into_inner).at = at.cast();
        driver.prepare(&KERNELS)?;
        Ok(driver)
    }

    /// Compiles these kernels where that has not been done: it takes a moment, and may not be done while a step is recorded.
    pub fn prepare(&self, kernels: &[&'static str]) -> Result<(), GpuError> {
        kernels.iter().try_for_each(|kernel| self.function(kernel).map(|_| ()))
    }

    fn function(&self, kernel: &'static str) -> Result<*mut c_void, GpuError> {
        let mut loaded = lock(&self.loaded);
        if let Some(function) = loaded.functions.get(kernel) {
            return Ok(*function);
        }
        self.enter_now()?;
        let part = MODULES.iter().find(|(names, _)| names.contains(&kernel));
        let (names, ptx) = part.ok_or_else(|| GpuError::Shape(format!("there is no kernel {kernel}")))?;
        let module = self.compile(ptx)?;
        loaded.modules.push(module);
        for name in *names {
            let symbol = CString::new(*name).map_err(|_| GpuError::Shape(format!("{name:?} is no name")))?;
            let mut function = ptr::null_mut();
            call!(&self.api, function(&mut function, module, symbol.as_ptr()))?;
            loaded.functions.insert(name, function);
        }
        loaded.functions.get(kernel).copied().ok_or_else(|| GpuError::Shape(format!("there is no kernel {kernel}")))
    }

    fn compile(&self, ptx: &str) -> Result<*mut c_void, GpuError> {
        let image = CString::new(ptx).map_err(|_| GpuError::Shape("the kernels are no text".into()))?;
        let mut module = ptr::null_mut();
        if call!(&self.api, load_module(&mut module, image.as_ptr().cast())).is_ok() {
            return Ok(module);
        }
        // Once more, to hear why.
        let mut log = [0_u8; 1024];
        let mut options = [ERROR_LOG, ERROR_LOG_BYTES];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(log.len() - 1)];
        let (n, options, values) = (options.len() as c_uint, options.as_mut_ptr(), values.as_mut_ptr());
        let found = call!(&self.api, load_module_and_tell(&mut module, image.as_ptr().cast(), n, options, values));
        found.map(|()| module).map_err(|error| {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            match (error, log.lines().next()) {
                (GpuError::Call { call, error }, Some(line)) => {
                    GpuError::Call { call, error: format!("{error}: {line}") }
                }
                (error, _) => error,
            }
        })
    }

    /// Makes the calling thread's calls be about this device.
    fn enter(&self) -> Result<(), GpuError> {
        call!(&self.api, set_context(self.context))
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What a device's `capability` means.
    pub fn generation((major, minor): (i32, i32)) -> String {
        format!("compute capability {major}.{minor}")
    }

    pub fn free_bytes(&self) -> Result<u64, GpuError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        call!(&self.api, memory(&mut free, &mut total))?;
        Ok(free as u64)
    }

    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.wait(&mut lock(&self.staging))
    }

    /// Waits until all that was started is done; then nothing of what is staged is needed.
    fn wait(&self, staging: &mut Staging) -> Result<(), GpuError> {
        self.enter_now()?;
        call!(&self.api, synchronize(self.stream))?;
        staging.used = 0;
        Ok(())
    }

    /// [`Driver::enter`] for what cannot be recorded.
    fn enter_now(&self) -> Result<(), GpuError> {
        if *lock(&self.recording) == Some(thread::current().id()) {
            return Err(GpuError::Shape("a step that is recorded waits for the device".into()));
        }
        self.enter()
    }

    /// From here on this thread's launches are recorded and not run.
    pub fn start_recording(&self) -> Result<(), GpuError> {
        self.enter_now()?;
        call_optional!(&self.api, begin_capture(self.stream, RELAXED))?;
        *lock(&self.recording) = Some(thread::current().id());
        Ok(())
    }

    /// What was recorded, ready to run.
    pub fn end_recording(&self) -> Result<u64, GpuError> {
        *lock(&self.recording) = None;
        self.enter()?;
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        call_optional!(&self.api, end_capture(self.stream, &mut graph))?;
        let made = call_optional!(&self.api, instantiate(&mut executable, graph, 0));
        let _ = call_optional!(&self.api, destroy_graph(graph));
        made.map(|()| executable as u64)
    }

    /// Starts what was recorded, behind all that was started before.
    pub fn run_recording(&self, handle: u64) -> Result<(), GpuError> {
        self.enter_now()?;
        call_optional!(&self.api, run_graph(handle as *mut c_void, self.stream))
    }

    pub fn free_recording(&self, handle: u64) {
        // As for memory.
        let _ = self.enter().and_then(|()| call_optional!(&self.api, destroy_executable(handle as *mut c_void)));
    }

    /// Memory of `bytes` bytes, which are more than 0.
    pub fn allocate(&self, bytes: usize) -> Result<u64, GpuError> {
        self.enter()?;
        let mut at = 0;
        // SAFETY: `at` is a variable.
        match unsafe { (self.api.allocate)(&mut at, bytes) } {
            OUT_OF_MEMORY => Err(GpuError::Memory(bytes as u64)),
            status => self.api.check("allocate", status).map(|()| at),
        }
    }

    /// The device has memory of its own.
    pub fn wrap(&self, _bytes: &SharedBytes) -> Option<u64> {
        None
    }

    pub fn free(&self, at: u64) {
        // There is nobody to tell; a context that is broken gives everything back when the process ends.
        // A kernel may be about to use it.
        let _ = self.synchronize().and_then(|()| call!(&self.api, free(at)));
    }

    /// Has `fill` write the bytes, which are on their way when this returns.
    pub fn upload(&self, to: u64, len: usize, fill: &mut dyn FnMut(&mut [u8])) -> Result<(), GpuError> {
        if len > STAGING_BYTES {
            let mut bytes = vec![0; len];
            fill(&mut bytes);
            let mut pieces = (0..).step_by(STAGING_BYTES).zip(bytes.chunks(STAGING_BYTES));
            return pieces
                .try_for_each(|(at, piece)| self.upload(to + at, piece.len(), &mut |out| out.copy_from_slice(piece)));
        }
        self.enter_now()?;
        let mut staging = lock(&self.staging);
        let from = self.stage(&mut staging, len)?;
        // SAFETY: the range lies in the staging memory, whose lock is held, and nothing else of the device uses it.
        fill(unsafe { slice::from_raw_parts_mut(from, len) });
        call!(&self.api, upload(to, from.cast_const().cast(), len, self.stream))
    }

    /// Has `take` read the bytes as they are after all that was started before, in pieces of whole 16 bytes.
    pub fn download(&self, from: u64, len: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), GpuError> {
        self.enter_now()?;
        let mut staging = lock(&self.staging);
        for start in (0..len).step_by(STAGING_BYTES) {
            let len = (len - start).min(STAGING_BYTES);
            let to = self.stage(&mut staging, len)?;
            call!(&self.api, download(to.cast(), from + start as u64, len, self.stream))?;
            self.wait(&mut staging)?;
            // SAFETY: the range lies in the staging memory, whose lock is held, and the device has nothing to do.
            take(unsafe { slice::from_raw_parts(to, len) });
        }
        Ok(())
    }

    /// Staging memory that the device does not use, `len` bytes of it, which are no more than all.
    fn stage(&self, staging: &mut Staging, len: usize) -> Result<*mut u8, GpuError> {
        if staging.used + len > STAGING_BYTES {
            self.wait(staging)?;
        }
        let at = staging.at.wrapping_add(staging.used);
        staging.used = (staging.used + len).next_multiple_of(64);
        Ok(at)
    }

    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), GpuError> {
        self.enter()?;
        call!(&self.api, copy(to, from, bytes, self.stream))
    }

    /// Starts a kernel on a grid of blocks, behind all that was started before.
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
        let function = self.function(kernel)?;
        self.enter()?;
        // There is always something to read, should a kernel have more parameters than it was given.
        let nothing = [0_u64; 16];
        let mut pointers = [nothing.as_ptr().cast_mut().cast::<c_void>(); MAX_ARGUMENTS];
        pointers.iter_mut().zip(arguments).for_each(|(pointer, argument)| *pointer = pointer_to(argument));
        let (stream, no_extra) = (self.stream, ptr::null_mut());
        let [x, y] = grid;
        call!(&self.api, launch(function, x, y, 1, threads, 1, 1, 0, stream, pointers.as_mut_ptr(), no_extra))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the driver reads an argument, which it only copies.
fn pointer_to(argument: &Argument) -> *mut c_void {
    match argument {
        Argument::U64(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::U32(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::Parts(value) => ptr::from_ref(value).cast_mut().cast(),
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Errors on the way out change nothing.
        let _ = self.enter();
        if !self.stream.is_null() {
            let _ = call!(&self.api, synchronize(self.stream));
            let _ = call!(&self.api, destroy_stream(self.stream));
        }
        let staging = self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).at;
        if !staging.is_null() {
            let _ = call!(&self.api, free_on_host(staging.cast()));
        }
        for module in self.loaded.get_mut().unwrap_or_else(PoisonError::into_inner).modules.drain(..) {
            let _ = call!(&self.api, unload_module(module));
        }
        let _ = call!(&self.api, set_context(ptr::null_mut()));
        let _ = call!(&self.api, release_context(self.device));
    }
}
