//! Live events: made once by the control side, sent by each worker to those of its clients who watch. Whoever
//! is slow gets the newest frame next and has missed those between.

use std::borrow::Cow;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::auth::key::KeySet;
use crate::openai::ApiError;
use crate::runtime::{self, clock};

use super::super::Worker;
use super::super::downstream::Downstream;
use super::super::exchange::{After, Stop};
use super::super::trace::Trace;
use super::write::ReplyStream;
use super::{ANSWER_LIMIT, Continuation, More, Outcome, Question, Waiting, hand_over};

/// What there is to be seen, and how many watch.
pub struct Live {
    frame: ArcSwap<Frame>,
    viewers: AtomicU32,
}

/// What was made at one time: events in the form they are sent in.
pub struct Frame {
    /// Counts frames, from 1.
    pub number: u64,
    /// When it was made.
    pub made_at: Instant,
    /// The state of everything.
    pub snapshot: Vec<u8>,
    /// The latest points of the series with their numbers, oldest first: each viewer gets each once.
    pub points: Vec<(u64, Arc<[u8]>)>,
}

/// How an answer goes on with live events.
pub struct Watching {
    /// Whether the viewer may still watch.
    pub check: Check,
    /// The number of the last point that was sent.
    pub point: u64,
}

/// How it is seen whether a viewer may still watch.
pub enum Check {
    /// By the valid keys and the time, in Unix seconds: the worker looks before every frame. What is returned is
    /// sent, and is the end.
    AtOnce(EndAtOnce),
    /// By a thread, asked now and then: its answer is sent, and says whether to go on. An error says nothing about
    /// the viewer; it is asked again.
    Asked(Continuation),
}

/// See [`Check::AtOnce`].
pub type EndAtOnce = Box<dyn Fn(&KeySet, u64) -> Option<&'static [u8]> + Send>;

/// One who watches; counted until it is dropped.
pub(super) struct Viewer<'l>(&'l AtomicU32);

/// The exchanges of a worker that wait for the next frame.
#[derive(Default)]
pub(in crate::proxy) struct Viewers(RefCell<Vec<Waker>>);

impl Live {
    /// Nothing to be seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            frame: ArcSwap::from_pointee(Frame {
                number: 0,
                made_at: Instant::now(),
                snapshot: Vec::new(),
                points: Vec::new(),
            }),
            viewers: AtomicU32::new(0),
        }
    }

    /// Whether anyone watches.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.viewers.load(Ordering::Relaxed) > 0
    }

    pub(in crate::proxy) fn show(&self, frame: Frame) {
        self.frame.store(Arc::new(frame));
    }

    pub(super) fn watch(&self) -> Result<Viewer<'_>, ApiError> {
        let next = |count: u32| (count < VIEWERS_MAX).then_some(count + 1);
        self.viewers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map(|_| Viewer(&self.viewers))
            .map_err(|_| ApiError::too_many_viewers())
    }
}

impl Default for Live {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Viewer<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Viewers {
    /// There is a new frame.
    pub(in crate::proxy) fn wake(&self) {
        for waker in self.0.take() {
            waker.wake();
        }
    }

    fn wait(&self, waker: &Waker) {
        let mut waiting = self.0.borrow_mut();
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }
}

/// Sends frames until the check says that it is over, the client leaves or the process drains. Frames go on
/// while a question waits for its answer.
///
/// # Errors
/// When the client is gone, or when no check has come to an end for too long.
pub(super) async fn follow(
    worker: &Worker,
    client: &mut Downstream,
    mut stream: ReplyStream,
    watching: Watching,
    trace: &mut Trace<'_>,
) -> Result<After, Stop> {
    let Watching { mut check, point } = watching;
    let mut seen = Seen::new(&worker.shared.live.frame.load(), point);
    let mut checks = Checks::begin(clock::now());
    let mut asked = None;
    while !worker.is_draining() {
        let left = checks.next_at.saturating_duration_since(clock::now());
        let turn = runtime::timeout(left, next_turn(worker, seen.frame, asked.as_mut()));
        let turn = client.inlet.watch(turn).await?;
        if let Some(end) = check.end_at_once(worker) {
            stream.piece(worker, client, end, trace).await?;
            break;
        }
        match turn {
            Some(Turn::Frame(frame)) => {
                let events = seen.take(&frame);
                stream.piece(worker, client, &events, trace).await?;
            }
            Some(Turn::Checked(Ok(answer))) => {
                asked = None;
                stream.piece(worker, client, &answer.body, trace).await?;
                check = match answer.more {
                    Some(More::Live(watching)) => watching.check,
                    Some(More::Piece(_)) | None => break,
                };
                checks.passed(clock::now());
            }
            Some(Turn::Checked(Err(_))) => {
                asked = None;
                checks.failed(clock::now())?;
            }
            // Nobody has answered.
            None if asked.is_some() => {
                asked = None;
                checks.failed(clock::now())?;
            }
            None => match &check {
                Check::AtOnce(_) => checks.passed(clock::now()),
                Check::Asked(question) => {
                    asked = hand_over(worker, Question::More(question.clone()));
                    match asked {
                        Some(_) => checks.asked(clock::now()),
                        None => checks.failed(clock::now())?,
                    }
                }
            },
        }
    }
    Ok(stream.end(worker, client).await?)
}

impl Check {
    /// What ends it, if the worker can see that it is over.
    fn end_at_once(&self, worker: &Worker) -> Option<&'static [u8]> {
        match self {
            Self::AtOnce(end) => end(&worker.shared.keys.load(), clock::unix_secs()),
            Self::Asked(_) => None,
        }
    }
}

