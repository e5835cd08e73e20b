//! What the product decides about a request: key, model, admission, node. The only file here that
//! names the product's modules, so that it alone changes with them. Never does I/O for a request.
//!
//! Permits and slots of the product stay on the thread that took them. [`Local`] uses them as they
//! are. Tasks of a work-stealing runtime move between threads, so [`Stealing`] counts the same two
//! limits on atomics of its own and chooses with the product's policy.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use llm_router::admission::AdmissionLimits;
use llm_router::auth::Scope;
use llm_router::auth::key::{KeySet, authenticate};
use llm_router::config::{Config, Environment, Host, NodeConfig, Sources};
use llm_router::control;
use llm_router::nodes::policy::{self, Load};
use llm_router::nodes::{
    Admission, AliasSpec, Authorization, CandidateLimits, Candidates, LocalAdmission, Node,
    NodeDirectory, NodeSpec, NodeState, Permit, Selection, Slot,
};
use llm_router::openai::{self, BodyKind, Endpoint, Splice, models, multipart, peek};
use llm_router::runtime::clock;

pub use llm_router::openai::ApiError;

/// What all threads share: immutable once loaded.
pub struct Gateway {
    /// The configuration.
    pub config: Config,
    keys: KeySet,
    directory: Arc<NodeDirectory>,
    admission: Arc<Admission>,
    started_unix_secs: u64,
}

/// A request that goes to a node.
pub struct Inference {
    /// How its body is read.
    body: BodyKind,
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
}

/// What a request's head asks for.
pub enum Asked {
    /// Work of a node.
    Inference(Inference),
    /// Something the gateway answers by itself: this JSON.
    Own(Vec<u8>),
}

/// A node with the right to use it, which ends when `grant` is dropped.
pub struct Admitted<G> {
    /// Where the request goes.
    pub node: Target,
    /// The name the node knows the model by, if the client used another.
    rename: Option<Box<str>>,
    /// To be kept until the answer has ended.
    pub grant: G,
}

/// The node that was chosen.
pub struct Target {
    node: Arc<Node>,
}

/// Chooses nodes and grants their use.
pub trait Admit {
    /// What holds the permit and the slot.
    type Grant;

    /// A node for this model, or why there is none.
    ///
    /// # Errors
    /// 404 for an unknown model, 503 where nothing is free.
    fn admit(&self, model: &str) -> Result<Admitted<Self::Grant>, ApiError>;
}

/// One thread's admission and node selection: the product's own.
pub struct Local {
    candidates: RefCell<Candidates>,
    admission: LocalAdmission,
    began: Instant,
}

/// The product's guards. They stay on their thread.
pub struct LocalGrant {
    _slot: Slot,
    _permit: Permit,
}

/// Admission and node selection for tasks that move between threads.
pub struct Stealing {
    directory: Arc<NodeDirectory>,
    max_concurrent: u32,
    in_flight: AtomicU32,
    /// By node id; the table is published once.
    nodes: Vec<Counters>,
    clock: AtomicU64,
}

#[derive(Default)]
struct Counters {
    in_flight: AtomicU32,
    chosen_at: AtomicU64,
}

/// One unit of both limits of a [`Stealing`].
pub struct SharedGrant {
    shared: Arc<Stealing>,
    node_index: usize,
}

impl Gateway {
    /// Reads the file, the environment and the keys; every node counts as online.
    ///
    /// # Errors
    /// What is wrong with the configuration: also a node that is named instead of addressed, or
    /// without models, because nobody resolves or asks here.
    pub fn load(file: &Path) -> Result<Self, String> {
        let sources = Sources {
            file: Some(file.to_path_buf()),
            environment: Environment::of_process(),
            overrides: Vec::new(),
        };
        let config = sources
            .load()
            .map_err(|problems| problems.to_string())?
            .config;
        let (_, keys) = control::load_keys(&config).map_err(|error| error.to_string())?;
        let directory = Arc::new(NodeDirectory::default());
        publish(&directory, &config)?;
        let limits = AdmissionLimits {
            max_concurrent: config.load_manager.max_concurrent,
            max_waiting: config.load_manager.max_waiting,
            warning_threshold: config.load_manager.warning_threshold,
            overload_threshold: config.load_manager.overload_threshold,
        };
        // Nobody waits here, so nobody is to be woken.
        let admission = Admission::new(limits, |_| {});
        Ok(Self {
            keys,
            directory,
            admission: Arc::new(admission),
            started_unix_secs: clock::unix_secs(),
            config,
        })
    }

