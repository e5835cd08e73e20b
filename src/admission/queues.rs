//! Owns who waits for what, and hands freed slots to whoever is next. All of it stands under one
//! lock, which a request that does not wait never takes. Never wakes anyone itself: it says who is to
//! be woken once the lock is free.
//!
//! # Why nothing is lost and nobody overtakes
//!
//! Between two holders of the lock, these hold:
//!
//! 1. Every server that somebody in a queue would take is marked contended, and so is the permit counter
//!    while a permit is all that somebody lacks. A newcomer takes no unit of a marked counter, so it
//!    comes here.
//! 2. Nobody waits who could be served, except for units given back since: whoever gave them back saw
//!    the mark in the same instruction and is on its way to this lock.
//!
//! So a freed unit is either seen by the waiter that marks the counter and then looks once more, or
//! its giver sees the mark and serves the waiter. A newcomer that comes here between a release and its
//! giver's arrival serves the others first.
//!
//! One that comes back because its server could not be reached ([`Queues::enter_again`]) has given its
//! permit back and waits like any other, only in front and not for that server. Whoever stands behind it
//! would take any server, so a slot that it passes over is free for them and for nobody before them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use smallvec::SmallVec;

use super::counter::LimitedCounter;
use super::group::{Group, Server};
use super::queue::{Candidate, Queue};
use super::turns::{Ticket, TurnKey};

/// Where a waiting request is to be woken: its worker, and its seat there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeatAddress {
    /// Index of the worker.
    pub worker: usize,
    /// Seat on that worker.
    pub seat: usize,
}

/// Those to be woken after the lock is free.
pub(super) type Called = SmallVec<[SeatAddress; 4]>;

/// The bounds of one model's queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Requests that may wait for the model (`queue.max_size`).
    pub max_size: usize,
    /// The last place at which waiting still makes sense to the client.
    pub max_place: usize,
}

/// Why a request may not wait. Each carries the place it would have had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The router is overloaded.
    Overloaded(usize),
    /// The model's queue is full.
    QueueFull(usize),
    /// The client would have left before its turn.
    TooFarBack(usize),
}

/// What has become of a waiting request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict<S> {
    /// A permit and a slot of this server are its own.
    Served(S),
    /// No server of its group serves any more.
    Unavailable,
}

/// What comes of asking for a slot.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<S> {
    /// A permit and a slot of this server, without waiting.
    Served(S),
    /// It waits, at this place.
    Waits(Ticket, usize),
    Refused(Refusal),
    /// No server of the group serves now.
    Unavailable,
    /// The groups have changed since the asker looked: it is to look again.
    Outdated,
}

/// One who asks.
pub(super) struct Asker<'a, G> {
    pub(super) group: &'a Arc<G>,
    /// Of the table the group was found in.
    pub(super) generation: u64,
    pub(super) key: TurnKey,
    pub(super) address: SeatAddress,
    pub(super) limits: QueueLimits,
}

/// What one brings who comes back.
#[derive(Clone, Copy, Debug)]
pub struct Return<'a, S> {
    /// The ticket it waited with before; `None` if it never did.
    pub ticket: Option<Ticket>,
    /// The server that could not be reached.
    pub shunned: &'a S,
}

/// The router-wide counters the queues work with.
#[derive(Clone, Copy)]
pub(super) struct Counters<'a> {
    pub(super) in_flight: &'a LimitedCounter,
    pub(super) waiting: &'a LimitedCounter,
}

/// All queues.
#[derive(Debug)]
pub(super) struct Queues<G: Group> {
    /// By the name of the group; a queue without anybody in it is removed.
    by_name: HashMap<Box<str>, Queue<G>>,
    /// Of requests that wait no longer and have not looked yet. As many as there are, at most.
    verdicts: HashMap<Ticket, Verdict<G::Server>>,
    next_ticket: Ticket,
    /// Of the table they last followed.
    generation: u64,
}

impl<G: Group> Default for Queues<G> {
    fn default() -> Self {
        Self {
            by_name: HashMap::new(),
            verdicts: HashMap::new(),
            next_ticket: 0,
            generation: 0,
        }
    }
}

