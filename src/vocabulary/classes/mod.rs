//! A checked list of classes with its background, the texts that need embeddings, and the classifier made from them.
//!
//! This file owns what makes a list valid and which class each text embedding counts for. [`store`](super::store)
//! provides the embeddings.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

use super::VocabularyLimits;
use super::{Class, Classifier, EmbeddedTexts, Synonyms, TemplateSet};
use crate::scores::{QueryOwner, UNLABELLED};
use crate::support::{ExceededLimit, visible};

/// A class with this name is the background itself if the list has background names.
const BACKGROUND: &str = "background";

/// Classes in the order of their ids, and the background names. There is at least one class. All names are trimmed,
/// printable, without invisible characters, and within the limits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClassList {
    classes: Vec<Class>,
    background: Vec<String>,
}

/// Why a class list was refused. Each text names the limit's settings key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClassListError {
    /// The list has no classes.
    #[error("the list has no classes")]
    NoClasses,
    /// The list has more classes than the server allows.
    #[error("{count} classes are more than limits.max_classes = {limit}")]
    TooManyClasses {
        /// The number of classes in the list.
        count: usize,
        /// The largest number of classes.
        limit: usize,
    },
    /// A class has more synonyms than the server allows.
    #[error("the class {class:?} has {count} synonyms, more than limits.max_synonyms = {limit}")]
    TooManySynonyms {
        /// The class's name.
        class: String,
        /// The number of its synonyms.
        count: usize,
        /// The largest number of synonyms.
        limit: usize,
    },
    /// The list has more background names than the server allows.
    #[error("{count} background names are more than limits.max_background_names = {limit}")]
    TooManyBackgroundNames {
        /// The number of background names in the list.
        count: usize,
        /// The largest number of background names.
        limit: usize,
    },
    /// A name is empty: white space or invisible characters alone.
    #[error("{place} has an empty name")]
    EmptyName {
        /// The place of the name, in words: "class 3", "a synonym of \"person\"", "the background".
        place: String,
    },
    /// A name has a line break, a tab or another control character.
    #[error("the name {name:?} has control characters")]
    ControlCharacter {
        /// The name.
        name: String,
    },
    /// The names of the list have more bytes than the server allows.
    #[error("the names of the list have {bytes} bytes, more than limits.max_vocabulary_bytes = {limit}")]
    TooManyBytes {
        /// Bytes of all names in UTF-8.
        bytes: usize,
        /// The largest number of bytes.
        limit: usize,
    },
    /// An option of a vocabulary is out of its range.
    #[error("the option {option} must be 0 to 1, not {value}")]
    OptionRange {
        /// Name of the option.
        option: &'static str,
        /// The given value.
        value: String,
    },
    /// A name has more characters than the server allows.
    #[error("the name {name:?} has {characters} characters, more than limits.max_name_characters = {limit}")]
    NameTooLong {
        /// The first characters of the name.
        name: String,
        /// The number of characters in the whole name.
        characters: usize,
        /// The largest number of characters.
        limit: usize,
    },
}

impl ClassListError {
    /// Returns the limit in the settings that the list exceeds, if it exceeds one.
    pub fn limit(&self) -> Option<ExceededLimit> {
        let (key, limit) = match *self {
            Self::TooManyClasses { limit, .. } => ("limits.max_classes", limit),
            Self::TooManySynonyms { limit, .. } => ("limits.max_synonyms", limit),
            Self::TooManyBackgroundNames { limit, .. } => ("limits.max_background_names", limit),
            Self::TooManyBytes { limit, .. } => ("limits.max_vocabulary_bytes", limit),
            Self::NameTooLong { limit, .. } => ("limits.max_name_characters", limit),
            Self::NoClasses | Self::EmptyName { .. } | Self::ControlCharacter { .. } | Self::OptionRange { .. } => {
                return None;
            }
        };
        Some(ExceededLimit::whole(key, limit as u64))
    }
}

impl ClassList {
    /// Trims and checks a list.
    ///
    /// # Errors
    /// [`ClassListError`] when the list has no classes, or a part of it exceeds its limit, is empty or is not
    /// printable.
    pub fn new(
        classes: Vec<Class>,
        background: Vec<String>,
        limits: &VocabularyLimits,
    ) -> Result<Self, ClassListError> {
        if classes.is_empty() {
            return Err(ClassListError::NoClasses);
        }
        // Ids have 16 bits and the largest means unlabelled, whatever the settings allow.
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
        let background = check_background(&background, limits)?;
        Self { classes, background }.within_bytes(limits)
    }

    /// Returns the classes in the order of their ids.
    pub fn classes(&self) -> &[Class] {
        &self.classes
    }

