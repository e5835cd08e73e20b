//! The tokens of registered nodes. What a token is for is said in its own text, which its digest covers: nothing
//! else has to be kept, and nobody can make one token out of another.

use crate::auth::{Secret, random_token};
use crate::telemetry::log;

use super::NodesError;

/// What the holder of a token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Power {
    /// Report the node.
    Report,
    /// That, and bring the node to another address.
    Move,
}

impl Power {
    /// What a token is for, if it is one.
    pub(super) fn of(token: &[u8]) -> Self {
        match token.starts_with(REPORT_ONLY.as_bytes()) {
            true => Self::Report,
            false => Self::Move,
        }
    }

    /// A new token for this, with 256 random bits. Without a source of them nobody is let in.
    pub(super) fn new_token(self) -> Result<Secret, NodesError> {
        let prefix = match self {
            Self::Report => REPORT_ONLY,
            Self::Move => "",
        };
        random_token(prefix).map_err(no_random_bytes)
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], NodesError> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => Err(no_random_bytes(error)),
    }
}

fn no_random_bytes(error: getrandom::Error) -> NodesError {
    log::error(format_args!("no random bytes: {error}"));
    NodesError::Busy
}

/// No token of letters and digits alone begins so.
const REPORT_ONLY: &str = "report-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_tells_what_it_is_for() {
        for (power, length) in [(Power::Move, 43), (Power::Report, 50)] {
            let token = power.new_token().unwrap();
            assert_eq!(token.expose().len(), length);
            assert_eq!(Power::of(token.expose().as_bytes()), power);
        }
    }
}
