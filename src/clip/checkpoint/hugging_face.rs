//! Hugging Face's names for CLIP's tensors, translated to open_clip's names and back.
//!
//! Two more things differ in Hugging Face's form. Queries, keys and values have separate projections, and both final
//! projections are stored as outputs x inputs. The translation moves no bytes: reading joins the three and transposes
//! the two.

use std::collections::HashMap;

use super::CheckpointError;
use super::stored::Stored;

/// A tensor that every CLIP in this form has and that no other form has.
pub(super) const MARK: &str = "vision_model.embeddings.class_embedding";

/// The tensors outside the blocks: Hugging Face's name, then open_clip's.
const WHOLE: [(&str, &str); 14] = [
    (MARK, "visual.class_embedding"),
    ("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    (
        "vision_model.embeddings.position_embedding.weight",
        "visual.positional_embedding",
    ),
    // "layrnorm" is a misspelling that became part of the form.
    ("vision_model.pre_layrnorm.weight", "visual.ln_pre.weight"),
    ("vision_model.pre_layrnorm.bias", "visual.ln_pre.bias"),
    ("vision_model.post_layernorm.weight", "visual.ln_post.weight"),
    ("vision_model.post_layernorm.bias", "visual.ln_post.bias"),
    ("visual_projection.weight", "visual.proj"),
    ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    (
        "text_model.embeddings.position_embedding.weight",
        "positional_embedding",
    ),
    ("text_model.final_layer_norm.weight", "ln_final.weight"),
    ("text_model.final_layer_norm.bias", "ln_final.bias"),
    ("text_projection.weight", "text_projection"),
    ("logit_scale", "logit_scale"),
];

/// The names of the two towers' blocks up to the block's number: Hugging Face's, then open_clip's.
const BLOCKS: [(&str, &str); 2] = [
    ("vision_model.encoder.layers.", "visual.transformer.resblocks."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
];

/// The names of the tensors inside a block: Hugging Face's, then open_clip's.
const IN_BLOCK: [(&str, &str); 10] = [
    ("layer_norm1.weight", "ln_1.weight"),
    ("layer_norm1.bias", "ln_1.bias"),
    ("self_attn.out_proj.weight", "attn.out_proj.weight"),
    ("self_attn.out_proj.bias", "attn.out_proj.bias"),
    ("layer_norm2.weight", "ln_2.weight"),
    ("layer_norm2.bias", "ln_2.bias"),
    ("mlp.fc1.weight", "mlp.c_fc.weight"),
    ("mlp.fc1.bias", "mlp.c_fc.bias"),
    ("mlp.fc2.weight", "mlp.c_proj.weight"),
    ("mlp.fc2.bias", "mlp.c_proj.bias"),
];

/// The letters of the projections that open_clip's form joins, in open_clip's order.
const APART: [&str; 3] = ["q", "k", "v"];

/// The last part of a separate projection's name, and the name of the joined projection.
const JOINED: [(&str, &str); 2] = [("weight", "attn.in_proj_weight"), ("bias", "attn.in_proj_bias")];

/// The tensors that only open_clip stores as inputs x outputs.
const TRANSPOSED: [&str; 2] = ["visual.proj", "text_projection"];

/// Returns whether the tensors have Hugging Face's names.
pub(super) fn is_form_of(tensors: &HashMap<String, Stored>) -> bool {
    tensors.contains_key(MARK)
}

/// Renames the tensors to open_clip's names. A tensor without a translation keeps its name, and
/// [`super::Weights::finish`] will report it.
pub(super) fn translate(mut tensors: HashMap<String, Stored>) -> Result<HashMap<String, Stored>, CheckpointError> {
    let mut translated = HashMap::with_capacity(tensors.len());
    for (block, part) in blocks_with_projections(&tensors) {
        for (end, joined) in JOINED {
            let parts = take_apart(&mut tensors, &block, end)?;
            let shapes = parts.each_ref().map(|part| part.shape().to_vec());
            let Some(whole) = Stored::joined(parts) else {
                return Err(CheckpointError::Damaged(format!(
                    "{block}.self_attn: the {end}s of q_proj, k_proj and v_proj are {shapes:?} and do not fit each other"
                )));
            };
            translated.insert(format!("{part}.{joined}"), whole);
        }
    }
    for (name, tensor) in tensors {
        let name = in_open_clip(&name).unwrap_or(name);
        let is_transposed = TRANSPOSED.contains(&name.as_str());
        let tensor = if is_transposed { tensor.transposed() } else { tensor };
        if translated.insert(name.clone(), tensor).is_some() {
            return Err(CheckpointError::Damaged(format!(
                "it has {name} under open_clip's name and under Hugging Face's"
            )));
        }
    }
    Ok(translated)
}

/// Returns Hugging Face's name and shape of the tensor that open_clip calls `name`, for people who look into their
/// file.
pub(super) fn in_file(name: &str, shape: &[i64]) -> (String, Vec<i64>) {
    let mut shape = shape.to_vec();
    if TRANSPOSED.contains(&name) {
        shape.reverse();
    }
    let whole = WHOLE.iter().find(|(_, open_clip)| *open_clip == name);
    let found = whole.map(|(hugging_face, _)| (*hugging_face).to_owned());
    let found = found.or_else(|| {
        let (block, number, part) = split_block(name, BLOCKS.map(|(_, open_clip)| open_clip))?;
        let part = match JOINED.iter().find(|(_, joined)| *joined == part) {
            Some((end, _)) => format!("self_attn.{{q,k,v}}_proj.{end}"),
            None => {
                let (part, _) = IN_BLOCK.iter().find(|(_, open_clip)| *open_clip == part)?;
                (*part).to_owned()
            }
        };
        Some(format!("{}{number}.{part}", BLOCKS[block].0))
    });
    (found.unwrap_or_else(|| name.to_owned()), shape)
}

fn in_open_clip(name: &str) -> Option<String> {
    if let Some((_, open_clip)) = WHOLE.iter().find(|(hugging_face, _)| *hugging_face == name) {
        return Some((*open_clip).to_owned());
    }
    let (block, number, part) = split_block(name, BLOCKS.map(|(hugging_face, _)| hugging_face))?;
    let (_, part) = IN_BLOCK.iter().find(|(hugging_face, _)| *hugging_face == part)?;
    Some(format!("{}{number}.{part}", BLOCKS[block].1))
}

/// Splits a name into the index of its tower, the number of its block, and the part of the block.
fn split_block<'a>(name: &'a str, blocks: [&str; 2]) -> Option<(usize, &'a str, &'a str)> {
    blocks.iter().enumerate().find_map(|(tower, block)| {
        let (number, part) = name.strip_prefix(block)?.split_once('.')?;
        Some((tower, number, part))
    })
}

