//! The server: bind, answer at once, load, open the browser, stop in an orderly way.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use super::bind::{Bound, bind, lan_address, url};
use super::browser::{self, Opener};
use super::demo::DEMO_NOTICE;
use super::error::CliError;
use super::load::Opened;
use super::locate::Place;
use super::log;
use super::settings::{ComputeSettings, Serve, Settings, is_api_key};
use super::signals;
use super::terminal::{Terminal, print, prompt};
use crate::chat::ChatTemplate;
use crate::engine::Engine;
use crate::error::bytes_for_people;
use crate::server::sandbox::{self, Folders};
use crate::server::{self, AppState, ModelFacts, ServerOptions};

/// Threads that answer HTTP; the model has its own.
const SERVER_THREADS: usize = 2;

/// Serves until Ctrl-C or SIGTERM.
///
/// # Errors
/// A port that cannot be had, a model that cannot be loaded.
pub fn run(settings: Settings, mut serve: Serve, opened: Opened, terminal: Terminal) -> Result<(), CliError> {
    if let Some(file) = &serve.api_key_file {
        serve.api_keys.extend(read_keys(file)?);
    }
    if let Some(folder) = &mut serve.slot_save_path {
        // Whatever the working directory is later, and whatever a link in it is made to point to.
        *folder = existing_folder(folder)?;
    }
    log::start(terminal.is_verbose, serve.log_file.as_deref())?;
    let id = serve.alias.clone().unwrap_or_else(|| opened.id());
    let (listener, moved) = match bind(&serve, &id)? {
        Bound::Listening { listener, moved } => (listener, moved),
        Bound::AlreadyRunning(address) => return show_running(&serve, &url(address), &terminal),
    };
    let io_error = |error: std::io::Error| CliError::System(format!("the listener does not work: {error}"));
    listener.set_nonblocking(true).map_err(io_error)?;
    let address = listener.local_addr().map_err(io_error)?;
    if serve.banner {
        banner(&opened, &settings.compute, &terminal);
    }
    warn_about_address(&serve, address, moved, &terminal);
    let opener = (serve.open_browser && browser::can_open(|name| std::env::var_os(name)).is_ok()).then(|| {
        let (url, terminal) = (url(address), terminal);
        Opener::new(move || terminal.note(format!("Open {url} in a browser.")))
    });
    // The first fence holds for threads that are started from now on: the last moment is before the first of them.
    let folders = Folders { read: Vec::new(), write: serve.slot_save_path.clone().into_iter().collect() };
    let has_landlock = serve.sandbox && sandbox::fence_files(&folders);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|error| CliError::System(format!("the asynchronous runtime does not start: {error}")))?;
    let result = runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(io_error)?;
        let mut options = ServerOptions::new(address);
        options.api_keys = serve.api_keys.clone();
        options.cors_origins = serve.cors_origins.clone();
        // A name that was typed as the address to listen on is one of the server's own.
        options.allowed_hosts = serve.allowed_hosts.iter().chain([&serve.host]).cloned().collect();
        options.context_shift = serve.context_shift;
        options.verbose = terminal.is_verbose;
        options.slot_save_path = serve.slot_save_path.clone();
        options.moved_from = moved.then_some(super::settings::DEFAULT_PORT);
        let state = AppState::new(options);
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let server = tokio::spawn(server::serve(listener, state.clone(), async move { stopped.notified().await }));
        let mut signal = std::pin::pin!(signals::stop());
        state.set_progress(0.0, "loading");
        let loading = tokio::task::spawn_blocking(move || load(opened, id, &settings, &terminal));
        let loaded = tokio::select! {
            loaded = loading => loaded.map_err(|_| CliError::System("loading the model failed".into()))?,
            () = &mut signal => return Ok(()),
        };
        let (engine, facts, template) = loaded?;
        state.set_ready(engine, facts, template);
        announce(&serve, opener, &url(address), &terminal)?;
        if serve.sandbox {
            state.set_sandbox(close_sandbox(has_landlock, &folders, address, &terminal));
        }
        tracing::info!(target: server::log::TARGET, address = %address, "ready");
        tokio::select! {
            () = &mut signal => {}
            () = state.quit_requested() => {}
        }
        terminal.note("stopping; Ctrl-C again quits at once");
        tracing::info!(target: server::log::TARGET, "stopping");
        stop.notify_one();
        tokio::select! {
            _ = server => {}
            () = signals::stop() => return Err(CliError::Interrupted),
        }
        terminal.note("stopped");
        tracing::info!(target: server::log::TARGET, "stopped");
        Ok(())
    });
    // What still runs must not keep the program: an orderly end was tried above.
    runtime.shutdown_background();
    result
}

