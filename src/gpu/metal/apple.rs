//! Metal itself, as much of it as [`super::Driver`] needs.
//!
//! Source: Apple's reference of the Metal framework. Selectors and types are those of its headers, by way of `objc2-metal`.

use std::ffi::OsStr;
use std::ptr::NonNull;

use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_foundation::{NSError, NSString};
use objc2_metal::{
    MTLBarrierScope, MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder,
    MTLCommandQueue, MTLCompileOptions, MTLComputeCommandEncoder, MTLComputePipelineState,
    MTLCreateSystemDefaultDevice, MTLDevice, MTLGPUFamily, MTLLanguageVersion, MTLLibrary, MTLResource,
    MTLResourceOptions, MTLResourceUsage, MTLSize,
};

use crate::gpu::{DeviceInfo, GpuError};

// Without it a program that opens no window is told of no device.
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

/// There is no library to look for: the framework is a part of the system.
pub const LIBRARY: &str = "";

/// Apple's first family for desktops, the M1's; all of them have lanes of 32 and memory that is shared.
const OLDEST_FAMILY: i32 = 7;
const NEWEST_FAMILY: i32 = 10;

type Object<T> = Retained<ProtocolObject<T>>;

/// A device and its queue.
pub struct System {
    device: Object<dyn MTLDevice>,
    queue: Object<dyn MTLCommandQueue>,
    library: Option<Object<dyn MTLLibrary>>,
    info: DeviceInfo,
}

/// A buffer. Whatever is begun keeps those that it uses.
pub struct Memory(Object<dyn MTLBuffer>);

/// A kernel that is ready.
pub struct Pipeline(Object<dyn MTLComputePipelineState>);

/// A command buffer that is being filled.
pub struct Commands {
    buffer: Object<dyn MTLCommandBuffer>,
    encoder: Encoder,
}

/// What is being put down now: copies and kernels take encoders of two kinds, one after the other.
enum Encoder {
    None,
    Kernels(Object<dyn MTLComputeCommandEncoder>),
    Copies(Object<dyn MTLBlitCommandEncoder>),
}

/// A command buffer that has begun.
pub struct Started(Object<dyn MTLCommandBuffer>);

impl System {
    pub fn open(_library: &OsStr) -> Result<System, GpuError> {
        autoreleasepool(|_| {
            let device = MTLCreateSystemDefaultDevice().ok_or(GpuError::NoDevice)?;
            let name = device.name().to_string();
            let mut families = (OLDEST_FAMILY..=NEWEST_FAMILY).rev();
            let family = families.find(|n| device.supportsFamily(MTLGPUFamily(1000 + *n as isize)));
            let Some(family) = family else { return Err(GpuError::NotApple { name }) };
            let queue = device.newCommandQueue().ok_or_else(|| failed("newCommandQueue"))?;
            let total_bytes = device.recommendedMaxWorkingSetSize();
            let info = DeviceInfo { name, capability: (family, 0), total_bytes };
            Ok(System { device, queue, library: None, info })
        })
    }

    /// Compiles the kernels.
    pub fn compile(&mut self, source: &str) -> Result<(), GpuError> {
        autoreleasepool(|_| {
            let options = MTLCompileOptions::new();
            #[expect(deprecated, reason = "what replaces it is younger than the systems that this runs on")]
            options.setFastMathEnabled(false);
            options.setLanguageVersion(MTLLanguageVersion::Version3_0);
            let library = self.device.newLibraryWithSource_options_error(&NSString::from_str(source), Some(&options));
            self.library = Some(library.map_err(|error| call("newLibraryWithSource", &error))?);
            Ok(())
        })
    }

    pub fn pipeline(&self, kernel: &str) -> Result<Pipeline, GpuError> {
        autoreleasepool(|_| {
            let library = self.library.as_ref();
            let function = library.and_then(|library| library.newFunctionWithName(&NSString::from_str(kernel)));
            let function = function.ok_or_else(|| GpuError::Shape(format!("there is no kernel {kernel}")))?;
            let pipeline = self.device.newComputePipelineStateWithFunction_error(&function);
            pipeline.map(Pipeline).map_err(|error| call("newComputePipelineState", &error))
        })
    }

    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    pub fn used_bytes(&self) -> u64 {
        self.device.currentAllocatedSize() as u64
    }

    /// New memory, or none.
    pub fn memory(&self, bytes: usize) -> Option<Memory> {
        autoreleasepool(|_| self.device.newBufferWithLength_options(bytes, shared())).map(Memory)
    }

    /// Memory that is there already, whole pages of it, or none.
    ///
    /// # Safety
    /// It stays as long as what is returned and all commands that use it, and is not written.
    pub unsafe fn wrap(&self, at: NonNull<u8>, bytes: usize) -> Option<Memory> {
        let (device, at) = (&self.device, at.cast());
        autoreleasepool(|_| {
            // SAFETY: the caller's promise; nothing is to be done at its end.
            unsafe { device.newBufferWithBytesNoCopy_length_options_deallocator(at, bytes, shared(), None) }
        })
        .map(Memory)
    }

    pub fn commands(&self) -> Result<Commands, GpuError> {
        let buffer = autoreleasepool(|_| self.queue.commandBuffer()).ok_or_else(|| failed("commandBuffer"))?;
        Ok(Commands { buffer, encoder: Encoder::None })
    }
}

