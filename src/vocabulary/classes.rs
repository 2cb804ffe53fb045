//! A checked list of classes with its background, the texts it needs embedded and the classifier they make.
//!
//! Owns what a valid list is and who each text embedding speaks for. Leaves getting the embeddings to
//! [`store`](super::store).

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{Class, Classifier, TemplateSet};
use crate::config::LimitsConfig;
use crate::label_map::{QueryOwner, UNLABELLED};

/// A class of this name is the background itself when background is asked for.
const BACKGROUND: &str = "background";

/// Classes in the order of their ids and the names that stand for everything else. Names are trimmed, printable and
/// within the limits; there is at least one class.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClassList {
    classes: Vec<Class>,
    background: Vec<String>,
}

/// Why a class list was refused. Each limit is named as in the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassListError {
    /// There is nothing to look for.
    #[error("the list has no classes")]
    NoClasses,
    /// More classes than the server takes.
    #[error("{count} classes are more than limits.max_classes = {limit}")]
    TooManyClasses {
        /// Classes in the list.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// More synonyms of one class than the server takes.
    #[error("the class {class:?} has {count} synonyms, more than limits.max_synonyms = {limit}")]
    TooManySynonyms {
        /// The class's name.
        class: String,
        /// Its synonyms.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// More background names than the server takes.
    #[error("{count} background names are more than limits.max_background_names = {limit}")]
    TooManyBackgroundNames {
        /// Names in the list.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A name of nothing but white space.
    #[error("{place} has an empty name")]
    EmptyName {
        /// Where it stands, for people: "class 3", "a synonym of \"person\"", "the background".
        place: String,
    },
    /// A name with a line break, a tab or another control character.
    #[error("the name {name:?} has control characters")]
    ControlCharacter {
        /// The name.
        name: String,
    },
    /// A name longer than the server takes.
    #[error("the name {name:?} has {characters} characters, more than limits.max_name_characters = {limit}")]
    NameTooLong {
        /// The name's first characters.
        name: String,
        /// Characters in the whole name.
        characters: usize,
        /// The limit.
        limit: usize,
    },
}

impl ClassList {
    /// Checks and trims a list.
    ///
    /// # Errors
    /// When it has no classes, or anything in it is over its limit, empty or not printable.
    pub fn new(classes: Vec<Class>, background: Vec<String>, limits: &LimitsConfig) -> Result<Self, ClassListError> {
        if classes.is_empty() {
            return Err(ClassListError::NoClasses);
        }
        // Ids are 16-bit and the highest means unlabelled, whatever the settings say.
        let limit = limits.max_classes.min(usize::from(UNLABELLED));
        if classes.len() > limit {
            return Err(ClassListError::TooManyClasses {
                count: classes.len(),
                limit,
            });
        }
        let classes = classes
            .into_iter()
            .zip(0..)
            .map(|(class, id)| check_class(class, id, limits));
        let classes = classes.collect::<Result<_, _>>()?;
        Ok(Self {
            classes,
            background: check_background(&background, limits)?,
        })
    }

    /// The classes, in the order of their ids.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// The names that stand for everything else; empty when background is not asked for.
    pub fn background(&self) -> &[String] {
        &self.background
    }

    /// The same classes with these names for the background.
    ///
    /// # Errors
    /// As [`ClassList::new`], of the background.
    pub fn with_background(&self, background: &[String], limits: &LimitsConfig) -> Result<Self, ClassListError> {
        Ok(Self {
            classes: self.classes.clone(),
            background: check_background(background, limits)?,
        })
    }

    /// Classes that are known to be valid, whatever the limits for requests.
    pub(super) fn trusted(classes: Vec<Class>) -> Self {
        Self {
            classes,
            background: Vec::new(),
        }
    }

    /// Identifier of the list with its background and templates: equal lists, equal id; 32 hexadecimal digits.
    pub fn id(&self, templates: TemplateSet) -> String {
        hexadecimal(&Sha256::digest(format!("{} {}", templates.name(), self.digest()))[..16])
    }

    /// Digest of the list with its background: equal lists, equal digest; 32 hexadecimal digits.
    pub(super) fn digest(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |role: u8, text: &str| {
            digest.update([role]);
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        for class in &self.classes {
            add(b'c', &class.name);
            class.synonyms.iter().for_each(|synonym| add(b's', synonym));
        }
        self.background.iter().for_each(|name| add(b'b', name));
        hexadecimal(&digest.finalize()[..16])
    }

    /// The texts to embed, each once, in the order they are needed.
    pub fn texts(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        let texts = self.queries().into_iter().flat_map(|query| query.texts);
        texts.filter(|text| seen.insert(*text)).map(str::to_owned).collect()
    }

    /// The label of background pixels: [`UNLABELLED`], or the id of the class that is called "background".
    pub fn background_label(&self) -> u16 {
        self.background_class().unwrap_or(UNLABELLED)
    }

    /// The classifier, from the unit embeddings of [`texts`](Self::texts) in their order.
    ///
    /// A class is one query, the mean of its name's and its synonyms' embeddings scaled to unit length. Each background
    /// name is a query of its own.
    ///
    /// # Panics
    /// When there are not as many embeddings as texts.
    pub fn classifier(&self, embeddings: &[Arc<[f32]>]) -> Classifier {
        let texts = self.texts();
        assert_eq!(texts.len(), embeddings.len(), "one embedding per text");
        let embedding_of: HashMap<&str, &[f32]> = texts
            .iter()
            .map(String::as_str)
            .zip(embeddings.iter().map(AsRef::as_ref))
            .collect();

        let queries = self.queries();
        let dimension = embeddings[0].len();
        let mut rows = Vec::with_capacity(queries.len() * dimension);
        for query in &queries {
            let members: Vec<&[f32]> = query.texts.iter().map(|text| embedding_of[text]).collect();
            rows.extend(unit_mean(&members));
        }
        Classifier {
            queries: queries.len(),
            dimension,
            embeddings: rows,
            owners: queries.iter().map(|query| query.owner).collect(),
        }
    }

    /// The one place that says which texts are averaged and whose the result is: classes in the order of their ids, then
    /// the background's names.
    fn queries(&self) -> Vec<Query<'_>> {
        let background_class = self.background_class();
        let of_class = |(id, class)| Query {
            owner: QueryOwner::Class(id),
            texts: Class::texts(class).collect(),
        };
        let others = (0..).zip(&self.classes).filter(|(id, _)| Some(*id) != background_class);
        let mut queries: Vec<Query> = others.map(of_class).collect();

        // A name that was asked for as a class is no background: the two would share its pixels by chance.
        let mut taken: HashSet<String> = queries
            .iter()
            .flat_map(|query| &query.texts)
            .map(|text| fold(text))
            .collect();
        let owner = background_class.map_or(QueryOwner::Background, QueryOwner::Class);
        let synonyms = background_class.map_or(&[][..], |id| &self.classes[usize::from(id)].synonyms);
        let names = self.background.iter().chain(synonyms).map(String::as_str);
        let names: Vec<&str> = names.filter(|name| taken.insert(fold(name))).collect();
        if let (true, Some(id)) = (names.is_empty(), background_class) {
            // Nothing is left to stand for it but its own name.
            queries.push(of_class((id, &self.classes[usize::from(id)])));
        }
        queries.extend(names.into_iter().map(|name| Query {
            owner,
            texts: vec![name],
        }));
        queries
    }

    /// The class that is the background itself, when background is asked for.
    fn background_class(&self) -> Option<u16> {
        let named = |class: &Class| fold(&class.name) == BACKGROUND;
        let position = self
            .classes
            .iter()
            .position(named)
            .filter(|_| !self.background.is_empty());
        position.map(|id| u16::try_from(id).expect("a list has at most 65535 classes"))
    }
}

/// One row of the classifier.
struct Query<'a> {
    owner: QueryOwner,
    /// Their embeddings are averaged; never empty.
    texts: Vec<&'a str>,
}

/// A name as the model reads it: it knows neither case nor the kind of white space.
pub(super) fn fold(name: &str) -> String {
    name.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a string cannot fail");
            text
        })
}

