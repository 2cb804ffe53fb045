//! What stands before the names of a model's tensors: wrappers of training put a prefix before all of them, and some
//! keep a second copy of the model beside the first.
//!
//! Owns the choice of the copy and the removal of its prefix. Leaves the names themselves to the forms.

use std::collections::{BTreeSet, HashMap};

use super::stored::Stored;
use super::{CheckpointError, hugging_face};

/// A tensor that both of CLIP's visual towers have under open_clip's names. Whatever stands before it stands before
/// the names of the whole model.
const MARK: &str = "visual.conv1.weight";

/// Marks an averaged copy of a model in the prefix of its names: the exponential moving average of its weights.
const AVERAGED_MARK: &str = "ema";

/// Most copies among which one is chosen. More are no copies, and each is looked at for each tensor.
const MAX_COPIES: usize = 8;

/// The tensors of one model, without the prefix of their names.
#[derive(Debug)]
pub(super) struct Unwrapped {
    pub(super) tensors: HashMap<String, Stored>,
    /// What stood before the names of the tensors, such as `module.`; often empty.
    pub(super) prefix: String,
    /// Prefixes of other copies of the model that were left out, sorted.
    pub(super) copies_left_out: Vec<String>,
    /// The tensors that belong to no copy, with their shapes, sorted by their names as the file has them.
    pub(super) others: Vec<(String, Vec<i64>)>,
}

/// Finds the model among the tensors and takes the prefix off its names. Of several copies the averaged one is taken,
/// which is the one that training evaluates. Tensors in which no model is found keep their names.
///
/// # Errors
/// Fails when there are several copies, and not exactly one of them is an average.
pub(super) fn unwrap(tensors: HashMap<String, Stored>) -> Result<Unwrapped, CheckpointError> {
    let mut prefixes = prefixes(&tensors);
    let prefix = taken(&prefixes)?;
    prefixes.remove(&prefix);
    let mut unwrapped = Unwrapped {
        tensors: HashMap::with_capacity(tensors.len()),
        prefix,
        copies_left_out: Vec::new(),
        others: Vec::new(),
    };
    for (name, tensor) in tensors {
        // The longest prefix: that of another copy may continue the one that is taken.
        let prefix = &unwrapped.prefix;
        let left_out = prefixes.iter().any(|other| {
            let is_longer = !name.starts_with(prefix.as_str()) || other.len() > prefix.len();
            is_longer && name.starts_with(other.as_str())
        });
        match name.strip_prefix(prefix.as_str()) {
            _ if left_out => {}
            Some(rest) => drop(unwrapped.tensors.insert(rest.to_owned(), tensor)),
            None => unwrapped.others.push((name, tensor.shape().to_vec())),
        }
    }
    unwrapped.others.sort_unstable();
    unwrapped.copies_left_out = prefixes.into_iter().collect();
    Ok(unwrapped)
}

/// Returns what stands before the names of each copy of a model.
fn prefixes(tensors: &HashMap<String, Stored>) -> BTreeSet<String> {
    tensors
        .keys()
        .filter_map(|name| {
            [MARK, hugging_face::MARK]
                .iter()
                .find_map(|mark| name.strip_suffix(mark))
        })
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('.'))
        .map(str::to_owned)
        .collect()
}

/// Returns the prefix of the copy to take, which is empty when there is none.
fn taken(prefixes: &BTreeSet<String>) -> Result<String, CheckpointError> {
    let mut averaged = prefixes.iter().filter(|prefix| is_averaged(prefix));
    match (prefixes.len(), averaged.next(), averaged.next()) {
        (0, ..) => Ok(String::new()),
        (1, ..) => Ok(prefixes.first().expect("there is one").clone()),
        (..=MAX_COPIES, Some(averaged), None) => Ok(averaged.clone()),
        _ => Err(CheckpointError::SeveralModels {
            prefixes: prefixes.iter().take(MAX_COPIES).cloned().collect(),
        }),
    }
}

/// Returns whether a part of the prefix says that the copy is an average, as in `model_ema.module.`.
fn is_averaged(prefix: &str) -> bool {
    prefix.split(['.', '_']).any(|part| part == AVERAGED_MARK)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tch::Kind;

    use super::*;

    fn unwrap(names: &[&str]) -> Result<Unwrapped, CheckpointError> {
        let tensor = Stored::contiguous(Kind::Float, vec![1], 0..4).unwrap();
        super::unwrap(names.iter().map(|name| ((*name).to_owned(), tensor.clone())).collect())
    }

    fn names(unwrapped: &Unwrapped) -> Vec<&str> {
        let mut names: Vec<_> = unwrapped.tensors.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn whatever_stands_before_all_names_is_taken_off() {
        for prefix in [
            "",
            "module.",
            "_orig_mod.",
            "model.",
            "module._orig_mod.",
            "clip_model.model.",
        ] {
            for mark in [MARK, hugging_face::MARK] {
                let found = ["logit_scale", mark].map(|name| format!("{prefix}{name}"));
                let found = unwrap(&found.each_ref().map(String::as_str)).unwrap();
                assert_eq!(names(&found), ["logit_scale", mark], "{prefix}");
                assert_eq!(found.prefix, prefix);
            }
        }
    }

    #[test]
    fn tensors_without_the_prefix_are_others() {
        let found = unwrap(&["model.visual.conv1.weight", "model.logit_scale", "loss.weight"]).unwrap();
        assert_eq!(names(&found), ["logit_scale", MARK]);
        assert_eq!(found.others, [("loss.weight".to_owned(), vec![1])]);
        // Nothing is a model here, so every name is as it was.
        let found = unwrap(&["module.a", "module.b"]).unwrap();
        assert_eq!(names(&found), ["module.a", "module.b"]);
        // "visual.conv1.weight" begins amid a word.
        assert_eq!(unwrap(&["audiovisual.conv1.weight"]).unwrap().prefix, "");
    }

    #[test]
    fn of_two_copies_the_averaged_one_is_taken_and_the_other_is_named() {
        for (taken, other) in [
            ("model_ema.module.", "model."),
            ("ema.", ""),
            ("ema_model.", "online_model."),
            ("model.ema.", "model."),
        ] {
            let found = [taken, other].map(|prefix| format!("{prefix}{MARK}"));
            let found = unwrap(&found.each_ref().map(String::as_str)).unwrap();
            assert_eq!((names(&found), found.prefix.as_str()), (vec![MARK], taken));
            assert_eq!(found.copies_left_out, [other]);
            assert!(found.others.is_empty(), "{:?}", found.others);
        }
    }

    #[test]
    fn two_copies_that_cannot_be_told_apart_are_refused_by_their_prefixes() {
        let refused = unwrap(&["teacher.visual.conv1.weight", "student.visual.conv1.weight"]);
        assert_eq!(
            refused.unwrap_err().to_string(),
            "the checkpoint has several models, under student. and teacher.: keep one of them"
        );
    }
}