impl<G: Group> Queues<G> {
    /// Serves the asker if nobody is before it, else lets it wait, if it may.
    pub(super) fn enter(
        &mut self,
        counters: Counters<'_>,
        asker: &Asker<'_, G>,
        called: &mut Called,
    ) -> Entry<G::Server> {
        if asker.generation < self.generation {
            return Entry::Outdated;
        }
        if let Some(server) = self.try_serve_newcomer(counters, asker.group, called) {
            return Entry::Served(server);
        }
        if !asker.group.is_available() {
            return Entry::Unavailable;
        }
        let (waiting, place, is_first) = match self.by_name.get(asker.group.name()) {
            Some(queue) => {
                let place = queue.place_of_next(asker.key);
                (queue.len(), place, !queue.has_turns())
            }
            None => (0, 1, true),
        };
        if !counters.waiting.try_take() {
            return Entry::Refused(Refusal::Overloaded(place));
        }
        let refusal = if waiting >= asker.limits.max_size {
            Some(Refusal::QueueFull(place))
        } else if place > asker.limits.max_place {
            Some(Refusal::TooFarBack(place))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            counters.waiting.release();
            return Entry::Refused(refusal);
        }
        let ticket = self.push(asker);
        // The servers that others in the queue would take are marked already.
        if is_first {
            self.look_once_more(counters, asker.group, called);
        }
        self.entered(ticket, place)
    }

    /// Takes one back that was served, by a server that could not be reached, and has given its permit
    /// back: in its queue it goes before all who were not served yet, behind those of its kind with older
    /// tickets. It has its old ticket, if it ever had one, and is let in however long the queue is.
    pub(super) fn enter_again(
        &mut self,
        counters: Counters<'_>,
        asker: &Asker<'_, G>,
        back: &Return<'_, G::Server>,
        called: &mut Called,
    ) -> Entry<G::Server> {
        if asker.generation < self.generation {
            return Entry::Outdated;
        }
        if !asker.group.is_available() {
            return Entry::Unavailable;
        }
        let ticket = back.ticket.unwrap_or(self.next_ticket);
        let known = self.by_name.get(asker.group.name());
        let place = known.map_or(1, |queue| queue.place_of_returning(ticket));
        if !counters.waiting.try_take() {
            return Entry::Refused(Refusal::Overloaded(place));
        }
        if back.ticket.is_none() {
            self.next_ticket += 1;
        }
        let queue = self.queue_of(asker.group);
        queue.take_back(ticket, asker.address, back.shunned.clone());
        contend_all(&*queue.group);
        self.serve_all(counters, called);
        self.entered(ticket, place)
    }

    /// Lets one who came back be served by the server it shuns; that one may be well again.
    pub(super) fn forgive(
        &mut self,
        counters: Counters<'_>,
        group: &str,
        ticket: Ticket,
        called: &mut Called,
    ) {
        if let Some(queue) = self.by_name.get_mut(group) {
            queue.forgive(ticket);
            contend_all(&*queue.group);
            self.serve_all(counters, called);
        }
    }

    /// What has become of a waiting request; `None` while it waits.
    pub(super) fn collect(&mut self, ticket: Ticket) -> Option<Verdict<G::Server>> {
        self.verdicts.remove(&ticket)
    }

    /// Takes a request out of its queue, wherever it stands. If a verdict came first, that is the
    /// caller's to deal with.
    pub(super) fn leave(
        &mut self,
        counters: Counters<'_>,
        group: &str,
        key: TurnKey,
        ticket: Ticket,
    ) -> Option<Verdict<G::Server>> {
        let verdict = self.verdicts.remove(&ticket);
        if verdict.is_none()
            && let Some(queue) = self.by_name.get_mut(group)
            && queue.remove(key, ticket)
        {
            counters.waiting.release();
            self.shrunk(counters, group);
        }
        verdict
    }

    /// A slot of `server` was given back, or it has more of them: serves those who wait for it, the
    /// oldest of those who are next in their queues first. Returns whether anybody was served.
    pub(super) fn serve(
        &mut self,
        counters: Counters<'_>,
        server: &G::Server,
        called: &mut Called,
    ) -> bool {
        let mut has_served = false;
        loop {
            // Asks the groups, not the server: it may have joined one since its slot was taken.
            let waits = self.by_name.iter().filter_map(|(name, queue)| {
                let (next, member) = queue.next_for(server)?;
                Some((next, name, member))
            });
            let first = waits.min_by_key(|(next, ..)| *next);
            let Some((next, name, member)) =
                first.map(|(next, name, member)| (next, name.clone(), member.clone()))
            else {
                server.settle();
                return has_served;
            };
            if !take_permit(counters) {
                return has_served;
            }
            if !member.try_take_in_turn() {
                counters.in_flight.release();
                return has_served;
            }
            self.grant(counters, &name, next, member, called);
            has_served = true;
        }
    }

