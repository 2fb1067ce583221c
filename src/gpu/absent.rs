//! What stands for the driver in a build without code for GPUs.

use std::ffi::OsStr;

use super::launch::Argument;
use super::{DeviceInfo, GpuError, SharedBytes, Vendor};

/// There is none.
pub(super) enum Driver {}

impl Driver {
    pub const NAME: &'static str = "the driver";
    pub const VENDOR: Option<Vendor> = None;
    pub const LIBRARY: &'static str = "";
    pub const REARRANGES: bool = true;

    pub fn open(_library: &OsStr) -> Result<Driver, GpuError> {
        Err(GpuError::NoCode)
    }

    pub fn devices() -> Result<Vec<DeviceInfo>, GpuError> {
        Err(GpuError::NoCode)
    }

    pub fn info(&self) -> &DeviceInfo {
        match *self {}
    }

    pub fn generation((major, minor): (i32, i32)) -> String {
        format!("{major}.{minor}")
    }

    pub fn free_bytes(&self) -> Result<u64, GpuError> {
        match *self {}
    }

    pub fn synchronize(&self) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn allocate(&self, _bytes: usize) -> Result<u64, GpuError> {
        match *self {}
    }

    pub fn wrap(&self, _bytes: &SharedBytes) -> Option<u64> {
        match *self {}
    }

    pub fn free(&self, _at: u64) {
        match *self {}
    }

    pub fn prepare(&self, _kernels: &[&'static str]) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn upload(&self, _to: u64, _len: usize, _fill: &mut dyn FnMut(&mut [u8])) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn download(&self, _from: u64, _len: usize, _take: &mut dyn FnMut(&[u8])) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn copy(&self, _from: u64, _to: u64, _bytes: usize) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn start_recording(&self) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn end_recording(&self) -> Result<u64, GpuError> {
        match *self {}
    }

    pub fn run_recording(&self, _handle: u64) -> Result<(), GpuError> {
        match *self {}
    }

    pub fn free_recording(&self, _handle: u64) {
        match *self {}
    }

    pub fn launch(&self, _: &'static str, _grid: [u32; 2], _threads: u32, _: &[Argument]) -> Result<(), GpuError> {
        match *self {}
    }
}
