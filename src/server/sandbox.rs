//! What a running server can no longer do, should somebody find a way to make it try: open files, start programs, make
//! connections. Linux only; elsewhere nothing is held and the report says so.
//!
//! Two fences, for each has what the other lacks:
//!
//! - **Landlock** ([`fence_files`]) knows folders and holds for the thread that puts it up and those started later, so it
//!   comes first, before the threads. Only the folders of [`Folders`] can be written, only these and the system's own
//!   numbers (`/proc`, `/sys`) can be read; no program can be executed and no TCP port be bound or connected to.
//! - **seccomp** ([`fence_calls`]) knows system calls only, and holds for all threads at once, so it comes last, when the
//!   model is loaded and the browser is open. No sockets, no programs, no changes to the file system, and where no
//!   folder is needed no opening of files at all.
//!
//! [`check`] tries what must fail, so that the report tells what was seen and not what was hoped for.

use std::ffi::OsStr;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde::Serialize;

/// Folders that a server still needs while it runs.
#[derive(Clone, Debug, Default)]
pub struct Folders {
    /// To read.
    pub read: Vec<PathBuf>,
    /// To read and write.
    pub write: Vec<PathBuf>,
    /// Devices, which a driver opens again whenever it likes.
    pub devices: Vec<PathBuf>,
}

impl Folders {
    /// The devices of GPUs whose driver is a library in this process: NVIDIA's own or, under WSL, that of Windows.
    pub fn gpu_devices() -> Vec<PathBuf> {
        let paths = std::fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
        let is_gpu = |name: &OsStr| name.as_encoded_bytes().starts_with(b"nvidia") || name == "dxg";
        paths.filter(|path| path.file_name().is_some_and(is_gpu)).collect()
    }

    fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty() && self.devices.is_empty()
    }
}

/// What holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files and ports are fenced by Landlock, in all threads but the first ones.
    pub landlock: bool,
    /// System calls are fenced by seccomp, in all threads.
    pub seccomp: bool,
    /// What [`check`] could still do though a fence is up; empty is as it should be.
    pub leaks: Vec<&'static str>,
}

impl Report {
    /// One line for a person.
    pub fn line(&self) -> String {
        let fences = match (self.landlock, self.seccomp) {
            (true, true) => "Landlock and seccomp hold",
            (true, false) => "Landlock holds; this system has no seccomp filters",
            (false, true) => "seccomp holds; this kernel has no Landlock",
            (false, false) => return "none: this system has neither Landlock nor seccomp filters".into(),
        };
        match self.leaks.is_empty() {
            true => format!("{fences}: no files, no connections, no programs"),
            false => format!("{fences}, but what must fail does not: {}", self.leaks.join(", ")),
        }
    }
}

/// Puts up Landlock for this thread and those it starts from now on. False where the kernel has none.
#[cfg(target_os = "linux")]
pub fn fence_files(folders: &Folders) -> bool {
    linux::fence_files(folders).unwrap_or(false)
}

/// Puts up seccomp for all threads of the process. False where the system has none.
#[cfg(target_os = "linux")]
pub fn fence_calls(folders: &Folders) -> bool {
    linux::fence_calls(folders).is_ok()
}

/// Nothing on this system.
#[cfg(not(target_os = "linux"))]
pub fn fence_files(_: &Folders) -> bool {
    false
}

/// Nothing on this system.
#[cfg(not(target_os = "linux"))]
pub fn fence_calls(_: &Folders) -> bool {
    false
}

