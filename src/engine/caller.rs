//! Callers: on whose behalf requests come, and what each of them has in the engine.
//!
//! The engine knows a caller by a name that somebody else has checked. What one caller leaves here, others neither find
//! nor change nor learn of. Where callers wait for the same thing they take turns, whoever has more that waits. Of what
//! runs out (slots, bytes of bodies, texts that wait) a caller takes only as long as it has no more than is left for
//! all, so that the others always find some. This is the dynamic threshold of Choudhury and Hahne, "Dynamic Queue
//! Length Thresholds for Shared-Memory Packet Switches", 1998, with the factor 1. Where there is one caller, neither
//! changes anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Numbers the turns of all callers at all queues.
static TURNS: AtomicU64 = AtomicU64::new(1);

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
    name: Option<Box<str>>,
    /// How many callers with names there are.
    known: Arc<AtomicUsize>,
    /// The number of the turn that the caller had last.
    latest_turn: AtomicU64,
    /// Held by the one request of the caller that waits for bytes before all others of the caller.
    bytes_turn: tokio::sync::Mutex<()>,
    /// The same for a place at the work.
    place_turn: tokio::sync::Mutex<()>,
    own_place: OwnPlace,
    held: [AtomicU64; 3],
}

/// The place at the work that is a caller's own.
#[derive(Debug)]
struct OwnPlace(Arc<Semaphore>);

