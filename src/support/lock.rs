//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also one under which a thread has panicked: one request's panic must not break later requests. So what
/// runs under the lock leaves the value valid at each step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