    /// One thread's own part.
    #[must_use]
    pub fn local(&self, thread_index: usize) -> Local {
        let limits = CandidateLimits {
            max_capacity: self.config.node_cache.max_capacity,
            ttl: self.config.node_cache.ttl,
        };
        let admission = LocalAdmission::new(Arc::clone(&self.admission), thread_index);
        let directory = Arc::clone(&self.directory);
        let candidates = Candidates::new(directory, limits, thread_index, admission.clone());
        Local {
            candidates: RefCell::new(candidates),
            admission,
            began: clock::now(),
        }
    }

    /// The part all threads of a work-stealing runtime share.
    #[must_use]
    pub fn stealing(&self) -> Stealing {
        let id_max = self
            .directory
            .snapshot()
            .nodes()
            .iter()
            .map(|node| node.id.0)
            .max();
        let count = id_max.map_or(0, |id| id as usize + 1);
        Stealing {
            directory: Arc::clone(&self.directory),
            max_concurrent: self.config.load_manager.max_concurrent,
            in_flight: AtomicU32::new(0),
            nodes: (0..count).map(|_| Counters::default()).collect(),
            clock: AtomicU64::new(1),
        }
    }

    /// Routes a request by its head and checks its key.
    ///
    /// # Errors
    /// 401, 404 or 405.
    pub fn ask(&self, method: &Method, path: &str, fields: &HeaderMap) -> Result<Asked, ApiError> {
        let route = openai::route(method, path)?;
        let own = match route.endpoint {
            Endpoint::Health | Endpoint::Ready => br#"{"status":"ok"}"#.to_vec(),
            Endpoint::Models => {
                self.check_key(fields)?;
                let mut body = Vec::new();
                let table = self.directory.snapshot();
                models::write_list(&mut body, table.available_names(), self.started_unix_secs);
                body
            }
            endpoint if endpoint.is_inference() => {
                self.check_key(fields)?;
                let configured = usize::try_from(self.config.proxy.max_body_bytes);
                return Ok(Asked::Inference(Inference {
                    body: route.body,
                    body_bytes_max: endpoint.body_bytes_max(configured.unwrap_or(usize::MAX)),
                }));
            }
            _ => return Err(ApiError::not_found()),
        };
        Ok(Asked::Own(own))
    }

    fn check_key(&self, fields: &HeaderMap) -> Result<(), ApiError> {
        if !self.config.auth.required {
            return Ok(());
        }
        let value = |name| fields.get(name).map(HeaderValue::as_bytes);
        let (bearer, plain) = (value("authorization"), value("x-api-key"));
        match authenticate(&self.keys, bearer, plain, clock::unix_secs()) {
            Ok(identity) if identity.scopes.contains(Scope::Inference) => Ok(()),
            _ => Err(ApiError::invalid_api_key()),
        }
    }
}

impl Inference {
    /// Reads the model from a whole body and takes a node for it; the body as the node is to get it.
    ///
    /// # Errors
    /// 400 for a body without a readable model, or those of [`Admit::admit`].
    pub fn place<A: Admit>(
        &self,
        admit: &A,
        fields: &HeaderMap,
        body: Bytes,
    ) -> Result<(Admitted<A::Grant>, Bytes), ApiError> {
        let seen = match self.body {
            BodyKind::Multipart => {
                let kind = fields.get(header::CONTENT_TYPE);
                let kind = kind.and_then(|value| value.to_str().ok());
                multipart::peek(kind.unwrap_or_default(), &body)?
            }
            _ => peek::peek(&body)?,
        };
        let mut admitted = admit.admit(&seen.model)?;
        let renamed = admitted
            .rename
            .take()
            .and_then(|name| Splice::new(&body, seen.model_range.clone(), self.body, &name))
            .map(|splice| Bytes::from(splice.to_vec()));
        drop(seen);
        Ok((admitted, renamed.unwrap_or(body)))
    }
}

impl Target {
    /// Tells nodes apart, for a pool of connections; small.
    #[must_use]
    pub fn index(&self) -> usize {
        self.node.id.0 as usize
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.node.addresses.first().copied()
    }

    /// The value of `Host`.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.node.host_header
    }

    /// In front of every path; often empty.
    #[must_use]
    pub fn path_prefix(&self) -> &str {
        &self.node.path_prefix
    }

    /// The node's own credential.
    #[must_use]
    pub fn authorization(&self) -> Option<HeaderValue> {
        let value = self.node.authorization.as_ref()?.field_value();
        HeaderValue::from_bytes(value).ok()
    }
}

impl Admit for Local {
    type Grant = LocalGrant;

