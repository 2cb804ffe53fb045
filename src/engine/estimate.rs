//! Measured times of a model's work, from which it is estimated how long a request would take.
//!
//! This file owns the averages. [`admission`](super::admission) asks them before a request waits for anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::caller::{Caller, CallerId};

/// Share of the latest measurement in an average.
const WEIGHT: f64 = 0.2;

/// Factor on estimates for images. Times grow with the load that is just being admitted, and what is admitted should be
/// answered.
const MARGIN: f64 = 1.5;

/// Measurements before an average counts. The first ones of a model are slower than all others.
const FEWEST: u32 = 3;

/// Age of the latest measurement at which an average counts no more. A refusal measures nothing, so an average that is
/// too large by chance must not go on for ever.
const LONGEST_AGE: Duration = Duration::from_secs(60);

/// The times of one model's work.
#[derive(Debug, Default)]
pub(super) struct ServiceTimes {
    /// Seconds for an image in the model.
    image: Mutex<Average>,
    /// Seconds for a prompt in the text tower.
    prompt: Mutex<Average>,
    /// Seconds from the model's answer to the end of a request: the label map and its encoding.
    rest: Mutex<Average>,
    /// Images that the model has still to do for each caller, from the reservation of their bytes on.
    images: Arc<Mutex<HashMap<CallerId, usize>>>,
}

/// An image that a model has still to do. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct ImageTurn {
    images: Arc<Mutex<HashMap<CallerId, usize>>>,
    caller: CallerId,
}

