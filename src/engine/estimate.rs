//! Measured times of a model's work, from which it is estimated how long a request would take.
//!
//! This file owns the measurements, each part of a request's work by its own measure, so that a dear request says nothing
//! wrong about a cheap one. [`admitted`](super::admitted) asks them before a request waits for anything.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::caller::{Caller, CallerId};
use crate::dense::Refinement;
use crate::support::lock;

/// Share of the latest measurement in an average.
const WEIGHT: f64 = 0.2;

/// Factor on estimates for images. Times grow with the load that is just being admitted, and what is admitted should be
/// answered.
const MARGIN: f64 = 1.5;

/// Factor on the time of work that was stopped before its end. With less, a request that is repeated with a deadline too
/// short for it would be begun each time, because the time in which it was stopped is within the deadline.
const STOPPED: f64 = 1.5;

/// Measurements before an average counts. The first ones of a model are slower than all others.
const FEWEST: u32 = 3;

/// Age of the latest measurement at which an average counts no more. A refusal measures nothing, so an average that is
/// too large by chance must not go on for ever.
const LONGEST_AGE: Duration = Duration::from_secs(60);

/// A part of a request's work, with a measure of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The visual tower, by cells over all scales and windows.
    Features,
    /// The scores of texts, by texts times cells.
    Scores,
    /// A refinement by PAMR, by the values that it computes.
    Pamr,
    /// A refinement by PEARL's propagation, in the same way.
    Propagation,
    /// The label map and its encoding, by texts times pixels of the image. Not done by the model's workers.
    LabelMap,
}

/// The number of parts.
const PARTS: usize = 5;

/// The parts that the model's workers do.
const ON_WORKERS: [Part; 4] = [Part::Features, Part::Scores, Part::Pamr, Part::Propagation];

impl Part {
    /// Returns the part that a refinement is.
    pub(super) fn of_refinement(refinement: Refinement) -> Option<Self> {
        match refinement {
            Refinement::None => None,
            Refinement::Pamr => Some(Self::Pamr),
            Refinement::PearlPropagation => Some(Self::Propagation),
        }
    }

    /// Returns about how much of the part takes as long as what each piece of work costs besides, however small it is.
    /// Without it, a small piece of work would make a large one look dearer than it is.
    fn least(self) -> f64 {
        match self {
            Self::Features => 100.0,
            Self::Scores => 1e5,
            Self::Pamr | Self::Propagation => 1e7,
            Self::LabelMap => 1e6,
        }
    }
}

/// How much of each part a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Workload([f64; PARTS]);

impl Workload {
    /// Returns the same with so much of a part, more than the least of it.
    pub(super) fn with(mut self, part: Part, amount: u64) -> Self {
        self.0[part as usize] = part.least() + amount as f64;
        self
    }

    /// Returns how much of a part it is.
    pub(super) fn amount(&self, part: Part) -> f64 {
        self.0[part as usize]
    }

    fn add(&mut self, other: &Self, factor: f64) {
        for (amount, other) in self.0.iter_mut().zip(other.0) {
            *amount += factor * other;
        }
    }
}

/// The times of one model's work.
#[derive(Debug, Default)]
pub(super) struct ServiceTimes {
    /// How long each part takes.
    parts: [Mutex<Rate>; PARTS],
    /// Seconds for a prompt in the text tower.
    prompt: Mutex<Average>,
    /// What the model has still to do for each caller, from the reservation of the requests' bytes on.
    images: Arc<Mutex<HashMap<CallerId, Pending>>>,
}

/// The images that a model has still to do for a caller.
#[derive(Debug, Default)]
struct Pending {
    images: usize,
    workload: Workload,
}

/// An image that a model has still to do. It counts until it is dropped.
#[derive(Debug)]
pub(super) struct ImageTurn {
    images: Arc<Mutex<HashMap<CallerId, Pending>>>,
    caller: CallerId,
    workload: Workload,
}

