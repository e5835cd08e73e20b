//! One client connection from accept to close.

use std::net::IpAddr;
use std::rc::Rc;

use crate::runtime::Stream;
use crate::telemetry::Gauge;

use super::Worker;
use super::downstream::Downstream;
use super::exchange::{After, exchange};
use super::respond;

/// Serves exchange after exchange on an accepted connection until one of the sides ends it.
pub async fn serve(worker: Rc<Worker>, stream: Stream, peer: IpAddr) {
    let _connection = worker.metrics.gauge(Gauge::ConnectionsActive);
    let http = &worker.shared.config.http;
    let mut client = Downstream::new(stream, peer);
    client.deadline.set_idle(http.first_byte_timeout);
    loop {
        match exchange(&worker, &mut client).await {
            After::KeepAlive if !worker.is_draining() => {
                client.deadline.set_idle(http.idle_timeout);
            }
            After::Close => return,
            After::KeepAlive | After::Linger => return respond::linger(&mut client).await,
        }
    }
}
