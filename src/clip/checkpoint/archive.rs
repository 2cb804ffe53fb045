//! PyTorch's archives, from `torch.save` and `torch.jit.save`. An archive is a zip file whose `data.pkl` describes
//! tensors and whose folder `data` holds their elements uncompressed, so that they are read in place.
//!
//! Owns the search for tensors in both kinds of archive and gives each tensor its name in a state dict. Never looks at
//! code in an archive.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

use super::pickle::{self, Pickled, Value};
use super::stored::Stored;
use super::{CheckpointError, CheckpointFormat};

/// Most bytes of a tensor's name; CLIP's longest names have 60.
const MAX_NAME: usize = 500;

/// Most tensors and modules of an archive. The largest CLIPs have some thousands; a pickle can name one with four
/// bytes.
const MAX_TENSORS: usize = 1 << 16;

/// A file that `torch.jit.save` writes and `torch.save` does not.
const TORCHSCRIPT_MARK: &str = "constants.pkl";

/// OpenAI's archives have the side of their input in pixels among the tensors. No other TorchScript archive of a CLIP
/// has it.
const OPENAI_MARK: &str = "input_resolution";

/// The names under which training checkpoints keep their state dict, in the order in which they are looked for.
/// Averaged weights come first, as in timm: training evaluates them.
const STATE_DICT_KEYS: [&str; 7] = [
    "state_dict_ema",   // timm
    "model_ema",        // timm and torchvision's references
    "state_dict",       // open_clip and Lightning
    "model_state_dict", // PyTorch's tutorials
    "model",            // torchvision's references
    "module",           // DeepSpeed
    "net",
];

/// Most names that an error holds; its message shows fewer.
const MAX_NAMES_SHOWN: usize = 10;

/// Most state dicts one inside the other, as in `{"model": {"state_dict": ...}}`.
const MAX_DEPTH: usize = 4;

/// Returns the place of every tensor in the archive, with the format of the archive.
pub(super) fn read(bytes: &[u8]) -> Result<(HashMap<String, Stored>, CheckpointFormat), CheckpointError> {
    let entries = Entries::find(bytes)?;
    if entries.get("byteorder").is_some_and(|order| &bytes[order] == b"big") {
        return Err(damaged("its numbers are big-endian"));
    }
    let Some(pickle) = entries.get("data.pkl") else {
        return Err(damaged("it is a zip file without data.pkl, not one of PyTorch's"));
    };
    let mut pickled = pickle::read(&bytes[pickle])?;
    let named = match pickled.root {
        Value::Object(module) => module_tensors(&mut pickled, module)?,
        Value::Dictionary(dictionary) => state_dict_tensors(&pickled, dictionary)?,
        _ => return Err(damaged("its pickle is neither a state dict nor a TorchScript module")),
    };
    let mut tensors = HashMap::with_capacity(named.len());
    for (name, tensor) in named {
        let stored = entries.locate(&pickled.tensors[tensor]);
        let stored = stored.map_err(|reason| damaged(format!("{name}: {reason}")))?;
        tensors.insert(name, stored);
    }
    let is_openai = entries.get(TORCHSCRIPT_MARK).is_some() && tensors.contains_key(OPENAI_MARK);
    let format = if is_openai {
        CheckpointFormat::OpenAi
    } else {
        CheckpointFormat::OpenClip
    };
    Ok((tensors, format))
}

