//! A node at which every request stays until the test lets it go, and which knows at any time how
//! many it is working on. Requests are told apart by their `X-Tag`.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::node::{Call, Presence, ScriptedNode};
use super::payload::fixed;
use super::wait::DEADLINE;

/// The node.
pub struct Desk {
    node: ScriptedNode,
    book: Arc<Book>,
}

#[derive(Default)]
struct Book {
    page: Mutex<Page>,
    changed: Condvar,
}

#[derive(Default)]
struct Page {
    /// Tags in the order in which their requests came.
    arrived: Vec<String>,
    /// Those being worked on.
    present: Vec<(String, Presence)>,
    present_max: usize,
    released: HashSet<String>,
    is_open: bool,
}

impl Desk {
    /// A node that answers with [`answer_with_tag`].
    pub fn start() -> Self {
        Self::answering(answer_with_tag)
    }

    /// A node that runs `answer` for a request that was let go; it is given the tag.
    pub fn answering(answer: impl Fn(&mut Call, &str) + Send + Sync + 'static) -> Self {
        let book = Arc::new(Book::default());
        let own = Arc::clone(&book);
        let node = ScriptedNode::start(move |call| {
            let tag = call.field("x-tag").unwrap_or_default();
            own.arrive(call, &tag);
            if own.stay(call, &tag) {
                answer(call, &tag);
            } else {
                call.close();
            }
        });
        Self { node, book }
    }

    /// A node that never makes a request wait for the test: `work` runs at once and says itself, by the
    /// call it is given, when it has nothing left to do but to send the end of its answer.
    pub fn working(work: impl Fn(&mut Call, &str, &dyn Fn()) + Send + Sync + 'static) -> Self {
        let book = Arc::new(Book::default());
        let own = Arc::clone(&book);
        let node = ScriptedNode::start(move |call| {
            let tag = call.field("x-tag").unwrap_or_default();
            own.arrive(call, &tag);
            work(call, &tag, &|| own.depart(&tag));
            own.depart(&tag);
        });
        Self { node, book }
    }

    pub fn node(&self) -> &ScriptedNode {
        &self.node
    }

    /// The tags of all requests so far, in the order in which they came.
    pub fn arrived(&self) -> Vec<String> {
        self.book.page.lock().unwrap().arrived.clone()
    }

    /// The most requests that were worked on at once: those that were neither let go nor left.
    pub fn present_max(&self) -> usize {
        self.book.page.lock().unwrap().present_max
    }

    /// Waits until the request with this tag is here.
    #[track_caller]
    pub fn expect(&self, tag: &str) {
        let is_here = self
            .book
            .wait(|page| page.arrived.iter().any(|here| here == tag));
        assert!(
            is_here,
            "{tag} is not here within {DEADLINE:?}, only {:?}",
            self.arrived()
        );
    }

    /// Waits until this many requests have come, and tells which.
    #[track_caller]
    pub fn expect_count(&self, count: usize) -> Vec<String> {
        let are_here = self.book.wait(|page| page.arrived.len() >= count);
        let arrived = self.arrived();
        assert!(are_here, "not {count} within {DEADLINE:?}: {arrived:?}");
        arrived
    }

    /// Lets a request go, be it here already or not.
    pub fn release(&self, tag: &str) {
        self.book
            .page
            .lock()
            .unwrap()
            .released
            .insert(tag.to_owned());
        self.book.changed.notify_all();
    }

    /// Waits until the request is here, then lets it go.
    #[track_caller]
    pub fn serve(&self, tag: &str) {
        self.expect(tag);
        self.release(tag);
    }

    /// Lets everything go from now on.
    pub fn open(&self) {
        self.book.page.lock().unwrap().is_open = true;
        self.book.changed.notify_all();
    }
}

impl Book {
    fn arrive(&self, call: &Call, tag: &str) {
        let mut page = self.page.lock().unwrap();
        page.present.push((tag.to_owned(), call.presence()));
        // Who has left is known to the kernel before it is to the script that waits for it; this very
        // request may have been left before anybody looked at it.
        page.present.retain(|(_, presence)| !presence.has_left());
        page.present_max = page.present_max.max(page.present.len());
        page.arrived.push(tag.to_owned());
        self.changed.notify_all();
    }

    /// Waits until the request is let go; false when the router left first.
    fn stay(&self, call: &Call, tag: &str) -> bool {
        let presence = call.presence();
        let mut page = self.page.lock().unwrap();
        let is_released = loop {
            if page.is_open || page.released.contains(tag) {
                break true;
            }
            if presence.has_left() {
                break false;
            }
            page = self
                .changed
                .wait_timeout(page, Duration::from_millis(20))
                .unwrap()
                .0;
        };
        drop(page);
        self.depart(tag);
        is_released
    }

    fn depart(&self, tag: &str) {
        let mut page = self.page.lock().unwrap();
        page.present.retain(|(other, _)| other != tag);
    }

    fn wait(&self, condition: impl Fn(&Page) -> bool) -> bool {
        let until = Instant::now() + DEADLINE;
        let mut page = self.page.lock().unwrap();
        while !condition(&page) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            page = self.changed.wait_timeout(page, left).unwrap().0;
        }
        true
    }
}

/// A small JSON document with the tag in it.
pub fn answer_with_tag(call: &mut Call, tag: &str) {
    call.send(&fixed(format!(r#"{{"tag":"{tag}"}}"#).as_bytes()));
}
