//! Admission: a permit and a slot at once, or the wait for them, or a refusal that says when to come
//! back (spec section 5).

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::admission::{
    Admittance, Backpressure, Demand, QueueLimits, Refusal, Return, Ticket, Turn as AnyTurn,
};
use crate::nodes::{
    Model, Node, NodeId, NodeState, Permit, Place, ResolvedModel, Selection, Served, Slot,
};
use crate::openai::ApiError;
use crate::runtime::{self, clock};
use crate::telemetry::Phase;

use super::Worker;
use super::downstream::{Downstream, Gone};
use super::early;
use super::exchange::Stop;
use super::request::{Request, WaitNotice};
use super::trace::Trace;

type Turn = AnyTurn<Model>;

/// What a request needs to go on to a node.
pub(super) struct Admitted {
    pub(super) permit: Permit,
    pub(super) slot: Slot,
    pub(super) model: Rc<ResolvedModel>,
    /// Its standing in the queue, if it had to wait.
    standing: Option<Standing>,
}

/// What one keeps of its wait, should it have to wait again.
#[derive(Clone, Copy)]
struct Standing {
    ticket: Ticket,
    until: Instant,
}

/// What is to be admitted.
pub(super) struct Wish<'w> {
    pub(super) model: &'w str,
    pub(super) is_stream: bool,
}

/// Admits a request, after its wait if it must wait.
///
/// # Errors
/// 404, 429, 503 or 504 as spec section 5 says; nothing when the client left.
pub(super) async fn admit(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    wish: Wish<'_>,
    trace: &mut Trace<'_>,
) -> Result<Admitted, Stop> {
    let unknown = || ApiError::model_not_found(wish.model);
    let model = worker.resolve(wish.model).ok_or_else(unknown)?;
    if let Some(permit) = worker.admission.try_enter() {
        match Rc::clone(&model).select(&[]) {
            Selection::Slot(slot, model) => {
                return Ok(Admitted {
                    permit,
                    slot,
                    model,
                    standing: None,
                });
            }
            Selection::NoOnlineNode(_) => return Err(ApiError::no_nodes().into()),
            Selection::NoSlot(_) | Selection::UnknownModel => {}
        }
    }
    refuse_the_hopeless(worker, &model)?;
    // In a box of its own: most requests do not wait.
    Box::pin(queue(worker, client, request, wish, model, trace)).await
}

/// Asks the queues, which may still serve at once, and waits for the turn.
async fn queue(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    wish: Wish<'_>,
    mut model: Rc<ResolvedModel>,
    trace: &mut Trace<'_>,
) -> Result<Admitted, Stop> {
    let outlook = Outlook::of(worker, &model);
    let config = worker.config();
    let patience = request.patience.filter(|_| config.queue.deadline_aware);
    for _ in 0..TABLE_CHANGES_MAX {
        let max_place = patience.map_or(usize::MAX, |patience| outlook.last_place(patience));
        match worker
            .admission
            .ask(&demand(worker, request, &model, max_place))
        {
            Admittance::Served(permit, served) => {
                return admitted(worker, permit, served, model, None);
            }
            Admittance::Waits(place) => {
                request.wait = Some(outlook.notice(&place));
                trace.enter(Phase::Queue);
                if wish.is_stream && config.queue.stream_position && early::is_possible(request) {
                    early::begin(worker, client, request).await?;
                }
                return wait_first(worker, client, request, model, place).await;
            }
            Admittance::Refused(refusal) => {
                return Err(outlook.refuse(refusal, patience).into());
            }
            Admittance::Unavailable => return Err(ApiError::no_nodes().into()),
            Admittance::Outdated => {
                let unknown = || ApiError::model_not_found(wish.model);
                model = worker.resolve(wish.model).ok_or_else(unknown)?;
            }
        }
    }
    Err(outlook.refuse(Refusal::Overloaded(1), None).into())
}

