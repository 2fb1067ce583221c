//! Windows' consoles. Asking who uses one is the only call of the system that nothing safe stands for.
#![cfg_attr(windows, allow(unsafe_code))]

/// Programs that use this program's console; `None` where there is no such thing.
#[cfg(windows)]
pub fn n_programs() -> Option<u32> {
    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetConsoleProcessList(list: *mut u32, n_places: u32) -> u32;
    }
    // Two places are enough to tell one from several; the number that is returned is that of all.
    let mut list = [0_u32; 2];
    // SAFETY: the list has as many places as are told, and is written to by this call only.
    let n_programs = unsafe { GetConsoleProcessList(list.as_mut_ptr(), 2) };
    (n_programs > 0).then_some(n_programs)
}

/// There is no such thing here.
#[cfg(not(windows))]
pub fn n_programs() -> Option<u32> {
    None
}
