//! The gateway the way most are built: axum in front, reqwest behind, on tokio's work-stealing
//! runtime; a stream of chunks from one to the other.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::serve::ListenerExt;
use futures_util::StreamExt;
use http::{HeaderValue, header};
use llm_router_tokio_bench::gateway::{
    Admitted, ApiError, Asked, Gateway, Stealing, answer_timeout,
};
use llm_router_tokio_bench::{fields, start};

fn main() -> ExitCode {
    start::run(|gateway| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(start::worker_count(&gateway.config))
            .enable_all()
            .build()?
            .block_on(serve(gateway))
    })
}

/// What every handler gets a copy of.
#[derive(Clone)]
struct Shared {
    gateway: Arc<Gateway>,
    stealing: Arc<Stealing>,
    client: reqwest::Client,
}

async fn serve(gateway: Gateway) -> io::Result<()> {
    let listener = start::listen(&gateway.config)?;
    let pool = &gateway.config.connection_pool;
    let client = reqwest::Client::builder()
        .pool_max_idle_per_host(pool.max_idle_per_host)
        .pool_idle_timeout(pool.idle_timeout)
        .connect_timeout(gateway.config.proxy.connect_timeout)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(io::Error::other)?;
    let shared = Shared {
        stealing: Arc::new(gateway.stealing()),
        gateway: Arc::new(gateway),
        client,
    };
    // The product's own routes decide what a path means.
    let service = Router::new()
        .fallback(exchange)
        .with_state(shared)
        .into_make_service_with_connect_info::<SocketAddr>();
    let listener = tokio::net::TcpListener::from_std(listener)?.tap_io(|stream| {
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, service).await
}

async fn exchange(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let request_id = fields::request_id(request.headers());
    match answer(&shared, peer, request, &request_id).await {
        Ok(mut response) => {
            fields::toward_client(response.headers_mut(), request_id);
            response
        }
        Err(error) => {
            let mut text = Vec::new();
            error.write_body(&mut text);
            let mut response = Response::new(Body::from(text));
            *response.status_mut() = error.status;
            fields::of_error(response.headers_mut(), &error, request_id);
            response
        }
    }
}

async fn answer(
    shared: &Shared,
    peer: SocketAddr,
    request: Request,
    request_id: &HeaderValue,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let asked = shared
        .gateway
        .ask(&parts.method, parts.uri.path(), &parts.headers)?;
    let inference = match asked {
        Asked::Inference(inference) => inference,
        Asked::Own(text) => {
            let mut response = Response::new(Body::from(text));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, fields::JSON);
            return Ok(response);
        }
    };
    let body = to_bytes(body, inference.body_bytes_max)
        .await
        .map_err(|_| ApiError::payload_too_large(inference.body_bytes_max))?;
    let (admitted, body) = inference.place(&shared.stealing, &parts.headers, body)?;
    let Admitted { node, grant, .. } = admitted;

    let address = node.address().ok_or_else(ApiError::no_nodes)?;
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("http://{address}{}{path}", node.path_prefix());
    let peer = fields::peer_value(peer.ip());
    let mut headers = fields::toward_node(parts.headers, &node, request_id, &peer);
    let host = HeaderValue::from_str(node.host()).map_err(|_| ApiError::node_unreachable())?;
    headers.insert(header::HOST, host);
    let sending = shared
        .client
        .request(parts.method, url)
        .headers(headers)
        .body(body)
        .send();
    let limit = answer_timeout(&shared.gateway.config);
    let answer = tokio::time::timeout(limit, sending)
        .await
        .map_err(|_| ApiError::timeout(limit))?
        .map_err(|error| match error.is_connect() {
            true => ApiError::node_unreachable(),
            false => ApiError::bad_node_response(),
        })?;

    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    // Permit and slot are held until the last chunk, or until the client has left.
    let chunks = answer.bytes_stream().map(move |chunk| {
        let _held = &grant;
        chunk
    });
    *response.body_mut() = Body::from_stream(chunks);
    Ok(response)
}
