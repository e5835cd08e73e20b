//! Owns one worker's handle on admission, and the guards made from it: permits, slots handed over, and
//! places in a queue. Everything here stays on its worker; only the counters and the queues behind it
//! are shared.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::group::{Group, Server};
use super::queues::{
    Asker, Called, Counters, Entry, QueueLimits, Queues, Refusal, Return, SeatAddress, Verdict,
};
use super::turns::{Ticket, TurnKey};
use super::{Admission, Backpressure};

/// One worker's handle on [`Admission`]; guards made from it count references without touching shared
/// memory.
#[derive(Debug)]
pub struct LocalAdmission<G: Group> {
    inner: Rc<Inner<G>>,
}

#[derive(Debug)]
struct Inner<G: Group> {
    shared: Arc<Admission<G>>,
    worker: usize,
    seats: RefCell<Seats>,
}

/// The right of one request to be in flight; given back exactly once, on drop, to whoever waits for
/// it.
#[derive(Debug)]
#[must_use = "dropping the permit gives it back at once"]
pub struct Permit<G: Group> {
    admission: LocalAdmission<G>,
}

/// A slot that was taken on behalf of a request; given back on drop, to whoever waits for it.
#[derive(Debug)]
#[must_use = "dropping the slot gives it back at once"]
pub struct Served<G: Group> {
    admission: LocalAdmission<G>,
    server: Option<G::Server>,
}

/// The place of one waiting request; left on drop. What was handed over in that very moment goes on to
/// the next.
#[derive(Debug)]
#[must_use = "dropping the place leaves the queue at once"]
pub struct Place<G: Group> {
    admission: LocalAdmission<G>,
    group: Box<str>,
    key: TurnKey,
    ticket: Ticket,
    /// Whether the turn has not come yet.
    is_waiting: bool,
    seat: usize,
    place_at_entry: usize,
}

/// What comes of asking for admission.
#[derive(Debug)]
pub enum Admittance<G: Group> {
    /// In flight at once.
    Served(Permit<G>, Served<G>),
    /// In a queue.
    Waits(Place<G>),
    /// Not let in.
    Refused(Refusal),
    /// No node of the model serves now.
    Unavailable,
    /// The node table has changed since the model was looked up: look again.
    Outdated,
}

/// How waiting has ended.
#[derive(Debug)]
pub enum Turn<G: Group> {
    /// It is this request's turn.
    Served(Permit<G>, Served<G>),
    /// No node of the model serves any more.
    Unavailable,
}

/// What a request asks admission for.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a, G> {
    /// The model, of the node table of `generation`.
    pub group: &'a Arc<G>,
    /// The generation of that table.
    pub generation: u64,
    /// Whose turn it counts as.
    pub key: TurnKey,
    /// How long a queue it may join.
    pub limits: QueueLimits,
}

impl<G: Group> Clone for LocalAdmission<G> {
    fn clone(&self) -> Self {
        Self {
            inner: Rc::clone(&self.inner),
        }
    }
}

impl<G: Group> LocalAdmission<G> {
    /// The handle of the worker with this index. It stays on the thread that made it.
    #[must_use]
    pub fn new(shared: Arc<Admission<G>>, worker: usize) -> Self {
        Self {
            inner: Rc::new(Inner {
                shared,
                worker,
                seats: RefCell::default(),
            }),
        }
    }

    /// The shared counters, for reading.
    #[must_use]
    pub fn shared(&self) -> &Admission<G> {
        &self.inner.shared
    }

    /// Lets a request in unless `max_concurrent` are in flight or somebody waits for that to change.
    /// Takes no lock. What it does not let in may still be served by [`ask`](Self::ask).
    pub fn try_enter(&self) -> Option<Permit<G>> {
        self.shared()
            .in_flight
            .try_take()
            .then(|| self.permit_taken())
    }

    /// Lets a request in if a slot is free and nobody is before it, else into the queue of its model, if
    /// it may wait.
    pub fn ask(&self, demand: &Demand<'_, G>) -> Admittance<G> {
        self.enter(demand, Queues::enter)
    }

    /// Lets a request back into the queue, in front, that was served by a server which cannot be reached.
    /// It must have given its permit back; a slot of that server it may keep, so that nobody else is
    /// given it. It is served by any other server; the bounds in `demand` do not hold for it, but the
    /// number of all who wait stays bounded.
    pub fn ask_again(&self, demand: &Demand<'_, G>, back: &Return<'_, G::Server>) -> Admittance<G> {
        self.enter(demand, |queues, counters, asker, called| {
            queues.enter_again(counters, asker, back, called)
        })
    }

