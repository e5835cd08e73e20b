//! Asking a node whether it is there, what it serves and what it runs on, on threads of their own.
//!
//! ```text
//! resolve and check the addresses          address.rs
//!   ─ connect to one of them               http.rs     those that have answered before come first
//!   ─ GET {base}/v1/models                 http.rs     without the credential as long as the address is
//!                                                      unproven; again with it when the node demands one
//!   ─ which engine, how many slots         engine.rs   once per life of the node's process
//! ```
//!
//! Bounded in time and bytes, follows no redirect, and connects only to addresses that were checked
//! after resolving. While a name cannot be resolved, the addresses that answered last are asked again.
//!
//! A registered node has to list its models before it is put into service, also if they are given: else
//! whatever answers inside the network could be made a node by whoever may register one, and be read and
//! written to. What is asked of an address that was proven so, and of a node of the file, is only that it
//! answers below 500.
//!
//! A good answer speaks for the address it came from and for no other one. The node table gets that address
//! alone if the node was registered: whoever owns its name may let it point at others that were never asked.
//! The next probe asks there first, so the address changes only when it cannot be connected to any more, and
//! connections to it are kept until then. Of a node of the file all addresses are used, in the resolver's order:
//! its operator vouches for the name.

mod address;
mod engine;
mod http;
mod pool;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::{BaseUrl, Secret};
use crate::proxy::ProbeToken;

use address::permitted;
use engine::{is_ollama_version, read_models};
use http::{Asker, Question};

pub(super) use address::{AddressError, RegistrationRules, resolve};
pub(super) use engine::Engine;
pub(super) use pool::{PROBERS_MAX, Probers};

/// Everything one probe is to find out.
pub(super) struct Probe {
    /// Tells this node from another one of the same name before or after it.
    pub(super) serial: u64,
    pub(super) base_url: BaseUrl,
    pub(super) api_key: Option<Secret>,
    /// Sent along: see [`ProbeToken`].
    pub(super) token: ProbeToken,
    /// What its addresses must comply with, beyond what holds for every node; `None` for a node of the file,
    /// whose operator vouches for it.
    pub(super) rules: Option<Arc<RegistrationRules>>,
    /// Addresses that have answered before: until then they get no credential, if there are `rules`. They are
    /// asked again while the name cannot be resolved.
    pub(super) proven: Vec<SocketAddr>,
    /// Whether the answer must name the node's models.
    pub(super) needs_models: bool,
    /// The engine, if it is known.
    pub(super) engine: Option<Engine>,
    /// Whether the node is asked how many requests it works on at once.
    pub(super) needs_slots: bool,
    pub(super) timeout: Duration,
}

/// What came of a probe.
pub(super) struct Outcome {
    pub(super) serial: u64,
    pub(super) answer: Result<Answer, ProbeError>,
}

pub(super) struct Answer {
    /// Where requests may go.
    pub(super) addresses: Vec<SocketAddr>,
    /// From connecting to the end of the answer that counts.
    pub(super) latency: Duration,
    /// The models the node names, sorted; empty if it was not asked for them.
    pub(super) models: Vec<Box<str>>,
    /// What it runs on.
    pub(super) engine: Engine,
    /// How many requests it works on at once, if it was asked and its engine tells.
    pub(super) slots: Option<u32>,
}

/// Why a probe failed. Nothing that the other side sent is kept: whoever may register a node must not be able
/// to read other services through it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeError {
    Address(AddressError),
    Connect,
    ConnectTimeout,
    AnswerTimeout,
    Closed,
    BadAnswer,
    TooLong,
    ServerError,
    /// It is this router that has answered.
    OwnRouter,
    NotAuthorized,
    NoModelList,
}

/// Carries a probe out; takes at most its time limit, and as long as the resolver likes.
fn carry_out(probe: Probe) -> Outcome {
    let rules = probe.rules.as_deref();
    let resolved = match resolve(&probe.base_url, rules) {
        // A name server that fails says nothing about the node.
        Err(AddressError::Unresolved) => permitted(probe.proven.clone(), rules),
        resolved => resolved,
    };
    let answer = resolved
        .map_err(ProbeError::Address)
        .and_then(|addresses| ask(&probe, addresses));
    Outcome {
        serial: probe.serial,
        answer,
    }
}

