//! The control API (spec section 9): what `/api/*` means. Its threads may block, so that no worker does.
//!
//! A worker hands over a request whole; one of these threads finds its route in the [`table`], checks the
//! right it needs, calls the handler and sends the answer back through the worker's mailbox. A handler is a
//! plain function that returns a [`Reply`] or an [`ApiError`]; a panic in it ends as a 500 and the thread goes
//! on. Handlers that need another thread ask it through a bounded channel, with a time limit.

mod auth;
mod call;
mod events;
mod history;
mod keys;
mod load;
mod nodes;
mod openapi;
mod query;
mod reload;
mod reply;
mod rights;
mod table;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::config::{Config, is_loopback};
use crate::openai::ApiError;
use crate::proxy::api::{Answer, ApiCall, ApiInbox, Outcome, Question};
use crate::proxy::{Notice, Shared};
use crate::runtime;
use crate::store::Store;
use crate::telemetry::log;

use super::keys::KeyFile;
use super::nodes::NodeDesk;
use super::reload::Reloader;

use auth::Logins;
use call::Call;
use events::Sampler;
use reply::{Next, Reply};

/// What handlers work with.
struct Context {
    /// What the workers read and count.
    shared: Arc<Shared>,
    /// The key file, and who publishes it.
    key_file: Arc<KeyFile>,
    /// Who is logged in.
    logins: Logins,
    /// Makes the live events.
    sampler: Sampler,
    /// The database.
    store: Store,
    /// Replaces the configuration.
    reloader: Arc<Reloader>,
    /// Where nodes are asked about and changed.
    nodes: NodeDesk,
}

/// Starts the threads.
pub(super) fn start(
    shared: &Arc<Shared>,
    key_file: &Arc<KeyFile>,
    reloader: &Arc<Reloader>,
    store: Store,
    nodes: &NodeDesk,
    calls: &ApiInbox,
) -> io::Result<()> {
    let context = Arc::new(Context {
        shared: Arc::clone(shared),
        key_file: Arc::clone(key_file),
        logins: Logins::new(store.clone()),
        sampler: Sampler::start(shared, nodes)?,
        store,
        reloader: Arc::clone(reloader),
        nodes: nodes.clone(),
    });
    shared.api.watch_by(table::refuse_at_once);
    warn_of_default_password(&shared.config.current());
    for index in 0..THREADS {
        start_thread(format!("api-{index}"), &context, calls, ApiInbox::next)?;
    }
    // Reports wait for the control thread only, never behind a login or for the database.
    let next = ApiInbox::next_report;
    start_thread("api-reports".to_owned(), &context, calls, next)
}

fn start_thread(
    name: String,
    context: &Arc<Context>,
    calls: &ApiInbox,
    next: fn(&ApiInbox) -> Option<ApiCall>,
) -> io::Result<()> {
    let (context, calls) = (Arc::clone(context), calls.clone());
    thread::Builder::new().name(name).spawn(move || {
        // A login shall not take the time of requests.
        if let Err(error) = runtime::lower_priority() {
            log::debug(format_args!("the control API keeps its priority: {error}"));
        }
        while let Some(call) = next(&calls) {
            serve(&context, call);
        }
    })?;
    Ok(())
}

fn warn_of_default_password(config: &Config) {
    if config.auth.admin_password.is_default() && !is_loopback(config.server.host) {
        log::warn(format_args!(
            "auth.admin_password is the default: logins are refused from other machines than this one"
        ));
    }
}

/// Answers one call; one nobody waits for any more is dropped.
fn serve(context: &Context, call: ApiCall) {
    let ApiCall {
        worker,
        ticket,
        deadline,
        question,
    } = call;
    if Instant::now() >= deadline {
        return;
    }
    let outcome = guarded(|| match question {
        Question::Request(request) | Question::Report(request) => table::answer(context, *request),
        Question::More(continuation) => match continuation.state::<Next>() {
            Some(Next(next)) => next(context),
            None => Err(ApiError::internal()),
        },
    });
    if let Some(mailbox) = context.shared.mailboxes.get(worker) {
        // There is room for every call under way. If there were none, the worker's own limit ends the wait.
        let _ = mailbox.send(Notice::Answer(Box::new(Answer { ticket, outcome })));
    }
}

/// What `work` comes to, 500 if it panics.
fn guarded(work: impl FnOnce() -> Result<Reply, ApiError>) -> Outcome {
    // Unwind safety: what a handler shares with others stays whole by the others' own means (atomics,
    // whole replacement, locks that are cleared of poison); the call itself is gone.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(outcome) => outcome.map(Reply::into_api),
        Err(_) => {
            log::error(format_args!(
                "a request to the control API ended in a panic"
            ));
            Err(ApiError::internal())
        }
    }
}

/// Enough for a login that takes its time beside queries; all of them together use little of one core.
const THREADS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_answer() {
        let outcome = guarded(|| panic!("a bug"));
        assert_eq!(outcome.err(), Some(ApiError::internal()));
        let outcome = guarded(|| Ok(Reply::no_content()));
        assert_eq!(outcome.ok().unwrap().status.as_u16(), 204);
    }
}