    /// Permits were given back, or anything else may have changed: serves whoever can be served, the
    /// oldest of those who are next in their queues first.
    pub(super) fn serve_all(&mut self, counters: Counters<'_>, called: &mut Called) {
        let mut order: Vec<(Candidate, Box<str>)> = Vec::new();
        while !self.is_empty() {
            if !take_permit(counters) {
                return;
            }
            order.clear();
            order.extend(self.by_name.iter().flat_map(|(name, queue)| {
                let candidates = queue.candidates();
                candidates.map(|candidate| (candidate, name.clone()))
            }));
            order.sort_unstable();
            let served = order.iter().find_map(|(candidate, name)| {
                let server = self.by_name.get_mut(name)?.try_take_for(*candidate)?;
                Some((*candidate, name, server))
            });
            let Some((next, name, server)) = served else {
                counters.in_flight.release();
                break;
            };
            self.grant(counters, name, next, server, called);
        }
        // Whoever still waits lacks a slot.
        counters.in_flight.settle();
    }

    /// Takes a slot for a request that has a permit and lost its server. Whoever can be served is served
    /// first: those who still wait then lack a permit, which this request does not take from them.
    pub(super) fn move_on(
        &mut self,
        counters: Counters<'_>,
        group: &G,
        is_wanted: impl Fn(&G::Server) -> bool,
        called: &mut Called,
    ) -> Option<G::Server> {
        self.serve_all(counters, called);
        let mut wanted = group.servers().iter().filter(|server| is_wanted(server));
        wanted.find(|server| server.try_take_in_turn()).cloned()
    }

    /// Follows a change of the groups, now of `generation`: `resolve` gives what a name means now.
    /// Requests whose group no longer serves are told so, servers that joined serve at once. Word of a
    /// generation that others have already left behind changes nothing.
    pub(super) fn refresh(
        &mut self,
        counters: Counters<'_>,
        generation: u64,
        resolve: impl Fn(&str) -> Option<Arc<G>>,
        called: &mut Called,
    ) {
        if generation < self.generation {
            return;
        }
        self.generation = generation;
        let mut names: Vec<Box<str>> = self.by_name.keys().cloned().collect();
        // The order of a hash map is different in every process.
        names.sort_unstable();
        for name in names {
            match resolve(&name).filter(|group| group.is_available()) {
                Some(group) => {
                    contend_all(&*group);
                    if let Some(queue) = self.by_name.get_mut(&name) {
                        let before = queue.follow(group);
                        self.settle_unwanted(&before);
                    }
                }
                None => self.dissolve(counters, &name, called),
            }
        }
        self.serve_all(counters, called);
    }

    /// The 1-based place of a waiting request now; `None` once it waits no longer.
    pub(super) fn place(&self, group: &str, key: TurnKey, ticket: Ticket) -> Option<usize> {
        self.by_name.get(group)?.place(key, ticket)
    }

    /// Whether nobody waits.
    fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Serves a newcomer that has nobody before it.
    fn try_serve_newcomer(
        &mut self,
        counters: Counters<'_>,
        group: &Arc<G>,
        called: &mut Called,
    ) -> Option<G::Server> {
        if self.is_empty() {
            counters.in_flight.settle();
        } else if counters.in_flight.load().is_contended {
            // A permit given back just now belongs to those who wait.
            self.serve_all(counters, called);
        }
        let queue = self.by_name.get(group.name());
        if queue.is_some_and(Queue::has_turns) {
            return None;
        }
        let mut rotation = usize::try_from(self.next_ticket).unwrap_or(0);
        loop {
            let server = try_take(counters, &**group, &mut rotation)?;
            if !self.is_wanted(&server) {
                server.settle();
                return Some(server);
            }
            // So does a slot that others wait for, whose giver has not come here yet.
            counters.in_flight.release();
            server.release();
            if !self.serve(counters, &server, called) {
                return None;
            }
        }
    }

