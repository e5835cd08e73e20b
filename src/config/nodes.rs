//! The `[[nodes]]` and `[[aliases]]` lists of the file.
//!
//! The rules for names are public so that what is registered at run time obeys the same ones.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeArray, DeValue};

use crate::auth::Secret;

use super::base_url::BaseUrl;
use super::fields::Fields;
use super::file::Lines;
use super::load::Draft;
use super::problem::{Origin, Problem, quoted};
use super::types::{AliasConfig, NodeConfig};
use super::value::{Fault, Faults, Raw, is_plain};

/// Whether a text can name a node: 1–64 characters of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn is_node_name(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NODE_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether a text can name a model: 1–256 bytes without control characters.
#[must_use]
pub fn is_model_name(text: &str) -> bool {
    is_plain(text, MODEL_NAME_BYTES_MAX)
}

/// Whether a text can be the credential of a node: it becomes a field value, so only visible ASCII can be
/// sent.
#[must_use]
pub fn is_credential(text: &str) -> bool {
    (1..=CREDENTIAL_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Applies `[[nodes]]`.
pub(super) fn apply_nodes(draft: &mut Draft, lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) {
    let Some(entries) = entries(draft, lines, ("nodes", NODES_MAX), value) else {
        return;
    };
    let mut names = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("nodes[{index}]");
        let Some(mut fields) = Fields::of(draft, lines, path, entry) else {
            continue;
        };
        let name = fields.required("name", node_name);
        let base_url = fields.required("base_url", base_url);
        let models = fields.optional("models", models).unwrap_or_default();
        let api_key = fields.optional_secret("api_key", credential);
        let max_concurrency = fields
            .optional("max_concurrency", max_concurrency)
            .flatten();
        let weight = fields
            .optional("weight", |raw| whole(raw, WEIGHT_MAX))
            .unwrap_or(1);
        fields.refuse_unknown(&NODE_FIELDS);
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            fields.refuse("name", name, "is already the name of another node");
        }
        if let (Some(name), Some(base_url)) = (name, base_url) {
            let place = (fields.origin("base_url"), fields.path("base_url"));
            draft.base_urls.push(place);
            let node = NodeConfig {
                name,
                base_url,
                models,
                api_key,
                max_concurrency,
                weight,
            };
            draft.config.nodes.push(node);
        }
    }
}

/// Applies `[[aliases]]`; the nodes must have been applied before.
pub(super) fn apply_aliases(draft: &mut Draft, lines: &Lines<'_>, value: &Spanned<DeValue<'_>>) {
    let Some(entries) = entries(draft, lines, ("aliases", ALIASES_MAX), value) else {
        return;
    };
    let mut names = BTreeSet::new();
    let mut targets = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("aliases[{index}]");
        let Some(mut fields) = Fields::of(draft, lines, path, entry) else {
            continue;
        };
        let model = fields.required("model", model_name);
        let to = fields.required("to", model_name);
        fields.refuse_unknown(&ALIAS_FIELDS);
        if let Some(model) = &model
            && !names.insert(model.clone())
        {
            fields.refuse("model", model, "is already the name of another alias");
        }
        if let (Some(model), Some(to)) = (model, to) {
            targets.push((fields.origin("to"), fields.path("to")));
            draft.config.aliases.push(AliasConfig { model, to });
        }
    }
    check_targets(draft, &names, targets);
}

/// An alias points at a model, never at an alias, so that a name is replaced once and no chain or
/// loop exists.
fn check_targets(draft: &mut Draft, names: &BTreeSet<String>, targets: Vec<(Origin, String)>) {
    let models = known_models(draft);
    for (alias, (origin, key)) in draft.config.aliases.iter().zip(targets) {
        let reason = if alias.to == alias.model {
            "must be another name than the alias itself"
        } else if names.contains(&alias.to) {
            "must be a model of a node, not another alias"
        } else if models
            .as_ref()
            .is_some_and(|models| !models.contains(&alias.to))
            && !is_cloud_model(&alias.to)
        {
            "is a model that no node lists"
        } else {
            continue;
        };
        let value = Some(quoted(&alias.to));
        draft.problems.push(Problem {
            origin,
            key,
            value,
            reason: reason.to_owned(),
        });
    }
}

/// The models of all nodes, or `None` while a node is still to be asked for its own.
fn known_models(draft: &Draft) -> Option<BTreeSet<String>> {
    let nodes = &draft.config.nodes;
    let open = nodes.is_empty() || nodes.iter().any(|node| node.models.is_empty());
    let refused = draft
        .problems
        .iter()
        .any(|problem| problem.key.starts_with("nodes["));
    (!open && !refused).then(|| nodes.iter().flat_map(|node| node.models.clone()).collect())
}