fn ask(probe: &Probe, mut addresses: Vec<SocketAddr>) -> Result<Answer, ProbeError> {
    let began = Instant::now();
    let is_registered = probe.rules.is_some();
    if is_registered {
        addresses.sort_by_key(|address| !probe.proven.contains(address));
    }
    let until = began + probe.timeout;
    let mut asker = Asker::reach(&probe.base_url, &probe.token, &addresses, until)?;
    if is_registered {
        addresses = vec![asker.address()];
    }
    let is_proven = !is_registered || probe.proven.contains(&asker.address());
    let needs_list = probe.needs_models || !is_proven;
    let known = probe.api_key.as_ref();
    let question = Question {
        path: ProbeToken::PATH,
        query: None,
        credential: known.filter(|_| is_proven),
        // Of a node whose models are configured only the status counts, once its engine is known.
        wants_body: needs_list || probe.engine.is_none(),
    };
    let (mut status, mut body) = asker.ask(question)?;
    // Somebody speaks HTTP at the checked address and asks for what belongs there.
    if matches!(status, 401 | 403) && known.is_some() && !is_proven {
        let credential = known;
        (status, body) = asker.ask(Question {
            credential,
            ..question
        })?;
    }
    let latency = began.elapsed();
    let list = match status {
        200 => read_models(&mut body),
        _ => None,
    };
    match (status, &list) {
        (508, _) => return Err(ProbeError::OwnRouter),
        (500.., _) => return Err(ProbeError::ServerError),
        (401 | 403, None) if needs_list => return Err(ProbeError::NotAuthorized),
        (_, None) if needs_list => return Err(ProbeError::NoModelList),
        // It is there and minds its own business: an engine without this route still serves.
        _ => {}
    }
    let (models, named) = list.map_or_else(Default::default, |list| (list.ids, list.engine));
    let engine = probe.engine.or(named);
    let engine = engine.unwrap_or_else(|| guess_engine(&mut asker, known));
    Ok(Answer {
        addresses,
        latency,
        models: match probe.needs_models {
            true => models,
            false => Vec::new(),
        },
        engine,
        slots: find_slots(probe, &mut asker, engine),
    })
}

/// The engine of a node whose models do not say it. A node that does not know the question is as good as any.
fn guess_engine(asker: &mut Asker<'_>, credential: Option<&Secret>) -> Engine {
    let answer = asker.ask(Question {
        path: "/api/version",
        query: None,
        credential,
        wants_body: true,
    });
    match answer {
        Ok((200, mut body)) => match is_ollama_version(&mut body) {
            true => Engine::Ollama,
            false => Engine::Generic,
        },
        _ => Engine::Generic,
    }
}

fn find_slots(probe: &Probe, asker: &mut Asker<'_>, engine: Engine) -> Option<u32> {
    let questions = engine.slot_questions().iter().filter(|_| probe.needs_slots);
    questions
        .map(|question| {
            let answer = asker.ask(Question {
                path: question.path,
                query: question.query,
                credential: probe.api_key.as_ref(),
                wants_body: true,
            });
            match answer {
                Ok((200, mut body)) => (question.read)(&mut body),
                _ => None,
            }
        })
        .find_map(|slots| slots)
}