    /// Returns the id of the class with this name, else of the first that has it as a synonym. Upper and lower case,
    /// and ways of composing a character, count as one if no name is exactly this.
    pub fn class_called(&self, name: &str) -> Option<u16> {
        let (name, folded) = (visible(name), fold(&visible(name)));
        let place = |is_it: &dyn Fn(&Class) -> bool| self.classes.iter().position(is_it);
        let id = place(&|class| class.name == *name)
            .or_else(|| place(&|class| fold(&class.name) == folded))
            .or_else(|| place(&|class| class.synonyms.iter().any(|synonym| fold(synonym) == folded)));
        id.map(|id| u16::try_from(id).expect("a list has at most 65535 classes"))
    }

    /// Returns the background names. Empty if the list has no background.
    pub fn background(&self) -> &[String] {
        &self.background
    }

    /// Returns the same classes with other background names.
    ///
    /// # Errors
    /// [`ClassListError`] when the background names are refused, as in [`ClassList::new`].
    pub fn with_background(&self, background: &[String], limits: &VocabularyLimits) -> Result<Self, ClassListError> {
        let background = check_background(background, limits)?;
        let classes = self.classes.clone();
        Self { classes, background }.within_bytes(limits)
    }

    /// Refuses a list whose names have too many bytes.
    fn within_bytes(self, limits: &VocabularyLimits) -> Result<Self, ClassListError> {
        let (bytes, limit) = (self.names().map(str::len).sum(), limits.max_vocabulary_bytes);
        match bytes > limit {
            true => Err(ClassListError::TooManyBytes { bytes, limit }),
            false => Ok(self),
        }
    }

    /// Returns all names: of classes, of synonyms and of the background.
    fn names(&self) -> impl Iterator<Item = &str> {
        let background = self.background.iter().map(String::as_str);
        self.classes.iter().flat_map(Class::texts).chain(background)
    }

    /// Returns the estimated bytes that the list takes in memory.
    pub fn bytes(&self) -> usize {
        // An allocation takes about two words more than it holds.
        let name_bytes = |name: &str| size_of::<String>() + 2 * size_of::<usize>() + name.len();
        let names: usize = self.names().map(name_bytes).sum();
        names + self.classes.len() * size_of::<Vec<String>>() + size_of::<Self>()
    }

    /// Creates a list that is known to be valid, without checking the limits for requests.
    pub(super) fn trusted(classes: Vec<Class>, background: Vec<String>) -> Self {
        Self { classes, background }
    }

    /// Returns the id of the list with its background and templates, 32 hexadecimal digits. Equal lists have equal ids.
    pub fn id(&self, templates: TemplateSet) -> String {
        hex::encode(&Sha256::digest(format!("{} {}", templates.name(), self.digest()))[..16])
    }

