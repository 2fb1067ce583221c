//! The server: bind, answer at once, load, open the browser, stop in an orderly way.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::bind::{Bound, bind, bind_others, lan_address, url};
use super::browser::{self, NoBrowser, Opener};
use super::demo::DEMO_NOTICE;
use super::error::CliError;
use super::load::Opened;
use super::loading::Loading;
use super::locate::Place;
use super::log;
use super::settings::{ComputeSettings, Serve, Settings, is_api_key};
use super::signals;
use super::terminal::{Terminal, cut, print, prompt};
use crate::chat::ChatTemplate;
use crate::engine::Engine;
use crate::error::bytes_for_people;
use crate::server::sandbox::{self, Folders};
use crate::server::{self, AppState, ModelFacts, ServerOptions};

/// Threads that answer HTTP; the model has its own.
const SERVER_THREADS: usize = 2;
/// How long the line with the URL waits to hear whether a browser has opened.
const BROWSER_PATIENCE: Duration = Duration::from_secs(1);

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
    let id = serve.aliases.first().cloned().unwrap_or_else(|| opened.id());
    let (listener, moved) = match bind(&serve, &id)? {
        Bound::Listening { listener, moved } => (listener, moved),
        Bound::AlreadyRunning(address) => return show_running(&serve, &url(address), &terminal),
    };
    let io_error = |error: std::io::Error| CliError::System(format!("the listener does not work: {error}"));
    let address = listener.local_addr().map_err(io_error)?;
    let mut listeners = vec![listener];
    listeners.extend(bind_others(&serve, address.port())?);
    // The one that most can reach decides who may call.
    let mut outermost = address;
    for listener in &listeners {
        listener.set_nonblocking(true).map_err(io_error)?;
        let address = listener.local_addr().map_err(io_error)?;
        if outermost.ip().is_loopback() && !address.ip().is_loopback() {
            outermost = address;
        }
    }
    demo_notice(&opened, &terminal);
    if serve.banner {
        banner(&opened, &settings.compute, &terminal);
    }
    warn_about_address(&serve, outermost, moved, &terminal);
    let opener = (serve.open_browser && browser::expected().is_ok()).then(Opener::new);
    // The first fence holds for threads that are started from now on: the last moment is before the first of them.
    // A GPU's driver has put aside by then what it compiles, and found its other libraries.
    opened.prepare_gpu(&settings.compute)?;
    let devices = if settings.compute.offload.is_some() { Folders::gpu_devices() } else { Vec::new() };
    let folders = Folders { read: Vec::new(), write: serve.slot_save_path.clone().into_iter().collect(), devices };
    let has_landlock = serve.sandbox && sandbox::fence_files(&folders);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS)
        .thread_name("http")
        .enable_all()
        .build()
        .map_err(|error| CliError::System(format!("the asynchronous runtime does not start: {error}")))?;
    let result = runtime.block_on(async {
        let listeners: Result<Vec<_>, _> = listeners.into_iter().map(tokio::net::TcpListener::from_std).collect();
        let listeners = listeners.map_err(io_error)?;
        let mut options = ServerOptions::new(outermost);
        options.api_keys = serve.api_keys.clone();
        options.cors_origins = serve.cors_origins.clone();
        // A name that was typed as the address to listen on is one of the server's own.
        options.allowed_hosts =
            serve.allowed_hosts.iter().chain([&serve.host]).chain(&serve.other_hosts).cloned().collect();
        options.context_shift = serve.context_shift;
        options.verbose = terminal.is_verbose;
        options.slot_save_path = serve.slot_save_path.clone();
        options.shows_slots = serve.shows_slots;
        options.has_page = serve.has_page;
        options.pooling = serve.pooling;
        options.moved_from = moved.then_some(super::settings::DEFAULT_PORT);
        let state = AppState::new(options);
        let stop = Arc::new(Notify::new());
        let stopped = stop.clone();
        let server = tokio::spawn(server::serve_all(listeners, state.clone(), async move { stopped.notified().await }));
        let mut signal = std::pin::pin!(signals::stop());
        let watched = state.clone();
        let (aliases, tags) = (serve.aliases.clone(), serve.tags.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let tell = move |share| watched.set_progress(share, "loading");
            let (engine, mut facts, template) = load(opened, id, &settings, Loading::of_server(&terminal, tell))?;
            (facts.aliases, facts.tags) = (aliases, tags);
            Ok::<_, CliError>((engine, facts, template))
        });
        let loaded = tokio::select! {
            // Looked at first, so that from here on no signal is missed.
            biased;
            () = &mut signal => {
                erase_ctrl_c(&terminal);
                terminal.note("stopped");
                return Ok(());
            }
            loaded = loading => loaded.map_err(|_| CliError::System("loading the model failed".into()))?,
        };
        let (engine, facts, template) = loaded?;
        state.set_ready(engine, facts, template);
        announce(&serve, opener, &url(address), &terminal).await?;
        if serve.sandbox {
            state.set_sandbox(close_sandbox(has_landlock, &folders, address, &terminal));
        }
        tracing::info!(target: server::log::TARGET, address = %address, "ready");
        tokio::select! {
            () = &mut signal => {}
            () = state.quit_requested() => {}
        }
        tokio::select! {
            // Looked at first, so that it is listened to before anybody is told.
            biased;
            () = signals::stop() => return Err(CliError::Interrupted),
            _ = async {
                erase_ctrl_c(&terminal);
                terminal.note("stopping; Ctrl-C again quits at once");
                tracing::info!(target: server::log::TARGET, "stopping");
                stop.notify_one();
                server.await
            } => {}
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
    loading: Loading<'_>,
) -> Result<(Engine, ModelFacts, ChatTemplate), CliError> {
    let tokenizer = opened.tokenizer()?;
    let template = match opened.template()? {
        Some(template) => template,
        None => ChatTemplate::new(None)?,
    };
    let facts = facts(&opened, id, settings);
    let n_parallel = opened.check_memory(&settings.compute, loading.terminal())?;
    let engine = opened.start(tokenizer, n_parallel, &settings.compute, loading)?;
    Ok((engine, facts, template))
}

fn facts(opened: &Opened, id: String, settings: &Settings) -> ModelFacts {
    let source = &opened.source;
    ModelFacts {
        id,
        aliases: Vec::new(),
        tags: Vec::new(),
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

/// What the model is and how it runs, a line each.
pub fn banner_lines(opened: &Opened, compute: &ComputeSettings) -> Vec<String> {
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
    let name = crate::error::name_for_people(source.name().as_bytes());
    // The line stays below 80 columns.
    let name = match cut(&name, 24) {
        start if start.len() < name.len() => format!("{start}…"),
        _ => name,
    };
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

/// The URL, alone on stdout, and the browser.
async fn announce(serve: &Serve, opener: Option<Opener>, url: &str, terminal: &Terminal) -> Result<(), CliError> {
    let has_banner = serve.banner && !terminal.is_quiet;
    // Where both streams are one screen, the URL is a part of the banner's line.
    let label = if serve.has_page { "chat     " } else { "API      " };
    let is_one_line = has_banner && terminal.stdout_is_terminal && terminal.stderr_is_terminal;
    if !is_one_line {
        print(&format!("{url}\n"))?;
    }
    let opened = match opener {
        Some(opener) => opened(opener, url, terminal).await,
        None => None,
    };
    let aside = match opened {
        Some(true) => "     (opened in your browser)",
        Some(false) | None => "",
    };
    if is_one_line {
        prompt(label);
        print(url)?;
        prompt(&format!("{aside}\n"));
    } else if has_banner {
        terminal.note(format!("{label}{url}{aside}"));
    }
    match opened {
        Some(true) => {}
        Some(false) => ask_to_open(url, terminal),
        None if serve.open_browser => explain_missing_browser(url, terminal),
        None => {}
    }
    if has_banner {
        terminal.note("stop     press Ctrl-C here");
    }
    Ok(())
}

/// Opens the URL; whether a browser came. What becomes known later is said later.
async fn opened(opener: Opener, url: &str, terminal: &Terminal) -> Option<bool> {
    let mut outcome = opener.open(url);
    match tokio::time::timeout(BROWSER_PATIENCE, &mut outcome).await {
        Ok(outcome) => Some(outcome.unwrap_or(false)),
        Err(_) => {
            let (url, terminal) = (url.to_owned(), *terminal);
            tokio::spawn(async move {
                if !outcome.await.unwrap_or(false) {
                    ask_to_open(&url, &terminal);
                }
            });
            // An opener that stays has most likely become the browser.
            Some(true)
        }
    }
}

fn ask_to_open(url: &str, terminal: &Terminal) {
    terminal.note(format!("Open {url} in a browser."));
}

fn explain_missing_browser(url: &str, terminal: &Terminal) {
    match browser::expected() {
        Ok(()) | Err(NoBrowser::Automation | NoBrowser::Service) => {}
        Err(NoBrowser::NoDisplay | NoBrowser::Remote) => {
            ask_to_open(url, terminal);
            // A server for the network has said where that reaches it.
            if let Some(port) = url.strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix('/')) {
                terminal.note(format!("From another computer: ssh -L {port}:127.0.0.1:{port} USER@HOST"));
                terminal.note(format!("and then {url} there."));
            }
        }
    }
}

fn show_running(serve: &Serve, url: &str, terminal: &Terminal) -> Result<(), CliError> {
    print(&format!("{url}\n"))?;
    let is_opened = serve.open_browser && browser::expected().is_ok() && browser::open(url);
    let aside = if is_opened { "     (opened in your browser)" } else { "" };
    terminal.note(format!("already running: {url}{aside}"));
    Ok(())
}

/// The terminal has shown `^C`, where the cursor still is.
fn erase_ctrl_c(terminal: &Terminal) {
    terminal.status("");
}

/// What people are told who run the demo model, in any mode.
pub fn demo_notice(opened: &Opened, terminal: &Terminal) {
    if opened.place == Place::Demo {
        terminal.note(DEMO_NOTICE);
    }
}
