//! What a node is called in a path of the control API.

use std::fmt;

use crate::config::is_node_name;

/// A node, as the control API names it: `config-NAME` for one of the file, 16 hexadecimal digits for a
/// registered one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::control) enum NodeRef {
    OfFile(String),
    Registered(u64),
}

impl NodeRef {
    /// Reads an id; `None` for what cannot be one.
    pub(in crate::control) fn parse(text: &str) -> Option<Self> {
        if let Some(name) = text.strip_prefix(FILE_PREFIX) {
            return is_node_name(name).then(|| Self::OfFile(name.to_owned()));
        }
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 16 || !text.bytes().all(is_digit) {
            return None;
        }
        u64::from_str_radix(text, 16).ok().map(Self::Registered)
    }
}

impl fmt::Display for NodeRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OfFile(name) => write!(f, "{FILE_PREFIX}{name}"),
            Self::Registered(id) => write!(f, "{id:016x}"),
        }
    }
}

const FILE_PREFIX: &str = "config-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written_and_nothing_else_is_one() {
        for id in [
            "config-gpu-1",
            "config-a.b_c",
            "00000000000000ff",
            "ffffffffffffffff",
        ] {
            assert_eq!(NodeRef::parse(id).unwrap().to_string(), id);
        }
        for id in [
            "",
            "config-",
            "config-a b",
            "ff",
            "00000000000000FF",
            "0x000000000000ff",
            "+0000000000000ff",
            "00000000000000ff0",
            "gpu-1",
            "config-%41",
        ] {
            assert_eq!(NodeRef::parse(id), None, "{id:?}");
        }
    }
}