    /// Marks the servers of a group where nobody but those who came back had waited, and only then looks
    /// again: what was given back before saw no mark. The newcomer is in the queue by now, else serving
    /// somebody before it would take the marks away again.
    fn look_once_more(&mut self, counters: Counters<'_>, group: &Arc<G>, called: &mut Called) {
        contend_all(&**group);
        let queue = self.by_name.get(group.name());
        if counters.in_flight.load().is_contended || queue.is_some_and(|queue| queue.len() > 1) {
            self.serve_all(counters, called);
            return;
        }
        let mut rotation = usize::try_from(self.next_ticket).unwrap_or(0);
        while self.by_name.contains_key(group.name()) {
            let Some(server) = try_take(counters, &**group, &mut rotation) else {
                return;
            };
            // Not its own yet: others may have waited for this server longer.
            counters.in_flight.release();
            server.release();
            if !self.serve(counters, &server, called) {
                return;
            }
        }
    }

    /// Whether anybody who waits would take a slot of `server`.
    fn is_wanted(&self, server: &G::Server) -> bool {
        let mut queues = self.by_name.values();
        queues.any(|queue| queue.next_for(server).is_some())
    }

    /// Nobody waits for `group` any more: its servers lose their marks, unless another group wants them. A
    /// mark that stayed would keep newcomers away while others have room.
    fn settle_unwanted(&self, group: &G) {
        let queues = self.by_name.values();
        let wanted: HashSet<usize> = queues
            .flat_map(|queue| queue.group.servers())
            .map(Server::identity)
            .collect();
        let unwanted = |server: &&G::Server| !wanted.contains(&server.identity());
        group
            .servers()
            .iter()
            .filter(unwanted)
            .for_each(Server::settle);
    }

    fn push(&mut self, asker: &Asker<'_, G>) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.queue_of(asker.group)
            .push(asker.key, ticket, asker.address);
        ticket
    }

    fn queue_of(&mut self, group: &Arc<G>) -> &mut Queue<G> {
        self.by_name
            .entry(group.name().into())
            .or_insert_with(|| Queue::new(Arc::clone(group)))
    }

    /// What has come of entering a queue.
    fn entered(&mut self, ticket: Ticket, place: usize) -> Entry<G::Server> {
        match self.verdicts.remove(&ticket) {
            Some(Verdict::Served(server)) => Entry::Served(server),
            Some(Verdict::Unavailable) => Entry::Unavailable,
            None => Entry::Waits(ticket, place),
        }
    }

    /// Gives `server`, whose slot and permit are taken, to a candidate in the queue of `name`.
    fn grant(
        &mut self,
        counters: Counters<'_>,
        name: &str,
        next: Candidate,
        server: G::Server,
        called: &mut Called,
    ) {
        let queue = self.by_name.get_mut(name);
        let Some((ticket, address)) = queue.and_then(|queue| queue.call(next)) else {
            // A queue without anybody in it is removed, so this cannot be; nothing may leak all the same.
            debug_assert!(false, "an empty queue was served");
            counters.in_flight.release();
            server.release();
            return;
        };
        counters.waiting.release();
        self.verdicts.insert(ticket, Verdict::Served(server));
        called.push(address);
        self.shrunk(counters, name);
    }

    fn dissolve(&mut self, counters: Counters<'_>, name: &str, called: &mut Called) {
        if let Some(mut queue) = self.by_name.remove(name) {
            while let Some((ticket, address)) = queue.pop() {
                counters.waiting.release();
                self.verdicts.insert(ticket, Verdict::Unavailable);
                called.push(address);
            }
            self.settle_unwanted(&queue.group);
        }
    }

    /// After somebody left the queue of `name`.
    fn shrunk(&mut self, counters: Counters<'_>, name: &str) {
        let Some(queue) = self.by_name.get(name) else {
            return;
        };
        if queue.is_empty()
            && let Some(queue) = self.by_name.remove(name)
        {
            self.settle_unwanted(&queue.group);
        }
        if self.is_empty() {
            counters.in_flight.settle();
        }
    }
}

fn contend_all<G: Group>(group: &G) {
    for server in group.servers() {
        server.contend();
    }
}

/// Takes a permit and a slot, or neither.
fn try_take<G: Group>(
    counters: Counters<'_>,
    group: &G,
    rotation: &mut usize,
) -> Option<G::Server> {
    if !take_permit(counters) {
        return None;
    }
    let server = group.try_take_in_turn(rotation).cloned();
    if server.is_none() {
        counters.in_flight.release();
    }
    server
}

/// Takes a permit; if there is none, marks that one is wanted.
fn take_permit(counters: Counters<'_>) -> bool {
    counters.in_flight.try_take_in_turn() || {
        counters.in_flight.contend();
        counters.in_flight.try_take_in_turn()
    }
}