/// Tries a file, a program and a connection to `own`, the server's own address. Returns what was not refused. Whatever
/// succeeds does no harm: the program does not exist, and the file is removed.
pub fn check(folders: &Folders, own: SocketAddr) -> Vec<&'static str> {
    let mut leaks = Vec::new();
    let refused = |error: &std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    if folders.is_empty() && !File::open("/").is_err_and(|error| refused(&error)) {
        leaks.push("reading a file");
    }
    let file = std::env::temp_dir().join(format!("gemma2-sandbox-check-{}", std::process::id()));
    let created = File::create_new(&file);
    if created.is_ok() {
        let _ = std::fs::remove_file(&file);
    }
    // A folder for temporary files that is not there says nothing.
    if !created.is_err_and(|error| refused(&error) || error.kind() == ErrorKind::NotFound) {
        leaks.push("making a file");
    }
    // Of a program that does not exist one hears only where programs may be started.
    let mut command = Command::new("/gemma2-sandbox-check");
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    if !command.spawn().is_err_and(|error| refused(&error)) {
        leaks.push("starting a program");
    }
    if !TcpStream::connect_timeout(&own, Duration::from_secs(1)).is_err_and(|error| refused(&error)) {
        leaks.push("making a connection");
    }
    leaks
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;

    use landlock::{
        ABI, Access, AccessFs, AccessNet, BitFlags, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
        RulesetStatus, Scope, path_beneath_rules,
    };
    use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompFilter, TargetArch};

    use super::Folders;

    /// The newest version whose rights are known here. Older kernels hold what they know of them.
    const KNOWN: ABI = ABI::V7;

    pub(super) fn fence_files(folders: &Folders) -> Result<bool, RulesetError> {
        let read: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::ReadDir;
        let write = read
            | AccessFs::WriteFile
            | AccessFs::Truncate
            | AccessFs::MakeReg
            | AccessFs::RemoveFile
            | AccessFs::Refer;
        let status = Ruleset::default()
            .handle_access(AccessFs::from_all(KNOWN))?
            .handle_access(AccessNet::from_all(KNOWN))?
            .scope(Scope::from_all(KNOWN))?
            .create()?
            .add_rules(path_beneath_rules(["/proc", "/sys"], read))?
            .add_rules(path_beneath_rules(&folders.read, read))?
            .add_rules(path_beneath_rules(&folders.write, write))?
            .add_rules(path_beneath_rules(&folders.devices, read | AccessFs::WriteFile | AccessFs::IoctlDev))?
            .restrict_self()?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }

    pub(super) fn fence_calls(folders: &Folders) -> Result<(), seccompiler::Error> {
        let arch: TargetArch =
            std::env::consts::ARCH.try_into().map_err(|error: BackendError| seccompiler::Error::Backend(error))?;
        let opening = if folders.is_empty() { OPENING } else { &[] };
        let changing = if folders.write.is_empty() { CHANGING } else { &[] };
        let refused = [NEVER, opening, changing].concat();
        // x86-64 has every call a second time, for programs with short pointers.
        let twins = refused.iter().map(|number| number | X32).filter(|_| cfg!(target_arch = "x86_64"));
        let refused = refused.iter().copied().chain(twins).chain(X32_ONLY.iter().map(|number| number | X32));
        let rules: BTreeMap<i64, Vec<_>> = refused.map(|number| (number, Vec::new())).collect();
        let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?;
        let program: BpfProgram = filter.try_into()?;
        seccompiler::apply_filter_all_threads(&program)
    }

    /// Calls that a server with all its files open has no use for.
    const NEVER: &[i64] = &[
        // Programs, and other processes' memory.
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_pidfd_getfd,
        // Connections. Those that clients make come from `accept4` on the socket that is there.
        libc::SYS_socket,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        // Ways around this list: calls made by the kernel, files without names, other roots.
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        libc::SYS_name_to_handle_at,
        libc::SYS_open_by_handle_at,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_setns,
        libc::SYS_unshare,
        // The kernel itself.
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_add_key,
        libc::SYS_keyctl,
        libc::SYS_request_key,
        // What nobody asked a server to do to files.
        libc::SYS_mkdirat,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_mknodat,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mknod,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chmod,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_chown,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_lchown,
    ];

    const OPENING: &[i64] = &[
        libc::SYS_openat,
        libc::SYS_openat2,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_creat,
    ];

    const CHANGING: &[i64] = &[
        libc::SYS_truncate,
        libc::SYS_renameat,
        libc::SYS_renameat2,
        libc::SYS_unlinkat,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rmdir,
    ];

    /// Marks the second set of calls of x86-64.
    const X32: i64 = 0x4000_0000;

    /// `execve`, `ptrace`, `process_vm_readv`, `process_vm_writev` and `execveat` have numbers of their own there.
    const X32_ONLY: &[i64] = if cfg!(target_arch = "x86_64") { &[520, 521, 539, 540, 545] } else { &[] };
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn devices_are_opened_behind_the_fence_and_others_are_not() {
        // The fence holds for the thread that puts it up.
        let thread = std::thread::spawn(|| {
            let open = |path| File::options().read(true).write(true).open(path).map_err(|error| error.kind());
            if !fence_files(&Folders { devices: vec!["/dev/null".into()], ..Folders::default() }) {
                eprintln!("not tested: this kernel has no Landlock");
                return;
            }
            open("/dev/null").expect("a device that was named");
            assert_eq!(open("/dev/zero").unwrap_err(), ErrorKind::PermissionDenied);
        });
        thread.join().expect("what was found");
    }
}
