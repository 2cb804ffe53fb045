//! Budgets in bytes: for the bodies of requests, and for the work on them.
//!
//! This file owns how a budget is reserved, shrunk and given back. [`footprint`](super::footprint) says how much a
//! request needs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::caller::{Caller, Scarce, Share};
use super::estimate::HoldingTimes;
use crate::support::lock;

/// Bytes of a semaphore's permit. A reservation is rounded up to whole permits.
const UNIT: u64 = 1024;

/// A number of bytes that reservations share.
#[derive(Debug)]
pub(super) struct Budget {
    free: Arc<Semaphore>,
    bytes: u64,
    /// Bytes that others wait for.
    waiting: AtomicU64,
    /// Tells one listener that somebody waits.
    wanted: Notify,
    holding: Arc<HoldingTimes>,
}

impl Budget {
    /// Creates a budget of this many bytes, all of them free.
    pub(super) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX);
        Self {
            free: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
            bytes,
            waiting: AtomicU64::new(0),
            wanted: Notify::new(),
            holding: Arc::default(),
        }
    }

    /// Returns all bytes, free or reserved.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the bytes that are free now.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free.available_permits() as u64 * UNIT
    }

    /// Returns a reservation of nothing, which may grow.
    pub(super) fn empty(&self) -> HeldBytes {
        self.reservation(None)
    }

    /// Returns a reservation of nothing for the body of a caller's request, which may grow to the caller's share.
    pub(super) fn empty_for(&self, caller: &Caller) -> HeldBytes {
        self.reservation(Some(caller.take(Scarce::BodyBytes, 0)))
    }

    fn reservation(&self, share: Option<Share>) -> HeldBytes {
        let state = State {
            share,
            ..State::default()
        };
        HeldBytes(Arc::new(Reservation {
            free: Arc::clone(&self.free),
            state: Mutex::new(state),
            peak: AtomicU64::new(0),
            since: Instant::now(),
            holding: Arc::clone(&self.holding),
        }))
    }

    /// Reserves bytes for a caller. Waits for its turn where they are not free: callers take turns, and reservations of
    /// one caller are made in the order in which they were asked for. More than all bytes of the budget are never free.
    pub(super) async fn reserve(&self, caller: &Caller, bytes: u64) -> HeldBytes {
        let waiting = WaitingBytes::new(&self.waiting, bytes);
        self.wanted.notify_one();
        let _turn = caller.bytes_turn().lock().await;
        let permits = Arc::clone(&self.free).acquire_many_owned(units(bytes));
        let permit = permits.await.expect("a budget is never closed");
        drop(waiting);
        let held = self.empty();
        held.0.peak.store(bytes, Ordering::Relaxed);
        *held.0.state() = State {
            bytes,
            permit: Some(permit),
            share: None,
        };
        held
    }

    /// Resolves while somebody waits for bytes that are not free. For one listener at a time.
    pub(super) async fn is_wanted(&self) {
        while self.waiting.load(Ordering::Relaxed) <= self.free_bytes() {
            self.wanted.notified().await;
        }
    }

    /// Returns about how many seconds pass until so many bytes can be reserved, or `None` while that is not known.
    pub(super) fn wait_seconds(&self, bytes: u64) -> Option<f64> {
        let wanted = self.waiting.load(Ordering::Relaxed).saturating_add(bytes);
        let missing = wanted.saturating_sub(self.free_bytes());
        if missing == 0 {
            return Some(0.0);
        }
        // A full budget gives all its bytes back in the time for which a byte is held.
        Some(self.holding.seconds()? * missing as f64 / self.bytes as f64)
    }
}

/// Bytes that somebody waits for, counted until it is dropped.
struct WaitingBytes<'a> {
    waiting: &'a AtomicU64,
    bytes: u64,
}

impl<'a> WaitingBytes<'a> {
    fn new(waiting: &'a AtomicU64, bytes: u64) -> Self {
        waiting.fetch_add(bytes, Ordering::Relaxed);
        Self { waiting, bytes }
    }
}

impl Drop for WaitingBytes<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of a budget that are in use. They are free again when the last clone is dropped.
#[derive(Debug, Clone)]
pub struct HeldBytes(Arc<Reservation>);

