//! Every interleaving of the shared counter, as loom explores it. The sentence in `counter` that a
//! unit is only taken below the limit stands or falls here. Run with:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test --lib loom_models
//! ```

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use super::LimitedCounter;

/// Takes and gives back once, watching how many holders there are in between.
fn hold_once(counter: &LimitedCounter, holders: &AtomicU32, limit: u32) -> bool {
    if !counter.try_take() {
        return false;
    }
    let others = holders.fetch_add(1, Ordering::SeqCst);
    assert!(others < limit, "{} holders of {limit} units", others + 1);
    holders.fetch_sub(1, Ordering::SeqCst);
    counter.release();
    true
}

#[test]
fn rivals_never_hold_more_units_than_the_limit_and_all_come_back() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(1));
        let holders = Arc::new(AtomicU32::new(0));
        let rivals: Vec<_> = (0..2)
            .map(|_| {
                let (counter, holders) = (Arc::clone(&counter), Arc::clone(&holders));
                thread::spawn(move || hold_once(&counter, &holders, 1))
            })
            .collect();
        let mine = hold_once(&counter, &holders, 1);
        let theirs = rivals.into_iter().map(|rival| rival.join().unwrap());
        assert!(
            theirs.fold(mine, |any, one| any | one),
            "nobody got the free unit"
        );
        assert_eq!(counter.load().count, 0);
    });
}

#[test]
fn two_rivals_for_two_units_both_get_one() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(2));
        let rival = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.try_take())
        };
        assert!(counter.try_take());
        assert!(rival.join().unwrap());
        assert_eq!(counter.load().count, 2);
        assert!(!counter.try_take());
    });
}

#[test]
fn a_limit_lowered_during_a_take_is_never_passed_afterwards() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(2));
        assert!(counter.try_take());
        let rival = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.try_take())
        };
        counter.set_limit(1);
        let seen = counter.load();
        let after_lowering = counter.try_take();
        let rival_took = rival.join().unwrap();
        assert_eq!(seen.limit, 1);
        assert!(
            !after_lowering,
            "a unit was handed out beyond the lowered limit"
        );
        // A take that came first keeps its unit; one that came after got none.
        assert_eq!(counter.load().count, 1 + u32::from(rival_took));
        assert_eq!(
            seen.count,
            counter.load().count,
            "a take succeeded after the lowering"
        );
    });
}

#[test]
fn a_release_beside_a_change_of_limit_loses_neither() {
    loom::model(|| {
        let counter = Arc::new(LimitedCounter::new(1));
        assert!(counter.try_take());
        let holder = {
            let counter = Arc::clone(&counter);
            thread::spawn(move || counter.release())
        };
        counter.set_limit(3);
        holder.join().unwrap();
        let end = counter.load();
        assert_eq!((end.count, end.limit), (0, 3));
    });
}