impl Drop for ImageTurn {
    fn drop(&mut self) {
        let mut images = lock(&self.images);
        if let Entry::Occupied(mut count) = images.entry(self.caller) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// A moving average of the latest measurements.
#[derive(Debug, Default)]
struct Average {
    value: f64,
    count: u32,
    latest: Option<Instant>,
}

impl ServiceTimes {
    /// Records how long a pass of some images took with their scores.
    pub(super) fn record_images(&self, images: usize, elapsed: Duration) {
        lock(&self.image).record(elapsed.as_secs_f64() / images.max(1) as f64, Instant::now());
    }

    /// Records how long a chunk of some prompts took.
    pub(super) fn record_prompts(&self, prompts: usize, elapsed: Duration) {
        lock(&self.prompt).record(elapsed.as_secs_f64() / prompts.max(1) as f64, Instant::now());
    }

    /// Records how long a request took from the model's answer to its end.
    pub(super) fn record_rest(&self, elapsed: Duration) {
        lock(&self.rest).record(elapsed.as_secs_f64(), Instant::now());
    }

    /// Counts a caller's image among those that the model has still to do.
    pub(super) fn image(&self, caller: &Caller) -> ImageTurn {
        *lock(&self.images).entry(caller.id()).or_default() += 1;
        ImageTurn {
            images: Arc::clone(&self.images),
            caller: caller.id(),
        }
    }

    /// Returns about how many seconds pass until a request of the caller would be answered that comes now, with so many
    /// workers; 0 if the model has no image to do, or while that is not known. Before it come all images of the caller,
    /// and as many turns of each other one.
    pub(super) fn seconds_behind_images(&self, caller: &Caller, workers: usize) -> f64 {
        let now = Instant::now();
        let images: usize = {
            let images = lock(&self.images);
            let own = images.get(&caller.id()).copied().unwrap_or(0);
            let others = images.iter().filter(|(other, _)| **other != caller.id());
            own + others.map(|(_, &count)| count.min(own + 1)).sum::<usize>()
        };
        let Some(seconds) = lock(&self.image).get(now).filter(|_| images > 0) else {
            return 0.0;
        };
        let rest = lock(&self.rest).get(now).unwrap_or(0.0);
        MARGIN * ((images + 1) as f64 * seconds / workers as f64 + rest)
    }

    /// Returns the seconds that a prompt takes, or `None` while that is not known.
    pub(super) fn prompt_seconds(&self) -> Option<f64> {
        lock(&self.prompt).get(Instant::now())
    }
}

impl Average {
    fn record(&mut self, value: f64, now: Instant) {
        if self.is_old(now) {
            self.count = 0;
        }
        let weight = if self.count == 0 { 1.0 } else { WEIGHT };
        self.value += weight * (value - self.value);
        self.count = self.count.saturating_add(1);
        self.latest = Some(now);
    }

    fn get(&self, now: Instant) -> Option<f64> {
        (self.count >= FEWEST && !self.is_old(now)).then_some(self.value)
    }

    fn is_old(&self, now: Instant) -> bool {
        self.latest
            .is_none_or(|latest| now.saturating_duration_since(latest) > LONGEST_AGE)
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long reservations of a budget are held, weighted by their bytes.
#[derive(Debug, Default)]
pub(super) struct HoldingTimes {
    byte_seconds: Mutex<Average>,
    bytes: Mutex<Average>,
}

impl HoldingTimes {
    /// Records for how long so many bytes were held.
    pub(super) fn record(&self, bytes: u64, held: Duration) {
        let now = Instant::now();
        lock(&self.byte_seconds).record(bytes as f64 * held.as_secs_f64(), now);
        lock(&self.bytes).record(bytes as f64, now);
    }

    /// Returns the seconds for which a byte is held in the mean, or `None` while that is not known.
    pub(super) fn seconds(&self) -> Option<f64> {
        let now = Instant::now();
        let (byte_seconds, bytes) = (lock(&self.byte_seconds).get(now)?, lock(&self.bytes).get(now)?);
        (bytes > 0.0).then(|| byte_seconds / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::caller::Callers;
    use super::*;

    #[test]
    fn an_average_counts_after_some_measurements_and_follows_the_latest() {
        let (mut average, now) = (Average::default(), Instant::now());
        average.record(10.0, now);
        average.record(10.0, now);
        assert_eq!(average.get(now), None);
        average.record(20.0, now);
        assert_eq!(average.get(now), Some(12.0));
        for _ in 0..50 {
            average.record(1.0, now);
        }
        assert!(average.get(now).is_some_and(|value| (1.0..1.01).contains(&value)));
    }

    #[test]
    fn an_old_average_is_forgotten() {
        let (mut average, start) = (Average::default(), Instant::now());
        for _ in 0..3 {
            average.record(100.0, start);
        }
        let later = start + LONGEST_AGE + Duration::from_secs(1);
        assert_eq!(average.get(start + LONGEST_AGE), Some(100.0));
        assert_eq!(average.get(later), None);
        for _ in 0..3 {
            average.record(1.0, later);
        }
        assert_eq!(average.get(later), Some(1.0));
    }

    #[test]
    fn a_request_comes_after_all_images_that_are_still_to_do() {
        let (times, caller) = (ServiceTimes::default(), Caller::default());
        let first = times.image(&caller);
        assert_eq!(times.seconds_behind_images(&caller, 1), 0.0);
        for _ in 0..3 {
            times.record_images(2, Duration::from_secs(4));
            times.record_rest(Duration::from_secs(1));
        }
        let second = times.image(&caller);
        assert_eq!(times.seconds_behind_images(&caller, 1), MARGIN * 7.0);
        assert_eq!(times.seconds_behind_images(&caller, 2), MARGIN * 4.0);
        drop((first, second));
        assert_eq!(times.seconds_behind_images(&caller, 1), 0.0);
    }

    #[test]
    fn a_request_waits_for_as_many_turns_of_others_as_its_caller_needs() {
        let (times, callers) = (ServiceTimes::default(), Callers::default());
        let [alice, bob] = ["alice", "bob"].map(|name| callers.named(name));
        for _ in 0..3 {
            times.record_images(1, Duration::from_secs(1));
        }
        let of_alice: Vec<_> = (0..30).map(|_| times.image(&alice)).collect();
        assert_eq!(times.seconds_behind_images(&bob, 1), MARGIN * 2.0);
        let _of_bob = times.image(&bob);
        assert_eq!(times.seconds_behind_images(&bob, 1), MARGIN * 4.0);
        assert_eq!(times.seconds_behind_images(&alice, 1), MARGIN * 32.0);
        drop(of_alice);
        assert_eq!(lock(&times.images).len(), 1);
    }

    #[test]
    fn long_holds_count_by_their_bytes() {
        let times = HoldingTimes::default();
        assert_eq!(times.seconds(), None);
        for _ in 0..4 {
            times.record(1000, Duration::from_secs(2));
        }
        assert_eq!(times.seconds(), Some(2.0));
        times.record(1, Duration::from_secs(100));
        assert!(times.seconds().is_some_and(|seconds| seconds < 2.1));
    }
}
