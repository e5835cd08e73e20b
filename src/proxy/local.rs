//! What the router answers by itself: models, health, readiness, metrics; the control API and the
//! dashboard's files by way of their own modules.

use http::StatusCode;

use crate::openai::{ApiError, Endpoint, models};

use super::Worker;
use super::api;
use super::downstream::Downstream;
use super::exchange::{After, Stop};
use super::page;
use super::request::Request;
use super::respond;
use super::trace::Trace;

/// Answers a request that needs no node.
///
/// # Errors
/// 401, 404 or 503, as the endpoint says.
pub(super) async fn answer(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    let Ok(routed) = &request.route else {
        return Err(ApiError::not_found().into());
    };
    match routed.endpoint {
        // Large and rare: an exchange shall not be made to hold it.
        Endpoint::Api => return Box::pin(api::answer(worker, client, request, trace)).await,
        Endpoint::Dashboard => return Box::pin(page::answer(worker, client, request, trace)).await,
        _ => {}
    }
    let needs_key = match routed.endpoint {
        Endpoint::Health | Endpoint::Ready => false,
        Endpoint::Metrics => worker.config().metrics.require_key,
        _ => true,
    };
    if needs_key && request.authenticated.is_err() {
        return Err(ApiError::invalid_api_key().into());
    }
    let mut body = Vec::new();
    let content_type = match routed.endpoint {
        Endpoint::Health => {
            body.extend_from_slice(br#"{"status":"ok"}"#);
            JSON
        }
        Endpoint::Ready => {
            // Asked by balancers all the time: not being ready refuses nobody's request.
            readiness(worker).map_err(|error| Stop::answer(error, None))?;
            let store = worker.shared.store.as_str();
            body.extend_from_slice(format!(r#"{{"status":"ready","store":"{store}"}}"#).as_bytes());
            JSON
        }
        Endpoint::Metrics => {
            worker.write_metrics(&mut body);
            METRICS
        }
        Endpoint::Models => {
            let table = worker.node_table();
            models::write_list(
                &mut body,
                table.available_names(),
                worker.shared.started_unix_secs,
            );
            JSON
        }
        Endpoint::Model => {
            let id = routed.model_id.as_deref().unwrap_or_default();
            if !worker.node_table().is_available(id) {
                return Err(ApiError::model_not_found(id).into());
            }
            models::write_model(&mut body, id, worker.shared.started_unix_secs);
            JSON
        }
        _ => return Err(ApiError::not_found().into()),
    };
    Ok(respond::content(
        worker,
        client,
        request,
        StatusCode::OK,
        content_type,
        &body,
        trace,
    )
    .await)
}

fn readiness(worker: &Worker) -> Result<(), ApiError> {
    if worker.is_draining() {
        Err(ApiError::draining())
    } else if worker.node_table().has_online_node() {
        Ok(())
    } else {
        Err(ApiError::no_nodes())
    }
}

const JSON: &str = "application/json";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