fn load(
    opened: Opened,
    id: String,
    settings: &Settings,
    terminal: &Terminal,
) -> Result<(Engine, ModelFacts, ChatTemplate), CliError> {
    let tokenizer = opened.tokenizer()?;
    let template = match opened.template()? {
        Some(template) => template,
        None => ChatTemplate::new(None)?,
    };
    let facts = facts(&opened, id, settings);
    let n_parallel = opened.check_memory(&settings.compute, terminal)?;
    let engine = opened.start(tokenizer, n_parallel, &settings.compute, terminal)?;
    Ok((engine, facts, template))
}

fn facts(opened: &Opened, id: String, settings: &Settings) -> ModelFacts {
    let source = &opened.source;
    ModelFacts {
        id,
        name: source.name().into(),
        quantization: source.quantization().into(),
        path: source.file().into(),
        n_params: source.n_params(),
        size_bytes: source.weight_bytes(),
        n_ctx_train: source.config().n_ctx_train,
        is_demo: opened.place == Place::Demo,
        sampling: settings.generation.sampling.clone(),
        limit: settings.generation.limit,
    }
}

fn banner(opened: &Opened, compute: &ComputeSettings, terminal: &Terminal) {
    for line in banner_lines(opened, compute) {
        terminal.note(line);
    }
}

fn banner_lines(opened: &Opened, compute: &ComputeSettings) -> Vec<String> {
    let (source, n_ctx_train) = (&opened.source, opened.source.config().n_ctx_train);
    let place = match opened.place {
        Place::Path => "",
        Place::ThisFile => " (inside this file)",
        Place::Demo => " (built in)",
    };
    let all = if opened.n_ctx < n_ctx_train { format!("     -c 0 uses all {n_ctx_train}") } else { String::new() };
    vec![
        concat!("gemma2 ", env!("CARGO_PKG_VERSION")).into(),
        format!("model    {}{place}", describe(source)),
        format!("context  {} of {n_ctx_train} tokens{all}", opened.n_ctx),
        format!("device   CPU, {} threads, {}", compute.n_threads, compute.kernels.isa()),
    ]
}

/// `Gemma 2 2B it · Q6_K · 2.61 B params · 2.15 GB`
pub fn describe(source: &crate::weights::Source) -> String {
    let mut name = crate::error::name_for_people(source.name().as_bytes());
    // The line stays below 80 columns.
    if let Some((end, _)) = name.char_indices().nth(24) {
        name.truncate(end);
        name.push('…');
    }
    let n_params = match source.n_params() {
        n if n >= 1_000_000_000 => format!("{:.2} B", n as f64 / 1e9),
        n => format!("{:.2} M", n as f64 / 1e6),
    };
    let (quantization, size) = (source.quantization(), bytes_for_people(source.weight_bytes()));
    format!("{name} · {quantization} · {n_params} params · {size}")
}

fn warn_about_address(serve: &Serve, address: SocketAddr, moved: bool, terminal: &Terminal) {
    if moved {
        terminal.note(format!(
            "port {} is taken by another program; using {}",
            super::settings::DEFAULT_PORT,
            address.port()
        ));
    }
    if !address.ip().is_loopback() {
        let protection = match serve.api_keys.is_empty() {
            true => "; `--api-key` protects the API",
            false => "",
        };
        terminal.note(format!("anyone who reaches {address} over the network can use this program{protection}"));
        let other = match address.ip().is_unspecified() {
            true => lan_address().map(|ip| SocketAddr::new(ip, address.port())),
            false => Some(address),
        };
        if let Some(other) = other {
            terminal.note(format!("network  {}", url(other)));
        }
    }
}

