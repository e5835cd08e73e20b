//! `/api/nodes`: nodes are listed, registered, changed, drained and removed; and they report themselves. Owns
//! what such requests may say; what they come to is [`NodeDesk`](crate::control::nodes::NodeDesk)'s part.

use std::collections::BTreeSet;
use std::fmt;

use http::StatusCode;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::auth::Secret;
use crate::config::{
    BaseUrl, CONCURRENCY_MAX, CREDENTIAL_BYTES_MAX, MODEL_NAME_BYTES_MAX, MODELS_PER_NODE_MAX,
    NODE_NAME_BYTES_MAX, NodeConfig, WEIGHT_MAX, is_credential, is_model_name, is_node_name,
};
use crate::control::nodes::{Claim, Heartbeat, NodeChange, NodeRef, NodeView, NodesError};
use crate::openai::ApiError;
use crate::proxy::Change;

use super::{Call, Context, Reply};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    name: String,
    base_url: String,
    models: Option<Vec<String>>,
    /// Told apart from `null`: see [`Claim`].
    #[serde(default, deserialize_with = "given")]
    api_key: Option<Option<String>>,
    max_concurrency: Option<Slots>,
    weight: Option<u32>,
}

/// `null` sets a field back to its default; what is left out stays.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    base_url: Option<String>,
    #[serde(default, deserialize_with = "given")]
    models: Option<Option<Vec<String>>>,
    #[serde(default, deserialize_with = "given")]
    api_key: Option<Option<String>>,
    #[serde(default, deserialize_with = "given")]
    max_concurrency: Option<Option<Slots>>,
    #[serde(default, deserialize_with = "given")]
    weight: Option<Option<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    cpu_usage: f64,
    memory_usage: f64,
    gpu_usage: Option<f64>,
    gpu_memory_usage: Option<f64>,
    active_requests: Option<u64>,
    loaded_models: Option<Vec<String>>,
    initializing: Option<bool>,
}

/// `"auto"` or a number.
struct Slots(Option<u32>);

#[derive(Serialize)]
struct NodeList {
    nodes: Vec<NodeView>,
}

/// The only answer that shows a token.
#[derive(Serialize)]
struct RegisteredBody<'t> {
    node_id: String,
    node_token: &'t str,
    #[serde(flatten)]
    node: NodeView,
}

#[derive(Serialize)]
struct StateBody {
    state: &'static str,
}

/// `GET /api/nodes`.
pub(super) fn list(context: &Context, _: &Call<'_>) -> Result<Reply, ApiError> {
    let nodes = context.nodes.list().map_err(refused)?;
    Reply::json(&NodeList { nodes })
}

/// `GET /api/nodes/{id}`.
pub(super) fn get(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    Reply::json(&context.nodes.get(&named(call)?).map_err(refused)?)
}

/// `POST /api/nodes`: 201, or 200 for a node that registers again, which needs its token at another address.
pub(super) fn register(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let body = call.json::<NewBody>()?;
    let names_credential = body.api_key.is_some();
    let claim = Claim::new(node_token(call), names_credential, call.who.is_admin());
    let settings = body.checked()?;
    let _change = begin_change(context)?;
    let registered = context.nodes.register(settings, claim).map_err(refused)?;
    let status = match registered.is_new {
        true => StatusCode::CREATED,
        false => StatusCode::OK,
    };
    let body = RegisteredBody {
        node_id: registered.view.id.clone(),
        node_token: registered.token.expose(),
        node: registered.view,
    };
    Reply::json_with(status, &body)
}

/// `PUT /api/nodes/{id}`.
pub(super) fn change(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let node = named(call)?;
    let change = call.json::<ChangeBody>()?.checked()?;
    let _change = begin_change(context)?;
    Reply::json(&context.nodes.change(&node, change).map_err(refused)?)
}

/// `DELETE /api/nodes/{id}`.
pub(super) fn remove(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let node = named(call)?;
    let _change = begin_change(context)?;
    context.nodes.remove(&node).map_err(refused)?;
    Ok(Reply::no_content())
}

/// `POST /api/nodes/{id}/drain`.
pub(super) fn drain(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    set_drained(context, call, true)
}