fn check_background(names: &[String], limits: &LimitsConfig) -> Result<Vec<String>, ClassListError> {
    let (count, limit) = (names.len(), limits.max_background_names);
    if count > limit {
        return Err(ClassListError::TooManyBackgroundNames { count, limit });
    }
    names
        .iter()
        .map(|name| check_name(name, limits, || "the background".to_owned()))
        .collect()
}

fn check_class(class: Class, id: usize, limits: &LimitsConfig) -> Result<Class, ClassListError> {
    let name = check_name(&class.name, limits, || format!("class {id}"))?;
    if class.synonyms.len() > limits.max_synonyms {
        let count = class.synonyms.len();
        return Err(ClassListError::TooManySynonyms {
            class: name,
            count,
            limit: limits.max_synonyms,
        });
    }
    let synonyms = class
        .synonyms
        .iter()
        .map(|text| check_name(text, limits, || format!("a synonym of {name:?}")));
    let synonyms = synonyms.collect::<Result<_, _>>()?;
    Ok(Class { name, synonyms })
}

/// The name without white space around it. `place` says where it stands.
fn check_name(name: &str, limits: &LimitsConfig, place: impl Fn() -> String) -> Result<String, ClassListError> {
    /// Characters of an overlong name that its error repeats.
    const SHOWN: usize = 40;
    let name = name.trim();
    if name.is_empty() {
        return Err(ClassListError::EmptyName { place: place() });
    }
    let characters = name.chars().count();
    if characters > limits.max_name_characters {
        return Err(ClassListError::NameTooLong {
            name: name.chars().take(SHOWN).collect(),
            characters,
            limit: limits.max_name_characters,
        });
    }
    if name.contains(char::is_control) {
        return Err(ClassListError::ControlCharacter { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

/// The mean of unit vectors, scaled to unit length. Vectors that cancel each other out give zeros.
fn unit_mean(vectors: &[&[f32]]) -> Vec<f32> {
    let mut sum = vectors[0].to_vec();
    for vector in &vectors[1..] {
        sum.iter_mut().zip(*vector).for_each(|(total, value)| *total += value);
    }
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    sum.iter()
        .map(|value| if length > 0.0 { value / length } else { 0.0 })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// Small, so that each is easily passed.
    pub(in crate::vocabulary) fn limits() -> LimitsConfig {
        LimitsConfig {
            max_request_bytes: 0,
            max_image_pixels: 0,
            max_classes: 3,
            max_synonyms: 2,
            max_name_characters: 10,
            max_background_names: 3,
            max_vocabularies: 2,
            max_short_side: 0,
            max_input_pixels: 0,
        }
    }

    /// A class in the form of the vocabulary files: "person; man; woman".
    pub(in crate::vocabulary) fn class(text: &str) -> Class {
        let mut names = text.split(';').map(|name| name.trim().to_owned());
        Class {
            name: names.next().unwrap(),
            synonyms: names.collect(),
        }
    }

    pub(in crate::vocabulary) fn list(classes: &[&str], background: &[&str]) -> ClassList {
        let background = background.iter().map(|name| (*name).to_owned()).collect();
        ClassList::new(classes.iter().map(|text| class(text)).collect(), background, &limits()).unwrap()
    }

    fn refused(classes: &[&str], background: &[&str]) -> String {
        let background = background.iter().map(|name| (*name).to_owned()).collect();
        let classes = classes.iter().map(|text| class(text)).collect();
        ClassList::new(classes, background, &limits()).unwrap_err().to_string()
    }

    #[test]
    fn names_are_trimmed() {
        let classes = vec![Class {
            name: " cat\n".into(),
            synonyms: vec!["\tkitty ".into()],
        }];
        let list = ClassList::new(classes, vec![" sky ".into()], &limits()).unwrap();
        assert_eq!(list.classes(), [class("cat; kitty")]);
        assert_eq!(list.background(), ["sky"]);
    }

    #[test]
    fn what_is_refused_is_named_with_its_limit() {
        assert_eq!(refused(&[], &[]), "the list has no classes");
        assert_eq!(
            refused(&["a", "b", "c", "d"], &[]),
            "4 classes are more than limits.max_classes = 3"
        );
        assert_eq!(
            refused(&["a; b; c; d"], &[]),
            "the class \"a\" has 3 synonyms, more than limits.max_synonyms = 2"
        );
        assert_eq!(
            refused(&["a"], &["b", "c", "d", "e"]),
            "4 background names are more than limits.max_background_names = 3"
        );
        assert_eq!(
            refused(&["a", "sky-scraper"], &[]),
            "the name \"sky-scraper\" has 11 characters, more than limits.max_name_characters = 10"
        );
        assert_eq!(refused(&["a", " "], &[]), "class 1 has an empty name");
        assert_eq!(refused(&["person; "], &[]), "a synonym of \"person\" has an empty name");
        assert_eq!(refused(&["a"], &[""]), "the background has an empty name");
        assert_eq!(
            refused(&["a\u{1b}b"], &[]),
            "the name \"a\\u{1b}b\" has control characters"
        );
    }

    #[test]
    fn an_overlong_name_is_not_repeated_whole() {
        let error = refused(&["x".repeat(5000).as_str()], &[]);
        assert!(error.contains("has 5000 characters") && error.len() < 150, "{error}");
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        list(&["猫猫猫猫猫猫猫猫猫猫"], &[]);
    }

    #[test]
    fn ids_differ_by_classes_order_synonyms_background_and_templates() {
        let lists = [
            list(&["a", "b"], &[]),
            list(&["b", "a"], &[]),
            list(&["a; b"], &[]),
            list(&["a"], &["b"]),
            list(&["ab"], &[]),
        ];
        let mut ids: HashSet<String> = lists.iter().map(|list| list.id(TemplateSet::Simple)).collect();
        ids.insert(lists[0].id(TemplateSet::Imagenet80));
        assert_eq!(ids.len(), 6);
        assert!(ids.iter().all(|id| id.len() == 32));
        assert_eq!(
            list(&[" a", "b "], &[]).id(TemplateSet::Simple),
            lists[0].id(TemplateSet::Simple)
        );
    }

    #[test]
    fn each_text_is_asked_for_once() {
        assert_eq!(
            list(&["cat; kitty", "kitty; cat"], &["sky"]).texts(),
            ["cat", "kitty", "sky"]
        );
    }

    /// Unit embeddings in the plane, by angle.
    fn classifier(list: &ClassList, embeddings: &[[f32; 2]]) -> Classifier {
        list.classifier(
            &embeddings
                .iter()
                .map(|row| Arc::from(row.as_slice()))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_class_is_the_unit_mean_of_its_name_and_synonyms() {
        let list = list(&["person; man; woman", "sky"], &[]);
        let made = classifier(&list, &[[1., 0.], [1., 0.], [0., 1.], [0., -1.]]);
        // (2, 1) / sqrt(5), then sky as it is.
        assert_eq!((made.queries, made.dimension), (2, 2));
        let expected = [0.894_427_2, 0.447_213_6, 0., -1.];
        assert!(
            made.embeddings
                .iter()
                .zip(expected)
                .all(|(value, expected)| (value - expected).abs() < 1e-6)
        );
        assert_eq!(made.owners, [QueryOwner::Class(0), QueryOwner::Class(1)]);
    }

    #[test]
    fn texts_that_cancel_each_other_out_give_zeros_not_nan() {
        let made = classifier(&list(&["a; b"], &[]), &[[1., 0.], [-1., 0.]]);
        assert_eq!(made.embeddings, [0., 0.]);
    }

    #[test]
    fn each_background_name_is_a_query_of_its_own() {
        let list = list(&["cat"], &["sky", "wall"]);
        let made = classifier(&list, &[[1., 0.], [0., 1.], [0., -1.]]);
        assert_eq!(
            made.owners,
            [QueryOwner::Class(0), QueryOwner::Background, QueryOwner::Background]
        );
        assert_eq!(made.embeddings, [1., 0., 0., 1., 0., -1.]);
        assert_eq!(list.background_label(), UNLABELLED);
    }

    fn texts_and_owners(list: &ClassList) -> Vec<(Vec<&str>, QueryOwner)> {
        list.queries()
            .into_iter()
            .map(|query| (query.texts, query.owner))
            .collect()
    }

    #[test]
    fn a_class_called_background_is_made_of_the_background_names() {
        let list = list(&["Background; void", "cat"], &["sky", "wall"]);
        assert_eq!(
            texts_and_owners(&list),
            [
                (vec!["cat"], QueryOwner::Class(1)),
                (vec!["sky"], QueryOwner::Class(0)),
                (vec!["wall"], QueryOwner::Class(0)),
                (vec!["void"], QueryOwner::Class(0)),
            ]
        );
        assert_eq!(list.background_label(), 0);
    }

    #[test]
    fn without_background_asked_for_the_word_is_a_class_like_any() {
        let list = list(&["background", "cat"], &[]);
        assert_eq!(list.texts(), ["background", "cat"]);
        assert_eq!(list.background_label(), UNLABELLED);
    }

    #[test]
    fn a_class_is_not_background_at_the_same_time() {
        let list = list(&["cat", "tree; Sky"], &["sky", "wall", "Wall"]);
        assert_eq!(list.texts(), ["cat", "tree", "Sky", "wall"]);
    }

    #[test]
    fn a_background_class_that_loses_all_its_names_keeps_its_own() {
        let list = list(&["background", "sky"], &["sky"]);
        assert_eq!(
            texts_and_owners(&list),
            [
                (vec!["sky"], QueryOwner::Class(1)),
                (vec!["background"], QueryOwner::Class(0))
            ]
        );
    }
}