/// Lets a request wait once more whose node could not be reached, in front, for what is left of its wait
/// limit; `None` when that has brought nothing, or there is no other node to wait for. It keeps the slot
/// of that node for a moment, or all who wait would be given it one after the other before the node is
/// ejected.
///
/// # Errors
/// Nothing is to be answered when the client left.
pub(super) async fn admit_again(
    worker: &Worker,
    client: &mut Downstream,
    request: &mut Request,
    before: Admitted,
    tried: &[NodeId],
    trace: &mut Trace<'_>,
) -> Result<Option<Admitted>, Stop> {
    let Admitted {
        permit,
        slot,
        mut model,
        standing,
    } = before;
    drop(permit);
    if !model.has_online_outside(tried) {
        return Ok(None);
    }
    trace.enter(Phase::Queue);
    let failed = Arc::clone(slot.node());
    let back = Return {
        ticket: standing.map(|standing| standing.ticket),
        shunned: &failed,
    };
    for _ in 0..TABLE_CHANGES_MAX {
        match worker
            .admission
            .ask_again(&demand(worker, request, &model, usize::MAX), &back)
        {
            Admittance::Served(permit, served) => {
                return Ok(admitted(worker, permit, served, model, standing).ok());
            }
            Admittance::Waits(place) => {
                let limit = WaitLimit::of(worker).duration;
                let until = standing.map_or_else(|| clock::now() + limit, |before| before.until);
                let notice = Outlook::of(worker, &model).notice(&place);
                request.wait.get_or_insert(notice);
                let mut grudge = Grudge::new(slot);
                let mut wait = Wait {
                    place,
                    until,
                    grudge: Some(&mut grudge),
                };
                let turn = wait.turn(worker, client, request, &model).await?;
                let ticket = wait.place.ticket();
                let Some(Turn::Served(permit, served)) = turn else {
                    return Ok(None);
                };
                let standing = Some(Standing { ticket, until });
                return Ok(admitted(worker, permit, served, model, standing).ok());
            }
            Admittance::Refused(_) | Admittance::Unavailable => return Ok(None),
            Admittance::Outdated => {
                // The body names the model as it was found.
                let known = worker.resolve(model.name());
                model = match known.filter(|known| known.name() == model.name()) {
                    Some(known) => known,
                    None => return Ok(None),
                };
            }
        }
    }
    Ok(None)
}

/// Refuses without the lock of the queues what the queues would refuse in any case: others wait for this
/// model already.
fn refuse_the_hopeless(worker: &Worker, model: &ResolvedModel) -> Result<(), ApiError> {
    let waiting = model.stats().waiting() as usize;
    let refusal = if waiting == 0 {
        return Ok(());
    } else if worker.admission.backpressure() == Backpressure::Overloaded {
        Refusal::Overloaded(waiting + 1)
    } else if waiting >= worker.config().queue.max_size as usize {
        Refusal::QueueFull(waiting + 1)
    } else {
        return Ok(());
    };
    Err(Outlook::of(worker, model).refuse(refusal, None))
}

/// Waits for the turn of a request that has just begun to wait.
async fn wait_first(
    worker: &Worker,
    client: &mut Downstream,
    request: &Request,
    model: Rc<ResolvedModel>,
    place: Place,
) -> Result<Admitted, Stop> {
    let limit = WaitLimit::of(worker);
    let standing = Standing {
        ticket: place.ticket(),
        until: clock::now() + limit.duration,
    };
    let mut wait = Wait {
        place,
        until: standing.until,
        grudge: None,
    };
    match wait.turn(worker, client, request, &model).await? {
        Some(Turn::Served(permit, served)) => {
            admitted(worker, permit, served, model, Some(standing))
        }
        Some(Turn::Unavailable) => Err(ApiError::no_nodes().into()),
        None => Err(limit.error().into()),
    }
}

/// One request's wait.
struct Wait<'g> {
    place: Place,
    until: Instant,
    /// Against the node that failed it, if it waits again.
    grudge: Option<&'g mut Grudge>,
}

impl Wait<'_> {
    /// Waits for the turn, for the client to leave, or for the time to run out: then there is none.
    async fn turn(
        &mut self,
        worker: &Worker,
        client: &mut Downstream,
        request: &Request,
        model: &ResolvedModel,
    ) -> Result<Option<Turn>, Gone> {
        let mut told = request.wait.map(|notice| (notice.place, clock::now()));
        loop {
            let left = self.until.saturating_duration_since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            let step = if request.early.is_some() || self.grudge.is_some() {
                left.min(LOOK)
            } else {
                left
            };
            let turn = poll_fn(|context| self.place.poll_turn(context));
            let turn = client.inlet.watch(runtime::timeout(step, turn)).await?;
            if turn.is_some() {
                return Ok(turn);
            }
            if let Some(grudge) = &mut self.grudge {
                grudge.reconsider(model, &self.place);
            }
            if request.early.is_some() {
                let Some(now) = self.place.now() else {
                    continue;
                };
                let is_due = told.is_none_or(|(before, at)| {
                    before != now || clock::now() - at >= COMMENT_INTERVAL
                });
                if is_due {
                    let secs = Outlook::of(worker, model).wait_secs(now);
                    early::comment(worker, client, now, secs).await?;
                    told = Some((now, clock::now()));
                }
            }
        }
    }
}

/// What one who waits again has against the node that could not be reached: it holds the slot it was
/// given there for [`LOOK`], and would rather be served by others for [`GRUDGE`].
struct Grudge {
    node: Arc<Node>,
    slot: Option<Slot>,
    since: Instant,
    is_forgiven: bool,
}

impl Grudge {
    fn new(slot: Slot) -> Self {
        Self {
            node: Arc::clone(slot.node()),
            slot: Some(slot),
            since: clock::now(),
            is_forgiven: false,
        }
    }

