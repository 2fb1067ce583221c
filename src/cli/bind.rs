//! Which address and port the server listens on, and what to say when it cannot.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::error::CliError;
use super::settings::{DEFAULT_PORT, Serve};

/// Ports tried after the default one.
const SPARE_PORTS: u16 = 10;
/// How long another program on the default port may take to say what it is.
const PATIENCE: Duration = Duration::from_millis(500);

/// A port of our own, or another gemma2 that has it.
pub enum Bound {
    /// Listening; `moved` from the default port, which is taken.
    Listening {
        /// Not answered yet.
        listener: TcpListener,
        /// The default port was taken.
        moved: bool,
    },
    /// The same model is served there already.
    AlreadyRunning(SocketAddr),
}

/// Binds what was asked for: a given port or none, the default port or one of the next ten.
///
/// # Errors
/// [`CliError::Network`] with what to type instead.
pub fn bind(serve: &Serve, model_id: &str) -> Result<Bound, CliError> {
    let addresses = resolve(&serve.host)?;
    if let Some(port) = serve.port {
        let listener = bind_first(&addresses, port).map_err(|error| explain(&serve.host, port, &error))?;
        return Ok(Bound::Listening { listener, moved: false });
    }
    bind_default(&addresses, DEFAULT_PORT, model_id).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => CliError::Network {
            what: format!("ports {DEFAULT_PORT} to {} are all in use", DEFAULT_PORT + SPARE_PORTS),
            hint: "`gemma2 --port 0` takes any free port".into(),
        },
        _ => explain(&serve.host, DEFAULT_PORT, &error),
    })
}

/// Binds the further addresses of `--host`, to the port that the first one got.
///
/// # Errors
/// As [`bind`].
pub fn bind_others(serve: &Serve, port: u16) -> Result<Vec<TcpListener>, CliError> {
    let one = |host: &String| bind_first(&resolve(host)?, port).map_err(|error| explain(host, port, &error));
    serve.other_hosts.iter().map(one).collect()
}

fn bind_default(addresses: &[IpAddr], default: u16, model_id: &str) -> io::Result<Bound> {
    let taken = match bind_first(addresses, default) {
        Ok(listener) => return Ok(Bound::Listening { listener, moved: false }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => error,
        Err(error) => return Err(error),
    };
    for &address in addresses {
        let there = SocketAddr::new(address, default);
        if serves_model(there, model_id) {
            return Ok(Bound::AlreadyRunning(there));
        }
    }
    for port in (1..=SPARE_PORTS).filter_map(|n| default.checked_add(n)) {
        if let Ok(listener) = bind_first(addresses, port) {
            return Ok(Bound::Listening { listener, moved: true });
        }
    }
    Err(taken)
}

/// The address to write into a URL: one that the machine itself can reach.
pub fn url(address: SocketAddr) -> String {
    let ip = match address.ip() {
        ip if ip.is_unspecified() && ip.is_ipv6() => "[::1]".to_owned(),
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    format!("http://{ip}:{}/", address.port())
}

/// The address under which other computers see this one, for a server that listens on all. Nothing is sent: the system
/// only chooses a route.
pub fn lan_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_unspecified() && !ip.is_loopback())
}

fn resolve(host: &str) -> Result<Vec<IpAddr>, CliError> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut addresses: Vec<IpAddr> = match (bare, 0).to_socket_addrs() {
        Ok(addresses) => addresses.map(|address| address.ip()).collect(),
        Err(_) => Vec::new(),
    };
    // `localhost` may be both; the page's address, and with it its history, is the IPv4 one.
    addresses.sort_by_key(IpAddr::is_ipv6);
    addresses.dedup();
    match addresses.is_empty() {
        true => Err(CliError::Network {
            what: format!("`--host {host}` is no address of this computer"),
            hint: "`--host 127.0.0.1` is this computer only, `--host 0.0.0.0` the network".into(),
        }),
        false => Ok(addresses),
    }
}

fn bind_first(addresses: &[IpAddr], port: u16) -> io::Result<TcpListener> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for &address in addresses {
        result = TcpListener::bind((address, port));
        if result.is_ok() {
            break;
        }
    }
    result
}

fn explain(host: &str, port: u16, error: &io::Error) -> CliError {
    let (what, hint) = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let other = port.checked_add(1).unwrap_or(DEFAULT_PORT);
            (format!("port {port} is in use"), format!("`gemma2 --port {other}`, or `--port 0` for any free port"))
        }
        io::ErrorKind::PermissionDenied => {
            (format!("port {port} needs more rights than this user has"), "`gemma2 --port 8081`".into())
        }
        io::ErrorKind::AddrNotAvailable => (
            format!("`--host {host}` is no address of this computer"),
            "`--host 127.0.0.1` is this computer only, `--host 0.0.0.0` the network".into(),
        ),
        _ => (format!("`{host}` port {port} cannot be listened on: {error}"), "`--host 127.0.0.1 --port 0`".into()),
    };
    CliError::Network { what, hint }
}

