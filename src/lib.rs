//! One OpenAI-compatible address in front of many inference nodes.
//!
//! Each core runs its own io_uring runtime with its own connections, pools and SO_REUSEPORT listener.
//! The cores share an arc-swapped snapshot of nodes, models and keys, a few lock-free counters, and the
//! queues of those who must wait.
//! Response bodies pass through without being copied in user space.
//!
//! # Where to begin
//!
//! [`proxy`] holds the data plane; its `exchange` is the whole way of a request, readable in a minute:
//!
//! ```text
//! accept ─ read head ─ route ─ authenticate ─ read body ─ peek model
//!        ─ admit: permit + node + slot at once, or wait in line for them ⇄ hand-off
//!        ─ pooled or fresh connection ─ send ─ read response head ─ relay body
//!        ─ give slot and connection back ─ record ─ next request
//! ```
//!
//! # Map
//!
//! | module | owns |
//! |---|---|
//! | [`config`] | the typed configuration: defaults, file, environment, command line; all problems at once |
//! | [`http1`] | HTTP/1.1 as bytes ↔ types; the only place that decides a body's length |
//! | [`sse`] | server-sent events as bytes ↔ events |
//! | [`openai`] | routes, what a body says about its model, error and model-list bodies, token usage |
//! | [`auth`] | API keys as digests, the key file |
//! | [`admission`] | router-wide counters and limits, the queues of the models, fairness, hand-off |
//! | [`nodes`] | the node table, exact slots, the selection policy, health |
//! | [`upstream`] | a worker's connections to nodes |
//! | [`telemetry`] | metric blocks, exposition, access records, the lifecycle log |
//! | [`runtime`] | the boundary to monoio: drivers, sockets, buffers, deadlines, tasks, mailboxes |
//! | [`proxy`] | the data plane |
//! | [`server`] | worker threads, listeners, signals, drain |
//! | [`store`] | the store thread and its SQLite database: registered nodes, sessions, request history |
//! | [`control`] | the control thread: probes, name resolution, the key file, snapshots; the control API |
//! | [`dashboard`] | the dashboard's files, compiled in |
//! | [`mock`] | a mock inference node, for the demo, the tests and the benchmarks |
//!
//! ```text
//! main ─► cli ─┬─► server, control ─► proxy ─┬─► upstream ─┬─► telemetry ─► nodes ─► admission
//!              │                             │             └─► runtime
//!              │                             ├─► config ─► auth
//!              │                             └─► http1, openai, dashboard
//!              └─► mock ─► http1, openai, sse, runtime
//! ```
//!
//! What a module also reaches by way of another is not drawn again; the whole table is `LAYERS` in
//! `tests/structure/rules.rs`.
//!
//! # Threads
//!
//! | thread | runs | may block |
//! |---|---|---|
//! | worker × cores, pinned | one runtime: accepts, parses, admits, routes, relays. Owns its connections, pools, buffers and metric block without locks | never |
//! | control | keeps the nodes, configured and registered: has them probed, takes in heartbeats and operators' wishes, judges; follows the key file; publishes snapshots. Others hand it short tasks and wait for their results | only for files |
//! | resolve × 0–16 | look up the names in registrations | yes |
//! | catch-up | brings what the store has not got yet there, and takes in what others have stored | yes |
//! | probe × 0–256 | ask nodes whether they are there, resolve their names; as many as there is to wait for | yes |
//! | api × 4 | answer the control API: workers hand requests over and receive answers in their mailbox | yes |
//! | api-reports | the same for heartbeats of nodes that have shown their token | yes |
//! | live | samples the figures behind `/api/events`: a point every five seconds, a snapshot twice a second while anyone watches | yes |
//! | store | the only one that touches the database; at a lower priority | yes |
//! | handover | gives the listening sockets to a process that takes over | yes |
//! | successor, one per upgrade | waits for the end of a process that was started to take over | yes |
//! | access-log | writes access records from a bounded queue, if they are on | yes |
//! | main | waits for signals, drains | yes |
//!
//! Workers share exactly: the snapshots of nodes, their tokens, keys and configuration behind `ArcSwap`; cache-line
//! padded atomics (requests in flight, slots and failures per node; where there are many nodes, their slots
//! lie side by side), and one that counts changes of nodes' states; the queues, under one lock that only
//! a request takes which must wait, or a release while somebody waits; metric blocks, each with one
//! writer; mailboxes to be woken by.
//!
//! # Architecture invariants
//!
//! * **Sans-I/O at the core.** `http1`, `sse`, `openai`, `admission`, `nodes`, `auth::key` and `dashboard`
//!   take plain data and give plain data: no I/O, no clock, no monoio. Their tests need no socket.
//! * **monoio is named in `runtime` and `server` only**, `unsafe` in `runtime` only, metric names in
//!   `telemetry::names` only; error responses are built in `proxy::respond` only. `tests/structure`
//!   checks all of it, and that the arrows above have no cycle.
//! * **A read of a live connection is never dropped**, because io_uring loses its bytes. A pending read
//!   lives in its [`runtime::Reader`] beside the socket; whoever waits for it may stop waiting.
//!   `tests/cancel_unsafe.rs` shows why.
//! * **A standing read on the client** while the node works notices a hang-up, and is the next request's first
//!   read. It begins at the worker's next tick (50 ms): what is over sooner does without.
//! * **An idle upstream connection is looked at before it is used**: one its node has closed, or sent stray
//!   bytes on, is dropped. No read is pending on it.
//! * **Deadlines shut sockets down instead of cancelling**; the parked operation completes by itself.
//! * **Every count that goes up is a guard**: slots, permits, reservations, gauges come down in `Drop`,
//!   also when an exchange panics, which ends that exchange and nothing else.
//! * **Requests are buffered, responses are streamed.** The model name may stand at a body's end, and a
//!   retry needs the bytes. At most two buffers of a response are held, so a slow client slows its node.
//! * **A freed slot or permit goes to whoever is next, and nobody overtakes.** Count, limit and the mark
//!   that somebody waits share one atomic word: a newcomer finds a marked counter full, and a release
//!   learns in the same instruction whether it must hand over. `admission::queues` tells why nothing is
//!   lost; loom models and a simulation check it.
//! * **Workers know nothing of the control API.** They receive a request whole, hand it over through a bounded
//!   queue and send what comes back; [`control::api`] has the routes, and threads that may block. What it can
//!   refuse without a lock it refuses on the worker, by a function it has handed in. Requests, what was begun
//!   and the reports of nodes have places and a queue each, and reports a thread, so that whoever keeps the
//!   threads busy ends nothing that was begun, and hides no node: a worker knows the digests of their tokens.
//! * **The configuration is replaced, never changed.** A worker keeps its own reference, takes the next one
//!   when a notice says so, and reads it anew for each decision: an exchange begun under the old one goes
//!   on, and no request pays for it with an atomic operation.
//! * **Workers never change a node's state.** They count failures; the control thread judges.
//! * **Nobody waits on the control thread for anything but its turn.** Names, nodes and the database are
//!   waited for elsewhere; a lasting change is kept by the store before the control thread hears of it, and
//!   one change is made at a time.
//! * **Only a checked address is connected to.** A name is resolved once per probe, every address is checked,
//!   and both probes and requests go to the addresses that passed, never to the name; requests to a registered
//!   node go only to the address that answered.
//!
//! # Decisions that differ from a first sketch
//!
//! * A request goes out with one `send`, not one `writev`: the head for the node is written into the room
//!   in front of the received body, where the client's head was. The same on the way back: the client's
//!   head goes in front of the body in the receive buffer. The body is not copied either way.
//! * No read stands where nothing can be there yet. A read that finds nothing arms a poll, is woken, and tries
//!   again; one that begins when the request or the answer is out often finds what it wants under load.
//! * Workers are woken through a Unix socket pair, not an eventfd: monoio reads sockets on both of its
//!   drivers, plain descriptors only on io_uring. A flag keeps at most one byte under way.
//! * A chunked response passes on as the chunks it came in, checked byte by byte; extensions and
//!   trailers are left out. A body that ends with its connection is re-framed in place as chunks, so the
//!   client's connection lives on and a truncation shows.
//! * Waiting requests follow a change of the node table on a worker, not on the control thread that made
//!   it: a thread that may be put aside must not hold the lock of the queues.
//! * A request whose node cannot be reached goes back into its queue, before all who were not served yet:
//!   else a dead node turns a queue into a list of 502s, one waiter after the other being given its slot.
//!   It passes over that node and keeps the slot for a second only, so that a node which is back at once
//!   is found out by the next in line, and two dead nodes cannot keep two requests waiting for each other.
//! * A request whose client states its patience is judged by the estimate only once a service of the model
//!   was measured; before that nobody is refused on an assumption.
//! * A process that takes over is given the listening sockets themselves. Without that, closing a
//!   SO_REUSEPORT socket resets who waits in its backlog; a shared socket has one backlog, and whoever
//!   accepts from it next serves them. Hence no socket is ever left without a process that accepts: a
//!   worker serves several of them where there were more workers before, and the old process accepts until
//!   the new one has everything but that.
//! * A listening socket never blocks, on io_uring either. The flag belongs to the socket that two processes
//!   share; a blocking one would stall a worker on epoll.
//! * A reload answers when every worker does as the new configuration says. What only a restart changes
//!   keeps its running value, and the mixture is checked as if it had been read.
//! * A half-closed client counts as gone once it is noticed, at the worker's next tick; what is over before
//!   is still sent. Most clients that close their sending side mean it, and a slot must not be held for
//!   nobody (RFC 9112 section 9.6 leaves the choice).

pub mod config;

pub mod auth;
pub mod dashboard;
pub mod http1;
pub mod openai;
pub mod sse;

pub mod admission;
pub mod nodes;
pub mod telemetry;

pub mod runtime;
pub mod upstream;

pub mod proxy;

pub mod store;

pub mod control;
pub mod mock;
pub mod server;