#[derive(Debug)]
struct Reservation {
    free: Arc<Semaphore>,
    state: Mutex<State>,
    /// The most bytes that were held at once.
    peak: AtomicU64,
    since: Instant,
    holding: Arc<HoldingTimes>,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    permit: Option<OwnedSemaphorePermit>,
    /// What the caller has of the bytes of all bodies, for a body.
    share: Option<Share>,
}

impl HeldBytes {
    /// Adds bytes. Returns whether they were free, and the caller had not its share already; never waits.
    pub fn try_grow(&self, bytes: u64) -> bool {
        let mut state = self.0.state();
        let grown = state.bytes.saturating_add(bytes);
        let more = units(grown) - units(state.bytes);
        if !state.may_grow(bytes, &self.0.free) {
            return false;
        }
        let Ok(permit) = Arc::clone(&self.0.free).try_acquire_many_owned(more) else {
            return false;
        };
        match &mut state.permit {
            Some(held) => held.merge(permit),
            held @ None => *held = Some(permit),
        }
        state.set(grown);
        self.0.peak.fetch_max(grown, Ordering::Relaxed);
        true
    }

    /// Returns whether so many more bytes are free now. They may be taken before they are added.
    pub fn could_grow(&self, bytes: u64) -> bool {
        let is_free = u64::from(units(bytes)) <= self.0.free.available_permits() as u64;
        is_free && self.0.state().may_grow(bytes, &self.0.free)
    }

    /// Gives bytes back until at most `bytes` are left.
    pub fn shrink_to(&self, bytes: u64) {
        let mut state = self.0.state();
        if bytes >= state.bytes {
            return;
        }
        let less = units(state.bytes) - units(bytes);
        let given_back = state.permit.as_mut().and_then(|permit| permit.split(less as usize));
        state.set(bytes);
        drop(given_back);
    }

    /// Gives bytes back, or adds those that are free, until `bytes` are held.
    pub fn resize_to(&self, bytes: u64) {
        let held = self.bytes();
        if bytes <= held || !self.try_grow(bytes - held) {
            self.shrink_to(bytes);
        }
    }

    /// Returns the bytes that are held.
    pub fn bytes(&self) -> u64 {
        self.0.state().bytes
    }
}

impl State {
    /// Returns whether the caller may take so many more bytes.
    fn may_grow(&self, more: u64, free: &Semaphore) -> bool {
        let left = free.available_permits() as u64 * UNIT;
        let share = self.share.as_ref();
        share.is_none_or(|share| share.caller().may_take(Scarce::BodyBytes, more, left))
    }

    fn set(&mut self, bytes: u64) {
        self.bytes = bytes;
        if let Some(share) = &mut self.share {
            share.set(bytes);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let peak = *self.peak.get_mut();
        if peak > 0 {
            self.holding.record(peak, self.since.elapsed());
        }
    }
}

impl Reservation {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Returns how many permits these bytes take.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::caller::Callers;
    use super::*;

    #[test]
    fn what_is_held_is_not_free_until_its_last_holder_is_gone() {
        let budget = Budget::new(10 * UNIT);
        let held = budget.empty();
        assert!(held.try_grow(1) && held.try_grow(UNIT));
        assert_eq!((held.bytes(), budget.free_bytes()), (UNIT + 1, 8 * UNIT));
        assert!(!held.try_grow(9 * UNIT), "8 units are free");
        assert!(held.could_grow(8 * UNIT) && !held.could_grow(8 * UNIT + 1));
        assert!(held.try_grow(8 * UNIT + UNIT - 1));
        assert_eq!(budget.free_bytes(), 0);
        held.shrink_to(2 * UNIT);
        held.shrink_to(3 * UNIT);
        assert_eq!((held.bytes(), budget.free_bytes()), (2 * UNIT, 8 * UNIT));
        held.resize_to(3 * UNIT);
        assert_eq!((held.bytes(), budget.free_bytes()), (3 * UNIT, 7 * UNIT));
        held.resize_to(11 * UNIT);
        assert_eq!(held.bytes(), 3 * UNIT, "there are 10");
        held.resize_to(2 * UNIT);
        let clone = held.clone();
        drop(held);
        assert_eq!(budget.free_bytes(), 8 * UNIT);
        drop(clone);
        assert_eq!((budget.free_bytes(), budget.bytes()), (10 * UNIT, 10 * UNIT));
    }

