//! Takes over what other replicas have defined and deleted, and writes back what the shared state has lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::super::{VocabularyRegistry, is_name, local};
use super::{Others, Seen, Shared, entry, seconds, time};
use crate::shared::{Catalogue, Entry, SharedError, Value};
use crate::vocabulary::disk::Definition;
use crate::vocabulary::text_form::{parse_vocabulary, write_vocabulary};
use crate::vocabulary::{VocabularyDefinition, VocabularyLimits};

/// What two states of all names come to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Exchange {
    /// Names whose definitions this replica takes over.
    take: Vec<String>,
    /// Names whose definitions are deleted.
    drop: Vec<String>,
    /// Names whose states the shared state has lost.
    give: Vec<String>,
}

impl Exchange {
    /// Compares what a replica knows with what the replicas have in common. Where a name has two states of one version,
    /// the common one holds. Of the `missing` names, the replicas have the state in common, and no definition.
    fn between(known: &BTreeMap<String, Entry>, common: &BTreeMap<String, Entry>, missing: &BTreeSet<String>) -> Self {
        let mut exchange = Self::default();
        for (name, theirs) in common {
            match known.get(name) {
                Some(ours) if ours.version > theirs.version || ours == theirs => {}
                _ if theirs.digest.is_none() => exchange.drop.push(name.clone()),
                _ => exchange.take.push(name.clone()),
            }
        }
        let is_lost = |(name, ours): &(&String, &Entry)| {
            let theirs = common.get(*name);
            let is_missing = || missing.contains(*name) && theirs == Some(*ours);
            theirs.is_none_or(|theirs| theirs.version < ours.version) || is_missing()
        };
        exchange.give = known.iter().filter(is_lost).map(|(name, _)| name.clone()).collect();
        exchange
    }
}

impl VocabularyRegistry {
    /// Takes over what others have changed, and writes back what the shared state has lost.
    pub(super) async fn exchange(
        &self,
        shared: &Shared,
        others: &mut Others,
        connection: u64,
    ) -> Result<(), SharedError> {
        let catalogue = shared.state.catalogue().await?;
        let kept = others.remembered(&catalogue.entries, seconds(SystemTime::now()));
        let mut known = self.known();
        for (name, deletion) in others.deleted.iter().filter(|(name, _)| kept.contains(*name)) {
            known.entry(name.clone()).or_insert_with(|| deletion.clone());
        }
        let missing = missing(shared, &known, &catalogue).await?;
        let Catalogue { mark, mut entries } = catalogue;
        let all = entries.len();
        entries.retain(|name, _| is_name(name) && !self.shipped.contains_key(local(name)));
        others.tell_strange(all - entries.len());
        let Exchange { take, mut drop, give } = Exchange::between(&known, &entries, &missing);
        // Of what nobody remembers any longer, nothing is left to do where it is not defined.
        drop.retain(|name| kept.contains(name) || known.contains_key(name));
        let values = shared.state.values(&take).await?;
        let (taken, unread) = read_all(take, values, &entries, &self.limits.definition);
        others.tell_unread(&unread);
        others.unread = unread;
        let learned = others.learn(taken, drop, &entries, &kept);
        self.apply(learned).await;
        self.give_back(shared, &others.deleted, give).await?;
        *shared.seen() = Some(Seen { connection, mark });
        Ok(())
    }

    /// Writes states that the shared state has lost.
    async fn give_back(
        &self,
        shared: &Shared,
        deleted: &BTreeMap<String, Entry>,
        names: Vec<String>,
    ) -> Result<(), SharedError> {
        let mut restored = 0;
        for name in names {
            let known = self.defined().by_name.get(&name).cloned();
            let done = match (known, deleted.get(&name)) {
                (Some(known), _) => {
                    let text = write_vocabulary(&known.list, &known.options);
                    shared.state.restore_definition(&name, &entry(&known), &text).await?
                }
                (None, Some(deletion)) => shared.state.restore_definition(&name, deletion, "").await?,
                (None, None) => false,
            };
            restored += usize::from(done);
        }
        if restored > 0 {
            tracing::warn!(
                restored,
                "wrote known vocabularies to the shared state, which lacked them"
            );
        }
        Ok(())
    }

