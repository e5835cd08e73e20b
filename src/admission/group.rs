//! Owns what the queues need to know of nodes and models, which live above them. Never names one.

use std::fmt;

/// Who serves: a node.
///
/// Slots are counted elsewhere; a clone is another reference to the same server.
pub trait Server: Clone + fmt::Debug {
    /// Takes a slot if one is free, even from under those who wait: only the queues call this, for
    /// whoever is next. `false` also when it does not serve at all now.
    fn try_take_in_turn(&self) -> bool;
    /// Gives a slot back; `true` if somebody may wait for it.
    fn release(&self) -> bool;
    /// Somebody waits from now on: newcomers find no slot.
    fn contend(&self);
    /// Nobody waits any more.
    fn settle(&self);
    /// The same number for the same server only, whichever reference is asked.
    fn identity(&self) -> usize;
}

/// Who waiting requests wait for: the nodes of a model.
pub trait Group: Sized + fmt::Debug {
    /// One of its servers.
    type Server: Server;

    /// The name its queue goes by.
    fn name(&self) -> &str;
    /// All its servers.
    fn servers(&self) -> &[Self::Server];
    /// Its own reference to `server`, if that is one of its servers.
    fn member(&self, server: &Self::Server) -> Option<&Self::Server>;
    /// Takes a slot of the preferred server, as [`Server::try_take_in_turn`] does; `rotation` is kept
    /// between calls and spreads the choice among equals.
    fn try_take_in_turn(&self, rotation: &mut usize) -> Option<&Self::Server>;
    /// Whether any of its servers serves at all now.
    fn is_available(&self) -> bool;
    /// How many wait for it from now on.
    fn publish_waiting(&self, waiting: u32);
}