    #[test]
    fn small_pieces_take_no_more_than_their_sum() {
        let budget = Budget::new(10 * UNIT);
        let held = budget.empty();
        assert!((0..UNIT).all(|_| held.try_grow(1)));
        assert_eq!(budget.free_bytes(), 9 * UNIT);
    }

    #[tokio::test]
    async fn whoever_waits_gets_its_turn_in_order_however_large_it_is() {
        let budget = Arc::new(Budget::new(10 * UNIT));
        let first = budget.reserve(&Caller::default(), 6 * UNIT).await;
        let waiting = |bytes| {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { budget.reserve(&Caller::default(), bytes).await })
        };
        let large = waiting(10 * UNIT);
        tokio::task::yield_now().await;
        let small = waiting(UNIT);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!large.is_finished() && !small.is_finished());
        drop(first);
        let large = large.await.expect("it gets its bytes");
        assert!(!small.is_finished());
        // The wait is not known before some reservations have ended.
        assert_eq!(budget.wait_seconds(UNIT), None);
        large.shrink_to(9 * UNIT);
        assert_eq!(small.await.expect("it gets its bytes").bytes(), UNIT);
        assert_eq!(budget.wait_seconds(UNIT), Some(0.0));
        drop(budget.reserve(&Caller::default(), UNIT).await);
        assert!(budget.wait_seconds(11 * UNIT).is_some());
    }

    #[tokio::test]
    async fn a_listener_hears_of_whoever_waits_and_not_of_whoever_is_served() {
        let budget = Arc::new(Budget::new(10 * UNIT));
        let listening = {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { budget.is_wanted().await })
        };
        let held = budget.reserve(&Caller::default(), 10 * UNIT).await;
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!listening.is_finished(), "all bytes were free");
        let waiting = {
            let budget = Arc::clone(&budget);
            tokio::spawn(async move { budget.reserve(&Caller::default(), UNIT).await })
        };
        listening.await.expect("somebody waits");
        drop(held);
        assert_eq!(waiting.await.expect("it gets its bytes").bytes(), UNIT);
    }

    #[tokio::test]
    async fn callers_take_turns_whoever_has_more_that_waits() {
        let callers = Callers::default();
        let [alice, bob] = ["alice", "bob"].map(|name| callers.named(name));
        let budget = Arc::new(Budget::new(UNIT));
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = budget.reserve(&alice, UNIT).await;
        let waiting = |caller: &Caller, number: u32| {
            let (budget, order, caller) = (Arc::clone(&budget), Arc::clone(&order), caller.clone());
            tokio::spawn(async move {
                let held = budget.reserve(&caller, UNIT).await;
                order.lock().expect("nobody panics with it").push(number);
                drop(held);
            })
        };
        let mut all: Vec<_> = (1..=5).map(|number| waiting(&alice, number)).collect();
        tokio::task::yield_now().await;
        all.extend([10, 11].map(|number| waiting(&bob, number)));
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        drop(first);
        for waiting in all {
            waiting.await.expect("it gets its bytes");
        }
        let order = order.lock().expect("nobody panics with it").clone();
        assert_eq!(order, [1, 10, 2, 11, 3, 4, 5]);
    }

    #[test]
    fn a_body_takes_no_more_than_its_callers_share() {
        let callers = Callers::default();
        let [alice, bob] = ["alice", "bob"].map(|name| callers.named(name));
        let budget = Budget::new(10 * UNIT);
        let bodies = [&alice, &alice, &bob].map(|caller| budget.empty_for(caller));
        assert!(bodies[0].try_grow(3 * UNIT));
        assert!(bodies[1].could_grow(2 * UNIT) && bodies[1].try_grow(2 * UNIT));
        assert!(!bodies[1].could_grow(1) && !bodies[1].try_grow(1), "5 of 10 are left");
        assert!(bodies[2].try_grow(2 * UNIT));
        bodies[0].shrink_to(UNIT);
        assert!(bodies[1].try_grow(UNIT), "5 are left, and alice has 4 then");
        drop(bodies);
        assert_eq!(budget.free_bytes(), 10 * UNIT);
        assert!(
            budget.empty_for(&alice).try_grow(10 * UNIT),
            "what is left before is enough"
        );
    }
}
