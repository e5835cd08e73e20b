//! By what a router knows itself among its nodes.
//!
//! Each process makes up a token and sends it along with every question to a node. Whoever asks for models with
//! the token of the process that is asked has reached the router itself, by whatever address, forwarded port or
//! proxy: it is answered 508 `loop_detected`, whatever key it has, so such a node is never put into service.
//!
//! The token is no secret: it stays the same while the process lives, nodes see it, and who knows it can make this
//! router answer 508 to himself. While two processes of one router are alive, in an upgrade, neither knows the
//! other's token: a node that is the router itself may pass the first probe of the new process, and is found out
//! by the next ones, which the new process answers alone. What comes back through it until then is held by the
//! slots of that node, each of which a request on its way round takes.

use std::sync::Arc;

use crate::auth::random_token;
use crate::http1::{Method, RequestHead};

/// The token of this process; clones are the same one.
#[derive(Clone, Debug)]
pub struct ProbeToken(Arc<str>);

impl ProbeToken {
    /// The field that carries it.
    pub const FIELD: &'static str = "X-LLM-Router-Probe";
    /// What nodes are asked, behind their base path.
    pub const PATH: &'static str = "/v1/models";

    /// A new one.
    ///
    /// # Errors
    /// Without a source of random bytes.
    pub fn random() -> Result<Self, getrandom::Error> {
        let token = random_token("")?;
        Ok(Self(token.expose().into()))
    }

    /// The value of the field.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Whether this process asks itself. Of other requests no more than method and path are looked at; a base
    /// path that nobody took away leads to the router all the same.
    pub(super) fn is_in(&self, head: &RequestHead<'_>) -> bool {
        head.method == Method::Get
            && head.path.ends_with(Self::PATH)
            && head.fields.first(Self::FIELD) == Some(self.as_bytes())
    }
}
