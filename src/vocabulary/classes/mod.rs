//! A checked list of classes with its background, the texts it needs embedded and the classifier they make.
//!
//! Owns what a valid list is and who each text embedding speaks for. Leaves getting the embeddings to
//! [`store`](super::store).

use std::collections::{HashMap, HashSet};

use sha2::{Digest, Sha256};

use super::VocabularyLimits;
use super::{Class, Classifier, Synonyms, TemplateSet, TextEmbedding};
use crate::scores::{QueryOwner, UNLABELLED};

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
    /// An option of a vocabulary out of its range.
    #[error("the option {option} must be 0 to 1, not {value}")]
    OptionRange {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: String,
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
    pub fn new(
        classes: Vec<Class>,
        background: Vec<String>,
        limits: &VocabularyLimits,
    ) -> Result<Self, ClassListError> {
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
    pub fn with_background(&self, background: &[String], limits: &VocabularyLimits) -> Result<Self, ClassListError> {
        Ok(Self {
            classes: self.classes.clone(),
            background: check_background(background, limits)?,
        })
    }

    /// Classes that are known to be valid, whatever the limits for requests.
    pub(super) fn trusted(classes: Vec<Class>, background: Vec<String>) -> Self {
        Self { classes, background }
    }

    /// Identifier of the list with its background and templates: equal lists, equal id; 32 hexadecimal digits.
    pub fn id(&self, templates: TemplateSet) -> String {
        hex::encode(&Sha256::digest(format!("{} {}", templates.name(), self.digest()))[..16])
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
        hex::encode(&digest.finalize()[..16])
    }

    /// The texts to embed, each once, in the order they are needed.
    pub fn texts(&self) -> Vec<String> {
        let mut seen = HashSet::new();
        // The same in the same order, whatever becomes of synonyms.
        let texts = self.queries(Synonyms::Mean).into_iter().flat_map(|query| query.texts);
        texts.filter(|text| seen.insert(*text)).map(str::to_owned).collect()
    }

    /// The texts that [`classifier`](Self::classifier) has in one query under [`Synonyms::Mean`], as a class each, in the order
    /// of the queries: a class list that tells the background's names apart.
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

    /// Whose each of these is.
    pub fn query_owners(&self) -> Vec<QueryOwner> {
        let queries = self.queries(Synonyms::Mean).into_iter();
        queries.map(|query| query.owner).collect()
    }

    /// The label of background pixels: [`UNLABELLED`], or the id of the class that is called "background".
    pub fn background_label(&self) -> u16 {
        self.background_class().unwrap_or(UNLABELLED)
    }

    /// The classifier, from the unit embeddings of [`texts`](Self::texts) in their order.
    ///
    /// A class is one query, the mean of its name's and its synonyms' embeddings scaled to unit length, or as many queries as
    /// it has texts. Each background name is a query of its own. An embedding that stands alone is taken as it is.
    ///
    /// # Panics
    /// When there are not as many embeddings as texts.
    pub fn classifier(&self, embeddings: &[TextEmbedding], synonyms: Synonyms) -> Classifier {
        let texts = self.texts();
        assert_eq!(texts.len(), embeddings.len(), "one embedding per text");
        let embedding_of: HashMap<&str, &[f32]> = texts
            .iter()
            .map(String::as_str)
            .zip(embeddings.iter().map(|embedding| &*embedding.vector))
            .collect();

        let queries = self.queries(synonyms);
        let dimension = embeddings[0].vector.len();
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
        let others = (0..).zip(&self.classes).filter(|(id, _)| Some(*id) != background_class);
        let mut queries: Vec<Query> = others.flat_map(of_class).collect();

        // A name that was asked for as a class is no background: the two would share its pixels by chance.
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
            // Nothing is left to stand for it but its own name.
            queries.extend(of_class((id, &self.classes[usize::from(id)])));
        }
        queries.extend(names.into_iter().map(|name| Query {
            owner,
            texts: vec![name],
        }));
        queries
    }

    /// The class that is the background itself, when background is asked for.
    fn background_class(&self) -> Option<u16> {
        let position = self
            .classes
            .iter()
            .position(|class| is_background(&class.name))
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

/// Whether a text is the word "background", as the model reads it. A class of this name stands for all that is no other
/// class, and its text has the embedding that a student learned for the background.
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

/// The name without white space around it. `place` says where it stands.
fn check_name(name: &str, limits: &VocabularyLimits, place: impl Fn() -> String) -> Result<String, ClassListError> {
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

/// The mean of unit vectors, scaled to unit length. Vectors that cancel each other out give zeros. One alone stays as it is: what a
/// student learned for the background has a length of its own.
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
