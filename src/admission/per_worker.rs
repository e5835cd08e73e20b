//! Owns the pattern by which one worker holds something all workers share. Never crosses threads.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

/// One worker's reference to shared state. A clone counts on this core alone, so guards that hold
/// one do not make all cores write the same reference count.
#[derive(Debug)]
pub(crate) struct PerWorker<T>(Rc<Holder<T>>);

#[derive(Debug)]
struct Holder<T>(Arc<T>);

impl<T> PerWorker<T> {
    pub(crate) fn new(shared: Arc<T>) -> Self {
        Self(Rc::new(Holder(shared)))
    }
}

impl<T> Clone for PerWorker<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Deref for PerWorker<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.0
    }
}