/// What a viewer's turn is about.
enum Turn {
    /// A new frame.
    Frame(Arc<Frame>),
    /// The check has been answered.
    Checked(Outcome),
}

/// The answer to the check, if one was asked for, or the first frame with another number than `seen`.
async fn next_turn(worker: &Worker, seen: u64, mut asked: Option<&mut Waiting<'_>>) -> Turn {
    poll_fn(|context| {
        if let Some(waiting) = asked.as_deref_mut()
            && let Poll::Ready(outcome) = Pin::new(waiting).poll(context)
        {
            return Poll::Ready(Turn::Checked(outcome));
        }
        let frame = worker.shared.live.frame.load();
        if frame.number == seen {
            worker.viewers.wait(context.waker());
            Poll::Pending
        } else {
            Poll::Ready(Turn::Frame(Arc::clone(&frame)))
        }
    })
    .await
}

/// When a viewer is looked at again, and for how long it may watch unseen. Times come in.
struct Checks {
    /// When to ask; once asked, when to give the question up.
    next_at: Instant,
    /// When it was seen last that the viewer may watch.
    passed_at: Instant,
}

impl Checks {
    /// The viewer was let in.
    fn begin(now: Instant) -> Self {
        Self {
            next_at: now + CHECK_INTERVAL,
            passed_at: now,
        }
    }

    /// The question is out.
    fn asked(&mut self, now: Instant) {
        self.next_at = now + ANSWER_LIMIT;
    }

    /// It may go on.
    fn passed(&mut self, now: Instant) {
        *self = Self::begin(now);
    }

    /// Nobody had time to look.
    ///
    /// # Errors
    /// That has been so for too long.
    fn failed(&mut self, now: Instant) -> Result<(), Stop> {
        if now.saturating_duration_since(self.passed_at) >= UNSEEN_MAX {
            return Err(Stop::Cut);
        }
        self.next_at = now + CHECK_PAUSE;
        Ok(())
    }
}

/// What one viewer has been sent.
struct Seen {
    frame: u64,
    point: u64,
}

impl Seen {
    /// A frame that was made just now is shown to a new viewer; an old one would show the past.
    fn new(frame: &Frame, point: u64) -> Self {
        let is_fresh = frame.number > 0 && frame.made_at.elapsed() < FRESH;
        let frame = if is_fresh { 0 } else { frame.number };
        Self { frame, point }
    }

    /// What the viewer is to be sent: mostly the snapshot alone, which is the same for all.
    fn take<'f>(&mut self, frame: &'f Frame) -> Cow<'f, [u8]> {
        let mut events = Cow::Borrowed(&*frame.snapshot);
        for (number, point) in &frame.points {
            if *number > self.point {
                self.point = *number;
                events.to_mut().extend_from_slice(point);
            }
        }
        self.frame = frame.number;
        events
    }
}

/// Viewers of the whole process.
const VIEWERS_MAX: u32 = 64;
/// How often it is looked whether the viewer may still watch.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long it takes to the next try where nobody had time to look.
const CHECK_PAUSE: Duration = Duration::from_secs(1);
/// How long a viewer may watch without having been looked at; one more answer may be waited for.
const UNSEEN_MAX: Duration = Duration::from_secs(30);
/// How long a frame shows the present.
const FRESH: Duration = Duration::from_millis(900);

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(number: u64, points: &[u64]) -> Frame {
        Frame {
            number,
            made_at: Instant::now(),
            snapshot: format!("s{number};").into_bytes(),
            points: (points.iter())
                .map(|point| (*point, format!("p{point};").into_bytes().into()))
                .collect(),
        }
    }

    #[test]
    fn a_viewer_gets_each_point_once_and_of_the_snapshots_the_newest() {
        let mut seen = Seen::new(&frame(7, &[1, 2]), 2);
        assert_eq!(seen.frame, 0, "the frame is fresh");
        assert_eq!(*seen.take(&frame(7, &[1, 2])), *b"s7;");
        assert_eq!(*seen.take(&frame(11, &[1, 2, 3, 4])), *b"s11;p3;p4;");
        assert_eq!(*seen.take(&frame(12, &[2, 3, 4])), *b"s12;");
        assert_eq!((seen.frame, seen.point), (12, 4));
    }

    #[test]
    fn a_viewer_nobody_has_time_to_look_at_watches_on_for_half_a_minute() {
        let begun = Instant::now();
        let at = |secs| begun + Duration::from_secs(secs);
        let mut checks = Checks::begin(begun);
        assert_eq!(checks.next_at, at(5));
        // Refused, then let through but not answered, then answered.
        assert!(checks.failed(at(5)).is_ok());
        assert_eq!(checks.next_at, at(6));
        checks.asked(at(6));
        assert_eq!(checks.next_at, at(16));
        assert!(checks.failed(at(16)).is_ok());
        checks.asked(at(17));
        checks.passed(at(18));
        assert_eq!(checks.next_at, at(23));
        for second in 23..48 {
            assert!(checks.failed(at(second)).is_ok(), "{second}");
            assert_eq!(checks.next_at, at(second + 1));
        }
        assert!(matches!(checks.failed(at(48)), Err(Stop::Cut)));
    }

    #[test]
    fn viewers_are_bounded_and_come_down() {
        let live = Live::new();
        assert!(!live.is_watched());
        let mut all: Vec<_> = (0..VIEWERS_MAX)
            .map(|_| live.watch().ok().unwrap())
            .collect();
        assert_eq!(live.watch().err().unwrap().code, "too_many_viewers");
        all.pop();
        assert!(live.watch().is_ok());
        all.clear();
        assert!(!live.is_watched());
    }
}
