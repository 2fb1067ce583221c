//! The driver API of CUDA, as much of it as is needed, found in the driver's library at run time.
//!
//! Source: the CUDA Driver API reference. The functions that are needed and their numbers have been the same since CUDA 4;
//! newer drivers keep them. Those that record are newer (CUDA 11.4), and done without where they are missing.

#![expect(unsafe_code, reason = "functions of a library that is loaded at run time")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::ptr;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread::{self, ThreadId};

use libloading::Library;

use super::launch::{Argument, MAX_ARGUMENTS, kernels};
use super::products::WITH_MATRIX_UNITS;
use super::{DeviceInfo, GpuError, SharedBytes, Vendor};

/// The kernels, in the driver's own assembly language, and the capability that each part needs.
const MODULES: [(&str, (i32, i32)); 4] = [
    (include_str!(concat!(env!("OUT_DIR"), "/rows.ptx")), OLDEST),
    (include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")), OLDEST),
    (include_str!(concat!(env!("OUT_DIR"), "/matmul.ptx")), OLDEST),
    (include_str!(concat!(env!("OUT_DIR"), "/tensor.ptx")), WITH_MATRIX_UNITS),
];

/// `CUresult`; 0 is success.
type Status = c_int;
const OUT_OF_MEMORY: Status = 2;
const NO_DEVICE: Status = 100;
/// `CUdevice_attribute`
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
/// What the PTX is compiled for.
const OLDEST: (i32, i32) = (7, 5);

/// A stream that waits for no other (`CU_STREAM_NON_BLOCKING`).
const NON_BLOCKING: c_uint = 1;
/// While a stream records, its thread may still take memory (`CU_STREAM_CAPTURE_MODE_RELAXED`).
const RELAXED: c_int = 2;

/// Declares the table of functions and how it is filled.
macro_rules! api {
    (
        needed { $($name:ident = $symbol:literal: fn($($argument:ty),*);)* }
        optional { $($optional:ident = $optional_symbol:literal: fn($($optional_argument:ty),*);)* }
    ) => {
        struct Api {
            $($name: unsafe extern "system" fn($($argument),*) -> Status,)*
            $($optional: Option<unsafe extern "system" fn($($optional_argument),*) -> Status>,)*
            /// The functions are its.
            _library: Library,
        }

        impl Api {
            fn load(library: &OsStr) -> Result<Api, libloading::Error> {
                // SAFETY: loading runs the library's initializers, those of the system's graphics driver.
                let library = unsafe { Library::new(library) }?;
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
        unload_module = "cuModuleUnload": fn(*mut c_void);
        function = "cuModuleGetFunction": fn(*mut *mut c_void, *mut c_void, *const c_char);
        memory = "cuMemGetInfo_v2": fn(*mut usize, *mut usize);
        allocate = "cuMemAlloc_v2": fn(*mut u64, usize);
        free = "cuMemFree_v2": fn(u64);
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
    modules: Vec<*mut c_void>,
    functions: HashMap<&'static str, *mut c_void>,
    info: DeviceInfo,
}

// SAFETY: the handles may be used from any thread; each call makes its thread enter the context first.
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
        let (stream, recording) = (ptr::null_mut(), Mutex::default());
        let (modules, functions) = (Vec::new(), HashMap::new());
        let mut driver = Driver { api, device, context, stream, recording, modules, functions, info };
        driver.load()?;
        Ok(driver)
    }

    fn load(&mut self) -> Result<(), GpuError> {
        self.enter()?;
        call!(&self.api, create_stream(&mut self.stream, NON_BLOCKING))?;
        for (ptx, _) in MODULES.into_iter().filter(|(_, needed)| self.info.capability >= *needed) {
            let image = CString::new(ptx).map_err(|_| GpuError::Shape("the kernels are no text".into()))?;
            let mut module = ptr::null_mut();
            call!(&self.api, load_module(&mut module, image.as_ptr().cast()))?;
            self.modules.push(module);
        }
        for kernel in kernels(self.info.capability) {
            let name = CString::new(kernel).map_err(|_| GpuError::Shape(format!("{kernel:?} is no name")))?;
            let found = self.modules.iter().find_map(|&module| {
                let mut function = ptr::null_mut();
                call!(&self.api, function(&mut function, module, name.as_ptr())).ok().map(|()| function)
            });
            let function = found.ok_or_else(|| GpuError::Shape(format!("there is no kernel {kernel}")))?;
            self.functions.insert(kernel, function);
        }
        Ok(())
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
        self.enter_now()?;
        call!(&self.api, synchronize(self.stream))
    }

    /// [`Driver::enter`] for what cannot be recorded.
    fn enter_now(&self) -> Result<(), GpuError> {
        if *self.recording.lock().unwrap_or_else(PoisonError::into_inner) == Some(thread::current().id()) {
            return Err(GpuError::Shape("a step that is recorded waits for the device".into()));
        }
        self.enter()
    }

    /// From here on this thread's launches are recorded and not run.
    pub fn start_recording(&self) -> Result<(), GpuError> {
        self.enter_now()?;
        call_optional!(&self.api, begin_capture(self.stream, RELAXED))?;
        *self.recording.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current().id());
        Ok(())
    }

    /// What was recorded, ready to run.
    pub fn end_recording(&self) -> Result<u64, GpuError> {
        *self.recording.lock().unwrap_or_else(PoisonError::into_inner) = None;
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

    pub fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.enter_now()?;
        // Memory that is not locked has been read when this returns, though it may still be on its way.
        call!(&self.api, upload(to, bytes.as_ptr().cast(), bytes.len(), self.stream))
    }

    pub fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.enter_now()?;
        call!(&self.api, download(bytes.as_mut_ptr().cast(), from, bytes.len(), self.stream))?;
        call!(&self.api, synchronize(self.stream))
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
        let Some(&function) = self.functions.get(kernel).filter(|_| arguments.len() <= MAX_ARGUMENTS) else {
            return Err(GpuError::Shape(format!("there is no kernel {kernel} of {} arguments", arguments.len())));
        };
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
            let _ = call!(&self.api, destroy_stream(self.stream));
        }
        for module in self.modules.drain(..) {
            let _ = call!(&self.api, unload_module(module));
        }
        let _ = call!(&self.api, set_context(ptr::null_mut()));
        let _ = call!(&self.api, release_context(self.device));
    }
}
