//! Admission: how many requests the engine holds at once.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::HeldBytes;
use super::caller::{Caller, Scarce, Share};

/// The engine's `engine.queue_capacity` slots. A request holds a slot, and so does running work for it: a request that
/// was given up still counts until the work ends. Work that waits for its turn holds none.
#[derive(Debug)]
pub struct Slots {
    free: Arc<Semaphore>,
    capacity: usize,
    in_flight: IntGauge,
}

/// One request's place in the engine. It becomes free when the last holder drops it.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
    _share: Share,
    /// The bytes of the request's body, of which the request is made.
    _body: HeldBytes,
    in_flight: IntGauge,
}

impl Slots {
    /// Creates `capacity` free slots. `in_flight` shows how many are taken.
    pub fn new(capacity: usize, in_flight: IntGauge) -> Self {
        Self {
            free: Arc::new(Semaphore::new(capacity)),
            capacity,
            in_flight,
        }
    }

    /// Takes a slot for a caller's request with the given bytes of its body, if one is free and the caller has not its
    /// share already. Never waits.
    pub fn take(&self, caller: &Caller, body: HeldBytes) -> Option<Arc<Slot>> {
        if self.are_taken(caller) {
            return None;
        }
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        self.in_flight.inc();
        Some(Arc::new(Slot {
            _permit: permit,
            _share: caller.take(Scarce::Slots, 1),
            _body: body,
            in_flight: self.in_flight.clone(),
        }))
    }

    /// Returns whether the caller can take no slot: all are taken, or the caller has its share.
    pub fn are_taken(&self, caller: &Caller) -> bool {
        let free = self.free.available_permits() as u64;
        free == 0 || !caller.may_take(Scarce::Slots, 1, free)
    }

    /// Returns whether no slot is left for anybody.
    pub fn are_all_taken(&self) -> bool {
        self.free.available_permits() == 0
    }

    /// Returns the number of slots, free or taken.
    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.in_flight.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_last_holder_is_gone() {
        let gauge = IntGauge::new("in_flight", "test").expect("a valid name");
        let slots = Slots::new(1, gauge.clone());
        let body = || Budget::new(0).empty();
        let caller = Caller::default();
        let slot = slots.take(&caller, body()).expect("one is free");
        let held_by_a_job = Arc::clone(&slot);
        drop(slot);
        assert!(slots.take(&caller, body()).is_none(), "the job still holds it");
        assert!(slots.are_taken(&caller));
        assert_eq!(gauge.get(), 1);
        drop(held_by_a_job);
        assert_eq!(gauge.get(), 0);
        assert!(slots.take(&caller, body()).is_some());
    }
}
