//! Tells the supervisor that started this process how far it is, as `sd_notify(3)` describes it. Does
//! nothing where nobody listens, and never fails the process.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::telemetry::log;

/// The supervisor, if there is one.
pub(super) struct Supervisor {
    socket: Option<UnixDatagram>,
}

impl Supervisor {
    /// The supervisor the environment names (`NOTIFY_SOCKET`).
    pub(super) fn of_environment() -> Self {
        let socket = std::env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                log::warn(format_args!("cannot reach the supervisor: {error}"));
                None
            }
        });
        Self { socket }
    }

    /// The listeners are open.
    pub(super) fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={status}"));
    }

    /// The configuration is being read again; [`Supervisor::ready`] tells when that is done.
    pub(super) fn reloading(&self) {
        // The supervisor tells by the time which reload is meant: its own, asked for before it.
        let since_boot =
            clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        self.say(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading",
            since_boot.as_micros()
        ));
    }

    /// This process is the service from now on; it must be said by the one that is.
    pub(super) fn successor(&self, process: u32) {
        self.say(&format!("MAINPID={process}\nSTATUS=handing over"));
    }

    /// A signal has begun the end.
    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=draining");
    }

    fn say(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            log::warn(format_args!("cannot tell the supervisor: {error}"));
        }
    }
}

/// A name that begins with `@` is not in the file system.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    // A supervisor that does not read must not hold up a drain.
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(listener: &UnixDatagram) -> String {
        let mut message = [0; 256];
        let bytes = listener.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..bytes]).into_owned()
    }

    #[test]
    fn a_supervisor_behind_a_name_without_a_file_hears_of_both_ends() {
        let name = format!("llm-router-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        let socket = connect(OsStr::new(&format!("@{name}"))).unwrap();
        let supervisor = Supervisor {
            socket: Some(socket),
        };
        supervisor.ready("listening on 127.0.0.1:8080");
        assert_eq!(
            heard(&listener),
            "READY=1\nSTATUS=listening on 127.0.0.1:8080"
        );
        supervisor.reloading();
        let reloading = heard(&listener);
        let mut lines = reloading.lines();
        assert_eq!(lines.next(), Some("RELOADING=1"));
        let at = lines
            .next()
            .unwrap()
            .strip_prefix("MONOTONIC_USEC=")
            .unwrap();
        assert!(at.parse::<u64>().unwrap() > 0);
        assert_eq!(lines.next(), Some("STATUS=reloading"));
        supervisor.stopping();
        assert_eq!(heard(&listener), "STOPPING=1\nSTATUS=draining");
    }

    #[test]
    fn a_supervisor_behind_a_file_hears_too_and_a_missing_one_is_an_error() {
        let path = std::env::temp_dir().join(format!("llm-router-notify-{}", std::process::id()));
        assert!(connect(path.as_os_str()).is_err());
        let listener = UnixDatagram::bind(&path).unwrap();
        let socket = connect(path.as_os_str()).unwrap();
        std::fs::remove_file(&path).unwrap();
        socket.send(b"READY=1").unwrap();
        assert_eq!(heard(&listener), "READY=1");
    }
}