impl Drop for ImageTurn {
    fn drop(&mut self) {
        let mut images = lock(&self.images);
        if let Entry::Occupied(mut pending) = images.entry(self.caller) {
            pending.get_mut().images -= 1;
            pending.get_mut().workload.add(&self.workload, -1.0);
            if pending.get().images == 0 {
                pending.remove();
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

/// The seconds that a unit of something takes: those of the latest measurements, divided by their amounts.
#[derive(Debug, Default)]
struct Rate {
    seconds: Average,
    amount: Average,
}

impl Rate {
    fn record(&mut self, amount: f64, seconds: f64, now: Instant) {
        self.seconds.record(seconds, now);
        self.amount.record(amount, now);
    }

    fn get(&self, now: Instant) -> Option<f64> {
        let (seconds, amount) = (self.seconds.get(now)?, self.amount.get(now)?);
        (amount > 0.0).then(|| seconds / amount)
    }
}

impl ServiceTimes {
    /// Records how long so much of a part took.
    pub(super) fn record(&self, part: Part, amount: f64, elapsed: Duration) {
        lock(&self.parts[part as usize]).record(amount, elapsed.as_secs_f64(), Instant::now());
    }

    /// Records for how long work on so much of a part went on that was stopped then. It would have taken longer, so more is
    /// recorded ([`STOPPED`]), and only where that raises the estimate.
    pub(super) fn record_stopped(&self, part: Part, amount: f64, elapsed: Duration) {
        let now = Instant::now();
        let mut rate = lock(&self.parts[part as usize]);
        let seconds = STOPPED * elapsed.as_secs_f64();
        if rate.get(now).is_none_or(|rate| seconds > rate * amount) {
            rate.record(amount, seconds, now);
        }
    }

    /// Records how long a chunk of some prompts took.
    pub(super) fn record_prompts(&self, prompts: usize, elapsed: Duration) {
        lock(&self.prompt).record(elapsed.as_secs_f64() / prompts.max(1) as f64, Instant::now());
    }

    /// Counts a caller's image among those that the model has still to do.
    pub(super) fn image(&self, caller: &Caller, workload: Workload) -> ImageTurn {
        let mut images = lock(&self.images);
        let pending = images.entry(caller.id()).or_default();
        pending.images += 1;
        pending.workload.add(&workload, 1.0);
        ImageTurn {
            images: Arc::clone(&self.images),
            caller: caller.id(),
            workload,
        }
    }

    /// Returns about how many seconds a worker takes for a workload; 0 for parts of which that is not known.
    pub(super) fn seconds(&self, workload: &Workload) -> f64 {
        let now = Instant::now();
        let seconds = |part: Part| Some(workload.amount(part) * lock(&self.parts[part as usize]).get(now)?);
        ON_WORKERS.into_iter().filter_map(seconds).sum()
    }

    /// Returns about how many seconds pass until a request of the caller with this workload would be answered that comes
    /// now, with so many workers; 0 if the model has no image to do, or while that is not known. Before it come all
    /// images of the caller, and as many turns of each other one.
    pub(super) fn seconds_behind_images(&self, caller: &Caller, workload: &Workload, workers: usize) -> f64 {
        let mut ahead = Workload::default();
        let images = lock(&self.images);
        if images.is_empty() {
            return 0.0;
        }
        let own = images.get(&caller.id()).map_or(0, |pending| pending.images);
        for (other, pending) in images.iter() {
            let turns = match *other == caller.id() {
                true => pending.images,
                false => pending.images.min(own + 1),
            };
            ahead.add(&pending.workload, turns as f64 / pending.images as f64);
        }
        drop(images);
        ahead.add(workload, 1.0);
        let seconds = self.seconds(&ahead);
        match seconds > 0.0 {
            true => MARGIN * (seconds / workers as f64 + self.label_map_seconds(workload)),
            false => 0.0,
        }
    }

    /// Returns about how many seconds the label map of a workload takes, at most what label maps took lately.
    fn label_map_seconds(&self, workload: &Workload) -> f64 {
        let now = Instant::now();
        let rate = lock(&self.parts[Part::LabelMap as usize]);
        let (Some(seconds), Some(amount)) = (rate.seconds.get(now), rate.amount.get(now)) else {
            return 0.0;
        };
        seconds * (workload.amount(Part::LabelMap) / amount).min(1.0)
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

/// How long reservations of a budget are held, weighted by their bytes.
#[derive(Debug, Default)]
pub(super) struct HoldingTimes(Mutex<Rate>);

impl HoldingTimes {
    /// Records for how long so many bytes were held.
    pub(super) fn record(&self, bytes: u64, held: Duration) {
        let bytes = bytes as f64;
        lock(&self.0).record(bytes, bytes * held.as_secs_f64(), Instant::now());
    }

    /// Returns the seconds for which a byte is held in the mean, or `None` while that is not known.
    pub(super) fn seconds(&self) -> Option<f64> {
        lock(&self.0).get(Instant::now())
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

    /// Features that take as many units as cells, of which the first hundred are always there.
    fn features(amount: u64) -> Workload {
        Workload::default().with(Part::Features, amount - 100)
    }

    #[test]
    fn a_request_comes_after_all_images_that_are_still_to_do() {
        let (times, caller) = (ServiceTimes::default(), Caller::default());
        let behind = |workload: &Workload, workers| times.seconds_behind_images(&caller, workload, workers);
        let first = times.image(&caller, features(1000));
        assert_eq!(behind(&features(1000), 1), 0.0);
        for _ in 0..3 {
            times.record(Part::Features, 2000.0, Duration::from_secs(4));
            times.record(Part::LabelMap, 2e6, Duration::from_secs(1));
        }
        let second = times.image(&caller, features(2000));
        assert_eq!(behind(&features(1000), 1), MARGIN * 8.0);
        assert_eq!(behind(&features(1000), 2), MARGIN * 4.0);
        // A label map of half the pixels, and one of far more: that might take longer, and need not.
        assert_eq!(behind(&features(1000).with(Part::LabelMap, 0), 1), MARGIN * 8.5);
        assert_eq!(behind(&features(1000).with(Part::LabelMap, 1 << 30), 1), MARGIN * 9.0);
        drop((first, second));
        assert_eq!(behind(&features(1000), 1), 0.0);
    }

    #[test]
    fn a_request_waits_for_as_many_turns_of_others_as_its_caller_needs() {
        let (times, callers) = (ServiceTimes::default(), Callers::default());
        let [alice, bob] = ["alice", "bob"].map(|name| callers.named(name));
        let one = features(1000);
        for _ in 0..3 {
            times.record(Part::Features, 1000.0, Duration::from_secs(1));
        }
        let of_alice: Vec<_> = (0..30).map(|_| times.image(&alice, one)).collect();
        let behind = |caller| times.seconds_behind_images(caller, &one, 1).round();
        assert_eq!(behind(&bob), MARGIN * 2.0);
        let _of_bob = times.image(&bob, one);
        assert_eq!(behind(&bob), MARGIN * 4.0);
        assert_eq!(behind(&alice), MARGIN * 32.0);
        drop(of_alice);
        assert_eq!(lock(&times.images).len(), 1);
    }

    #[test]
    fn a_dear_request_is_estimated_by_its_own_work_and_leaves_cheap_ones_alone() {
        let times = ServiceTimes::default();
        let cheap = features(1000).with(Part::Pamr, 10_000_000);
        for _ in 0..3 {
            times.record(Part::Features, 1000.0, Duration::from_secs(1));
            times.record(Part::Pamr, 2e7, Duration::from_secs(2));
        }
        assert_eq!(times.seconds(&cheap), 3.0);
        let dear = features(1000).with(Part::Pamr, 490_000_000);
        assert_eq!(times.seconds(&dear), 51.0);
        times.record(Part::Pamr, 5e8, Duration::from_secs(50));
        assert!((times.seconds(&cheap) - 3.0).abs() < 1e-9);
    }

    #[test]
    fn work_that_was_stopped_counts_where_it_shows_that_more_would_take_longer() {
        let times = ServiceTimes::default();
        let dear = Workload::default().with(Part::Propagation, 90_000_000);
        for _ in 0..3 {
            times.record_stopped(Part::Propagation, 1e8, Duration::from_secs(2));
        }
        assert!((times.seconds(&dear) - 3.0).abs() < 1e-9);
        times.record_stopped(Part::Propagation, 1e9, Duration::from_secs(1));
        assert!((times.seconds(&dear) - 3.0).abs() < 1e-9);
        times.record_stopped(Part::Propagation, 1e8, Duration::from_secs(4));
        assert!((times.seconds(&dear) - 3.6).abs() < 1e-9);
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