    fn enter(
        &self,
        demand: &Demand<'_, G>,
        act: impl FnOnce(&mut Queues<G>, Counters<'_>, &Asker<'_, G>, &mut Called) -> Entry<G::Server>,
    ) -> Admittance<G> {
        let seat = self.inner.seats.borrow_mut().take();
        let asker = Asker {
            group: demand.group,
            generation: demand.generation,
            key: demand.key,
            address: SeatAddress {
                worker: self.inner.worker,
                seat,
            },
            limits: demand.limits,
        };
        let mut called = Called::new();
        let entry = self
            .shared()
            .with_queues(|queues, counters| act(queues, counters, &asker, &mut called));
        self.call(&called);
        if let Entry::Waits(ticket, place_at_entry) = entry {
            return Admittance::Waits(Place {
                admission: self.clone(),
                group: demand.group.name().into(),
                key: demand.key,
                ticket,
                is_waiting: true,
                seat,
                place_at_entry,
            });
        }
        self.leave_seat(seat);
        match entry {
            Entry::Served(server) => {
                Admittance::Served(self.permit_taken(), self.slot_taken(server))
            }
            Entry::Refused(refusal) => Admittance::Refused(refusal),
            Entry::Outdated => Admittance::Outdated,
            Entry::Waits(..) | Entry::Unavailable => Admittance::Unavailable,
        }
    }

    /// A slot of `server` was given back while somebody waited: hands it over.
    pub fn slot_freed(&self, server: &G::Server) {
        let mut called = Called::new();
        self.shared()
            .with_queues(|queues, counters| queues.serve(counters, server, &mut called));
        self.call(&called);
    }

    /// A slot of another server for a request that has a permit and lost its own, although others may
    /// wait: those lack a permit.
    pub fn move_on(&self, group: &G, is_wanted: impl Fn(&G::Server) -> bool) -> Option<Served<G>> {
        let mut called = Called::new();
        let server = self.shared().with_queues(|queues, counters| {
            queues.move_on(counters, group, is_wanted, &mut called)
        });
        self.call(&called);
        server.map(|server| self.slot_taken(server))
    }

    /// The node table, now of `generation`, or the state of a node has changed: waiting requests follow.
    /// `resolve` gives what a model's name means now.
    pub fn refresh(&self, generation: u64, resolve: impl Fn(&str) -> Option<Arc<G>>) {
        let mut called = Called::new();
        self.shared().with_queues(|queues, counters| {
            queues.refresh(counters, generation, resolve, &mut called);
        });
        self.call(&called);
    }

    /// The limits have been replaced: serves those who waited for what there is more of now. Once for all
    /// workers would do; doing it on each is harmless.
    pub fn limits_changed(&self) {
        self.serve_all();
    }

    /// The request on this seat of this worker is to look whether its turn has come.
    pub fn wake(&self, seat: usize) {
        let waker = self.inner.seats.borrow_mut().call(seat);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// All waiting requests of this worker are to look. What a full mailbox could not deliver is found
    /// so.
    pub fn wake_all(&self) {
        let seat_count = self.inner.seats.borrow().seats.len();
        (0..seat_count).for_each(|seat| self.wake(seat));
    }

    /// The state now.
    #[must_use]
    pub fn backpressure(&self) -> Backpressure {
        self.shared().backpressure()
    }

    /// The guard of a permit that was taken.
    pub(super) fn permit_taken(&self) -> Permit<G> {
        Permit {
            admission: self.clone(),
        }
    }

    /// The guard of a slot that was taken.
    pub(super) fn slot_taken(&self, server: G::Server) -> Served<G> {
        Served {
            admission: self.clone(),
            server: Some(server),
        }
    }

    /// Serves whoever can be served.
    fn serve_all(&self) {
        let mut called = Called::new();
        self.shared()
            .with_queues(|queues, counters| queues.serve_all(counters, &mut called));
        self.call(&called);
    }

    fn leave_seat(&self, seat: usize) {
        let waker = self.inner.seats.borrow_mut().give_back(seat);
        // Only now: it may hold the last of a task that sits here too.
        drop(waker);
    }

    /// Wakes those whose turn has come, after the lock is free.
    fn call(&self, called: &Called) {
        for address in called {
            if address.worker == self.inner.worker {
                self.wake(address.seat);
            } else {
                self.shared().wake_elsewhere(*address);
            }
        }
    }
}

impl<G: Group> Place<G> {
    /// The 1-based place it had when it began to wait.
    #[must_use]
    pub fn at_entry(&self) -> usize {
        self.place_at_entry
    }