impl Default for OwnPlace {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

/// What runs out, so that callers have shares of it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scarce {
    /// Slots.
    Slots,
    /// Bytes of bodies.
    BodyBytes,
    /// Texts that wait to be embedded.
    WaitingTexts,
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Caller {
    pub(super) fn id(&self) -> CallerId {
        self.0.id
    }

    /// Returns the name, if the caller has one.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Returns the number of the turn that the caller had last. Who has waited longest has the smallest.
    pub(super) fn latest_turn(&self) -> u64 {
        self.0.latest_turn.load(Ordering::Relaxed)
    }

    /// Takes note that it is the caller's turn.
    pub(super) fn has_turn(&self) {
        let turn = TURNS.fetch_add(1, Ordering::Relaxed);
        self.0.latest_turn.store(turn, Ordering::Relaxed);
    }

    /// Returns the lock that the caller's requests pass one by one before they wait for bytes. Of each caller at most
    /// one request stands in the queue for bytes, so that callers take turns there.
    pub(super) fn bytes_turn(&self) -> &tokio::sync::Mutex<()> {
        &self.0.bytes_turn
    }

    /// Waits for a place at the work: the caller's own, or one of those that callers take turns for. So the caller's
    /// first request never waits for those of others, and a caller with many requests does not have most of the
    /// processors: decoding and label maps run as soon as they have a place.
    pub(super) async fn place(&self, shared: &Arc<Semaphore>) -> OwnedSemaphorePermit {
        let _turn = self.0.place_turn.lock().await;
        let place = tokio::select! {
            biased;
            own = Arc::clone(&self.0.own_place.0).acquire_owned() => own,
            shared = Arc::clone(shared).acquire_owned() => shared,
        };
        place.expect("nobody closes these semaphores")
    }

    /// Returns whether there are others to take turns with.
    pub(super) fn has_rivals(&self) -> bool {
        self.0.known.load(Ordering::Relaxed) > 1
    }

    /// Returns whether the caller may take more, when so much is left for all.
    pub(super) fn may_take(&self, scarce: Scarce, more: u64, left: u64) -> bool {
        !self.has_rivals() || self.held(scarce) + more <= left
    }

    /// Returns what the caller has.
    pub(super) fn held(&self, scarce: Scarce) -> u64 {
        self.0.held[scarce as usize].load(Ordering::Relaxed)
    }

    /// Counts what the caller takes until the share is dropped.
    pub(super) fn take(&self, scarce: Scarce, amount: u64) -> Share {
        self.0.held[scarce as usize].fetch_add(amount, Ordering::Relaxed);
        Share {
            caller: self.clone(),
            scarce,
            amount,
        }
    }
}

/// What a caller has of something scarce.
#[derive(Debug)]
pub(super) struct Share {
    caller: Caller,
    scarce: Scarce,
    amount: u64,
}

impl Share {
    /// Returns whose it is.
    pub(super) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Changes how much it is.
    pub(super) fn set(&mut self, amount: u64) {
        let held = &self.caller.0.held[self.scarce as usize];
        held.fetch_add(amount, Ordering::Relaxed);
        held.fetch_sub(self.amount, Ordering::Relaxed);
        self.amount = amount;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The callers of an engine by their names. Clones know the same callers.
#[derive(Debug, Clone, Default)]
pub struct Callers(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    by_name: RwLock<HashMap<Box<str>, Caller>>,
    count: Arc<AtomicUsize>,
}

impl Callers {
    /// Returns the caller with a number, if there is one.
    pub(super) fn numbered(&self, id: CallerId) -> Option<Caller> {
        if id == CallerId::default() {
            return Some(Caller::default());
        }
        let by_name = self.0.by_name.read().unwrap_or_else(PoisonError::into_inner);
        by_name.values().find(|caller| caller.id() == id).cloned()
    }

    /// Returns the caller of a name, the same one each time. There are as many as there have been names, so names must
    /// not be anybody's choice.
    pub fn named(&self, name: &str) -> Caller {
        let Known { by_name, count } = &*self.0;
        if let Some(caller) = by_name.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return caller.clone();
        }
        let mut by_name = by_name.write().unwrap_or_else(PoisonError::into_inner);
        let id = CallerId(by_name.len() as u64 + 1);
        let new = || {
            let known = Arc::clone(count);
            Caller(Arc::new(CallerState {
                id,
                name: Some(name.into()),
                known,
                ..CallerState::default()
            }))
        };
        let caller = by_name.entry(name.into()).or_insert_with(new).clone();
        count.store(by_name.len(), Ordering::Relaxed);
        caller
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
        let name = |id| callers.numbered(id).map(|caller| caller.name().map(str::to_owned));
        assert_eq!(name(b), Some(Some("b".to_owned())));
        assert_eq!((name(CallerId::default()), name(CallerId(9))), (Some(None), None));
    }

    /// Takes one at a time of what there are `all` in sum, as long as the caller may.
    fn take_all(caller: &Caller, left: &mut u64) -> Vec<Share> {
        let mut shares = Vec::new();
        while *left > 0 && caller.may_take(Scarce::Slots, 1, *left) {
            shares.push(caller.take(Scarce::Slots, 1));
            *left -= 1;
        }
        shares
    }

    #[test]
    fn a_caller_alone_takes_all_and_one_of_several_leaves_some() {
        let callers = Callers::default();
        let alice = callers.named("alice");
        let mut left = 64;
        assert_eq!(take_all(&alice, &mut left).len(), 64);
        let [bob, carol] = ["bob", "carol"].map(|name| callers.named(name));
        let mut left = 64;
        let held: Vec<_> = [&alice, &bob, &carol].map(|caller| take_all(caller, &mut left)).into();
        assert_eq!(held.iter().map(Vec::len).collect::<Vec<_>>(), [32, 16, 8]);
        assert_eq!((alice.held(Scarce::Slots), alice.held(Scarce::BodyBytes)), (32, 0));
        drop(held);
        assert_eq!(alice.held(Scarce::Slots), 0);
        assert_eq!(take_all(&Caller::default(), &mut 64).len(), 64);
    }

    #[tokio::test]
    async fn the_first_request_of_a_caller_has_a_place_whatever_the_others_have() {
        let callers = Callers::default();
        let [alice, bob] = ["alice", "bob"].map(|name| callers.named(name));
        let shared = Arc::new(Semaphore::new(1));
        let own = alice.place(&shared).await;
        let _common = alice.place(&shared).await;
        let third = alice.place(&shared);
        tokio::pin!(third);
        assert!(
            futures_util::poll!(&mut third).is_pending(),
            "there is one place for both"
        );
        let _own_of_bob = bob.place(&shared).await;
        drop(own);
        assert!(
            futures_util::poll!(&mut third).is_ready(),
            "it is the caller's own again"
        );
    }

    #[test]
    fn a_share_can_grow_and_shrink() {
        let caller = Caller::default();
        let mut share = caller.take(Scarce::BodyBytes, 10);
        share.set(30);
        assert_eq!(caller.held(Scarce::BodyBytes), 30);
        share.set(5);
        let other = caller.take(Scarce::BodyBytes, 1);
        assert_eq!(caller.held(Scarce::BodyBytes), 6);
        drop((share, other));
        assert_eq!(caller.held(Scarce::BodyBytes), 0);
    }
}
