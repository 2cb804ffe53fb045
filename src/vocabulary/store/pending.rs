//! Texts that are being provided, and who waits for each of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::{EmbeddingError, EmbeddingResult};

/// How urgently a text is wanted. The greater is the more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody waits for the text any more.
    Nobody,
    /// The text is embedded ahead of its first request.
    Background,
    /// A request waits for the text.
    Request,
}

/// A text that somebody has the duty to provide.
#[derive(Debug)]
pub(super) struct Pending {
    outcome: watch::Sender<Option<EmbeddingResult>>,
    /// Requests that wait.
    requests: AtomicUsize,
    /// Waiters that embed ahead.
    ahead: AtomicUsize,
}

impl Pending {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            outcome: watch::Sender::new(None),
            requests: AtomicUsize::new(0),
            ahead: AtomicUsize::new(0),
        })
    }

    /// Joins those who wait for the text. To be called under the store's lock, so that the text cannot be given up at
    /// the same moment.
    pub fn wait(self: &Arc<Self>, urgency: Urgency) -> Waiter {
        self.count(urgency).fetch_add(1, Ordering::Relaxed);
        Waiter {
            receiver: self.outcome.subscribe(),
            pending: Arc::clone(self),
            urgency,
        }
    }

    /// Returns how urgently the text is wanted now.
    pub fn urgency(&self) -> Urgency {
        if self.requests.load(Ordering::Relaxed) > 0 {
            Urgency::Request
        } else if self.ahead.load(Ordering::Relaxed) > 0 {
            Urgency::Background
        } else {
            Urgency::Nobody
        }
    }

    /// Tells everybody who waits the outcome, unless there has been one.
    pub fn settle(&self, outcome: EmbeddingResult) {
        self.outcome.send_if_modified(|settled| {
            let is_first = settled.is_none();
            settled.get_or_insert(outcome);
            is_first
        });
    }

    fn count(&self, urgency: Urgency) -> &AtomicUsize {
        match urgency {
            Urgency::Request => &self.requests,
            Urgency::Background | Urgency::Nobody => &self.ahead,
        }
    }
}

/// Somebody who waits for a text. The text is wanted until the waiter is dropped.
#[derive(Debug)]
pub(super) struct Waiter {
    pending: Arc<Pending>,
    receiver: watch::Receiver<Option<EmbeddingResult>>,
    urgency: Urgency,
}

impl Waiter {
    /// Waits for the outcome.
    pub async fn outcome(mut self) -> EmbeddingResult {
        match self.receiver.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().expect("the wait ends with an outcome"),
            Err(_) => Err(EmbeddingError::Interrupted),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.pending.count(self.urgency).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says at any moment how urgently a chunk of texts is wanted, with the texts that come after it.
#[derive(Debug)]
pub struct Interest {
    chunk: Vec<Arc<Pending>>,
    rest: Vec<Arc<Pending>>,
}

impl Interest {
    pub(super) fn new(chunk: Vec<Arc<Pending>>, rest: Vec<Arc<Pending>>) -> Self {
        Self { chunk, rest }
    }

    /// Returns how urgently the chunk is wanted. A chunk that anybody wants is as urgent as the texts that come after
    /// it, because they wait for it.
    pub fn urgency(&self) -> Urgency {
        match most_urgent(&self.chunk) {
            Urgency::Nobody => Urgency::Nobody,
            Urgency::Request => Urgency::Request,
            Urgency::Background => most_urgent(&self.rest).max(Urgency::Background),
        }
    }
}

/// Returns the greatest urgency among texts.
fn most_urgent(texts: &[Arc<Pending>]) -> Urgency {
    let mut most = Urgency::Nobody;
    for text in texts {
        most = most.max(text.urgency());
        if most == Urgency::Request {
            break;
        }
    }
    most
}