    fn admit(&self, model: &str) -> Result<Admitted<LocalGrant>, ApiError> {
        let permit = self.admission.try_enter().ok_or_else(overloaded)?;
        let now = self.began.elapsed();
        match self.candidates.borrow_mut().select(model, &[], now) {
            Selection::Slot(slot, resolved) => Ok(Admitted {
                node: Target {
                    node: Arc::clone(slot.node()),
                },
                rename: resolved.is_alias().then(|| resolved.name().into()),
                grant: LocalGrant {
                    _slot: slot,
                    _permit: permit,
                },
            }),
            Selection::NoSlot(_) => Err(overloaded()),
            Selection::NoOnlineNode(_) => Err(ApiError::no_nodes()),
            Selection::UnknownModel => Err(ApiError::model_not_found(model)),
        }
    }
}

impl Admit for Arc<Stealing> {
    type Grant = SharedGrant;

    fn admit(&self, model: &str) -> Result<Admitted<SharedGrant>, ApiError> {
        let table = self.directory.snapshot();
        let known = table
            .resolve(model)
            .ok_or_else(|| ApiError::model_not_found(model))?;
        if known.nodes.is_empty() {
            return Err(ApiError::no_nodes());
        }
        if !take(&self.in_flight, self.max_concurrent) {
            return Err(overloaded());
        }
        let Some(node) = self.take_node(&known.nodes) else {
            self.in_flight.fetch_sub(1, Ordering::Relaxed);
            return Err(overloaded());
        };
        Ok(Admitted {
            grant: SharedGrant {
                shared: Arc::clone(self),
                node_index: node.id.0 as usize,
            },
            node: Target {
                node: Arc::clone(node),
            },
            rename: (*known.name != *model).then(|| known.name.clone()),
        })
    }
}

impl Stealing {
    fn take_node<'n>(&self, nodes: &'n [Arc<Node>]) -> Option<&'n Arc<Node>> {
        let loads = || {
            nodes.iter().filter_map(|node| {
                let counters = self.nodes.get(node.id.0 as usize)?;
                let load = Load {
                    in_flight: counters.in_flight.load(Ordering::Relaxed),
                    max_concurrency: node.live.slots().limit,
                    is_contended: false,
                    weight: node.weight,
                    chosen_at: counters.chosen_at.load(Ordering::Relaxed),
                };
                Some(((node, counters, load.max_concurrency), load))
            })
        };
        // A lost race shows in the next round's loads; one that is full has dropped out.
        while let Some((node, counters, limit)) = policy::choose(loads()) {
            if take(&counters.in_flight, limit) {
                let now = self.clock.fetch_add(1, Ordering::Relaxed);
                counters.chosen_at.store(now, Ordering::Relaxed);
                return Some(node);
            }
        }
        None
    }
}

impl Drop for SharedGrant {
    fn drop(&mut self) {
        if let Some(counters) = self.shared.nodes.get(self.node_index) {
            counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
        self.shared.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a unit unless the limit is reached.
fn take(counter: &AtomicU32, limit: u32) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < limit).then_some(count + 1)
        })
        .is_ok()
}

fn overloaded() -> ApiError {
    ApiError::overloaded(1)
}

fn publish(directory: &NodeDirectory, config: &Config) -> Result<(), String> {
    let specs = config.nodes.iter().map(spec);
    let specs = specs.collect::<Result<Vec<_>, _>>()?;
    let aliases: Vec<AliasSpec> = config
        .aliases
        .iter()
        .map(|alias| AliasSpec {
            model: alias.model.as_str().into(),
            to: alias.to.as_str().into(),
        })
        .collect();
    let table = directory
        .publish(&specs, &aliases)
        .map_err(|error| error.to_string())?;
    for node in table.nodes() {
        node.live.publish_state(NodeState::Online);
    }
    Ok(())
}

fn spec(node: &NodeConfig) -> Result<NodeSpec, String> {
    let Host::Ip(ip) = node.base_url.host() else {
        return Err(format!("node {}: needs an IP address here", node.name));
    };
    if node.models.is_empty() {
        return Err(format!("node {}: needs its models listed here", node.name));
    }
    let bearer = |key: &llm_router::auth::Secret| format!("Bearer {}", key.expose()).into_bytes();
    Ok(NodeSpec {
        name: node.name.as_str().into(),
        addresses: vec![SocketAddr::new(*ip, node.base_url.port())],
        host_header: node.base_url.authority().into(),
        path_prefix: node.base_url.path_prefix().into(),
        authorization: node
            .api_key
            .as_ref()
            .map(|key| Authorization::new(bearer(key))),
        models: node
            .models
            .iter()
            .map(|name| name.as_str().into())
            .collect(),
        max_concurrency: node.max_concurrency.unwrap_or(1),
        weight: node.weight,
    })
}

/// The longest a node may take to begin its answer.
#[must_use]
pub fn answer_timeout(config: &Config) -> Duration {
    config.proxy.request_timeout
}