fn existing_folder(folder: &Path) -> Result<PathBuf, CliError> {
    match folder.canonicalize() {
        Ok(path) if path.is_dir() => Ok(path),
        Ok(_) => Err(CliError::usage(format!("`--slot-save-path {}` is not a folder", folder.display()))),
        Err(error) => Err(CliError::Usage {
            what: format!("`--slot-save-path {}`: {error}", folder.display()),
            hint: "make the folder first".into(),
        }),
    }
}

/// One key in each line; empty lines and those that begin with `#` are none.
fn read_keys(file: &Path) -> Result<Vec<String>, CliError> {
    let text = std::fs::read_to_string(file).map_err(|source| CliError::Read { path: file.to_owned(), source })?;
    let lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let keys = lines.map(|(number, key)| match is_api_key(key) {
        true => Ok(key.to_owned()),
        // Not the key itself: errors end up in logs.
        false => Err(CliError::usage(format!(
            "`--api-key-file {}`, line {}: a key is visible ASCII characters without spaces",
            file.display(),
            number + 1
        ))),
    });
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    match keys.is_empty() {
        // Whoever names a file wants a lock; an empty one must not open the door.
        true => Err(CliError::usage(format!("`--api-key-file {}` has no key in it", file.display()))),
        false => Ok(keys),
    }
}

/// The second fence, and a look at whether both hold.
fn close_sandbox(has_landlock: bool, folders: &Folders, own: SocketAddr, terminal: &Terminal) -> sandbox::Report {
    let mut report =
        sandbox::Report { landlock: has_landlock, seccomp: sandbox::fence_calls(folders), leaks: Vec::new() };
    if report.seccomp {
        report.leaks = sandbox::check(folders, own);
    }
    let line = format!("sandbox  {}", report.line());
    match report.leaks.is_empty() {
        true => terminal.detail(line),
        false => terminal.note(format!("warning: {line}")),
    }
    report
}

/// The URL, alone on stdout; then the browser.
fn announce(serve: &Serve, opener: Option<Opener>, url: &str, terminal: &Terminal) -> Result<(), CliError> {
    if !terminal.is_quiet && serve.banner {
        // Where both streams are one screen, the line of the banner is completed by the URL.
        if terminal.stdout_is_terminal && terminal.stderr_is_terminal {
            prompt("chat     ");
        } else {
            terminal.note(format!("chat     {url}"));
        }
    }
    print(&format!("{url}\n"))?;
    match opener {
        Some(opener) => opener.open(url),
        None if serve.open_browser => explain_missing_browser(url, terminal),
        None => {}
    }
    if serve.banner {
        terminal.note("stop     press Ctrl-C here");
    }
    Ok(())
}

fn explain_missing_browser(url: &str, terminal: &Terminal) {
    match browser::can_open(|name| std::env::var_os(name)) {
        Ok(()) | Err(browser::NoBrowser::Automation) => {}
        Err(browser::NoBrowser::NoDisplay) => terminal.note(format!("Open {url} in a browser.")),
        Err(browser::NoBrowser::Remote) => {
            terminal.note(format!("Open {url} in a browser."));
            let port = url.trim_end_matches('/').rsplit(':').next().unwrap_or_default();
            terminal.note(format!(
                "From another computer: ssh -L {port}:127.0.0.1:{port} USER@HOST, then the same URL there"
            ));
        }
    }
}

fn show_running(serve: &Serve, url: &str, terminal: &Terminal) -> Result<(), CliError> {
    terminal.note(format!("already running: {url}"));
    print(&format!("{url}\n"))?;
    if serve.open_browser && browser::can_open(|name| std::env::var_os(name)).is_ok() {
        browser::open(url);
    }
    Ok(())
}

/// What people are told who run the demo model, in any mode.
pub fn demo_notice(opened: &Opened, terminal: &Terminal) {
    if opened.place == Place::Demo {
        terminal.note(DEMO_NOTICE);
    }
}
