//! Owns what one worker saw within the last hour, by minute. Written by that worker only; whoever reads
//! adds up the minutes that are recent enough. Reads no clock: the minute comes in.

use std::time::Duration;

use super::worker::Tally;

/// Sums over the last hour (spec section 9, `/api/queue/stats`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HourTotals {
    /// Requests that waited.
    pub waits: u64,
    /// How long they waited in all, in microseconds.
    pub wait_us: u64,
    /// Requests a node worked on.
    pub services: u64,
    /// How long they held their slots in all, in microseconds.
    pub service_us: u64,
    /// Requests that waited too long.
    pub timeouts: u64,
    /// Requests that were not let in.
    pub rejections: u64,
}

/// Something that counts towards the last hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HourEvent {
    /// A request waited so long.
    Waited(Duration),
    /// A request held its slot so long.
    Served(Duration),
    /// A request waited too long.
    TimedOut,
    /// A request was not let in.
    Rejected,
}

/// The minutes of the last hour; each place serves one minute of every hour in turn.
#[derive(Debug)]
pub(super) struct Hour {
    minutes: Box<[Minute; MINUTES]>,
}

#[derive(Debug, Default)]
struct Minute {
    /// The minute the sums belong to, counted from anywhere.
    number: Tally,
    waits: Tally,
    wait_us: Tally,
    services: Tally,
    service_us: Tally,
    timeouts: Tally,
    rejections: Tally,
}

impl Default for Hour {
    fn default() -> Self {
        Self {
            minutes: Box::new(std::array::from_fn(|_| Minute::default())),
        }
    }
}

impl Hour {
    /// Counts an event of minute `now`. A reader in this very moment may see a minute that is being
    /// begun half empty; nothing else is lost.
    pub(super) fn count(&self, now: u64, event: HourEvent) {
        let Some(minute) = self.minutes.get((now % MINUTES as u64) as usize) else {
            return;
        };
        if minute.number.load() != now {
            minute.begin(now);
        }
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        match event {
            HourEvent::Waited(wait) => {
                minute.waits.add(1);
                minute.wait_us.add(micros(wait));
            }
            HourEvent::Served(held) => {
                minute.services.add(1);
                minute.service_us.add(micros(held));
            }
            HourEvent::TimedOut => minute.timeouts.add(1),
            HourEvent::Rejected => minute.rejections.add(1),
        }
    }

    /// Adds the hour that ends with minute `now` to `totals`.
    pub(super) fn add_to(&self, now: u64, totals: &mut HourTotals) {
        for minute in self.minutes.iter() {
            let number = minute.number.load();
            if number > now || now - number >= MINUTES as u64 {
                continue;
            }
            totals.waits += minute.waits.load();
            totals.wait_us += minute.wait_us.load();
            totals.services += minute.services.load();
            totals.service_us += minute.service_us.load();
            totals.timeouts += minute.timeouts.load();
            totals.rejections += minute.rejections.load();
        }
    }
}

impl Minute {
    fn begin(&self, number: u64) {
        let sums = [
            &self.waits,
            &self.wait_us,
            &self.services,
            &self.service_us,
            &self.timeouts,
            &self.rejections,
        ];
        for sum in sums {
            sum.set(0);
        }
        self.number.set(number);
    }
}

impl HourTotals {
    /// Mean wait in milliseconds, 0 if nobody waited.
    #[must_use]
    pub fn mean_wait_ms(&self) -> f64 {
        mean_ms(self.wait_us, self.waits)
    }

    /// Mean time a slot was held in milliseconds, 0 if none was.
    #[must_use]
    pub fn mean_service_ms(&self) -> f64 {
        mean_ms(self.service_us, self.services)
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a mean of microseconds needs no 53 bits"
)]
fn mean_ms(total_us: u64, count: u64) -> f64 {
    if count == 0 {
        0.0
    } else {
        total_us as f64 / count as f64 / 1000.0
    }
}

const MINUTES: usize = 60;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn totals(hour: &Hour, now: u64) -> HourTotals {
        let mut totals = HourTotals::default();
        hour.add_to(now, &mut totals);
        totals
    }

    #[test]
    fn events_count_for_an_hour_and_then_no_more() {
        let hour = Hour::default();
        hour.count(1000, HourEvent::Waited(Duration::from_millis(30)));
        hour.count(1000, HourEvent::Waited(Duration::from_millis(10)));
        hour.count(1001, HourEvent::Served(Duration::from_millis(5)));
        hour.count(1001, HourEvent::TimedOut);
        hour.count(1030, HourEvent::Rejected);
        let all = totals(&hour, 1059);
        assert_eq!((all.waits, all.services), (2, 1));
        assert_eq!((all.timeouts, all.rejections), (1, 1));
        assert!((all.mean_wait_ms() - 20.0).abs() < 1e-9);
        assert!((all.mean_service_ms() - 5.0).abs() < 1e-9);
        let later = totals(&hour, 1060);
        assert_eq!((later.waits, later.services), (0, 1));
        assert_eq!(totals(&hour, 1090), HourTotals::default());
    }

    #[test]
    fn a_place_is_begun_anew_for_a_later_minute() {
        let hour = Hour::default();
        hour.count(7, HourEvent::Rejected);
        hour.count(67, HourEvent::Rejected);
        assert_eq!(totals(&hour, 67).rejections, 1);
    }

    #[test]
    fn nothing_counted_is_nothing_to_divide_by() {
        let none = totals(&Hour::default(), 0);
        assert!(none.mean_wait_ms().abs() < f64::EPSILON);
    }
}