impl ProbeError {
    fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut => Self::ConnectTimeout,
            _ => Self::Connect,
        }
    }

    fn of_exchange(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::AnswerTimeout,
            _ => Self::Closed,
        }
    }

    /// Fixed words for the control API.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Address(AddressError::Unresolved) => "the name cannot be resolved",
            Self::Address(AddressError::Forbidden(_) | AddressError::OutsideNetworks) => {
                "the address is not permitted"
            }
            Self::Address(AddressError::OwnListener) => "the address is the router's own",
            Self::Connect => "no connection",
            Self::ConnectTimeout => "no connection in time",
            Self::AnswerTimeout => "no answer in time",
            Self::Closed => "the connection was closed",
            Self::BadAnswer => "the answer is not HTTP/1.1",
            Self::TooLong => "the answer is too long",
            Self::OwnRouter => "it is this router itself",
            Self::ServerError => "the node answered with a server error",
            Self::NotAuthorized => "the node does not accept its api_key",
            Self::NoModelList => "the node does not list its models",
        }
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// Long enough for a busy machine, short enough to wait for.
    pub(super) const TIMEOUT: Duration = Duration::from_millis(500);

    pub(super) fn probe_of(address: SocketAddr, needs_models: bool) -> Probe {
        Probe {
            serial: 7,
            base_url: BaseUrl::parse(&format!("http://{address}/base")).unwrap(),
            api_key: None,
            token: ProbeToken::random().unwrap(),
            rules: None,
            proven: Vec::new(),
            needs_models,
            engine: Some(Engine::Generic),
            needs_slots: false,
            timeout: TIMEOUT,
        }
    }

    fn read_head(socket: &mut TcpStream) -> String {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte).unwrap();
            request.extend_from_slice(&byte);
        }
        String::from_utf8(request).unwrap()
    }

    /// Answers one connection after the other with these responses; returns what was asked and what the
    /// probe said.
    fn probe_with(responses: &[&str], change: impl FnOnce(&mut Probe)) -> (Vec<String>, Outcome) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut probe = probe_of(listener.local_addr().unwrap(), true);
        change(&mut probe);
        thread::scope(|scope| {
            let node = scope.spawn(move || {
                let answer = |response: &&str| {
                    let (mut socket, _) = listener.accept().unwrap();
                    let request = read_head(&mut socket);
                    socket.write_all(response.as_bytes()).unwrap();
                    request
                };
                responses.iter().map(answer).collect()
            });
            let outcome = carry_out(probe);
            (node.join().unwrap(), outcome)
        })
    }

    fn probe_against(response: &str, needs_models: bool) -> (String, Outcome) {
        let (mut requests, outcome) =
            probe_with(&[response], |probe| probe.needs_models = needs_models);
        (requests.remove(0), outcome)
    }

    fn json(body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";

    #[test]
    fn a_model_list_is_read_whatever_its_framing() {
        let responses = [
            "HTTP/1.1 200 OK\r\nContent-Length: 38\r\n\r\n{\"data\":[{\"id\":\"b\"},{\"id\":\"a\",\"x\":1}]}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"dat\r\n21\r\na\":[{\"id\":\"b\"},{\"id\":\"a\",\"x\":1}]}\r\n0\r\n\r\n",
            "HTTP/1.0 200 OK\r\n\r\n{\"data\":[{\"id\":\"b\"},{\"id\":\"a\",\"x\":1}]}",
        ];
        for response in responses {
            let (request, outcome) = probe_against(response, true);
            assert!(
                request.starts_with("GET /base/v1/models HTTP/1.1\r\n"),
                "{request}"
            );
            assert!(request.contains("\r\nX-LLM-Router-Probe: "), "{request}");
            let models = outcome.answer.ok().unwrap().models;
            assert_eq!(models, ["a".into(), "b".into()] as [Box<str>; 2]);
        }
    }

    #[test]
    fn a_node_with_configured_models_is_up_whatever_it_answers_below_500() {
        assert!(probe_against(NOT_FOUND, false).1.answer.is_ok());
        let error = probe_against(NOT_FOUND, true).1.answer.err();
        assert_eq!(error, Some(ProbeError::NoModelList));
        let broken = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        let own = "HTTP/1.1 508 Loop Detected\r\nContent-Length: 0\r\n\r\n";
        for needs_models in [false, true] {
            let error = probe_against(broken, needs_models).1.answer.err();
            assert_eq!(error, Some(ProbeError::ServerError));
            let error = probe_against(own, needs_models).1.answer.err();
            assert_eq!(error, Some(ProbeError::OwnRouter));
        }
    }

    #[test]
    fn a_registered_node_lists_its_models_once_whether_they_are_given_or_not() {
        let registered = |is_proven: bool, response: &str| {
            let (_, outcome) = probe_with(&[response], |probe| {
                probe.needs_models = false;
                probe.rules = Some(Arc::new(RegistrationRules {
                    networks: vec!["127.0.0.0/8".parse().unwrap()],
                    listener: "127.0.0.1:1".parse().unwrap(),
                }));
                if is_proven {
                    probe.proven = resolve(&probe.base_url, None).unwrap();
                }
            });
            outcome.answer.map(|answer| answer.models)
        };
        let page = "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>";
        let moved = "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n";
        let status = json(r#"{"status":"ok"}"#);
        for (response, error) in [
            (page, ProbeError::NoModelList),
            (moved, ProbeError::NoModelList),
            (NOT_FOUND, ProbeError::NoModelList),
            (&status, ProbeError::NoModelList),
            (UNAUTHORIZED, ProbeError::NotAuthorized),
        ] {
            assert_eq!(registered(false, response), Err(error), "{response}");
            assert_eq!(registered(true, response), Ok(Vec::new()), "{response}");
        }
        for list in [r#"{"data":[]}"#, r#"{"object":"list","data":null}"#] {
            assert_eq!(registered(false, &json(list)), Ok(Vec::new()));
        }
    }

    #[test]
    fn malformed_and_truncated_answers_fail_the_probe() {
        let too_long = format!("HTTP/1.1 200 OK\r\n\r\n{}", " ".repeat(300 * 1024));
        for (response, error) in [
            ("HTP/1.1 200 OK\r\n\r\n", ProbeError::BadAnswer),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":[]}",
                ProbeError::Closed,
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
                ProbeError::NoModelList,
            ),
            ("", ProbeError::Closed),
            (
                "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
                ProbeError::NoModelList,
            ),
        ] {
            let (_, outcome) = probe_against(response, true);
            assert_eq!(outcome.answer.err(), Some(error), "{response:?}");
        }
        // The peer may see its connection reset while it still sends.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let probe = probe_of(listener.local_addr().unwrap(), true);
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut socket, _) = listener.accept().unwrap();
                read_head(&mut socket);
                let _ = socket.write_all(too_long.as_bytes());
            });
            assert_eq!(carry_out(probe).answer.err(), Some(ProbeError::TooLong));
        });
    }

    #[test]
    fn a_refused_connection_and_a_silent_node_fail_the_probe() {
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = refusing.local_addr().unwrap();
        drop(refusing);
        let outcome = carry_out(probe_of(address, true));
        assert_eq!(outcome.answer.err(), Some(ProbeError::Connect));
        assert_eq!(outcome.serial, 7);

        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let outcome = carry_out(probe_of(silent.local_addr().unwrap(), true));
        assert_eq!(outcome.answer.err(), Some(ProbeError::AnswerTimeout));
    }

    #[test]
    fn an_engine_is_asked_for_once_and_for_its_slots_in_its_own_words() {
        let sglang = json(r#"{"data":[{"id":"m","owned_by":"sglang"}]}"#);
        let info = json(r#"{"internal_states":[{"effective_max_running_requests_per_dp":48}]}"#);
        let (requests, outcome) = probe_with(&[&sglang, NOT_FOUND, &info], |probe| {
            (probe.engine, probe.needs_slots) = (None, true);
        });
        let answer = outcome.answer.ok().unwrap();
        assert_eq!((answer.engine, answer.slots), (Engine::Sglang, Some(48)));
        assert!(requests[1].starts_with("GET /base/server_info HTTP/1.1\r\n"));
        assert!(requests[2].starts_with("GET /base/get_server_info HTTP/1.1\r\n"));

        let list = json(r#"{"data":[{"id":"m"}]}"#);
        let version = json(r#"{"version":"0.12.3"}"#);
        let (requests, outcome) = probe_with(&[&list, &version], |probe| {
            (probe.engine, probe.needs_slots) = (None, true);
        });
        assert!(requests[1].starts_with("GET /base/api/version HTTP/1.1\r\n"));
        let answer = outcome.answer.ok().unwrap();
        assert_eq!((answer.engine, answer.slots), (Engine::Ollama, None));
    }

    #[test]
    fn while_a_name_cannot_be_resolved_the_addresses_that_answered_are_asked_again() {
        let list = json(r#"{"data":[{"id":"m"}]}"#);
        let (_, outcome) = probe_with(&[&list], |probe| {
            probe.proven = resolve(&probe.base_url, None).unwrap();
            probe.base_url = BaseUrl::parse("http://no-such-name.invalid:8000/base").unwrap();
        });
        assert_eq!(outcome.answer.ok().unwrap().addresses.len(), 1);

        // Not if they are not permitted any more, or if there are none.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut probe = probe_of("127.0.0.1:1".parse().unwrap(), true);
        probe.base_url = BaseUrl::parse("http://no-such-name.invalid:8000/base").unwrap();
        probe.rules = Some(Arc::new(RegistrationRules {
            networks: vec!["10.0.0.0/8".parse().unwrap()],
            listener: "127.0.0.1:1".parse().unwrap(),
        }));
        probe.proven = vec![listener.local_addr().unwrap()];
        let error = carry_out(probe).answer.err();
        let refused = ProbeError::Address(AddressError::OutsideNetworks);
        assert_eq!(error, Some(refused));
        let mut probe = probe_of("127.0.0.1:1".parse().unwrap(), true);
        probe.base_url = BaseUrl::parse("http://no-such-name.invalid:8000/base").unwrap();
        let error = carry_out(probe).answer.err();
        let unresolved = ProbeError::Address(AddressError::Unresolved);
        assert_eq!(error, Some(unresolved));
    }

    #[test]
    fn an_answer_speaks_for_the_address_it_came_from_and_for_no_other() {
        let list = json(r#"{"data":[{"id":"m"}]}"#);
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
        let dead = refusing.local_addr().unwrap();
        drop(refusing);
        let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [one, two] = [&first, &second].map(|listener| listener.local_addr().unwrap());
        let rules = Arc::new(RegistrationRules {
            networks: vec!["127.0.0.0/8".parse().unwrap()],
            listener: "127.0.0.1:1".parse().unwrap(),
        });
        let asked = |listener: &TcpListener, addresses: [SocketAddr; 3], proven: &[SocketAddr]| {
            let mut probe = probe_of(one, true);
            probe.rules = Some(Arc::clone(&rules));
            probe.api_key = Some(Secret::new("node-secret".to_owned()));
            probe.proven = proven.to_vec();
            thread::scope(|scope| {
                let node = scope.spawn(|| {
                    let (mut socket, _) = listener.accept().unwrap();
                    let request = read_head(&mut socket);
                    socket.write_all(list.as_bytes()).unwrap();
                    request
                });
                let answer = ask(&probe, addresses.to_vec()).ok().unwrap();
                let request = node.join().unwrap();
                (answer.addresses, request.contains("Authorization"))
            })
        };
        // The first that can be connected to; it is not trusted for the sake of another one.
        let answer = asked(&first, [dead, one, two], &[dead]);
        assert_eq!(answer, (vec![one], false));
        // One that has answered stays, in whatever order the resolver tells them.
        let answer = asked(&second, [one, dead, two], &[two]);
        assert_eq!(answer, (vec![two], true));
        // Of a node of the file all are used.
        let mut probe = probe_of(one, false);
        probe.proven = vec![two];
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut socket, _) = first.accept().unwrap();
                read_head(&mut socket);
                socket.write_all(list.as_bytes()).unwrap();
            });
            let answer = ask(&probe, vec![dead, one, two]).ok().unwrap();
            assert_eq!(answer.addresses, [dead, one, two]);
        });
    }

    #[test]
    fn a_credential_goes_only_to_addresses_that_have_answered() {
        let list = json(r#"{"data":[{"id":"m"}]}"#);
        let with_key = |probe: &mut Probe| {
            probe.api_key = Some(Secret::new("node-secret".to_owned()));
            probe.rules = Some(Arc::new(RegistrationRules {
                networks: vec!["127.0.0.0/8".parse().unwrap()],
                listener: "127.0.0.1:1".parse().unwrap(),
            }));
        };
        let carries = |request: &String| request.contains("Authorization: Bearer node-secret\r\n");

        let (requests, outcome) = probe_with(&[&list], with_key);
        assert!(outcome.answer.is_ok());
        assert!(!carries(&requests[0]));

        let (requests, outcome) = probe_with(&[UNAUTHORIZED, &list], with_key);
        assert!(outcome.answer.is_ok());
        assert!(!carries(&requests[0]) && carries(&requests[1]));

        let (requests, outcome) = probe_with(&[UNAUTHORIZED, UNAUTHORIZED], with_key);
        assert_eq!(requests.len(), 2);
        assert_eq!(outcome.answer.err(), Some(ProbeError::NotAuthorized));

        for is_of_file in [false, true] {
            let (requests, _) = probe_with(&[&list], |probe| {
                with_key(probe);
                if is_of_file {
                    probe.rules = None;
                } else {
                    probe.proven = resolve(&probe.base_url, None).unwrap();
                }
            });
            assert!(carries(&requests[0]));
        }
    }
}