    /// To be called once every [`LOOK`].
    fn reconsider(&mut self, model: &ResolvedModel, place: &Place) {
        // Somebody else may find out meanwhile whether the node is still away.
        self.slot = None;
        if self.is_forgiven {
            return;
        }
        let Node { live, id, .. } = &*self.node;
        // One that is out of service returns after a good probe only; a success ends a run of failures.
        self.is_forgiven = live.state() != NodeState::Online
            || live.consecutive_failures() == 0
            || clock::now() - self.since >= GRUDGE
            || !model.has_online_outside(&[*id]);
        if self.is_forgiven {
            place.forgive();
        }
    }
}

/// What a request asks the queues for.
fn demand<'m>(
    worker: &Worker,
    request: &Request,
    model: &'m ResolvedModel,
    max_place: usize,
) -> Demand<'m, Model> {
    let config = worker.config();
    let config = &config.queue;
    let key = request.authenticated.unwrap_or_default();
    Demand {
        group: model.model(),
        generation: model.generation(),
        key: if config.enable_fairness { key } else { 0 },
        limits: QueueLimits {
            max_size: config.max_size as usize,
            max_place,
        },
    }
}

fn admitted(
    worker: &Worker,
    permit: Permit,
    served: Served,
    model: Rc<ResolvedModel>,
    standing: Option<Standing>,
) -> Result<Admitted, Stop> {
    let slot = worker.adopt(served).ok_or_else(ApiError::no_nodes)?;
    Ok(Admitted {
        permit,
        slot,
        model,
        standing,
    })
}

/// What waiting for a model means now.
#[derive(Clone, Copy)]
struct Outlook {
    /// `None` until a first service has ended.
    mean_service: Option<Duration>,
    /// Requests for this model that run at once, at most.
    slots: u64,
}

impl Outlook {
    fn of(worker: &Worker, model: &ResolvedModel) -> Self {
        let max_concurrent = u64::from(worker.config().load_manager.max_concurrent);
        Self {
            mean_service: model.stats().mean_service(),
            slots: model.slot_count().min(max_concurrent).max(1),
        }
    }

    /// The estimated wait in whole seconds, rounded up: place × mean service time ÷ slots (spec section
    /// 3).
    fn wait_secs(self, place: usize) -> u32 {
        let mean = self.mean_service.unwrap_or(ASSUMED_SERVICE);
        let wait = mean.as_secs_f64() * place as f64 / self.slots as f64;
        // A number of seconds beyond u32 saturates.
        wait.ceil() as u32
    }

    /// What one is told that has just been given this place.
    fn notice(self, place: &Place) -> WaitNotice {
        WaitNotice {
            place: place.at_entry(),
            estimate_secs: self.wait_secs(place.at_entry()),
        }
    }

    /// The last place whose turn comes within `patience`; any, before there is anything to judge by.
    fn last_place(self, patience: Duration) -> usize {
        match self.mean_service {
            Some(mean) if !mean.is_zero() => {
                (patience.as_secs_f64() * self.slots as f64 / mean.as_secs_f64()) as usize
            }
            _ => usize::MAX,
        }
    }

    fn refuse(self, refusal: Refusal, patience: Option<Duration>) -> ApiError {
        match refusal {
            Refusal::Overloaded(place) => ApiError::overloaded(self.wait_secs(place)),
            Refusal::QueueFull(place) => ApiError::model_queue_full(self.wait_secs(place)),
            Refusal::TooFarBack(place) => {
                ApiError::wait_too_long(self.wait_secs(place), patience.unwrap_or_default())
            }
        }
    }
}

/// The earlier of the two limits on waiting, and what passing it is called.
#[derive(Clone, Copy)]
struct WaitLimit {
    duration: Duration,
    error: fn(Duration) -> ApiError,
}

impl WaitLimit {
    fn of(worker: &Worker) -> Self {
        let router_wide = worker.config().load_manager.default_timeout;
        let of_queue = worker.config().queue.timeout;
        if router_wide <= of_queue {
            Self {
                duration: router_wide,
                error: ApiError::wait_timeout,
            }
        } else {
            Self {
                duration: of_queue,
                error: ApiError::queue_timeout,
            }
        }
    }

    fn error(self) -> ApiError {
        (self.error)(self.duration)
    }
}

/// Stands for the mean service time until a first service of the model has ended.
const ASSUMED_SERVICE: Duration = Duration::from_secs(1);
/// How often one who waits looks around: a stream that has begun at its place, one who waits again at
/// the node that failed it.
const LOOK: Duration = Duration::from_secs(1);
/// How long one who waits again leaves the node that failed it to others; by then a probe has seen it.
const GRUDGE: Duration = Duration::from_secs(10);
/// How often a waiting stream is told its place at least, so that nobody takes it for dead.
const COMMENT_INTERVAL: Duration = Duration::from_secs(10);
/// Changes of the node table within one admission; each needs the control thread to publish again.
const TABLE_CHANGES_MAX: usize = 8;
