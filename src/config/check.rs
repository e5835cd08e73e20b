//! What no single key can know: rules between settings, and doubtful combinations.

use std::net::IpAddr;

use super::base_url::{BaseUrl, Host};
use super::load::Draft;
use super::problem::{Origin, Problem, quoted};
use super::types::Config;

/// Refuses a listener that others can reach while no key exists that could open it.
///
/// `have_keys` says whether the key file in the data directory holds a key. Keys written into the
/// configuration count as well; so does an explicit `auth.required = false`.
///
/// # Errors
/// The problem, in the words of `llm-router check`.
pub fn fail_closed(config: &Config, have_keys: bool) -> Result<(), Problem> {
    let closed = config.auth.required && config.auth.api_keys.is_empty() && !have_keys;
    if !closed || is_loopback(config.server.host) {
        return Ok(());
    }
    Err(Problem {
        origin: Origin::Defaults,
        key: "auth.api_keys".to_owned(),
        value: None,
        reason: format!(
            "there is no API key, so nobody could use the router on {}; run \
             `llm-router keys create --name NAME`, or write auth.required = false to serve \
             without keys",
            config.server.host
        ),
    })
}

/// Whether only this machine can reach an address to listen on.
#[must_use]
pub fn is_loopback(host: IpAddr) -> bool {
    host.to_canonical().is_loopback()
}

/// Notes every rule between settings that is broken, and warns of doubtful combinations.
pub(super) fn between_settings(draft: &mut Draft) {
    check_thresholds(draft);
    check_body_budget(draft);
    check_loops(draft);
    warn_of_open_doors(draft);
    warn_of_shadowed_models(draft);
}

fn check_thresholds(draft: &mut Draft) {
    let paths = [
        "load_manager.warning_threshold",
        "load_manager.overload_threshold",
    ];
    let warning = draft.config.load_manager.warning_threshold;
    let overload = draft.config.load_manager.overload_threshold;
    if warning < overload || paths.iter().any(|path| draft.is_refused(path)) {
        return;
    }
    draft.problems.push(Problem {
        origin: draft.origin(&paths),
        key: paths[0].to_owned(),
        value: Some(warning.to_string()),
        reason: format!("must be below {} = {overload}", paths[1]),
    });
}

/// The budget must hold one body of every route: audio and images may be twice as large as the rest.
fn check_body_budget(draft: &mut Draft) {
    let paths = ["proxy.max_body_bytes", "proxy.max_buffered_bytes"];
    let proxy = &draft.config.proxy;
    let (body, budget) = (proxy.max_body_bytes, proxy.max_buffered_bytes);
    if body * 2 <= budget || paths.iter().any(|path| draft.is_refused(path)) {
        return;
    }
    draft.problems.push(Problem {
        origin: draft.origin(&paths),
        key: paths[1].to_owned(),
        value: Some(budget.to_string()),
        reason: format!("must be at least {}, twice {}", body * 2, paths[0]),
    });
}

/// A node that is the router itself would forward each request to itself until all slots are gone.
fn check_loops(draft: &mut Draft) {
    let server = &draft.config.server;
    if server.port == 0 {
        return;
    }
    for (node, (origin, key)) in draft.config.nodes.iter().zip(&draft.base_urls) {
        if is_listener(&node.base_url, server.host, server.port) {
            draft.problems.push(Problem {
                origin: origin.clone(),
                key: key.clone(),
                value: Some(quoted(&node.base_url.to_string())),
                reason: "is the address of the router itself".to_owned(),
            });
        }
    }
}

fn is_listener(base_url: &BaseUrl, host: IpAddr, port: u16) -> bool {
    let same_machine = |ip: IpAddr| ip == host || (host.is_unspecified() && is_loopback(ip));
    base_url.port() == port
        && match base_url.host() {
            Host::Ip(ip) => same_machine(*ip),
            Host::Name(name) => name == "localhost" && (host.is_unspecified() || is_loopback(host)),
        }
}

fn warn_of_open_doors(draft: &mut Draft) {
    let config = &draft.config;
    let host = config.server.host;
    if config.auth.required || is_loopback(host) {
        return;
    }
    draft.warnings.push(format!(
        "auth.required = false: everyone who can reach {host} can use the nodes without a key"
    ));
}

fn warn_of_shadowed_models(draft: &mut Draft) {
    let config = &draft.config;
    let listed = |name: &str| {
        config
            .nodes
            .iter()
            .any(|node| node.models.iter().any(|model| model == name))
    };
    let shadowed = config.aliases.iter().filter(|alias| listed(&alias.model));
    let mut warnings: Vec<String> = shadowed
        .map(|alias| {
            format!(
                "the alias {:?} hides a node's model of the same name",
                alias.model
            )
        })
        .collect();
    draft.warnings.append(&mut warnings);
}
