//! Changes of shared definitions: a compare-and-set of the state that this replica has seen, tried again where another
//! replica was faster.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::disk::definition;
use super::super::{NamedVocabulary, Stored, VocabularyRegistry, check};
use super::{Others, Shared, time};
use crate::shared::{Entry, PutOutcome, SharedError};
use crate::vocabulary::disk::{Deletion, Learned};
use crate::vocabulary::text_form::write_vocabulary;
use crate::vocabulary::{VocabularyDefinition, VocabularyError};

/// The shortest pause before a change is tried again that another replica was faster with. The longest is five times as
/// long: it is drawn by chance, so that replicas do not meet again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

impl VocabularyRegistry {
    /// Defines a vocabulary for all replicas, as [`VocabularyRegistry::put`] does for this one.
    pub(in crate::vocabulary::registry) async fn put_shared(
        &self,
        name: &str,
        vocabulary: &VocabularyDefinition,
        condition: impl Fn(Option<&str>) -> bool,
        deadline: Instant,
    ) -> Result<(Arc<NamedVocabulary>, Stored), VocabularyError> {
        self.check_name(name)?;
        let text = write_vocabulary(&vocabulary.list, &vocabulary.options);
        let digest = vocabulary.digest();
        let limit = self.limits.max_vocabularies;
        let shared = self.shared_state();
        loop {
            let mut others = self.in_step(shared, name).await?;
            let current = self.defined().by_name.get(name).cloned();
            check(&condition, name, current.as_ref())?;
            let wanted = NamedVocabulary::new(name, vocabulary.clone(), false, SystemTime::UNIX_EPOCH);
            self.check_room(&wanted, current.is_none())?;
            let expected = others.state(name, current.as_ref());
            *shared.seen() = None;
            let put = shared
                .state
                .put_definition(name, expected.as_ref(), (&digest, &text), limit);
            match put.await.map_err(|error| not_shared(name, error))? {
                PutOutcome::Done(version) => {
                    let stored = current.map_or(Stored::Created, |_| Stored::Replaced);
                    let made = NamedVocabulary::new(name, vocabulary.clone(), false, time(version));
                    others.unread.remove(name);
                    others.deleted.remove(name);
                    let defined = vec![definition(&made)];
                    self.apply(Learned {
                        defined,
                        ..Learned::default()
                    })
                    .await;
                    return Ok((made, stored));
                }
                PutOutcome::TooMany => return Err(VocabularyError::TooMany { limit }),
                PutOutcome::Changed => {}
            }
            drop(others);
            self.pause_before(name, deadline).await?;
        }
    }

    /// Deletes a vocabulary for all replicas, as [`VocabularyRegistry::delete`] does for this one.
    pub(in crate::vocabulary::registry) async fn delete_shared(
        &self,
        name: &str,
        condition: impl Fn(Option<&str>) -> bool,
        deadline: Instant,
    ) -> Result<(), VocabularyError> {
        self.refuse_shipped(name)?;
        let shared = self.shared_state();
        loop {
            let mut others = self.in_step(shared, name).await?;
            let current = self.defined().by_name.get(name).cloned();
            let Some(expected) = others.state(name, current.as_ref()) else {
                return Err(VocabularyError::NotFound { name: name.to_owned() });
            };
            check(&condition, name, current.as_ref())?;
            *shared.seen() = None;
            let deleted = shared.state.delete_definition(name, &expected).await;
            if let Some(version) = deleted.map_err(|error| not_shared(name, error))? {
                // Should the shared state lose the deletion, this replica still knows it.
                others.unread.remove(name);
                others.deleted.insert(name.to_owned(), Entry { version, digest: None });
                let name = name.to_owned();
                let deleted = vec![Deletion { name, version }];
                self.apply(Learned {
                    deleted,
                    ..Learned::default()
                })
                .await;
                return Ok(());
            }
            drop(others);
            self.pause_before(name, deadline).await?;
        }
    }

    fn shared_state(&self) -> &Shared {
        self.shared.as_ref().expect("asked where definitions are shared alone")
    }

    /// Takes over what others have changed, for a change of a name. Nothing else is taken over until the lock is dropped.
    async fn in_step<'a>(
        &self,
        shared: &'a Shared,
        name: &str,
    ) -> Result<tokio::sync::MutexGuard<'a, Others>, VocabularyError> {
        let mut others = shared.others.lock().await;
        let taken_over = async {
            let present = shared.look().await?;
            match shared.has_seen(&present) {
                true => Ok(()),
                false => self.exchange(shared, &mut others, present.connection).await,
            }
        };
        taken_over.await.map_err(|error| not_shared(name, error))?;
        Ok(others)
    }

    /// Waits a little before a change is tried again, unless it is time to give up.
    async fn pause_before(&self, name: &str, deadline: Instant) -> Result<(), VocabularyError> {
        if Instant::now() > deadline {
            return Err(VocabularyError::SharedBusy {
                name: name.to_owned(),
                waited: self.limits.wait,
            });
        }
        let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
        tokio::time::sleep(SHORTEST_PAUSE.mul_f64(1.0 + 4.0 * f64::from(drawn) / f64::from(u32::MAX))).await;
        Ok(())
    }
}

fn not_shared(name: &str, error: SharedError) -> VocabularyError {
    let name = name.to_owned();
    match error {
        SharedError::Full => VocabularyError::SharedFull { name },
        SharedError::Unreachable | SharedError::Damaged => VocabularyError::NotShared { name, error },
    }
}