/// Returns the parameters and buffers of a module, each named by the path of attributes that leads to it. Attributes
/// that are not tensors, such as the training flag and the sizes of layers, are skipped.
fn module_tensors(pickled: &mut Pickled, module: usize) -> Result<Vec<(String, usize)>, CheckpointError> {
    let mut named = Vec::new();
    let mut modules = vec![(String::new(), module)];
    while let Some((prefix, module)) = modules.pop() {
        // The attributes are taken out: a module that contains itself, or contains a module twice, then causes no loop.
        for (name, value) in std::mem::take(&mut pickled.dictionaries[module]) {
            let Value::Text(name) = name else {
                return Err(damaged("its pickle has an attribute whose name is not a text"));
            };
            if prefix.len() + name.len() > MAX_NAME {
                return Err(damaged(format!(
                    "its modules are nested too deep: {}",
                    beginning(&(prefix + name))
                )));
            }
            let name = format!("{prefix}{name}");
            if named.len() + modules.len() == MAX_TENSORS {
                return Err(too_many_tensors());
            }
            match value {
                Value::Tensor(tensor) => named.push((name, tensor)),
                Value::Object(submodule) => modules.push((name + ".", submodule)),
                _ => {}
            }
        }
    }
    Ok(named)
}

/// Returns the tensors of a state dict, or of the state dict inside a training checkpoint.
fn state_dict_tensors(pickled: &Pickled, dictionary: usize) -> Result<Vec<(String, usize)>, CheckpointError> {
    let items = &pickled.dictionaries[state_dict(pickled, dictionary)];
    if items.len() > MAX_TENSORS {
        return Err(too_many_tensors());
    }
    if !items.is_empty() && !items.iter().any(|(_, value)| matches!(value, Value::Tensor(_))) {
        return Err(no_state_dict(items));
    }
    items
        .iter()
        .map(|item| match *item {
            (Value::Text(name), _) if name.len() > MAX_NAME => Err(damaged(format!(
                "its state dict has a name of {} bytes: {}",
                name.len(),
                beginning(name)
            ))),
            (Value::Text(name), Value::Tensor(tensor)) => Ok((name.to_owned(), tensor)),
            (Value::Text(_), Value::Opaque(what)) => Err(what.forbidden()),
            (Value::Text(name), _) => Err(damaged(format!("{name} in its state dict is not a tensor"))),
            _ => Err(damaged("its state dict has a key that is not a text")),
        })
        .collect()
}

/// Returns the dictionary with the tensors: the one given, or the one that it holds under a usual name, which may be
/// one of several.
fn state_dict(pickled: &Pickled, mut dictionary: usize) -> usize {
    for depth in 0..MAX_DEPTH {
        let items = &pickled.dictionaries[dictionary];
        let mut inner = STATE_DICT_KEYS.iter().filter_map(|usual| {
            items.iter().find_map(|(key, value)| match value {
                Value::Dictionary(inner) if *key == Value::Text(usual) => Some((*usual, *inner)),
                _ => None,
            })
        });
        let Some((taken, next)) = inner.next() else { break };
        let left_out: Vec<_> = inner.map(|(key, _)| key).collect();
        if !left_out.is_empty() {
            tracing::info!(taken, ?left_out, depth, "the checkpoint has several state dicts");
        }
        dictionary = next;
    }
    dictionary
}

/// Says what is there where a state dict should be. A model that was pickled as a whole has the name of its class.
fn no_state_dict(items: &[(Value, Value)]) -> CheckpointError {
    let whole = items.iter().find_map(|(key, value)| match (key, value) {
        (Value::Text(key), Value::Opaque(what)) if STATE_DICT_KEYS.contains(key) => Some(what.forbidden()),
        _ => None,
    });
    whole.unwrap_or_else(|| CheckpointError::NoStateDict {
        keys: &STATE_DICT_KEYS,
        names: items
            .iter()
            .filter_map(|(key, _)| match key {
                Value::Text(name) => Some(beginning(name)),
                _ => None,
            })
            .take(MAX_NAMES_SHOWN)
            .collect(),
    })
}

/// Returns as much of a name as a message shows.
fn beginning(name: &str) -> String {
    name.chars().take(MAX_NAME).collect()
}

/// The places of the archive's uncompressed files, keyed by their names below the archive's one folder.
struct Entries(HashMap<String, Range<usize>>);