impl Memory {
    /// Where it is for the GPU.
    pub fn address(&self) -> u64 {
        self.0.gpuAddress()
    }

    /// Where it is for the CPU.
    pub fn contents(&self) -> NonNull<u8> {
        self.0.contents().cast()
    }
}

impl Memory {
    /// Has it in place for the kernels of an encoder, behind whatever wrote it.
    fn used_by(&self, encoder: &ProtocolObject<dyn MTLComputeCommandEncoder>) {
        let resource: &ProtocolObject<dyn MTLResource> = ProtocolObject::from_ref(&*self.0);
        encoder.useResource_usage(resource, MTLResourceUsage::Read | MTLResourceUsage::Write);
    }
}

impl Pipeline {
    /// Threads of a threadgroup at most.
    pub fn max_threads(&self) -> usize {
        self.0.maxTotalThreadsPerThreadgroup()
    }
}

impl Commands {
    /// A kernel with its arguments, in which addresses of `all` memory may be. It sees what those before it wrote.
    pub fn launch<'a, I: Iterator<Item = &'a Memory>>(
        &mut self,
        pipeline: &Pipeline,
        [x, y]: [u32; 2],
        threads: u32,
        arguments: &[u8],
        all: impl FnOnce() -> I,
    ) -> Result<(), GpuError> {
        let encoder = self.kernels(all)?;
        encoder.setComputePipelineState(&pipeline.0);
        if let Some(first) = arguments.first() {
            // SAFETY: so many bytes are there, and are copied.
            unsafe { encoder.setBytes_length_atIndex(NonNull::from(first).cast(), arguments.len(), 0) };
        }
        let size = |width, height| MTLSize { width, height, depth: 1 };
        encoder.dispatchThreadgroups_threadsPerThreadgroup(size(x as usize, y as usize), size(threads as usize, 1));
        // Kernels of such an encoder follow each other; that they also see each other's memory is said here, since Metal
        // does not know which addresses they have.
        encoder.memoryBarrierWithScope(MTLBarrierScope::Buffers);
        Ok(())
    }

    /// Memory that kernels from here on may use.
    pub fn add(&self, memory: &Memory) {
        if let Encoder::Kernels(encoder) = &self.encoder {
            memory.used_by(encoder);
        }
    }

    pub fn copy(
        &mut self,
        (from, from_at): (&Memory, usize),
        (to, to_at): (&Memory, usize),
        bytes: usize,
    ) -> Result<(), GpuError> {
        let encoder = self.copies()?;
        // SAFETY: both ranges lie in their buffers, which the command buffer keeps.
        unsafe {
            encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&from.0, from_at, &to.0, to_at, bytes);
        }
        Ok(())
    }

    pub fn start(mut self) -> Started {
        self.end();
        self.buffer.commit();
        Started(self.buffer.clone())
    }

    fn kernels<'a, I: Iterator<Item = &'a Memory>>(
        &mut self,
        all: impl FnOnce() -> I,
    ) -> Result<Object<dyn MTLComputeCommandEncoder>, GpuError> {
        if let Encoder::Kernels(encoder) = &self.encoder {
            return Ok(encoder.clone());
        }
        self.end();
        let encoder = autoreleasepool(|_| self.buffer.computeCommandEncoder());
        let encoder = encoder.ok_or_else(|| failed("computeCommandEncoder"))?;
        all().for_each(|memory| memory.used_by(&encoder));
        self.encoder = Encoder::Kernels(encoder.clone());
        Ok(encoder)
    }

    fn copies(&mut self) -> Result<Object<dyn MTLBlitCommandEncoder>, GpuError> {
        if let Encoder::Copies(encoder) = &self.encoder {
            return Ok(encoder.clone());
        }
        self.end();
        let encoder = autoreleasepool(|_| self.buffer.blitCommandEncoder());
        let encoder = encoder.ok_or_else(|| failed("blitCommandEncoder"))?;
        self.encoder = Encoder::Copies(encoder.clone());
        Ok(encoder)
    }

    /// Ends what is being put down.
    fn end(&mut self) {
        match std::mem::replace(&mut self.encoder, Encoder::None) {
            Encoder::None => {}
            Encoder::Kernels(encoder) => encoder.endEncoding(),
            Encoder::Copies(encoder) => encoder.endEncoding(),
        }
    }
}

impl Drop for Commands {
    fn drop(&mut self) {
        // An encoder may not go before its end.
        self.end();
    }
}

impl Started {
    /// Waits until it is done.
    pub fn wait(self) -> Result<(), GpuError> {
        autoreleasepool(|_| {
            self.0.waitUntilCompleted();
            match self.0.error() {
                Some(error) if self.0.status() == MTLCommandBufferStatus::Error => {
                    Err(call("a command buffer", &error))
                }
                _ if self.0.status() == MTLCommandBufferStatus::Error => Err(failed("a command buffer")),
                _ => Ok(()),
            }
        })
    }
}

/// Memory for both sides. Hazards are tracked by Metal, as is usual for buffers.
fn shared() -> MTLResourceOptions {
    MTLResourceOptions::StorageModeShared
}

fn call(call: &'static str, error: &NSError) -> GpuError {
    GpuError::Call { call, error: error.localizedDescription().to_string() }
}

/// Where Metal gives no reason.
fn failed(call: &'static str) -> GpuError {
    GpuError::Call { call, error: "nothing was returned".into() }
}
