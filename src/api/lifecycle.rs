//! The phases from the first request to the end of the server.

use std::sync::Arc;

use tokio::sync::watch;

/// How far the server is on its way to its end. Phases only go forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Every request is answered.
    Serving,
    /// Readiness is 503, so that load balancers turn away; every request is still answered.
    Leaving,
    /// The listener is closed. What is under way may finish.
    Draining,
    /// What is still under way is answered with 503.
    CutOff,
}

/// The phase of a server. Clones share it.
#[derive(Debug, Clone)]
pub struct Lifecycle(Arc<watch::Sender<Phase>>);

impl Lifecycle {
    /// The life of a server that serves.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Phase::Serving)))
    }

    /// The present phase.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Goes on to a phase, unless the server is there or beyond.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|present| {
            let goes_on = *present < phase;
            if goes_on {
                *present = phase;
            }
            goes_on
        });
    }

    /// Resolves once the server is in the phase or beyond.
    pub async fn reached(&self, phase: Phase) {
        let mut phases = self.0.subscribe();
        let reached = phases.wait_for(|&present| present >= phase).await;
        reached.expect("this keeps the sender");
    }
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_go_forward_only() {
        let life = Lifecycle::new();
        assert_eq!(life.phase(), Phase::Serving);
        life.enter(Phase::Draining);
        life.enter(Phase::Leaving);
        assert_eq!(life.phase(), Phase::Draining);
        life.reached(Phase::Leaving).await;
        life.reached(Phase::Draining).await;
    }
}