impl Entries {
    fn find(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let unreadable = |error: zip::result::ZipError| damaged(error.to_string());
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(unreadable)?;
        let mut entries = HashMap::with_capacity(archive.len());
        for index in 0..archive.len() {
            let file = archive.by_index_raw(index).map_err(unreadable)?;
            if file.compression() != CompressionMethod::Stored || file.encrypted() {
                continue;
            }
            let name = file.name().map_err(unreadable)?;
            let Some((_folder, name)) = name.split_once('/') else {
                continue;
            };
            let place = file
                .data_start()
                .and_then(|start| Some((start, start.checked_add(file.size())?)))
                .and_then(|(start, end)| Some(usize::try_from(start).ok()?..usize::try_from(end).ok()?))
                .filter(|place| place.end <= bytes.len())
                .ok_or_else(|| damaged(format!("it ends before its {name} does")))?;
            entries.insert(name.to_owned(), place);
        }
        Ok(Self(entries))
    }

    fn get(&self, name: &str) -> Option<Range<usize>> {
        self.0.get(name).cloned()
    }

    /// Finds the elements of a tensor in the archive and checks that they fit. The error says what is wrong with the
    /// tensor.
    fn locate(&self, tensor: &pickle::PickledTensor) -> Result<Stored, String> {
        let file = format!("data/{}", tensor.storage.key);
        let storage = self
            .get(&file)
            .ok_or_else(|| format!("the archive has no uncompressed {file}, where its elements should be"))?;
        let (shape, strides) = (tensor.shape.clone(), tensor.strides.clone());
        Stored::strided(tensor.storage.kind, shape, strides, storage, tensor.offset)
    }
}

fn too_many_tensors() -> CheckpointError {
    damaged(format!("it has more than {MAX_TENSORS} tensors and modules"))
}