/// Returns the names of every block that has projections to join: Hugging Face's name, then open_clip's.
fn blocks_with_projections(tensors: &HashMap<String, Stored>) -> Vec<(String, String)> {
    let mut blocks: Vec<_> = tensors
        .keys()
        .filter_map(|name| split_block(name, BLOCKS.map(|(hugging_face, _)| hugging_face)))
        .filter(|(_, _, part)| {
            APART
                .iter()
                .any(|letter| part.starts_with(&format!("self_attn.{letter}_proj.")))
        })
        .map(|(tower, number, _)| {
            let (hugging_face, open_clip) = BLOCKS[tower];
            (format!("{hugging_face}{number}"), format!("{open_clip}{number}"))
        })
        .collect();
    blocks.sort_unstable();
    blocks.dedup();
    blocks
}

/// Takes the separate projections of a block's queries, keys and values.
fn take_apart(tensors: &mut HashMap<String, Stored>, block: &str, end: &str) -> Result<[Stored; 3], CheckpointError> {
    let names = APART.map(|letter| format!("{block}.self_attn.{letter}_proj.{end}"));
    let shape = names
        .iter()
        .find_map(|name| Some(tensors.get(name)?.shape().to_vec()))
        .unwrap_or_default();
    let [query, key, value] = names.map(|name| {
        tensors.remove(&name).ok_or_else(|| CheckpointError::MissingTensor {
            name,
            expected: shape.clone(),
        })
    });
    Ok([query?, key?, value?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_shapes_are_told_as_the_file_has_them() {
        let told = |name| in_file(name, &[64, 32]);
        assert_eq!(
            told("visual.proj"),
            ("visual_projection.weight".to_owned(), vec![32, 64])
        );
        assert_eq!(
            told("visual.transformer.resblocks.11.mlp.c_fc.weight"),
            ("vision_model.encoder.layers.11.mlp.fc1.weight".to_owned(), vec![64, 32])
        );
        assert_eq!(
            told("transformer.resblocks.0.attn.in_proj_weight").0,
            "text_model.encoder.layers.0.self_attn.{q,k,v}_proj.weight"
        );
        assert_eq!(told("something.else").0, "something.else");
    }

    #[test]
    fn every_name_comes_back_from_its_translation() {
        for (hugging_face, _) in WHOLE {
            let open_clip = in_open_clip(hugging_face).expect("it is in the table");
            assert_eq!(in_file(&open_clip, &[]).0, hugging_face);
        }
        for (blocks, _) in BLOCKS {
            for (part, _) in IN_BLOCK {
                let name = format!("{blocks}7.{part}");
                let open_clip = in_open_clip(&name).expect("it is in the tables");
                assert_eq!(in_file(&open_clip, &[]).0, name);
            }
        }
    }
}
