//! Admission: a permit and a slot at once, or the wait for them, or a refusal that says when to come
//! back (spec section 5).

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use crate::admission::{Admittance, Backpressure, Demand, QueueLimits, Refusal, Turn};
use crate::nodes::{Permit, Place, ResolvedModel, Selection, Slot};
use crate::openai::ApiError;
use crate::runtime::{self, clock};
use crate::telemetry::Phase;

use super::Worker;
use super::downstream::Downstream;
use super::early;
use super::exchange::Stop;
use super::request::{Request, WaitNotice};
use super::trace::Trace;

/// What a request needs to go on to a node.
pub(super) struct Admitted {
    pub(super) permit: Permit,
    pub(super) slot: Slot,
    pub(super) model: Rc<ResolvedModel>,
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
    let config = &worker.shared.config.queue;
    let patience = request.patience.filter(|_| config.deadline_aware);
    let key = request.authenticated.unwrap_or_default();
    for _ in 0..TABLE_CHANGES_MAX {
        let demand = Demand {
            group: model.model(),
            generation: model.generation(),
            key: if config.enable_fairness { key } else { 0 },
            limits: QueueLimits {
                max_size: config.max_size as usize,
                max_place: patience.map_or(usize::MAX, |patience| outlook.last_place(patience)),
            },
        };
        match worker.admission.ask(&demand) {
            Admittance::Served(permit, served) => {
                return admitted(worker, permit, served, model);
            }
            Admittance::Waits(place) => {
                let notice = WaitNotice {
                    place: place.at_entry(),
                    estimate_secs: outlook.wait_secs(place.at_entry()),
                };
                request.wait = Some(notice);
                trace.enter(Phase::Queue);
                if wish.is_stream && config.stream_position && !request.is_http10() {
                    early::begin(worker, client, request).await?;
                }
                return wait(worker, client, request, model, place).await;
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

/// Refuses without the lock of the queues what the queues would refuse in any case: others wait for this
/// model already.
fn refuse_the_hopeless(worker: &Worker, model: &ResolvedModel) -> Result<(), ApiError> {
    let waiting = model.stats().waiting() as usize;
    let refusal = if waiting == 0 {
        return Ok(());
    } else if worker.admission.backpressure() == Backpressure::Overloaded {
        Refusal::Overloaded(waiting + 1)
    } else if waiting >= worker.shared.config.queue.max_size as usize {
        Refusal::QueueFull(waiting + 1)
    } else {
        return Ok(());
    };
    Err(Outlook::of(worker, model).refuse(refusal, None))
}

/// Waits for the turn, for the client to leave, or for the time to run out.
async fn wait(
    worker: &Worker,
    client: &mut Downstream,
    request: &Request,
    model: Rc<ResolvedModel>,
    mut place: Place,
) -> Result<Admitted, Stop> {
    let limit = WaitLimit::of(worker);
    let until = clock::now() + limit.duration;
    let mut told = request.wait.map(|notice| (notice.place, clock::now()));
    loop {
        let left = until.saturating_duration_since(clock::now());
        if left.is_zero() {
            return Err(limit.error().into());
        }
        let step = if request.early.is_some() {
            left.min(COMMENT_LOOK)
        } else {
            left
        };
        let turn = poll_fn(|context| place.poll_turn(context));
        let turn = client.inlet.watch(runtime::timeout(step, turn)).await?;
        match turn {
            Some(Turn::Served(permit, served)) => {
                return admitted(worker, permit, served, model);
            }
            Some(Turn::Unavailable) => return Err(ApiError::no_nodes().into()),
            None if request.early.is_some() => {
                let Some(now) = place.now() else { continue };
                let is_due = told.is_none_or(|(before, at)| {
                    before != now || clock::now() - at >= COMMENT_INTERVAL
                });
                if is_due {
                    let secs = Outlook::of(worker, &model).wait_secs(now);
                    early::comment(worker, client, now, secs).await?;
                    told = Some((now, clock::now()));
                }
            }
            None => {}
        }
    }
}

fn admitted(
    worker: &Worker,
    permit: Permit,
    served: crate::nodes::Served,
    model: Rc<ResolvedModel>,
) -> Result<Admitted, Stop> {
    let slot = worker.adopt(served).ok_or_else(ApiError::no_nodes)?;
    Ok(Admitted {
        permit,
        slot,
        model,
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
        let max_concurrent = u64::from(worker.shared.config.load_manager.max_concurrent);
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
        let router_wide = worker.shared.config.load_manager.default_timeout;
        let of_queue = worker.shared.config.queue.timeout;
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
/// How often the place of a stream that has begun is looked at.
const COMMENT_LOOK: Duration = Duration::from_secs(1);
/// How often a waiting stream is told its place at least, so that nobody takes it for dead.
const COMMENT_INTERVAL: Duration = Duration::from_secs(10);
/// Changes of the node table within one admission; each needs the control thread to publish again.
const TABLE_CHANGES_MAX: usize = 8;
