//! Admission: how many requests the engine holds at once.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::HeldBytes;

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

    /// Takes a slot if one is free, for a request with the given bytes of its body. Never waits.
    pub fn take(&self, body: HeldBytes) -> Option<Arc<Slot>> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        self.in_flight.inc();
        Some(Arc::new(Slot {
            _permit: permit,
            _body: body,
            in_flight: self.in_flight.clone(),
        }))
    }

    /// Returns whether all slots are taken.
    pub fn are_taken(&self) -> bool {
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
        let slot = slots.take(body()).expect("one is free");
        let held_by_a_job = Arc::clone(&slot);
        drop(slot);
        assert!(slots.take(body()).is_none(), "the job still holds it");
        assert!(slots.are_taken());
        assert_eq!(gauge.get(), 1);
        drop(held_by_a_job);
        assert_eq!(gauge.get(), 0);
        assert!(slots.take(body()).is_some());
    }
}