    /// Returns the states of the names that are defined here.
    fn known(&self) -> BTreeMap<String, Entry> {
        let defined = self.defined();
        let known = defined.by_name.iter();
        known.map(|(name, known)| (name.clone(), entry(known))).collect()
    }
}

/// Returns the known names whose definitions the shared state has lost, and not their states.
async fn missing(
    shared: &Shared,
    known: &BTreeMap<String, Entry>,
    catalogue: &Catalogue,
) -> Result<BTreeSet<String>, SharedError> {
    if catalogue.is_whole() {
        return Ok(BTreeSet::new());
    }
    let is_common = |(name, state): &(&String, &Entry)| {
        let is_defined = state.digest.is_some();
        is_defined && catalogue.entries.get(*name) == Some(*state)
    };
    let names: Vec<String> = known.iter().filter(is_common).map(|(name, _)| name.clone()).collect();
    let bytes = shared.state.definition_bytes(&names).await?;
    let missing = names.into_iter().zip(bytes).filter(|(_, bytes)| *bytes == 0);
    Ok(missing.map(|(name, _)| name).collect())
}

/// Reads the definitions of some names. Returns those of the others by their states. What was deleted since has changed
/// the mark, so it is found the next time.
fn read_all(
    names: Vec<String>,
    values: Vec<Option<Value>>,
    entries: &BTreeMap<String, Entry>,
    limits: &VocabularyLimits,
) -> (Vec<Definition>, BTreeMap<String, Entry>) {
    let (mut taken, mut unread) = (Vec::new(), BTreeMap::new());
    for (name, value) in names.into_iter().zip(values) {
        match value.and_then(|value| Some((read(&value, limits)?, value.version))) {
            Some((vocabulary, version)) => taken.push(Definition {
                name,
                vocabulary,
                defined_at: time(version),
            }),
            None => {
                let state = entries[&name].clone();
                unread.insert(name, state);
            }
        }
    }
    (taken, unread)
}

/// Returns a definition that was read, unless it is another than the one that was written, or exceeds a limit.
fn read(value: &Value, limits: &VocabularyLimits) -> Option<VocabularyDefinition> {
    let text = parse_vocabulary(&value.text).ok()?;
    let vocabulary = VocabularyDefinition::new(text, limits).ok()?;
    (vocabulary.digest() == value.digest).then_some(vocabulary)
}

#[cfg(test)]
mod tests {
    use super::super::super::NamedVocabulary;
    use super::*;
    use crate::vocabulary::classes::tests::list;

    fn states(states: &[(&str, u64, Option<&str>)]) -> BTreeMap<String, Entry> {
        let state = |&(name, version, digest): &(&str, u64, Option<&str>)| {
            let digest = digest.map(str::to_owned);
            (name.to_owned(), Entry { version, digest })
        };
        states.iter().map(state).collect()
    }

    fn exchange(known: &[(&str, u64, Option<&str>)], common: &[(&str, u64, Option<&str>)]) -> [Vec<String>; 3] {
        let Exchange { take, drop, give } = Exchange::between(&states(known), &states(common), &BTreeSet::new());
        [take, drop, give]
    }

    const NONE: Vec<String> = Vec::new();

    #[test]
    fn equal_states_exchange_nothing() {
        let all = [("a", 5, Some("x")), ("b", 6, None)];
        assert_eq!(exchange(&all, &all), [NONE; 3]);
    }