    /// What it is known by, should it have to come back.
    #[must_use]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The 1-based place now; `None` if the turn has just come.
    #[must_use]
    pub fn now(&self) -> Option<usize> {
        if !self.is_waiting {
            return None;
        }
        self.admission
            .shared()
            .with_queues(|queues, _| queues.place(&self.group, self.key, self.ticket))
    }

    /// The server shunned since it came back may be given to it again.
    pub fn forgive(&self) {
        let mut called = Called::new();
        self.admission.shared().with_queues(|queues, counters| {
            queues.forgive(counters, &self.group, self.ticket, &mut called);
        });
        self.admission.call(&called);
    }

    /// Ready when the turn has come; then never again.
    pub fn poll_turn(&mut self, context: &Context<'_>) -> Poll<Turn<G>> {
        let seats = &self.admission.inner.seats;
        let (is_called, _replaced) = seats.borrow_mut().listen(self.seat, context.waker());
        if !(self.is_waiting && is_called) {
            return Poll::Pending;
        }
        let verdict = self
            .admission
            .shared()
            .with_queues(|queues, _| queues.collect(self.ticket));
        match verdict {
            None => Poll::Pending,
            Some(verdict) => {
                self.is_waiting = false;
                Poll::Ready(self.turn(verdict))
            }
        }
    }

    fn turn(&self, verdict: Verdict<G::Server>) -> Turn<G> {
        match verdict {
            Verdict::Served(server) => Turn::Served(
                self.admission.permit_taken(),
                self.admission.slot_taken(server),
            ),
            Verdict::Unavailable => Turn::Unavailable,
        }
    }
}

impl<G: Group> Served<G> {
    /// The server.
    #[must_use]
    pub fn server(&self) -> Option<&G::Server> {
        self.server.as_ref()
    }

    /// Takes the slot over: from now on the caller's guard gives it back, and calls
    /// [`LocalAdmission::slot_freed`] if [`Server::release`] says so.
    #[must_use]
    pub fn into_server(mut self) -> Option<G::Server> {
        self.server.take()
    }
}

impl<G: Group> Drop for Permit<G> {
    fn drop(&mut self) {
        let admission = &self.admission;
        if admission.shared().in_flight.release() {
            admission.serve_all();
        }
    }
}

impl<G: Group> Drop for Served<G> {
    fn drop(&mut self) {
        if let Some(server) = self.server.take()
            && server.release()
        {
            self.admission.slot_freed(&server);
        }
    }
}

impl<G: Group> Drop for Place<G> {
    fn drop(&mut self) {
        if self.is_waiting {
            let verdict = self.admission.shared().with_queues(|queues, counters| {
                queues.leave(counters, &self.group, self.key, self.ticket)
            });
            // Handed over in this very moment: the guards give it to the next.
            drop(verdict.map(|verdict| self.turn(verdict)));
        }
        self.admission.leave_seat(self.seat);
    }
}

/// Where the waiting requests of one worker are woken.
#[derive(Debug, Default)]
struct Seats {
    seats: Vec<Seat>,
    vacant: Vec<usize>,
}

#[derive(Debug, Default)]
struct Seat {
    waker: Option<Waker>,
    /// Whether to look what has become of the request. A call meant for somebody who sat here before
    /// only makes it look for nothing.
    is_called: bool,
}

impl Seats {
    fn take(&mut self) -> usize {
        self.vacant.pop().unwrap_or_else(|| {
            self.seats.push(Seat::default());
            self.seats.len() - 1
        })
    }

    fn give_back(&mut self, seat: usize) -> Option<Waker> {
        let place = self.seats.get_mut(seat)?;
        let left = std::mem::take(place);
        self.vacant.push(seat);
        left.waker
    }

    fn call(&mut self, seat: usize) -> Option<Waker> {
        let seat = self.seats.get_mut(seat)?;
        seat.is_called = true;
        seat.waker.take()
    }

    /// Remembers whom to wake; whether the seat was called since it was asked last, and who was to be
    /// woken before.
    fn listen(&mut self, seat: usize, waker: &Waker) -> (bool, Option<Waker>) {
        let Some(seat) = self.seats.get_mut(seat) else {
            return (false, None);
        };
        let known = seat.waker.as_ref();
        let replaced = if known.is_some_and(|known| known.will_wake(waker)) {
            None
        } else {
            seat.waker.replace(waker.clone())
        };
        (std::mem::take(&mut seat.is_called), replaced)
    }
}