/// `POST /api/nodes/{id}/enable`.
pub(super) fn enable(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    set_drained(context, call, false)
}

/// `POST /api/nodes/{id}/heartbeat`. Nothing is written to disk. Whoever has not the token of this very node is
/// answered the same, whatever the id and the body are.
pub(super) fn heartbeat(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    let token = node_token(call).ok_or_else(ApiError::not_authenticated)?;
    let node = NodeRef::parse(call.id).ok_or_else(ApiError::not_authenticated)?;
    context.nodes.check_token(&node, token).map_err(refused)?;
    let report = call.json::<HeartbeatBody>()?.checked()?;
    let state = context.nodes.heartbeat(&node, token, report);
    Reply::json(&StateBody {
        state: state.map_err(refused)?,
    })
}

fn node_token<'c>(call: &'c Call<'_>) -> Option<&'c [u8]> {
    let token = call.request.head.credentials.x_node_token.as_ref();
    token.map(|token| token.as_slice())
}

fn set_drained(context: &Context, call: &Call<'_>, is_drained: bool) -> Result<Reply, ApiError> {
    let node = named(call)?;
    let _change = begin_change(context)?;
    let view = context.nodes.set_drained(&node, is_drained);
    Reply::json(&view.map_err(refused)?)
}

/// Held until the change is made, in memory and in the database. Heartbeats change nothing that is kept.
fn begin_change(context: &Context) -> Result<Change, ApiError> {
    let begun = context.shared.begin_change();
    begun.ok_or_else(ApiError::handing_over)
}

fn named(call: &Call<'_>) -> Result<NodeRef, ApiError> {
    NodeRef::parse(call.id).ok_or_else(no_such_node)
}

impl NewBody {
    fn checked(self) -> Result<NodeConfig, ApiError> {
        if !is_node_name(&self.name) {
            let rule = format!(
                "must be 1 to {NODE_NAME_BYTES_MAX} letters, digits, dots, dashes or underscores"
            );
            return Err(ApiError::invalid_field("name", &rule));
        }
        Ok(NodeConfig {
            name: self.name,
            base_url: base_url(&self.base_url)?,
            models: models(self.models.unwrap_or_default())?,
            api_key: self.api_key.flatten().map(credential).transpose()?,
            max_concurrency: self.max_concurrency.and_then(|slots| slots.0),
            weight: weight(self.weight)?,
        })
    }
}

impl ChangeBody {
    fn checked(self) -> Result<NodeChange, ApiError> {
        let url = self.base_url.as_deref();
        let given_models = self.models.map(Option::unwrap_or_default);
        let api_key = self.api_key.map(|key| key.map(credential).transpose());
        let slots = self.max_concurrency;
        Ok(NodeChange {
            base_url: url.map(base_url).transpose()?,
            models: given_models.map(models).transpose()?,
            api_key: api_key.transpose()?,
            max_concurrency: slots.map(|slots| slots.and_then(|slots| slots.0)),
            weight: self.weight.map(weight).transpose()?,
        })
    }
}

