//! The texts that a student tells apart, and which of them labels can name.

use crate::scores::QueryOwner;
use crate::vocabulary::{ClassList, Classifier, is_background};

/// The texts of a student and its teacher, and who labels each of them.
#[derive(Debug, Clone)]
pub struct Texts {
    /// The student's texts: a query per text of a class, and one per background name unless the background is learned.
    pub student: Classifier,
    /// The query whose embedding is learned, if any.
    pub learned: Option<u16>,
    /// The teacher's texts. Texts of labelled classes are left out.
    pub teacher: Classifier,
    /// The student's query for each of the teacher's texts.
    pub taught: Vec<u16>,
    /// Whether pseudo-labels may name each of the student's queries.
    pub pseudo_labelled: Vec<bool>,
    /// The student's query per class id; `None` if the class has no given labels.
    pub labelled: Vec<Option<u16>>,
}

/// Why texts do not fit the labels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextsError {
    /// No class stands for the background that is to be learned.
    #[error("a learned background needs a class called \"background\"")]
    NoBackgroundClass,
    /// A labelled class has several texts, so its label is ambiguous.
    #[error(
        "the labelled class {0:?} is made of several texts, and a label does not say which: use a learned background \
         or no background names"
    )]
    SeveralTexts(String),
}

impl Texts {
    /// Creates the texts from the classifier of a class list with its background names. If the background is learned,
    /// `without_names` is the classifier of the same classes without background names. `labelled`, `[classes]`, says
    /// which classes have given labels.
    ///
    /// # Errors
    /// [`TextsError`].
    pub fn new(
        list: &ClassList,
        full: &Classifier,
        without_names: Option<&Classifier>,
        labelled: &[bool],
    ) -> Result<Self, TextsError> {
        let background = list.classes().iter().position(|class| is_background(&class.name));
        let learned = match (without_names, background) {
            (Some(_), None) => return Err(TextsError::NoBackgroundClass),
            (Some(_), Some(class)) => Some(query(class)),
            (None, _) => None,
        };
        let student = without_names.unwrap_or(full);
        let is_labelled = |owner: &QueryOwner| match owner {
            QueryOwner::Class(id) => labelled[usize::from(*id)],
            QueryOwner::Background => false,
        };
        let mut labelled_queries = vec![None; labelled.len()];
        for class in (0..labelled.len()).filter(|&class| labelled[class]) {
            let mut queries =
                (0..student.queries).filter(|&index| student.owners[index] == QueryOwner::Class(query(class)));
            match (queries.next(), queries.next()) {
                (Some(one), None) => labelled_queries[class] = Some(query(one)),
                _ => return Err(TextsError::SeveralTexts(list.classes()[class].name.clone())),
            }
        }
        let teaching: Vec<usize> = (0..full.queries)
            .filter(|&index| !is_labelled(&full.owners[index]))
            .collect();
        let taught = teaching.iter().map(|&index| match (without_names, full.owners[index]) {
            // Without background names, the number of a class's query is the class's id.
            (Some(_), QueryOwner::Class(id)) => id,
            (Some(_), QueryOwner::Background) | (None, _) => query(index),
        });
        Ok(Self {
            learned,
            taught: taught.collect(),
            teacher: Classifier {
                queries: teaching.len(),
                dimension: full.dimension,
                embeddings: teaching
                    .iter()
                    .flat_map(|index| &full.embeddings[index * full.dimension..][..full.dimension])
                    .copied()
                    .collect(),
                owners: (0..).map(QueryOwner::Class).take(teaching.len()).collect(),
            },
            pseudo_labelled: student.owners.iter().map(|owner| !is_labelled(owner)).collect(),
            labelled: labelled_queries,
            student: student.clone(),
        })
    }
}

fn query(index: usize) -> u16 {
    u16::try_from(index).expect("a list has at most 65535 queries")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vocabulary::{Synonyms, TextEmbedding, VocabularyLimits, parse_class};

    fn list(background: &[&str]) -> ClassList {
        let classes = ["background", "cat", "dog"].map(|name| parse_class(name).unwrap());
        let names = background.iter().map(|name| (*name).to_owned()).collect();
        ClassList::new(classes.to_vec(), names, &VocabularyLimits::for_testing()).unwrap()
    }

    /// Returns a classifier in which text number n has the embedding (n, 1), before scaling.
    fn classifier(list: &ClassList) -> Classifier {
        let embedding = |number: usize| TextEmbedding {
            vector: vec![number as f32, 1.0].into(),
            truncated: false,
        };
        let embeddings: Vec<_> = (0..list.texts().len()).map(embedding).collect();
        list.classifier(&embeddings, Synonyms::Mean)
    }

    #[test]
    fn the_teacher_labels_what_nobody_labelled() {
        let list = list(&["sky", "sea"]); // queries: cat, dog, sky, sea
        let texts = Texts::new(&list, &classifier(&list), None, &[false, true, false]).unwrap();
        assert_eq!(texts.taught, [1, 2, 3]);
        assert_eq!(texts.pseudo_labelled, [false, true, true, true]);
        assert_eq!(texts.labelled, [None, Some(0), None]);
        assert_eq!(texts.teacher.embeddings, texts.student.embeddings[2..]);
    }

    #[test]
    fn a_learned_background_is_one_query_that_its_names_teach() {
        let list = list(&["sky", "sea"]);
        let plain = list.with_background(&[], &VocabularyLimits::for_testing()).unwrap();
        let student = classifier(&plain);
        let texts = Texts::new(&list, &classifier(&list), Some(&student), &[false, true, false]).unwrap();
        assert_eq!((texts.student.queries, texts.learned), (3, Some(0)));
        assert_eq!(texts.taught, [2, 0, 0]);
        assert_eq!(texts.pseudo_labelled, [true, false, true]);
        let all = Texts::new(&list, &classifier(&list), Some(&student), &[true; 3]).unwrap();
        assert_eq!((all.taught.len(), all.labelled[0]), (0, Some(0)));
    }

    #[test]
    fn a_label_that_could_be_several_texts_is_refused() {
        let list = list(&["sky", "sea"]);
        let error = Texts::new(&list, &classifier(&list), None, &[true, false, false]).unwrap_err();
        assert_eq!(error, TextsError::SeveralTexts("background".to_owned()));
    }
}
