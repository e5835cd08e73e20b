//! Who asks, and whether they may.
#![allow(dead_code, reason = "logins and nodes come next")]

use crate::auth::Scope;
use crate::auth::key::{KeyIdentity, authenticate};
use crate::openai::ApiError;
use crate::proxy::api::{ApiRequest, Credentials};
use crate::runtime::clock;

use super::Context;

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// Nothing.
    Public,
    /// Whoever may administer the router.
    Admin,
    /// The same, or an API key for registering nodes.
    Nodes,
    /// The token of the node in the path; its handler checks it.
    NodeToken,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Nobody was asked for.
    Anybody,
    /// The owner of an API key.
    Key(KeyIdentity),
}

/// Whether a request has the right it needs.
///
/// # Errors
/// 401 without a valid credential, always the same; 403 where the credential is not for this.
pub(super) fn check(
    context: &Context,
    right: Right,
    request: &ApiRequest,
) -> Result<Who, ApiError> {
    match right {
        Right::Public | Right::NodeToken => Ok(Who::Anybody),
        Right::Admin => of_key(context, &request.head.credentials, &[Scope::Admin]),
        Right::Nodes => {
            let scopes = [Scope::Nodes, Scope::Admin];
            of_key(context, &request.head.credentials, &scopes)
        }
    }
}

fn of_key(context: &Context, credentials: &Credentials, scopes: &[Scope]) -> Result<Who, ApiError> {
    let keys = context.shared.keys.load();
    let authorization = credentials.authorization.as_ref();
    let x_api_key = credentials.x_api_key.as_ref();
    let identity = authenticate(
        &keys,
        authorization.map(|value| value.as_slice()),
        x_api_key.map(|value| value.as_slice()),
        clock::unix_secs(),
    )
    .map_err(|_| ApiError::not_authenticated())?;
    if scopes.iter().any(|scope| identity.scopes.contains(*scope)) {
        Ok(Who::Key(identity))
    } else {
        Err(ApiError::insufficient_scope())
    }
}