impl HeartbeatBody {
    fn checked(self) -> Result<Heartbeat, ApiError> {
        for (field, usage) in [
            ("cpu_usage", Some(self.cpu_usage)),
            ("memory_usage", Some(self.memory_usage)),
            ("gpu_usage", self.gpu_usage),
            ("gpu_memory_usage", self.gpu_memory_usage),
        ] {
            if usage.is_some_and(|usage| !(0.0..=100.0).contains(&usage)) {
                let rule = "must be a percentage from 0 to 100";
                return Err(ApiError::invalid_field(field, rule));
            }
        }
        let loaded = self.loaded_models.as_deref().unwrap_or_default();
        check_models("loaded_models", loaded)?;
        Ok(Heartbeat {
            cpu_usage: self.cpu_usage,
            memory_usage: self.memory_usage,
            gpu_usage: self.gpu_usage,
            gpu_memory_usage: self.gpu_memory_usage,
            active_requests: self.active_requests,
            loaded_models: self.loaded_models,
            initializing: self.initializing.unwrap_or(false),
        })
    }
}

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SlotsVisitor;

        impl Visitor<'_> for SlotsVisitor {
            type Value = Slots;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "auto or a whole number from 1 to {CONCURRENCY_MAX}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Slots, E> {
                match text {
                    "auto" => Ok(Slots(None)),
                    _ => Err(E::invalid_value(de::Unexpected::Other("text"), &self)),
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Slots, E> {
                match u32::try_from(number) {
                    Ok(slots @ 1..=CONCURRENCY_MAX) => Ok(Slots(Some(slots))),
                    _ => Err(E::invalid_value(de::Unexpected::Unsigned(number), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Slots, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(SlotsVisitor)
    }
}

/// Tells `null` from what is left out.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn base_url(text: &str) -> Result<BaseUrl, ApiError> {
    BaseUrl::parse(text).map_err(|error| ApiError::invalid_field("base_url", &error.to_string()))
}

fn models(models: Vec<String>) -> Result<Vec<String>, ApiError> {
    check_models("models", &models)?;
    Ok(models)
}

fn check_models(field: &str, models: &[String]) -> Result<(), ApiError> {
    if models.len() > MODELS_PER_NODE_MAX {
        let rule = format!("must be at most {MODELS_PER_NODE_MAX} models");
        return Err(ApiError::invalid_field(field, &rule));
    }
    let mut known = BTreeSet::new();
    for (index, model) in models.iter().enumerate() {
        let rule = if !is_model_name(model) {
            format!("must be 1 to {MODEL_NAME_BYTES_MAX} bytes without control characters")
        } else if !known.insert(model) {
            "is listed twice".to_owned()
        } else {
            continue;
        };
        let element = format!("{field}[{index}]");
        return Err(ApiError::invalid_field(&element, &rule));
    }
    Ok(())
}

fn credential(text: String) -> Result<Secret, ApiError> {
    // Taken over first, so that it is wiped in any case.
    let secret = Secret::new(text);
    if is_credential(secret.expose()) {
        return Ok(secret);
    }
    let rule =
        format!("must be 1 to {CREDENTIAL_BYTES_MAX} visible ASCII characters without blanks");
    Err(ApiError::invalid_field("api_key", &rule))
}

fn weight(given: Option<u32>) -> Result<u32, ApiError> {
    match given.unwrap_or(1) {
        weight @ 1..=WEIGHT_MAX => Ok(weight),
        _ => {
            let rule = format!("must be a whole number from 1 to {WEIGHT_MAX}");
            Err(ApiError::invalid_field("weight", &rule))
        }
    }
}

fn no_such_node() -> ApiError {
    ApiError::no_such("node_not_found", "There is no such node")
}

fn refused(error: NodesError) -> ApiError {
    match error {
        NodesError::Busy => ApiError::control_busy(),
        NodesError::StoreUnavailable => ApiError::store_unavailable(),
        NodesError::NotFound => no_such_node(),
        NodesError::NameTaken => {
            ApiError::conflict("name_taken", "Another node has this name already")
        }
        NodesError::IsOfFile => ApiError::conflict(
            "configured_node",
            "This node is in the configuration; change it there",
        ),
        NodesError::TooMany => {
            ApiError::conflict("too_many_nodes", "There are as many nodes as there can be")
        }
        NodesError::WrongToken => ApiError::not_authenticated(),
        NodesError::CredentialNeeded => ApiError::invalid_field(
            "api_key",
            "must be given again, or be null, when base_url leads elsewhere",
        ),
        NodesError::Address(error) => ApiError::invalid_field("base_url", &error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
        simd_json::serde::from_slice(&mut text.as_bytes().to_vec())
            .map_err(|error| error.to_string())
    }

    fn refusal(text: &str) -> String {
        let body: NewBody = read(text).unwrap();
        body.checked().err().unwrap().message.into_owned()
    }

    #[test]
    fn a_new_node_has_the_defaults_of_the_file() {
        let body: NewBody = read(r#"{"name":"a","base_url":"http://10.0.0.1:8000/v1"}"#).unwrap();
        let node = body.checked().unwrap();
        assert_eq!(node.base_url.to_string(), "http://10.0.0.1:8000");
        assert_eq!((node.max_concurrency, node.weight), (None, 1));
        assert!(node.models.is_empty() && node.api_key.is_none());
        let body: NewBody = read(
            r#"{"name":"a","base_url":"http://a","models":null,"api_key":null,"max_concurrency":"auto","weight":null}"#,
        )
        .unwrap();
        assert_eq!(body.checked().unwrap().max_concurrency, None);
    }

    #[test]
    fn every_field_is_held_to_the_rules_of_the_file_and_named() {
        for (text, field) in [
            (r#"{"name":"a b","base_url":"http://a"}"#, "`name`"),
            (r#"{"name":"","base_url":"http://a"}"#, "`name`"),
            (r#"{"name":"a","base_url":"http://0x7f.1"}"#, "`base_url`"),
            (r#"{"name":"a","base_url":"http://u:p@a"}"#, "`base_url`"),
            (
                r#"{"name":"a","base_url":"http://a","models":["m","m"]}"#,
                "`models[1]`",
            ),
            (
                r#"{"name":"a","base_url":"http://a","models":[""]}"#,
                "`models[0]`",
            ),
            (
                r#"{"name":"a","base_url":"http://a","api_key":"a b"}"#,
                "`api_key`",
            ),
            (
                r#"{"name":"a","base_url":"http://a","weight":0}"#,
                "`weight`",
            ),
            (
                r#"{"name":"a","base_url":"http://a","weight":1001}"#,
                "`weight`",
            ),
        ] {
            let message = refusal(text);
            assert!(message.starts_with(field), "{text}: {message}");
            assert!(!message.contains("a b"), "{message}");
        }
        for slots in ["0", "1000001", "-1", "1.5", "\"many\"", "true", "[]"] {
            let text = format!(r#"{{"name":"a","base_url":"http://a","max_concurrency":{slots}}}"#);
            assert!(read::<NewBody>(&text).is_err(), "{slots}");
        }
    }

    #[test]
    fn what_a_change_leaves_out_stays_and_null_sets_back() {
        let change = |text: &str| read::<ChangeBody>(text).unwrap().checked().unwrap();
        let nothing = change("{}");
        assert!(nothing.base_url.is_none() && nothing.models.is_none());
        assert!(nothing.api_key.is_none() && nothing.weight.is_none());
        let back = change(r#"{"models":null,"api_key":null,"max_concurrency":null,"weight":null}"#);
        assert_eq!(back.models, Some(Vec::new()));
        assert_eq!((back.max_concurrency, back.weight), (Some(None), Some(1)));
        assert!(matches!(back.api_key, Some(None)));
        let set = change(r#"{"models":["m"],"api_key":"k","max_concurrency":4,"weight":2}"#);
        assert_eq!(set.models, Some(vec!["m".to_owned()]));
        assert_eq!((set.max_concurrency, set.weight), (Some(Some(4)), Some(2)));
        assert_eq!(set.api_key, Some(Some(Secret::new("k".to_owned()))));
        assert!(read::<ChangeBody>(r#"{"name":"b"}"#).is_err());
    }

    #[test]
    fn a_report_of_impossible_figures_is_refused() {
        let good = r#"{"cpu_usage":0,"memory_usage":100.0,"gpu_usage":null,"loaded_models":["m"]}"#;
        let report = read::<HeartbeatBody>(good).unwrap().checked().unwrap();
        assert!(!report.initializing && report.gpu_usage.is_none());
        for (text, field) in [
            (r#"{"cpu_usage":-1,"memory_usage":0}"#, "`cpu_usage`"),
            (r#"{"cpu_usage":1,"memory_usage":100.1}"#, "`memory_usage`"),
            (
                r#"{"cpu_usage":1,"memory_usage":1,"gpu_usage":1e300}"#,
                "`gpu_usage`",
            ),
            (
                r#"{"cpu_usage":1,"memory_usage":1,"loaded_models":["\u0001"]}"#,
                "`loaded_models[0]`",
            ),
        ] {
            let refusal = read::<HeartbeatBody>(text)
                .unwrap()
                .checked()
                .err()
                .unwrap();
            assert!(refusal.message.starts_with(field), "{}", refusal.message);
        }
    }
}
