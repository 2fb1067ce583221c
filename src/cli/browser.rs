//! Opening the page in the user's browser, where there is one to be expected.

use std::ffi::OsString;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long the opener may take to fail; it may run as long as the browser does.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why no browser is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoBrowser {
    /// An automatic run.
    Automation,
    /// Logged in from another computer.
    Remote,
    /// No desktop.
    NoDisplay,
}

/// Whether a browser can be expected here. `variable` looks into the environment.
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

/// A thread that waits for a URL to open. It was started early and so may start a program when the rest of the process no
/// longer may.
pub struct Opener {
    url: mpsc::Sender<String>,
    is_started: mpsc::Receiver<()>,
}

impl Opener {
    /// Starts the thread. `failed` is called if the browser does not come.
    pub fn new(failed: impl FnOnce() + Send + 'static) -> Opener {
        let (url, urls) = mpsc::channel::<String>();
        let (started, is_started) = mpsc::channel();
        std::thread::spawn(move || {
            let Ok(url) = urls.recv() else {
                return;
            };
            let child = start(&url);
            let _ = started.send(());
            // The opener may take a while to fail.
            if !child.is_some_and(seems_to_work) {
                failed();
            }
        });
        Opener { url, is_started }
    }

    /// Opens the URL. Returns when the system's opener has been started, or could not be.
    pub fn open(self, url: &str) {
        if self.url.send(url.to_owned()).is_ok() {
            let _ = self.is_started.recv();
        }
    }
}

/// Opens the URL with the system's opener, detached and silent; whether that seems to have worked.
pub fn open(url: &str) -> bool {
    start(url).is_some_and(seems_to_work)
}

fn start(url: &str) -> Option<Child> {
    let mut command = opener(url);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in our terminal is not meant for the browser.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().ok()
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

fn opener(url: &str) -> Command {
    let (program, args): (&str, &[&str]) = if cfg!(target_os = "macos") {
        ("open", &[])
    } else if cfg!(windows) {
        ("rundll32", &["url.dll,FileProtocolHandler"])
    } else if std::env::var_os("WSL_DISTRO_NAME").is_some() {
        ("rundll32.exe", &["url.dll,FileProtocolHandler"])
    } else {
        ("xdg-open", &[])
    };
    let mut command = Command::new(program);
    command.args(args).arg(url);
    command
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
}