fn damaged(reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Damaged(reason.into())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// The opcodes that make a tensor.
    const TENSOR: &[u8] = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nHalfStorage\n\
        X\x01\0\0\x000X\x03\0\0\0cpuK\x02tQK\0K\x02\x85K\x01\x85\x89}tR";

    /// Returns the names of the tensors in a pickle. Each `@` in the template stands for a tensor.
    fn names(template: &[u8]) -> Result<Vec<String>, CheckpointError> {
        let parts: Vec<_> = template.split(|&byte| byte == b'@').collect();
        let pickle = parts.join(TENSOR);
        let mut pickled = pickle::read(&pickle)?;
        let named = match pickled.root {
            Value::Object(module) => module_tensors(&mut pickled, module)?,
            Value::Dictionary(dictionary) => state_dict_tensors(&pickled, dictionary)?,
            other => panic!("{other:?}"),
        };
        let mut names: Vec<_> = named.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        Ok(names)
    }

    #[test]
    fn the_state_dict_is_found_under_its_usual_names() {
        for key in STATE_DICT_KEYS {
            let key = [b"X", &[key.len() as u8, 0, 0, 0][..], key.as_bytes()].concat();
            // Beside it are an epoch and, under another usual name, a text.
            let beside = b"X\x05\0\0\0epochK\x07X\x05\0\0\0modelX\x02\0\0\0ab";
            let template = [b"}(", &beside[..], &key, b"}X\x01\0\0\0a@su."].concat();
            assert_eq!(names(&template).unwrap(), ["a"]);
        }
        // {"model": {"state_dict": {"a": ...}}}
        let nested = b"}X\x05\0\0\0model}X\x0a\0\0\0state_dict}X\x01\0\0\0a@sss.";
        assert_eq!(names(nested).unwrap(), ["a"]);
        // The averaged weights are taken, in whatever order both come.
        let both = b"}(X\x05\0\0\0model}X\x01\0\0\0a@sX\x09\0\0\0model_ema}X\x01\0\0\0b@su.";
        assert_eq!(names(both).unwrap(), ["b"]);
    }

    #[test]
    fn a_state_dict_inside_itself_is_an_end_and_not_a_loop() {
        let message = names(b"}q\0X\x05\0\0\0modelh\0s.").unwrap_err().to_string();
        assert!(message.ends_with("model, module, net; it has model"), "{message}");
    }

    #[test]
    fn what_is_opaque_where_weights_should_be_is_refused_by_its_name() {
        // A model that was pickled as a whole, and an array of numpy's among tensors.
        for (template, name) in [
            (
                &b"}X\x05\0\0\0modelcopen_clip.model\nCLIP\n)\x81}bs."[..],
                "open_clip.model.CLIP",
            ),
            (b"}(X\x01\0\0\0a@X\x01\0\0\0bcnumpy\nndarray\n)Ru.", "numpy.ndarray"),
        ] {
            let message = names(template).unwrap_err().to_string();
            assert!(message.contains(&format!("calls {name}: it is refused")), "{message}");
        }
    }

    #[test]
    fn what_is_no_state_dict_is_refused_with_its_first_names() {
        let message = names(b"}(X\x05\0\0\0epochK\x07X\x01\0\0\0n}u.")
            .unwrap_err()
            .to_string();
        assert_eq!(
            message,
            "the weights file has no state dict, neither as a whole nor under state_dict_ema, model_ema, state_dict, \
             model_state_dict, model, module, net; it has epoch, n"
        );
        let message = names(b"}(X\x05\0\0\0epochK\x07X\x01\0\0\0a@u.")
            .unwrap_err()
            .to_string();
        assert!(
            message.ends_with("epoch in its state dict is not a tensor"),
            "{message}"
        );
    }

    #[test]
    fn a_pickle_cannot_name_its_tensors_again_and_again() {
        let more = MAX_TENSORS + 1;
        // Two memoised values: a key of one letter and a tensor or a module. Four bytes name both again.
        let keys = b"X\x01\0\0\0aq\x00";
        let again = b"h\0h\x01".repeat(more);
        let state_dict = [b"}(", &keys[..], b"@q\x01", &again, b"u."].concat();
        let module = [b"c__torch__\nA\n)\x81}(", &keys[..], b"@q\x01", &again, b"ub."].concat();
        let modules = [
            b"c__torch__\nA\n)\x81}(",
            &keys[..],
            b"c__torch__\nB\n)\x81q\x01",
            &again,
            b"ub.",
        ]
        .concat();
        for template in [state_dict, module, modules] {
            let message = names(&template).unwrap_err().to_string();
            assert!(
                message.ends_with("it has more than 65536 tensors and modules"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_name_that_is_longer_than_any_is_refused_before_it_is_copied() {
        let key = [b"X", &1_000_001_u32.to_le_bytes()[..], &[b'n'; 1_000_001]].concat();
        let message = names(&[b"}(", &key[..], b"@u."].concat()).unwrap_err().to_string();
        assert!(
            message.contains("its state dict has a name of 1000001 bytes: nnn"),
            "{message}"
        );
        assert!(message.len() < 2 * MAX_NAME, "{}", message.len());
        let message = names(&[b"c__torch__\nA\n)\x81}(", &key[..], b"@ub."].concat())
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("nested too deep") && message.len() < 2 * MAX_NAME,
            "{message}"
        );
    }

    #[test]
    fn a_module_inside_itself_is_an_end_and_not_a_loop() {
        let template = b"c__torch__\nA\n)\x81q\0}(X\x01\0\0\0ah\0X\x01\0\0\0b@ub.";
        assert_eq!(names(template).unwrap(), ["b"]);
    }

    #[test]
    fn modules_nested_too_deep_are_refused() {
        let depth = 1000;
        let open = b"c__torch__\nA\n)\x81}X\x01\0\0\0a".repeat(depth);
        let template = [open.as_slice(), b"@", b"sb".repeat(depth).as_slice(), b"."].concat();
        let message = names(&template).unwrap_err().to_string();
        assert!(message.contains("its modules are nested too deep: a.a.a."), "{message}");
    }
}