fn is_cloud_model(name: &str) -> bool {
    ["openai:", "google:", "anthropic:"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

fn entries<'a, 'i>(
    draft: &mut Draft,
    lines: &Lines<'_>,
    (name, count_max): (&str, usize),
    value: &'a Spanned<DeValue<'i>>,
) -> Option<&'a DeArray<'i>> {
    let entries = value.get_ref().as_array();
    let reason = match entries {
        None => format!("must be written as [[{name}]] entries"),
        Some(entries) if entries.len() > count_max => {
            format!("must be at most {count_max} entries")
        }
        Some(_) => return entries,
    };
    draft.problem(lines.at(&value.span()), name, reason);
    None
}

fn node_name(raw: Raw<'_>) -> Result<String, Faults> {
    let name = raw
        .string()
        .filter(|name| is_node_name(name))
        .map(str::to_owned);
    name.ok_or_else(|| {
        Fault::rule(format!(
            "must be 1 to {NODE_NAME_BYTES_MAX} letters, digits, dots, dashes or underscores"
        ))
        .into()
    })
}

fn base_url(raw: Raw<'_>) -> Result<BaseUrl, Faults> {
    let text = raw.string().unwrap_or_default();
    BaseUrl::parse(text).map_err(|error| Fault::rule(error.to_string()).into())
}

fn models(raw: Raw<'_>) -> Result<Vec<String>, Faults> {
    let mut models: Vec<String> = Vec::new();
    let mut faults = Vec::new();
    for (index, element) in raw.list()?.into_iter().enumerate() {
        match element.text(MODEL_NAME_BYTES_MAX) {
            Ok(name) if models.iter().any(|earlier| earlier == name) => {
                faults.push(Fault::rule("is listed twice".to_owned()).of_element(index));
            }
            Ok(name) => models.push(name.to_owned()),
            Err(fault) => faults.push(fault.of_element(index)),
        }
        if index == MODELS_PER_NODE_MAX {
            faults.push(Fault::rule(format!(
                "must be at most {MODELS_PER_NODE_MAX} models"
            )));
            break;
        }
    }
    if faults.is_empty() {
        Ok(models)
    } else {
        Err(Faults(faults))
    }
}

fn model_name(raw: Raw<'_>) -> Result<String, Faults> {
    Ok(raw.text(MODEL_NAME_BYTES_MAX)?.to_owned())
}

fn credential(raw: Raw<'_>) -> Result<Secret, Faults> {
    match raw.string().filter(|text| is_credential(text)) {
        Some(text) => Ok(Secret::new(text.to_owned())),
        None => Err(Fault::rule(format!(
            "must be 1 to {CREDENTIAL_BYTES_MAX} visible ASCII characters without blanks"
        ))
        .into()),
    }
}

fn max_concurrency(raw: Raw<'_>) -> Result<Option<u32>, Faults> {
    if raw.string() == Some("auto") {
        return Ok(None);
    }
    whole(raw, CONCURRENCY_MAX).map(Some).map_err(|_| {
        Fault::rule(format!(
            "must be \"auto\" or a whole number from 1 to {CONCURRENCY_MAX}"
        ))
        .into()
    })
}

fn whole(raw: Raw<'_>, max: u32) -> Result<u32, Faults> {
    let value = raw.integer(1..=u64::from(max))?;
    u32::try_from(value).map_err(|_| Fault::rule("is too large".to_owned()).into())
}

const NODE_FIELDS: [&str; 6] = [
    "name",
    "base_url",
    "models",
    "api_key",
    "max_concurrency",
    "weight",
];
const ALIAS_FIELDS: [&str; 2] = ["model", "to"];

/// Longest node name: it is a metric label and a log field.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Longest model name.
pub const MODEL_NAME_BYTES_MAX: usize = 256;
/// Largest `weight`.
pub const WEIGHT_MAX: u32 = 1000;
/// Largest `max_concurrency`.
pub const CONCURRENCY_MAX: u32 = 1_000_000;
/// Longest credential of a node; signed tokens reach a few KiB.
pub const CREDENTIAL_BYTES_MAX: usize = 4096;
/// Every node is probed, and a worker that chooses may look at all of them.
const NODES_MAX: usize = 1000;
/// Models of one node.
pub const MODELS_PER_NODE_MAX: usize = 1000;
const ALIASES_MAX: usize = 10_000;
