//! The strongest form of the gateway on tokio: a pinned single-threaded runtime per core, each with
//! its own SO_REUSEPORT listener and connections to nodes; hyper on both sides; bodies of answers
//! passed on frame by frame. Nothing is shared between cores but the product's counters.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use llm_router_tokio_bench::gateway::{
    Admitted, ApiError, Asked, Gateway, Inference, Local, LocalGrant, Target, answer_timeout,
};
use llm_router_tokio_bench::{fields, start};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::spawn_local;

fn main() -> ExitCode {
    start::run(|gateway| {
        let cores = start::available_cores();
        let gateway = Arc::new(gateway);
        let mut threads = Vec::new();
        for index in 0..start::worker_count(&gateway.config) {
            let listener = start::listen(&gateway.config)?;
            let core = cores.get(index % cores.len().max(1)).copied();
            let gateway = Arc::clone(&gateway);
            let thread = std::thread::Builder::new().name(format!("worker-{index}"));
            threads.push(thread.spawn(move || work(gateway, index, core, listener))?);
        }
        for thread in threads {
            thread
                .join()
                .map_err(|_| io::Error::other("a worker panicked"))??;
        }
        Ok(())
    })
}

/// One core's part.
struct Worker {
    gateway: Arc<Gateway>,
    local: Local,
    pool: Rc<Pool>,
}

fn work(
    gateway: Arc<Gateway>,
    index: usize,
    core: Option<usize>,
    listener: TcpListener,
) -> io::Result<()> {
    if let Some(core) = core.filter(|_| gateway.config.server.pin_workers) {
        start::pin(core)?;
    }
    let runtime = Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build_local(LocalOptions::default())?;
    let worker = Rc::new(Worker {
        local: gateway.local(index),
        pool: Rc::new(Pool {
            idle: RefCell::default(),
            idle_max: gateway.config.connection_pool.max_idle_per_host,
            idle_timeout: gateway.config.connection_pool.idle_timeout,
        }),
        gateway,
    });
    runtime.block_on(accept(worker, listener))
}

async fn accept(worker: Rc<Worker>, listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let mut server = hyper::server::conn::http1::Builder::new();
    // Answers of nodes carry their own date.
    server.auto_date_header(false);
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors: connections that end free some.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let worker = Rc::clone(&worker);
        let peer = fields::peer_value(peer.ip());
        let service = service_fn(move |request| {
            let (worker, peer) = (Rc::clone(&worker), peer.clone());
            async move { Ok::<_, Infallible>(exchange(&worker, peer, request).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service);
        spawn_local(async move {
            // A client that leaves is nobody's failure.
            let _ = connection.await;
        });
    }
}

async fn exchange(
    worker: &Worker,
    peer: HeaderValue,
    request: Request<Incoming>,
) -> Response<Outgoing> {
    let request_id = fields::request_id(request.headers());
    match answer(worker, peer, request, &request_id).await {
        Ok(mut response) => {
            fields::toward_client(response.headers_mut(), request_id);
            response
        }
        Err(error) => {
            let mut text = Vec::new();
            error.write_body(&mut text);
            let mut response = Response::new(Outgoing::Whole(Full::from(text)));
            *response.status_mut() = error.status;
            fields::of_error(response.headers_mut(), &error, request_id);
            response
        }
    }
}

async fn answer(
    worker: &Worker,
    peer: HeaderValue,
    request: Request<Incoming>,
    request_id: &HeaderValue,
) -> Result<Response<Outgoing>, ApiError> {
    let (parts, body) = request.into_parts();
    let asked = worker
        .gateway
        .ask(&parts.method, parts.uri.path(), &parts.headers)?;
    let inference = match asked {
        Asked::Inference(inference) => inference,
        Asked::Own(text) => {
            let mut response = Response::new(Outgoing::Whole(Full::from(text)));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, fields::JSON);
            return Ok(response);
        }
    };
    let body = receive(body, &inference).await?;
    let (admitted, body) = inference.place(&worker.local, &parts.headers, body)?;
    let Admitted { node, grant, .. } = admitted;
    let request = request_for(&node, parts, peer, request_id, body)?;
    let limit = answer_timeout(&worker.gateway.config);
    let sending = send(worker, &node, request);
    let (response, connection) = tokio::time::timeout(limit, sending)
        .await
        .map_err(|_| ApiError::timeout(limit))??;
    Ok(response.map(|body| {
        Outgoing::Relay(Relay {
            body,
            lease: Some(Lease {
                connection,
                node_index: node.index(),
                pool: Rc::clone(&worker.pool),
            }),
            _grant: grant,
        })
    }))
}

/// The whole body: as it came where it came in one piece, else in one allocation.
async fn receive(mut body: Incoming, inference: &Inference) -> Result<Bytes, ApiError> {
    let too_large = || ApiError::payload_too_large(inference.body_bytes_max);
    let expected = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if expected > inference.body_bytes_max {
        return Err(too_large());
    }
    let mut first: Option<Bytes> = None;
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::request_timeout())?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        match first.take() {
            None if all.is_empty() => first = Some(piece),
            held => {
                if let Some(held) = held {
                    all.reserve(expected.max(held.len() + piece.len()));
                    all.extend_from_slice(&held);
                }
                all.extend_from_slice(&piece);
            }
        }
        if all.len() > inference.body_bytes_max {
            return Err(too_large());
        }
    }
    let whole = first.unwrap_or_else(|| all.freeze());
    if whole.len() > inference.body_bytes_max {
        return Err(too_large());
    }
    Ok(whole)
}

