//! The driver API of CUDA, as much of it as is needed, found in the driver's library at run time.
//!
//! Source: the CUDA Driver API reference. The functions and their numbers have been the same since CUDA 4; newer drivers
//! keep them.

#![expect(unsafe_code, reason = "functions of a library that is loaded at run time")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, c_char, c_int, c_uint, c_void};
use std::ptr;

use libloading::Library;

use super::launch::{Argument, KERNELS, MAX_ARGUMENTS};
use super::{DeviceInfo, GpuError};

/// The kernels, in the driver's own assembly language.
const MODULES: [&str; 3] = [
    include_str!(concat!(env!("OUT_DIR"), "/rows.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/attention.ptx")),
    include_str!(concat!(env!("OUT_DIR"), "/matmul.ptx")),
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

/// Declares the table of functions and how it is filled.
macro_rules! api {
    ($($name:ident = $symbol:literal: fn($($argument:ty),*);)*) => {
        struct Api {
            $($name: unsafe extern "system" fn($($argument),*) -> Status,)*
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
                        _library: library,
                    })
                }
            }
        }
    };
}

api! {
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
    synchronize = "cuCtxSynchronize": fn();
    load_module = "cuModuleLoadData": fn(*mut *mut c_void, *const c_void);
    unload_module = "cuModuleUnload": fn(*mut c_void);
    function = "cuModuleGetFunction": fn(*mut *mut c_void, *mut c_void, *const c_char);
    memory = "cuMemGetInfo_v2": fn(*mut usize, *mut usize);
    allocate = "cuMemAlloc_v2": fn(*mut u64, usize);
    free = "cuMemFree_v2": fn(u64);
    upload = "cuMemcpyHtoD_v2": fn(u64, *const c_void, usize);
    download = "cuMemcpyDtoH_v2": fn(*mut c_void, u64, usize);
    copy = "cuMemcpyDtoD_v2": fn(u64, u64, usize);
    launch = "cuLaunchKernel": fn(
        *mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void,
        *mut *mut c_void
    );
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
    modules: Vec<*mut c_void>,
    functions: HashMap<&'static str, *mut c_void>,
    info: DeviceInfo,
}

// SAFETY: the handles may be used from any thread; each call makes its thread enter the context first.
unsafe impl Send for Driver {}
// SAFETY: the same; the driver locks its own data.
unsafe impl Sync for Driver {}

impl Driver {
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
        let mut driver = Driver { api, device, context, modules: Vec::new(), functions: HashMap::new(), info };
        driver.load()?;
        Ok(driver)
    }

    fn load(&mut self) -> Result<(), GpuError> {
        self.enter()?;
        for ptx in MODULES {
            let image = CString::new(ptx).map_err(|_| GpuError::Shape("the kernels are no text".into()))?;
            let mut module = ptr::null_mut();
            call!(&self.api, load_module(&mut module, image.as_ptr().cast()))?;
            self.modules.push(module);
        }
        for &kernel in KERNELS {
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

    pub fn free_bytes(&self) -> Result<u64, GpuError> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        call!(&self.api, memory(&mut free, &mut total))?;
        Ok(free as u64)
    }

    pub fn synchronize(&self) -> Result<(), GpuError> {
        self.enter()?;
        call!(&self.api, synchronize())
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

    pub fn free(&self, at: u64) {
        // There is nobody to tell; a context that is broken gives everything back when the process ends.
        let _ = self.enter().and_then(|()| call!(&self.api, free(at)));
    }

    pub fn upload(&self, to: u64, bytes: &[u8]) -> Result<(), GpuError> {
        self.enter()?;
        call!(&self.api, upload(to, bytes.as_ptr().cast(), bytes.len()))
    }

    pub fn download(&self, from: u64, bytes: &mut [u8]) -> Result<(), GpuError> {
        self.enter()?;
        call!(&self.api, download(bytes.as_mut_ptr().cast(), from, bytes.len()))
    }

    pub fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), GpuError> {
        self.enter()?;
        call!(&self.api, copy(to, from, bytes))
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
        // Little-endian: the bytes of a shorter number are the first of a longer one. There is always a number to read,
        // should a kernel have more parameters than it was given.
        let mut values = [0_u64; MAX_ARGUMENTS];
        values.iter_mut().zip(arguments).for_each(|(value, argument)| *value = argument.bits());
        let mut pointers = values.each_mut().map(|value| ptr::from_mut(value).cast::<c_void>());
        let (none, no_extra) = (ptr::null_mut(), ptr::null_mut());
        let [x, y] = grid;
        call!(&self.api, launch(function, x, y, 1, threads, 1, 1, 0, none, pointers.as_mut_ptr(), no_extra))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Errors on the way out change nothing.
        let _ = self.enter();
        for module in self.modules.drain(..) {
            let _ = call!(&self.api, unload_module(module));
        }
        let _ = call!(&self.api, set_context(ptr::null_mut()));
        let _ = call!(&self.api, release_context(self.device));
    }
}