/// Whether our own program answers there with this very model.
fn serves_model(address: SocketAddr, model_id: &str) -> bool {
    let Ok(answer) = health(address) else {
        return false;
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let health: serde_json::Value = serde_json::from_str(body.trim()).unwrap_or_default();
    health["product"] == "gemma2" && health["model"] == model_id
}

fn health(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // HTTP/1.0: the answer ends with the connection and has no chunks. In one piece, as every server expects.
    let request = format!("GET /health HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(16 << 10).read_to_end(&mut answer)?;
    String::from_utf8(answer).map_err(|_| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::LOCALHOST)];

    /// A port with nine free ones after it is not promised by any system: ask for a free one and hope for one of ten.
    fn taken() -> (TcpListener, u16) {
        let listener = TcpListener::bind((LOOPBACK[0], 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    fn serve(port: Option<u16>, host: &str) -> Serve {
        Serve {
            aliases: Vec::new(),
            tags: Vec::new(),
            pooling: crate::engine::Pooling::Mean,
            shows_slots: true,
            has_page: true,
            host: host.into(),
            other_hosts: Vec::new(),
            port,
            open_browser: false,
            banner: false,
            api_keys: Vec::new(),
            api_key_file: None,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            log_file: None,
            sandbox: false,
            context_shift: true,
            slot_save_path: None,
        }
    }

    /// Answers one connection with this body, or hangs up.
    fn answer_once(listener: TcpListener, body: &'static str) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{body}");
        })
    }

    #[test]
    fn a_given_port_that_is_taken_is_an_error_with_another_port() {
        let (_keep, port) = taken();
        let Err(error) = bind(&serve(Some(port), "127.0.0.1"), "m") else { panic!("bound twice") };
        assert_eq!(error.exit_status(), 4);
        let text = crate::error::render(&error);
        assert!(text.contains(&format!("port {port} is in use")) && text.contains("gemma2 --port"), "{text}");
    }

    #[test]
    fn port_0_is_any_free_port() {
        let Ok(Bound::Listening { listener, moved: false }) = bind(&serve(Some(0), "localhost"), "m") else {
            panic!("not bound");
        };
        assert_ne!(listener.local_addr().unwrap().port(), 0);
    }

    #[test]
    fn a_taken_default_port_moves_to_the_next() {
        let (listener, port) = taken();
        let thread = answer_once(listener, "not ours");
        if let Ok(Bound::Listening { listener, moved }) = bind_default(&LOOPBACK, port, "m") {
            assert!(moved);
            assert!((port + 1..=port + SPARE_PORTS).contains(&listener.local_addr().unwrap().port()));
        }
        thread.join().unwrap();
    }

    #[test]
    fn the_same_model_on_the_default_port_is_recognized() {
        let (listener, port) = taken();
        let thread = answer_once(listener, r#"{"status":"ok","product":"gemma2","model":"m"}"#);
        let bound = bind_default(&LOOPBACK, port, "m").unwrap();
        assert!(matches!(bound, Bound::AlreadyRunning(there) if there.port() == port));
        thread.join().unwrap();
    }

    #[test]
    fn another_model_on_the_default_port_is_not_ours() {
        let (listener, port) = taken();
        let thread = answer_once(listener, r#"{"status":"ok","product":"gemma2","model":"other"}"#);
        let bound = bind_default(&LOOPBACK, port, "m");
        assert!(!matches!(bound, Ok(Bound::AlreadyRunning(_))));
        thread.join().unwrap();
    }

    #[test]
    fn an_address_of_another_computer_is_an_error() {
        for host in ["192.0.2.1", "no such host"] {
            let Err(error) = bind(&serve(Some(0), host), "m") else { panic!("{host}") };
            assert_eq!(error.exit_status(), 4, "{host}");
        }
    }

    #[test]
    fn urls_are_ones_that_this_computer_can_open() {
        let url = |text: &str| super::url(text.parse().unwrap());
        assert_eq!(url("127.0.0.1:8080"), "http://127.0.0.1:8080/");
        assert_eq!(url("0.0.0.0:81"), "http://127.0.0.1:81/");
        assert_eq!(url("[::]:81"), "http://[::1]:81/");
        assert_eq!(url("[::1]:81"), "http://[::1]:81/");
    }
}
