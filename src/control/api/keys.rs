//! `/api/keys`: makes, lists and revokes the keys of the key file. What changes is published before the
//! answer goes out, so it holds on every worker for whatever the client asks next.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::auth::key::KeyId;
use crate::auth::store::{KEY_NAME_BYTES_MAX, KeyRequest, KeyStore, StoreError, StoredKey};
use crate::auth::{Scope, Scopes};
use crate::openai::ApiError;
use crate::runtime::clock;
use crate::telemetry::log;

use super::{Call, Context, Reply};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    name: String,
    scopes: Option<Vec<ScopeName>>,
    expires_at: Option<u64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ScopeName {
    Inference,
    Nodes,
    Admin,
}

#[derive(Serialize)]
struct KeyList {
    keys: Vec<KeyBody>,
}

#[derive(Serialize)]
struct KeyBody {
    id: String,
    name: String,
    scopes: Vec<&'static str>,
    last_four: String,
    created_at: u64,
    expires_at: Option<u64>,
}

/// The only answer that shows a key.
#[derive(Serialize)]
struct CreatedBody<'k> {
    id: String,
    key: &'k str,
    name: &'k str,
    scopes: Vec<&'static str>,
    created_at: u64,
    expires_at: Option<u64>,
}

/// `GET /api/keys`.
pub(super) fn list(context: &Context, _: &Call<'_>) -> Result<Reply, ApiError> {
    let keys = store(context).list().map_err(refused)?;
    Reply::json(&KeyList {
        keys: keys.into_iter().map(KeyBody::of).collect(),
    })
}

/// `POST /api/keys`.
pub(super) fn create(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let wanted: NewKey = call.json()?;
    let now = clock::unix_secs();
    let request = wanted.checked(now)?;
    let (key, secret) = store(context).create(request).map_err(refused)?;
    context.key_file.follow(&context.shared.keys);
    log::info(format_args!("created key {} for {}", key.id, key.scopes));
    Reply::json_with(
        StatusCode::CREATED,
        &CreatedBody {
            id: key.id.to_string(),
            key: secret.expose(),
            name: &key.name,
            scopes: names(key.scopes),
            created_at: key.created_at,
            expires_at: key.expires_at,
        },
    )
}

/// `DELETE /api/keys/{id}`.
pub(super) fn revoke(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    if call.id.starts_with("config-") {
        return Err(ApiError::conflict(
            "configured_key",
            "This key is in the configuration; take it out there",
        ));
    }
    let revoked = match KeyId::parse_stored(call.id) {
        Some(id) => store(context).revoke(id).map_err(refused)?,
        None => None,
    };
    let Some(key) = revoked else {
        return Err(ApiError::no_such("key_not_found", "There is no such key"));
    };
    context.key_file.follow(&context.shared.keys);
    log::info(format_args!("revoked key {}", key.id));
    Ok(Reply::no_content())
}

impl NewKey {
    fn checked(&self, now: u64) -> Result<KeyRequest<'_>, ApiError> {
        let bytes = self.name.len();
        if !(1..=KEY_NAME_BYTES_MAX).contains(&bytes) || self.name.chars().any(char::is_control) {
            let rule =
                format!("must be 1 to {KEY_NAME_BYTES_MAX} bytes without control characters");
            return Err(ApiError::invalid_field("name", &rule));
        }
        let scopes: Scopes = match &self.scopes {
            None => Scope::Inference.into(),
            Some(names) => names.iter().map(|name| Scope::from(*name)).collect(),
        };
        if scopes.is_empty() {
            let rule = "must name at least one of inference, nodes, admin";
            return Err(ApiError::invalid_field("scopes", rule));
        }
        if self
            .expires_at
            .is_some_and(|at| at <= now || at > LATEST_EXPIRY)
        {
            let rule = "must be Unix seconds in the future";
            return Err(ApiError::invalid_field("expires_at", rule));
        }
        Ok(KeyRequest {
            name: &self.name,
            scopes,
            created_at: now,
            expires_at: self.expires_at,
        })
    }
}

impl KeyBody {
    fn of(key: StoredKey) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            scopes: names(key.scopes),
            last_four: key.last_four,
            created_at: key.created_at,
            expires_at: key.expires_at,
        }
    }
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Inference => Self::Inference,
            ScopeName::Nodes => Self::Nodes,
            ScopeName::Admin => Self::Admin,
        }
    }
}

fn names(scopes: Scopes) -> Vec<&'static str> {
    scopes.iter().map(Scope::name).collect()
}

fn store(context: &Context) -> KeyStore {
    KeyStore::new(&context.shared.config.current().server.data_dir)
}

/// The operator is told what is wrong with the file; the client only that it is.
fn refused(error: StoreError) -> ApiError {
    match error {
        StoreError::Full => ApiError::conflict(
            "too_many_keys",
            "There are as many keys as the file holds; revoke some first",
        ),
        StoreError::Invalid(rule) => ApiError::invalid_field("name", rule),
        StoreError::Io { .. } | StoreError::Damaged { .. } => {
            log::error(format_args!("{error}"));
            ApiError::store_unavailable()
        }
    }
}

/// The end of the year 9999: what lies behind it is a mistake, mostly milliseconds.
const LATEST_EXPIRY: u64 = 253_402_300_799;