fn request_for(
    node: &Target,
    parts: Parts,
    peer: HeaderValue,
    request_id: &HeaderValue,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, ApiError> {
    let uri = if node.path_prefix().is_empty() && parts.uri.authority().is_none() {
        parts.uri
    } else {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        let text = format!("{}{path}", node.path_prefix());
        Uri::try_from(text).map_err(|_| ApiError::node_unreachable())?
    };
    let mut outgoing = Request::new(Full::new(body));
    *outgoing.method_mut() = parts.method;
    *outgoing.uri_mut() = uri;
    let mut headers = fields::toward_node(parts.headers, node, request_id, &peer);
    let host = HeaderValue::from_str(node.host()).map_err(|_| ApiError::node_unreachable())?;
    headers.insert(header::HOST, host);
    *outgoing.headers_mut() = headers;
    Ok(outgoing)
}

type Connection = SendRequest<Full<Bytes>>;

/// Sends the request on a kept connection, or on a fresh one where there is none or it has just died.
async fn send(
    worker: &Worker,
    node: &Target,
    mut request: Request<Full<Bytes>>,
) -> Result<(Response<Incoming>, Connection), ApiError> {
    while let Some(mut connection) = worker.pool.take(node.index()) {
        if connection.ready().await.is_err() {
            continue;
        }
        match connection.try_send_request(request).await {
            Ok(response) => return Ok((response, connection)),
            Err(mut error) => match error.take_message() {
                // Nothing of it was sent.
                Some(unsent) => request = unsent,
                None => return Err(ApiError::bad_node_response()),
            },
        }
    }
    let address = node.address().ok_or_else(ApiError::no_nodes)?;
    let limit = worker.gateway.config.proxy.connect_timeout;
    let connecting = connect(address);
    let mut connection = tokio::time::timeout(limit, connecting)
        .await
        .map_err(|_| ApiError::node_unreachable())?
        .map_err(|_| ApiError::node_unreachable())?;
    let response = connection
        .send_request(request)
        .await
        .map_err(|_| ApiError::bad_node_response())?;
    Ok((response, connection))
}

async fn connect(address: SocketAddr) -> io::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    spawn_local(async move {
        // Whoever uses the connection learns of its end.
        let _ = connection.await;
    });
    Ok(sender)
}

/// This core's idle connections, the youngest first.
struct Pool {
    /// By node index.
    idle: RefCell<Vec<Vec<Idle>>>,
    idle_max: usize,
    idle_timeout: Duration,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    fn take(&self, node_index: usize) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        let own = idle.get_mut(node_index)?;
        let youngest = own.pop()?;
        if youngest.since.elapsed() > self.idle_timeout {
            // All below it are older.
            own.clear();
            return None;
        }
        Some(youngest.connection)
    }

    fn keep(&self, node_index: usize, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() <= node_index {
            idle.resize_with(node_index + 1, Vec::new);
        }
        if let Some(own) = idle
            .get_mut(node_index)
            .filter(|own| own.len() < self.idle_max)
        {
            own.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}

/// The body of an answer.
enum Outgoing {
    /// The gateway's own.
    Whole(Full<Bytes>),
    /// A node's, as it comes.
    Relay(Relay),
}

/// A node's body on its way. Dropping it before its end closes the node's connection.
struct Relay {
    body: Incoming,
    lease: Option<Lease>,
    _grant: LocalGrant,
}

/// A connection in use.
struct Lease {
    connection: Connection,
    node_index: usize,
    pool: Rc<Pool>,
}

impl Relay {
    /// The body has ended: the connection is free.
    fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.pool.keep(lease.node_index, lease.connection);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // A body of known length is not asked for its end.
        if self.body.is_end_stream() {
            self.give_back();
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Relay(relay) => {
                let polled = Pin::new(&mut relay.body).poll_frame(context);
                if matches!(polled, Poll::Ready(None)) {
                    relay.give_back();
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Relay(relay) => relay.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Relay(relay) => relay.body.size_hint(),
        }
    }
}
