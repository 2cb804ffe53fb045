//! Callers: on whose behalf requests come.
//!
//! The engine knows a caller by a name that somebody else has checked. What one caller leaves here, others neither find
//! nor change nor learn of.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// A caller's number in one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct CallerId(pub(super) u64);

/// On whose behalf a request comes. Clones are the same caller.
#[derive(Debug, Clone, Default)]
pub struct Caller(Arc<CallerState>);

#[derive(Debug, Default)]
struct CallerState {
    /// 0 for the caller without a name.
    id: CallerId,
}

impl Caller {
    pub(super) fn id(&self) -> CallerId {
        self.0.id
    }
}

/// The callers of an engine by their names. Clones know the same callers.
#[derive(Debug, Clone, Default)]
pub struct Callers(Arc<RwLock<HashMap<Box<str>, Caller>>>);

impl Callers {
    /// Returns the caller of a name, the same one each time. There are as many as there have been names, so names must
    /// not be anybody's choice.
    pub fn named(&self, name: &str) -> Caller {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(caller) = known.get(name) {
            return caller.clone();
        }
        drop(known);
        let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let id = CallerId(known.len() as u64 + 1);
        let new = || Caller(Arc::new(CallerState { id }));
        known.entry(name.into()).or_insert_with(new).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_always_the_same_caller_and_no_name_is_one_of_its_own() {
        let callers = Callers::default();
        let [a, b, again] = ["a", "b", "a"].map(|name| callers.clone().named(name).id());
        assert_eq!(a, again);
        assert_ne!(a, b);
        assert!(![a, b].contains(&Caller::default().id()));
    }
}
