//! What the two processes of an upgrade say to each other. Plain text, one message per packet; the version
//! stands in front of each, so that two builds that do not understand each other find out at once.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// The new process asks for the listening sockets; it is configured to listen here.
    Ask { host: IpAddr, port: u16 },
    /// The old one gives them: so many, on this address, in the packets that follow.
    Offer { address: SocketAddr, count: usize },
    /// Comes with sockets.
    Sockets,
    /// The old process does not give them, for this reason.
    Refused(String),
    /// The new process could accept connections now.
    Ready,
    /// The old process has begun to leave: the new one is to accept them.
    Released,
}

/// Why a packet is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageError {
    /// It is of another version, or of another program.
    Version,
    /// It does not read as anything.
    Malformed,
}

impl Message {
    pub(super) fn parse(packet: &[u8]) -> Result<Self, MessageError> {
        let text = std::str::from_utf8(packet).map_err(|_| MessageError::Malformed)?;
        let words = text.strip_prefix(GREETING).ok_or(MessageError::Version)?;
        let (verb, rest) = words.split_once(' ').unwrap_or((words, ""));
        Self::of(verb, rest).ok_or(MessageError::Malformed)
    }

    fn of(verb: &str, rest: &str) -> Option<Self> {
        let pair = || rest.split_once(' ');
        match (verb, rest) {
            ("sockets", "") => Some(Self::Sockets),
            ("ready", "") => Some(Self::Ready),
            ("released", "") => Some(Self::Released),
            ("refused", _) => Some(Self::Refused(shown(rest))),
            ("ask", _) => {
                let (host, port) = pair()?;
                Some(Self::Ask {
                    host: host.parse().ok()?,
                    port: port.parse().ok()?,
                })
            }
            ("offer", _) => {
                let (address, count) = pair()?;
                Some(Self::Offer {
                    address: address.parse().ok()?,
                    count: count.parse().ok().filter(|count| *count <= SOCKETS_MAX)?,
                })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(GREETING)?;
        match self {
            Self::Ask { host, port } => write!(f, "ask {host} {port}"),
            Self::Offer { address, count } => write!(f, "offer {address} {count}"),
            Self::Sockets => f.write_str("sockets"),
            Self::Refused(reason) => write!(f, "refused {reason}"),
            Self::Ready => f.write_str("ready"),
            Self::Released => f.write_str("released"),
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "it speaks another version",
            Self::Malformed => "it is not understood",
        })
    }
}

/// Words of the other process, as the log may show them.
fn shown(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).collect()
}

const GREETING: &str = "llm-router-handover/1 ";
/// The longest message; a reason takes the most room.
pub(super) const MESSAGE_BYTES_MAX: usize = 1024;
/// Far above the number of workers.
const SOCKETS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        for message in [
            Message::Ask {
                host: "::".parse().unwrap(),
                port: 0,
            },
            Message::Offer {
                address: "[::1]:8080".parse().unwrap(),
                count: 4096,
            },
            Message::Sockets,
            Message::Refused("it listens elsewhere".to_owned()),
            Message::Ready,
            Message::Released,
        ] {
            let packet = message.to_string();
            assert!(packet.len() <= MESSAGE_BYTES_MAX);
            assert_eq!(Message::parse(packet.as_bytes()), Ok(message));
        }
    }

    #[test]
    fn what_is_no_message_is_told_apart_from_another_version() {
        for packet in ["", "GET / HTTP/1.1", "llm-router-handover/2 ready", "ready"] {
            let parsed = Message::parse(packet.as_bytes());
            assert_eq!(parsed, Err(MessageError::Version), "{packet}");
        }
        for words in [
            "",
            "Ready",
            "ready now",
            "ask",
            "ask 127.0.0.1",
            "ask localhost 80",
            "ask 127.0.0.1 65536",
            "offer 127.0.0.1:80 4097",
            "offer 127.0.0.1:80 -1",
        ] {
            let parsed = Message::parse(format!("{GREETING}{words}").as_bytes());
            assert_eq!(parsed, Err(MessageError::Malformed), "{words}");
        }
        assert_eq!(Message::parse(b"\xff"), Err(MessageError::Malformed));
    }

    #[test]
    fn a_reason_cannot_write_into_a_terminal() {
        let packet = format!("{GREETING}refused \u{1b}[2Jno\n");
        let reason = Message::Refused("[2Jno".to_owned());
        assert_eq!(Message::parse(packet.as_bytes()), Ok(reason));
    }
}
