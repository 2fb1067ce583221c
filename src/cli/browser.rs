//! Opening the page in the user's browser, where there is one to be expected.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// How long the opener may take to fail; it may run as long as the browser does.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why no browser is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBrowser {
    /// An automatic run.
    Automation,
    /// Started by the system, for whoever connects.
    Service,
    /// Logged in from another computer.
    Remote,
    /// No desktop.
    NoDisplay,
}

/// Whether a browser can be expected here.
pub fn expected() -> Result<(), NoBrowser> {
    let variable = |name: &str| std::env::var_os(name);
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if is_service(variable, std::process::id(), &cgroup) {
        return Err(NoBrowser::Service);
    }
    can_open(variable)
}

/// The same as far as the environment tells. `variable` looks into it.
pub fn can_open(variable: impl Fn(&str) -> Option<OsString>) -> Result<(), NoBrowser> {
    let is_set = |name: &str| variable(name).is_some_and(|value| !value.is_empty());
    let has_display = is_set("DISPLAY") || is_set("WAYLAND_DISPLAY");
    let needs_display = cfg!(unix) && !cfg!(target_os = "macos") && !is_set("WSL_DISTRO_NAME");
    if variable("CI").is_some_and(|value| value == "true" || value == "1") {
        Err(NoBrowser::Automation)
    } else if is_set("SSH_CONNECTION") && !has_display {
        Err(NoBrowser::Remote)
    } else if needs_display && !has_display {
        Err(NoBrowser::NoDisplay)
    } else {
        Ok(())
    }
}

/// Whether systemd has started this very process as a service. What it starts for a desktop, and what a terminal inherits
/// from one, is none: `app-….service` is how desktops name the programs that a person starts, and the variable names the
/// service's first process only. On macOS launchd names a job; programs of a person are `0` or `application.…`.
fn is_service(variable: impl Fn(&str) -> Option<OsString>, pid: u32, cgroup: &str) -> bool {
    if cfg!(target_os = "macos") {
        let job = variable("XPC_SERVICE_NAME").map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        return !(job.is_empty() || job == "0" || job.starts_with("application."));
    }
    let is_first = variable("SYSTEMD_EXEC_PID").is_some_and(|first| first == pid.to_string().as_str());
    let unit = cgroup.lines().next().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    is_first && !unit.starts_with("app-")
}

/// A thread that waits for a URL to open. It was started early and so may start a program when the rest of the process no
/// longer may.
pub struct Opener {
    url: mpsc::Sender<String>,
    is_started: mpsc::Receiver<()>,
    outcome: oneshot::Receiver<bool>,
}

impl Opener {
    /// Starts the thread.
    pub fn new() -> Opener {
        let (url, urls) = mpsc::channel::<String>();
        let (started, is_started) = mpsc::channel();
        let (tell, outcome) = oneshot::channel();
        std::thread::spawn(move || {
            let Ok(url) = urls.recv() else {
                return;
            };
            let child = start(&url);
            let _ = started.send(());
            // The opener may take a while to fail.
            let _ = tell.send(child.is_some_and(seems_to_work));
        });
        Opener { url, is_started, outcome }
    }

    /// Opens the URL. Returns when the system's opener has been started, or could not be; what is returned is ready when it
    /// is known whether that seems to have worked.
    pub fn open(self, url: &str) -> oneshot::Receiver<bool> {
        if self.url.send(url.to_owned()).is_ok() {
            let _ = self.is_started.recv();
        }
        self.outcome
    }
}

/// Opens the URL with the system's opener, detached and silent; whether that seems to have worked.
pub fn open(url: &str) -> bool {
    start(url).is_some_and(seems_to_work)
}

/// The first opener that there is.
fn start(url: &str) -> Option<Child> {
    openers().iter().find_map(|(program, args)| {
        let mut command = Command::new(program);
        command.args(*args).arg(url);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Ctrl-C in our terminal is not meant for the browser.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.spawn().ok()
    })
}

fn seems_to_work(mut child: Child) -> bool {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(_) => return false,
        }
    }
    // Some openers are the browser itself and stay.
    true
}

/// Programs that open a URL, with the arguments before it.
fn openers() -> &'static [(&'static str, &'static [&'static str])] {
    if cfg!(target_os = "macos") {
        &[("open", &[])]
    } else if cfg!(windows) {
        &[("rundll32", &["url.dll,FileProtocolHandler"])]
    } else if std::env::var_os("WSL_DISTRO_NAME").is_some() {
        // Windows' folders need not be in the path there.
        &[
            ("rundll32.exe", &["url.dll,FileProtocolHandler"]),
            ("/mnt/c/Windows/System32/rundll32.exe", &["url.dll,FileProtocolHandler"]),
            ("xdg-open", &[]),
        ]
    } else {
        &[("xdg-open", &[])]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(variables: &[(&str, &str)]) -> Result<(), NoBrowser> {
        can_open(|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into()))
    }

    #[test]
    #[cfg(all(unix, not(target_os = "macos")))]
    fn a_browser_needs_a_desktop_and_a_person() {
        assert_eq!(check(&[("DISPLAY", ":0")]), Ok(()));
        assert_eq!(check(&[("WAYLAND_DISPLAY", "wayland-0")]), Ok(()));
        assert_eq!(check(&[("WSL_DISTRO_NAME", "Debian")]), Ok(()));
        assert_eq!(check(&[("DISPLAY", ":0"), ("CI", "true")]), Err(NoBrowser::Automation));
        assert_eq!(check(&[("SSH_CONNECTION", "x")]), Err(NoBrowser::Remote));
        assert_eq!(check(&[("SSH_CONNECTION", "x"), ("DISPLAY", ":10")]), Ok(()));
        assert_eq!(check(&[]), Err(NoBrowser::NoDisplay));
    }

    #[test]
    #[cfg(all(unix, not(target_os = "macos")))]
    fn what_systemd_starts_for_nobody_is_a_service() {
        let check = |first: &str, cgroup: &str| {
            is_service(|name| (name == "SYSTEMD_EXEC_PID").then(|| first.into()), 42, cgroup)
        };
        assert!(check("42", "0::/system.slice/gemma2.service\n"));
        assert!(check("42", "0::/user.slice/user-1000.slice/user@1000.service/app.slice/gemma2.service\n"));
        assert!(!check("42", "0::/user.slice/user@1000.service/app.slice/app-gemma2@5f.service\n"), "from a menu");
        assert!(!check("7", "0::/user.slice/user@1000.service/session.slice/org.gnome.Shell@wayland.service\n"));
        assert!(!is_service(|_| None, 42, ""));
    }
}
