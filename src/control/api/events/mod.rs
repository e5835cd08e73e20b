//! `GET /api/events`: the state of the router as it changes, as server-sent events. Here a viewer is let in and
//! looked at again; [`sampler`] makes what all of them see, once, and the workers send it.

mod sampler;

use std::sync::Arc;

use http::StatusCode;

use crate::http1::Method;
use crate::openai::ApiError;
use crate::proxy::api::ApiHead;

use super::rights::{self, Right};
use super::{Call, Context, Reply};

pub(super) use sampler::Sampler;

/// `GET /api/events`.
pub(super) fn watch(context: &Context, call: &Call<'_>) -> Result<Reply, ApiError> {
    if context.shared.drain.is_draining() {
        return Err(ApiError::draining());
    }
    let (series, point) = context.sampler.series();
    let head = Arc::new(call.request.head.clone());
    // Proxies in between shall not gather events.
    let reply = Reply::of(StatusCode::OK, EVENT_STREAM, series.to_vec());
    let reply = reply.field("X-Accel-Buffering", "no".to_owned());
    Ok(reply.then_live(point, move |context| look_again(context, &head)))
}

/// Whether a viewer may still watch: its session or key is checked as if it asked anew.
fn look_again(context: &Context, head: &Arc<ApiHead>) -> Result<Reply, ApiError> {
    match rights::check(context, Right::Admin, Method::Get, head) {
        Ok(_) => {
            let head = Arc::clone(head);
            let reply = Reply::of(StatusCode::OK, EVENT_STREAM, Vec::new());
            Ok(reply.then_live(0, move |context| look_again(context, &head)))
        }
        // The database may be back by the next time; a session that is gone stays gone.
        Err(error) if error.status.is_server_error() => Err(error),
        Err(_) => {
            let expired = b"event: expired\ndata: {}\n\n".to_vec();
            Ok(Reply::of(StatusCode::OK, EVENT_STREAM, expired))
        }
    }
}

const EVENT_STREAM: &str = "text/event-stream";