    /// Returns the digest of the list with its background, 32 hexadecimal digits. Equal lists have equal digests.
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
        hex::encode(&digest.finalize()[..16])
    }

    /// Returns the texts to embed, each once, in the order of the queries.
    pub fn texts(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        // The synonyms option changes neither the texts nor their order.
        let texts = self.queries(Synonyms::Mean).into_iter().flat_map(|query| query.texts);
        texts.filter(|text| seen.insert(*text)).map(str::to_owned).collect()
    }

    /// Returns one class per query of [`classifier`](Self::classifier) under [`Synonyms::Mean`], made of the query's
    /// texts, in the order of the queries. In this list each background name is a class of its own.
    pub fn queries_as_classes(&self) -> Vec<Class> {
        let queries = self.queries(Synonyms::Mean).into_iter();
        let class = |query: Query<'_>| {
            let mut texts = query.texts.into_iter().map(str::to_owned);
            Class {
                name: texts.next().expect("a query has a text"),
                synonyms: texts.collect(),
            }
        };
        queries.map(class).collect()
    }

    /// Returns the owner of each query, in the order of [`queries_as_classes`](Self::queries_as_classes).
    pub fn query_owners(&self) -> Vec<QueryOwner> {
        let queries = self.queries(Synonyms::Mean).into_iter();
        queries.map(|query| query.owner).collect()
    }

    /// Returns the label of background pixels: the id of the class called "background" if the list has background
    /// names, otherwise [`UNLABELLED`].
    pub fn background_label(&self) -> u16 {
        self.background_class().unwrap_or(UNLABELLED)
    }

    /// Builds the classifier from the embeddings of the list's texts.
    ///
    /// [`Synonyms::Mean`] makes one query per class: the mean of the embeddings of its name and synonyms, scaled to
    /// unit length. [`Synonyms::Max`] makes one query per text. Each background name is a query of its own. A single
    /// embedding is used unchanged.
    ///
    /// # Panics
    /// When the embedding of one of [`texts`](Self::texts) is missing.
    pub fn classifier(&self, embeddings: &EmbeddedTexts, synonyms: Synonyms) -> Classifier {
        let embedding_of = |text: &str| &*embeddings[text].vector;
        let queries = self.queries(synonyms);
        let dimension = embedding_of(queries[0].texts[0]).len();
        let mut rows = Vec::with_capacity(queries.len() * dimension);
        for query in &queries {
            let members: Vec<&[f32]> = query.texts.iter().map(|text| embedding_of(text)).collect();
            rows.extend(unit_mean(&members));
        }
        Classifier {
            queries: queries.len(),
            dimension,
            embeddings: rows,
            owners: queries.iter().map(|query| query.owner).collect(),
        }
    }

    /// Returns the number of queries of [`classifier`](Self::classifier).
    pub fn query_count(&self, synonyms: Synonyms) -> usize {
        self.queries(synonyms).len()
    }

    /// Returns the queries: classes in the order of their ids, then background names. No other function decides which
    /// texts are averaged and who owns the result.
    fn queries(&self, synonyms: Synonyms) -> Vec<Query<'_>> {
        let background_class = self.background_class();
        let of_class = |(id, class)| {
            let owner = QueryOwner::Class(id);
            let texts: Vec<&str> = Class::texts(class).collect();
            match synonyms {
                Synonyms::Mean => vec![Query { owner, texts }],
                Synonyms::Max => texts
                    .into_iter()
                    .map(|text| Query {
                        owner,
                        texts: vec![text],
                    })
                    .collect(),
            }
        };
        // The classes come first: after the last of 65535, no further id is asked for.
        let others = self
            .classes
            .iter()
            .zip(0..)
            .filter(|(_, id)| Some(*id) != background_class);
        let mut queries: Vec<Query> = others.flat_map(|(class, id)| of_class((id, class))).collect();

        // A background name that is also a class is left out. Otherwise both would get its pixels by chance.
        let mut taken: HashSet<String> = queries
            .iter()
            .flat_map(|query| &query.texts)
            .map(|text| fold(text))
            .collect();
        let owner = background_class.map_or(QueryOwner::Background, QueryOwner::Class);
        let own = background_class.map_or(&[][..], |id| &self.classes[usize::from(id)].synonyms);
        let names = self.background.iter().chain(own).map(String::as_str);
        let names: Vec<&str> = names.filter(|name| taken.insert(fold(name))).collect();
        if let (true, Some(id)) = (names.is_empty(), background_class) {
            // No background name is left, so the class keeps its own name.
            queries.extend(of_class((id, &self.classes[usize::from(id)])));
        }
        queries.extend(names.into_iter().map(|name| Query {
            owner,
            texts: vec![name],
        }));
        queries
    }

    /// Returns the class that is the background itself, if the list has background names.
    fn background_class(&self) -> Option<u16> {
        let position = self
            .classes
            .iter()
            .position(|class| is_background(&class.name))
            .filter(|_| !self.background.is_empty());
        position.map(|id| u16::try_from(id).expect("a list has at most 65535 classes"))
    }
}

/// A row of the classifier.
struct Query<'a> {
    owner: QueryOwner,
    /// The texts whose embeddings are averaged, never empty.
    texts: Vec<&'a str>,
}

/// Returns a name as the model reads it: composed characters (NFC), lower case, with single spaces.
pub(super) fn fold(name: &str) -> String {
    let composed: String = name.nfc().collect();
    composed.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

/// Returns whether the model reads a text as the word "background". A class with this name stands for everything
/// outside the other classes. In a student with a learned background, this text has the learned embedding.
pub fn is_background(text: &str) -> bool {
    fold(text) == BACKGROUND
}

fn check_background(names: &[String], limits: &VocabularyLimits) -> Result<Vec<String>, ClassListError> {
    let (count, limit) = (names.len(), limits.max_background_names);
    if count > limit {
        return Err(ClassListError::TooManyBackgroundNames { count, limit });
    }
    names
        .iter()
        .map(|name| check_name(name, limits, || "the background".to_owned()))
        .collect()
}

fn check_class(class: Class, id: usize, limits: &VocabularyLimits) -> Result<Class, ClassListError> {
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

/// Returns the name without surrounding white space and invisible characters. `place` returns the words for its place.
fn check_name(name: &str, limits: &VocabularyLimits, place: impl Fn() -> String) -> Result<String, ClassListError> {
    /// Characters of a too long name that its error repeats.
    const SHOWN: usize = 40;
    let name = visible(name);
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
        return Err(ClassListError::ControlCharacter {
            name: name.into_owned(),
        });
    }
    Ok(name.into_owned())
}

/// Returns the mean of unit vectors, scaled to unit length. Vectors that cancel out give zeros. A single vector is
/// returned unchanged, because a student's learned background has its own length.
fn unit_mean(vectors: &[&[f32]]) -> Vec<f32> {
    if let [alone] = vectors {
        return alone.to_vec();
    }
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
pub(super) mod tests;
