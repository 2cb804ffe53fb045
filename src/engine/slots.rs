//! Admission: how many requests the engine holds at once.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The engine's `engine.queue_capacity` slots. Every piece of work for a request holds the request's slot, so a request
/// that was given up still counts until its last piece of work ends.
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

    /// Takes a slot if one is free. Never waits.
    pub fn take(&self) -> Option<Arc<Slot>> {
        Some(self.slot(Arc::clone(&self.free).try_acquire_owned().ok()?))
    }

    /// Waits for a free slot and takes it. For work in the background; a request that finds no slot is refused.
    pub async fn wait(&self) -> Arc<Slot> {
        let permit = Arc::clone(&self.free).acquire_owned().await;
        self.slot(permit.expect("the semaphore is never closed"))
    }

    fn slot(&self, permit: OwnedSemaphorePermit) -> Arc<Slot> {
        self.in_flight.inc();
        Arc::new(Slot {
            _permit: permit,
            in_flight: self.in_flight.clone(),
        })
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
    use super::*;

    #[test]
    fn a_slot_is_free_again_when_its_last_holder_is_gone() {
        let gauge = IntGauge::new("in_flight", "test").expect("a valid name");
        let slots = Slots::new(1, gauge.clone());
        let slot = slots.take().expect("one is free");
        let held_by_a_job = Arc::clone(&slot);
        drop(slot);
        assert!(slots.take().is_none(), "the job still holds it");
        assert_eq!(gauge.get(), 1);
        drop(held_by_a_job);
        assert_eq!(gauge.get(), 0);
        assert!(slots.take().is_some());
    }
}
