//! One client connection from accept to close.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::runtime::{self, FRESH_GRACE, Pooled, Stream, TURNS};

use super::Worker;
use super::downstream::Downstream;
use super::exchange::{After, exchange};
use super::request::{self, NoRequest};
use super::respond;

/// Serves exchange after exchange on an accepted connection until one of the sides ends it.
pub async fn serve(worker: Rc<Worker>, stream: Stream, peer: IpAddr) {
    let mut client = Downstream::new(stream, peer);
    let first_byte_timeout = worker.config().http.first_byte_timeout;
    client
        .deadline
        .set_fresh(patience(&worker, first_byte_timeout));
    for turn in 1_u64.. {
        if turn.is_multiple_of(TURNS) {
            runtime::give_way().await;
        }
        let after = match request::receive(&worker, &mut client).await {
            // In a place of its own: an idle connection shall not pay for the room an exchange takes.
            Ok(request) => Pooled::new(|| exchange(&worker, &mut client, request)).await,
            Err(NoRequest::Closed) => return,
            Err(NoRequest::Rejected(error)) => respond::reject(&worker, &mut client, &error).await,
        };
        let idle_timeout = worker.config().http.idle_timeout;
        match after {
            // The answer said that the connection goes on, so the next request may be under way.
            After::KeepAlive if worker.is_draining() => {
                client.deadline.set_fresh(patience(&worker, idle_timeout));
            }
            After::KeepAlive => client.deadline.set_idle(idle_timeout),
            After::Close => return,
            After::Linger => return respond::linger(&mut client).await,
        }
    }
}

/// How long a request is waited for; not long once the process is on its way out.
fn patience(worker: &Worker, usual: Duration) -> Duration {
    if worker.is_draining() {
        usual.min(FRESH_GRACE)
    } else {
        usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_bytes<F>(_: fn(Rc<Worker>, Stream, IpAddr) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_holds_little() {
        let bytes = future_bytes(serve);
        assert!(
            bytes <= 1536,
            "the future of a connection takes {bytes} bytes"
        );
    }
}
