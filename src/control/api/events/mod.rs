//! `GET /api/events`: the state of the router as it changes, as server-sent events. Here a viewer is let in and
//! looked at again; [`sampler`] makes what all of them see, once, and the workers send it.

mod sampler;

use std::sync::Arc;

use http::StatusCode;

use crate::http1::Method;
use crate::openai::ApiError;
use crate::proxy::api::{ApiHead, Check};

use super::rights::{self, Right, Who};
use super::{Call, Context, Next, Reply};

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
    Ok(reply.then_live(point, check(&call.who, head)))
}

/// How it is seen whether a viewer may still watch: a key is checked by the worker, at each frame; a session needs
/// a thread.
fn check(who: &Who, head: Arc<ApiHead>) -> Check {
    match who {
        Who::Key(_) => Check::AtOnce(Box::new(move |keys, unix_secs| {
            let is_over = rights::check_at_once(keys, Right::Admin, &head, unix_secs).is_err();
            is_over.then_some(EXPIRED)
        })),
        Who::Session { .. } | Who::Anybody => {
            Next::check(move |context| look_again(context, &head))
        }
    }
}

/// Whether a viewer may still watch: its session is checked as if it asked anew.
fn look_again(context: &Context, head: &Arc<ApiHead>) -> Result<Reply, ApiError> {
    match rights::check(context, Right::Admin, Method::Get, head) {
        Ok(who) => {
            let reply = Reply::of(StatusCode::OK, EVENT_STREAM, Vec::new());
            Ok(reply.then_live(0, check(&who, Arc::clone(head))))
        }
        // The database may be back by the next time; a session that is gone stays gone.
        Err(error) if error.status.is_server_error() => Err(error),
        Err(_) => Ok(Reply::of(StatusCode::OK, EVENT_STREAM, EXPIRED.to_vec())),
    }
}

const EVENT_STREAM: &str = "text/event-stream";
const EXPIRED: &[u8] = b"event: expired\ndata: {}\n\n";
