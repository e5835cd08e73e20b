//! Where exchanges of one worker wait for the control side. Owns the places and their generations; never
//! leaves its thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::call::Kind;
use super::{Answer, Outcome};

/// The places of one worker.
pub(in crate::proxy) struct Desk {
    places: RefCell<Vec<Place>>,
}

/// Names a place as long as one exchange has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    place: u32,
    generation: u32,
}

#[derive(Default)]
struct Place {
    /// Counts the exchanges that have had it, so that what comes too late for one is not taken for the
    /// answer of the next.
    generation: u32,
    /// Of what it is taken by.
    taken_by: Option<Kind>,
    waker: Option<Waker>,
    outcome: Option<Outcome>,
}

/// An exchange that waits at a place; gives it up when dropped.
pub(super) struct Waiting<'d> {
    desk: &'d Desk,
    ticket: Ticket,
}

impl Desk {
    pub(in crate::proxy) const fn new() -> Self {
        Self {
            places: RefCell::new(Vec::new()),
        }
    }

    /// A free place; none while as many exchanges wait for an answer of this kind as may.
    pub(super) fn take_place(&self, kind: Kind) -> Option<Waiting<'_>> {
        let mut places = self.places.borrow_mut();
        let own = places.iter().filter(|place| place.taken_by == Some(kind));
        if own.count() >= kind.places() {
            return None;
        }
        let index = match places.iter().position(|place| place.taken_by.is_none()) {
            Some(index) => index,
            None => {
                places.push(Place::default());
                places.len() - 1
            }
        };
        let place = places.get_mut(index)?;
        place.taken_by = Some(kind);
        Some(Waiting {
            desk: self,
            ticket: Ticket {
                place: u32::try_from(index).ok()?,
                generation: place.generation,
            },
        })
    }

    /// Hands an answer to whoever waits for it, if anyone still does.
    pub(in crate::proxy) fn answer(&self, answer: Answer) {
        let waker = self.with_place(answer.ticket, |place| {
            place.outcome = Some(answer.outcome);
            place.waker.take()
        });
        // Not while the places are borrowed.
        if let Some(waker) = waker.flatten() {
            waker.wake();
        }
    }

    fn with_place<R>(&self, ticket: Ticket, act: impl FnOnce(&mut Place) -> R) -> Option<R> {
        let mut places = self.places.borrow_mut();
        let place = places.get_mut(ticket.place as usize)?;
        let is_meant = place.taken_by.is_some() && place.generation == ticket.generation;
        is_meant.then(|| act(place))
    }
}

impl Waiting<'_> {
    pub(super) fn ticket(&self) -> Ticket {
        self.ticket
    }
}

impl Future for Waiting<'_> {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = self.desk.with_place(self.ticket, |place| {
            if place.outcome.is_none() {
                place.waker = Some(context.waker().clone());
            }
            place.outcome.take()
        });
        match outcome.flatten() {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let given_up = self.desk.with_place(self.ticket, |place| {
            let generation = place.generation.wrapping_add(1);
            std::mem::replace(
                place,
                Place {
                    generation,
                    ..Place::default()
                },
            )
        });
        // An answer that nobody read goes with it, outside the borrow.
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use crate::openai::ApiError;

    use super::*;

    fn poll(waiting: &mut Waiting<'_>) -> Poll<Outcome> {
        Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn answer_to(ticket: Ticket) -> Answer {
        Answer {
            ticket,
            outcome: Err(ApiError::not_found()),
        }
    }

    #[test]
    fn an_answer_reaches_the_exchange_it_is_for() {
        let desk = Desk::new();
        let mut first = desk.take_place(Kind::Request).unwrap();
        let mut second = desk.take_place(Kind::Request).unwrap();
        assert_ne!(first.ticket(), second.ticket());
        assert!(poll(&mut first).is_pending() && poll(&mut second).is_pending());
        desk.answer(answer_to(second.ticket()));
        assert!(poll(&mut first).is_pending());
        assert!(poll(&mut second).is_ready());
    }

    #[test]
    fn an_answer_that_comes_too_late_reaches_nobody() {
        let desk = Desk::new();
        let gone = desk.take_place(Kind::Request).unwrap();
        let late = answer_to(gone.ticket());
        drop(gone);
        let mut next = desk.take_place(Kind::Request).unwrap();
        assert_eq!(
            next.ticket().place,
            late.ticket.place,
            "the place is used again"
        );
        desk.answer(late);
        assert!(poll(&mut next).is_pending());
    }

    #[test]
    fn an_answer_nobody_has_read_does_not_stay_in_its_place() {
        let desk = Desk::new();
        let gone = desk.take_place(Kind::Request).unwrap();
        desk.answer(answer_to(gone.ticket()));
        drop(gone);
        assert!(poll(&mut desk.take_place(Kind::Request).unwrap()).is_pending());
    }

    #[test]
    fn each_kind_has_places_of_its_own_and_they_come_back() {
        let desk = Desk::new();
        let kinds = [Kind::Request, Kind::Report, Kind::More];
        let mut all: Vec<_> = kinds
            .iter()
            .flat_map(|kind| (0..kind.places()).map(|_| desk.take_place(*kind).unwrap()))
            .collect();
        for kind in kinds {
            assert!(desk.take_place(kind).is_none(), "{kind:?}");
        }
        // One of the last kind.
        all.pop();
        assert!(desk.take_place(Kind::Report).is_none(), "none is theirs");
        assert!(desk.take_place(Kind::More).is_some());
    }
}