    #[test]
    fn the_later_state_of_a_name_holds_whoever_has_it() {
        let known = [("newer", 5, Some("x")), ("older", 5, Some("x")), ("same", 5, Some("x"))];
        let common = [("newer", 4, Some("y")), ("older", 6, Some("y")), ("same", 5, Some("y"))];
        let [take, drop, give] = exchange(&known, &common);
        assert_eq!(take, ["older", "same"]);
        assert_eq!((drop, give), (NONE, vec!["newer".to_owned()]));
    }

    #[test]
    fn what_was_deleted_later_goes_and_does_not_come_back() {
        let known = [("gone", 5, Some("x")), ("made again", 7, Some("x")), ("old", 3, None)];
        let common = [("gone", 6, None), ("made again", 6, None), ("old", 2, Some("x"))];
        let [take, drop, give] = exchange(&known, &common);
        assert_eq!((take, drop), (NONE, vec!["gone".to_owned()]));
        assert_eq!(give, ["made again", "old"]);
    }

    #[test]
    fn a_shared_state_that_lost_all_gets_all_back_and_a_new_replica_takes_all() {
        let all = [("a", 5, Some("x")), ("b", 6, None)];
        assert_eq!(exchange(&all, &[]), [NONE, NONE, vec!["a".to_owned(), "b".to_owned()]]);
        assert_eq!(exchange(&[], &all), [vec!["a".to_owned()], vec!["b".to_owned()], NONE]);
    }

    #[test]
    fn a_definition_that_is_missing_under_a_known_state_is_given_back() {
        let known = states(&[("here", 5, Some("x")), ("there", 5, Some("x")), ("older", 4, Some("x"))]);
        let common = states(&[("here", 5, Some("x")), ("there", 5, Some("x")), ("older", 5, Some("y"))]);
        let missing = ["here", "older"].map(str::to_owned).into();
        let exchange = Exchange::between(&known, &common, &missing);
        assert_eq!(
            (exchange.give, exchange.take),
            (vec!["here".to_owned()], vec!["older".to_owned()])
        );
    }

    #[test]
    fn a_definition_beyond_the_limits_of_this_replica_is_not_read() {
        let whole = VocabularyDefinition::from(list(&["cat", "dog"], &[]));
        let value = Value {
            version: 6,
            digest: whole.digest(),
            text: write_vocabulary(&whole.list, &whole.options),
        };
        let limits = |max_classes| VocabularyLimits {
            max_classes,
            ..VocabularyLimits::for_testing()
        };
        assert_eq!(read(&value, &limits(2)), Some(whole));
        assert_eq!(read(&value, &limits(1)), None);
    }

    #[test]
    fn what_cannot_be_read_keeps_its_state_for_the_change_that_replaces_it() {
        let whole = VocabularyDefinition::from(list(&["cat"], &[]));
        let value = |digest: &str| Value {
            version: 6,
            digest: digest.to_owned(),
            text: "cat\n".to_owned(),
        };
        let entries = states(&[
            ("whole", 6, Some(&whole.digest())),
            ("damaged", 6, Some("y")),
            ("gone", 7, Some("z")),
        ]);
        let names = ["damaged", "gone", "whole"].map(str::to_owned).to_vec();
        let values = vec![Some(value("y")), None, Some(value(&whole.digest()))];
        let (taken, unread) = read_all(names, values, &entries, &VocabularyLimits::for_testing());
        assert_eq!(taken.iter().map(|taken| &*taken.name).collect::<Vec<_>>(), ["whole"]);
        assert_eq!(unread, states(&[("damaged", 6, Some("y")), ("gone", 7, Some("z"))]));
        let others = Others {
            unread,
            ..Others::default()
        };
        let older = NamedVocabulary::new("damaged", whole, false, time(5));
        assert_eq!(others.state("damaged", Some(&older)), Some(entries["damaged"].clone()));
        assert_eq!(others.state("whole", Some(&older)), Some(entry(&older)));
        assert_eq!(others.state("whole", None), None);
    }
}
