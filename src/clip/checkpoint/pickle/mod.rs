//! The pickles inside PyTorch's archives, read without Python. The reader is a stack machine that knows the opcodes
//! that `torch.save` and `torch.jit.save` write. Of all that a pickle can call, it knows only what makes tensors. It
//! never runs any code: what anything else would make is an opaque value, which keeps the name of what the pickle
//! calls. So arguments, numpy's scalars and the state of an optimiser may lie beside the weights, but not among them.

use std::collections::HashMap;

use tch::Kind;

use super::CheckpointError;

/// Most bytes of a pickle. A pickle is a table of contents: the largest CLIP's, with an optimiser's state, is a tenth
/// of this.
const MAX_BYTES: usize = 8 << 20;

/// Most dimensions of a tensor. CLIP's have up to four. The limit keeps a memoised shape, which a pickle can name again
/// and again with two bytes, from being copied at length for each tensor.
const MAX_DIMENSIONS: usize = 8;

/// Most bytes of the name of a callable; PyTorch's longest ones, TorchScript's classes, have about 100.
const MAX_CALLABLE: usize = 1000;

/// What stands for sets, whose items are not kept.
const SET: Opaque = Opaque {
    module: "builtins",
    name: "set",
};

/// Most arguments that decide about a call. The rest is ignored: hooks and a flag.
const ARGUMENTS: usize = 4;

/// A value in a pickle. Containers are indices into [`Pickled`] and its machine, so that they can be shared and nested.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    /// `None`, a boolean, a floating-point number, a number of more than 64 bits, or bytes; none of them tells anything
    /// about a tensor.
    Other,
    Integer(i64),
    Text(&'a str),
    /// A list or a tuple.
    Sequence(usize),
    Dictionary(usize),
    /// An instance of a TorchScript class, as the index of the dictionary with its attributes.
    Object(usize),
    Tensor(usize),
    Storage(Storage<'a>),
    Callable(Callable),
    /// What the pickle names and this reader does not make, and whatever calls to it would return.
    Opaque(Opaque<'a>),
}

/// The name of a callable or a class that this reader does not know.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Opaque<'a> {
    module: &'a str,
    name: &'a str,
}

impl Opaque<'_> {
    /// Returns the error for such a value where a tensor should be.
    pub(super) fn forbidden(self) -> CheckpointError {
        CheckpointError::ForbiddenCall {
            name: format!("{}.{}", self.module, self.name),
        }
    }
}

/// One file of the archive. It holds the elements of one or more tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Storage<'a> {
    pub(super) kind: Kind,
    /// Name of the file in the archive's `data` folder.
    pub(super) key: &'a str,
}

/// The callables that this reader knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Callable {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    /// Marks a value with a TorchScript type and returns the value.
    TypeMark,
    Storage(Kind),
    /// A TorchScript class, which makes an object without attributes.
    Class,
}

/// A tensor as the pickle describes it. Nothing has checked it yet.
#[derive(Debug, Clone)]
pub(super) struct PickledTensor<'a> {
    pub(super) storage: Storage<'a>,
    /// The index of the first element in the storage, in elements.
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// The content of a pickle.
#[derive(Debug)]
pub(super) struct Pickled<'a> {
    pub(super) root: Value<'a>,
    pub(super) dictionaries: Vec<Vec<(Value<'a>, Value<'a>)>>,
    pub(super) tensors: Vec<PickledTensor<'a>>,
}

/// Reads a pickle of protocol 2, which PyTorch uses unless it is told otherwise, to 5.
pub(super) fn read(pickle: &[u8]) -> Result<Pickled<'_>, CheckpointError> {
    if pickle.len() > MAX_BYTES {
        return Err(damaged(format!(
            "its pickle is {} bytes long, more than {MAX_BYTES}",
            pickle.len()
        )));
    }
    let mut machine = Machine {
        rest: pickle,
        ..Machine::default()
    };
    loop {
        if let Some(root) = machine.step()? {
            if let Value::Opaque(what) = root {
                return Err(what.forbidden());
            }
            return Ok(Pickled {
                root,
                dictionaries: machine.dictionaries,
                tensors: machine.tensors,
            });
        }
    }
}

#[derive(Default)]
struct Machine<'a> {
    /// The bytes that have not been read yet.
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the marks that are still open.
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'a>>,
    sequences: Vec<Vec<Value<'a>>>,
    dictionaries: Vec<Vec<(Value<'a>, Value<'a>)>>,
    tensors: Vec<PickledTensor<'a>>,
}

impl<'a> Machine<'a> {
    /// Runs one opcode. Returns the pickle's value if the opcode was the last.
    #[expect(
        clippy::too_many_lines,
        reason = "one table, with a row for each opcode that PyTorch writes"
    )]
    fn step(&mut self) -> Result<Option<Value<'a>>, CheckpointError> {
        let [opcode] = self.bytes()?;
        match opcode {
            // PROTO
            0x80 => match self.bytes()? {
                [2..=5] => {}
                [protocol] => {
                    return Err(damaged(format!(
                        "its pickle has protocol {protocol}; protocols 2 to 5 are read"
                    )));
                }
            },
            // FRAME says how many bytes belong together, for readers of streams.
            0x95 => drop(self.slice(8)?),
            // STOP
            b'.' => return self.pop().map(Some),
            // MARK
            b'(' => self.marks.push(self.stack.len()),
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' | 0x88 | 0x89 => self.stack.push(Value::Other),
            b'G' => {
                self.slice(8)?;
                self.stack.push(Value::Other);
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
            b'C' => self.skip_bytes::<1>()?,
            b'B' => self.skip_bytes::<4>()?,
            0x8e | 0x96 => self.skip_bytes::<8>()?,
            // BININT1, BININT2, BININT, LONG1, LONG4
            b'K' => self.integer::<1>()?,
            b'M' => self.integer::<2>()?,
            b'J' => {
                let value = i32::from_le_bytes(self.bytes()?);
                self.stack.push(Value::Integer(value.into()));
            }
            0x8a => self.long::<1>()?,
            0x8b => self.long::<4>()?,
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
            0x8c => self.text::<1>()?,
            b'X' => self.text::<4>()?,
            0x8d => self.text::<8>()?,
            // EMPTY_DICT, EMPTY_LIST, EMPTY_TUPLE, TUPLE, TUPLE1 to TUPLE3
            b'}' => {
                let dictionary = self.new_dictionary();
                self.stack.push(Value::Dictionary(dictionary));
            }
            b']' | b')' => self.push_sequence(Vec::new()),
            b't' => {
                let items = self.pop_to_mark()?;
                self.push_sequence(items);
            }
            0x85..=0x87 => {
                let length = usize::from(opcode - 0x84);
                let start = self.stack.len().checked_sub(length).ok_or_else(stack_is_empty)?;
                let items = self.stack.split_off(start);
                self.push_sequence(items);
            }
            // EMPTY_SET, FROZENSET, ADDITEMS
            0x8f => self.stack.push(Value::Opaque(SET)),
            0x91 => {
                self.pop_to_mark()?;
                self.stack.push(Value::Opaque(SET));
            }
            0x90 => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            // POP, POP_MARK, DUP
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = *self.stack.last().ok_or_else(stack_is_empty)?;
                self.stack.push(top);
            }
            // MEMOIZE, BINPUT, LONG_BINPUT, BINGET, LONG_BINGET
            0x94 => {
                let index = u32::try_from(self.memo.len()).expect("a pickle has fewer than 2^32 bytes");
                self.memoize(index)?;
            }
            b'q' => {
                let [index] = self.bytes()?;
                self.memoize(index.into())?;
            }
            b'r' => {
                let index = u32::from_le_bytes(self.bytes()?);
                self.memoize(index)?;
            }
            b'h' => {
                let [index] = self.bytes()?;
                self.recall(index.into())?;
            }
            b'j' => {
                let index = u32::from_le_bytes(self.bytes()?);
                self.recall(index)?;
            }
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.set_items(&[key, value])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)?;
            }
            // GLOBAL, STACK_GLOBAL, BINPERSID, REDUCE, NEWOBJ, NEWOBJ_EX, BUILD
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push_named(module, name)?;
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.push_named(module, name)?,
                _ => return Err(damaged("its pickle names a callable with something that is not a text")),
            },
            b'Q' => self.load_storage()?,
            b'R' => self.reduce()?,
            0x81 => self.new_object()?,
            0x92 => {
                let _named_arguments = self.pop()?;
                self.new_object()?;
            }
            b'b' => self.build()?,
            _ => {
                return Err(damaged(format!(
                    "its pickle has the opcode {opcode:#04x}, which PyTorch does not write"
                )));
            }
        }
        Ok(None)
    }

    fn slice(&mut self, length: usize) -> Result<&'a [u8], CheckpointError> {
        let (slice, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| damaged("its pickle ends too early"))?;
        self.rest = rest;
        Ok(slice)
    }

    fn bytes<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], CheckpointError> {
        let slice = self.slice(LENGTH)?;
        Ok(slice.try_into().expect("the slice has this length"))
    }

    fn line(&mut self) -> Result<&'a str, CheckpointError> {
        let length = self.rest.iter().position(|&byte| byte == b'\n');
        let length = length.unwrap_or(usize::MAX);
        let line = self.slice(length)?;
        self.slice(1)?;
        std::str::from_utf8(line).map_err(|_| damaged("its pickle has a name that is not UTF-8"))
    }

    /// Pushes an unsigned number of `LENGTH` bytes.
    fn integer<const LENGTH: usize>(&mut self) -> Result<(), CheckpointError> {
        let bytes: [u8; LENGTH] = self.bytes()?;
        let value = bytes.iter().rev().fold(0, |value, &byte| value << 8 | i64::from(byte));
        self.stack.push(Value::Integer(value));
        Ok(())
    }

    /// Reads a length of `LENGTH` bytes, then as many bytes as it says.
    fn counted<const LENGTH: usize>(&mut self) -> Result<&'a [u8], CheckpointError> {
        let bytes: [u8; LENGTH] = self.bytes()?;
        let length = bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte));
        self.slice(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn text<const LENGTH: usize>(&mut self) -> Result<(), CheckpointError> {
        let text = self.counted::<LENGTH>()?;
        // Python writes halves of surrogate pairs, too, which no name of a tensor has.
        let value = std::str::from_utf8(text).map_or(Value::Other, Value::Text);
        self.stack.push(value);
        Ok(())
    }

    fn skip_bytes<const LENGTH: usize>(&mut self) -> Result<(), CheckpointError> {
        self.counted::<LENGTH>()?;
        self.stack.push(Value::Other);
        Ok(())
    }

    /// Pushes the callable of this name.
    fn push_named(&mut self, module: &'a str, name: &'a str) -> Result<(), CheckpointError> {
        if let Some(length) = [module.len(), name.len()]
            .into_iter()
            .find(|&length| length > MAX_CALLABLE)
        {
            return Err(damaged(format!("its pickle has a name of {length} bytes")));
        }
        self.stack.push(match Callable::find(module, name) {
            Some(callable) => Value::Callable(callable),
            None => Value::Opaque(Opaque { module, name }),
        });
        Ok(())
    }

    /// Pushes a signed number. The first `LENGTH` bytes say how many bytes follow.
    fn long<const LENGTH: usize>(&mut self) -> Result<(), CheckpointError> {
        let bytes = self.counted::<LENGTH>()?;
        if bytes.len() > 8 {
            self.stack.push(Value::Other);
            return Ok(());
        }
        let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) {
            -1
        } else {
            0
        };
        let value = bytes
            .iter()
            .rev()
            .fold(sign, |value, &byte| value << 8 | i64::from(byte));
        self.stack.push(Value::Integer(value));
        Ok(())
    }

    fn pop(&mut self) -> Result<Value<'a>, CheckpointError> {
        self.stack.pop().ok_or_else(stack_is_empty)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Value<'a>>, CheckpointError> {
        let mark = self.marks.pop().filter(|&mark| mark <= self.stack.len());
        Ok(self.stack.split_off(mark.ok_or_else(stack_is_empty)?))
    }

    fn pop_sequence(&mut self) -> Result<&[Value<'a>], CheckpointError> {
        match self.pop()? {
            Value::Sequence(index) => Ok(&self.sequences[index]),
            _ => Err(damaged("its pickle has something else where a tuple belongs")),
        }
    }

    fn push_sequence(&mut self, items: Vec<Value<'a>>) {
        self.stack.push(Value::Sequence(self.sequences.len()));
        self.sequences.push(items);
    }

    fn new_dictionary(&mut self) -> usize {
        self.dictionaries.push(Vec::new());
        self.dictionaries.len() - 1
    }

    fn memoize(&mut self, index: u32) -> Result<(), CheckpointError> {
        let top = self.stack.last().ok_or_else(stack_is_empty)?;
        self.memo.insert(index, *top);
        Ok(())
    }

    fn recall(&mut self, index: u32) -> Result<(), CheckpointError> {
        let value = self.memo.get(&index);
        self.stack
            .push(*value.ok_or_else(|| damaged("its pickle refers to something it has not made"))?);
        Ok(())
    }

    fn append(&mut self, items: Vec<Value<'a>>) -> Result<(), CheckpointError> {
        match self.stack.last() {
            Some(&Value::Sequence(index)) => self.sequences[index].extend(items),
            Some(Value::Opaque(_)) => {}
            _ => return Err(damaged("its pickle appends to something that is not a list")),
        }
        Ok(())
    }

    /// Adds items to the dictionary on top of the stack. `items` holds keys and values in turn.
    fn set_items(&mut self, items: &[Value<'a>]) -> Result<(), CheckpointError> {
        match (self.stack.last(), items.as_chunks()) {
            (Some(&Value::Dictionary(index)), (pairs, [])) => {
                self.dictionaries[index].extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            (Some(Value::Opaque(_)), _) => Ok(()),
            _ => Err(damaged("its pickle sets items of something that is not a dictionary")),
        }
    }

    /// Pushes the archive's file that a tuple `("storage", class, key, device, elements)` names.
    fn load_storage(&mut self) -> Result<(), CheckpointError> {
        let storage = match *self.pop_sequence()? {
            [
                Value::Text("storage"),
                Value::Callable(Callable::Storage(kind)),
                Value::Text(key),
                _device,
                _elements,
            ] => Value::Storage(Storage { kind, key }),
            // Of elements that no weight has, such as the bytes of a random generator's state.
            [Value::Text("storage"), class @ Value::Opaque(_), ..] => class,
            _ => return Err(damaged("its pickle refers to something that is not a tensor's storage")),
        };
        self.stack.push(storage);
        Ok(())
    }

    fn reduce(&mut self) -> Result<(), CheckpointError> {
        let count = self.stack.len();
        if let Some(&[Value::Opaque(callable), _arguments]) = self.stack.get(count.saturating_sub(2)..) {
            self.stack.truncate(count - 2);
            self.stack.push(Value::Opaque(callable));
            return Ok(());
        }
        // Only those that decide are copied: a memoised tuple of any length can be the arguments of many calls.
        let arguments = self.pop_sequence()?;
        let arguments = arguments[..arguments.len().min(ARGUMENTS)].to_vec();
        let made = match (self.pop()?, arguments.as_slice()) {
            (Value::Callable(Callable::OrderedDict), []) => Value::Dictionary(self.new_dictionary()),
            (
                Value::Callable(Callable::RebuildTensor),
                &[
                    Value::Storage(storage),
                    Value::Integer(offset),
                    Value::Sequence(shape),
                    Value::Sequence(strides),
                    ..,
                ],
            ) => {
                let tensor = PickledTensor {
                    storage,
                    offset,
                    shape: self.integers(shape)?,
                    strides: self.integers(strides)?,
                };
                self.tensors.push(tensor);
                Value::Tensor(self.tensors.len() - 1)
            }
            // A tensor of elements that no weight has.
            (Value::Callable(Callable::RebuildTensor), &[storage @ Value::Opaque(_), ..]) => storage,
            (Value::Callable(Callable::RebuildParameter), &[tensor @ (Value::Tensor(_) | Value::Opaque(_)), ..]) => {
                tensor
            }
            (Value::Callable(Callable::TypeMark), &[value, ..]) => value,
            (Value::Callable(callable), _) => {
                return Err(damaged(format!(
                    "its pickle calls {callable:?} with other arguments than PyTorch does"
                )));
            }
            _ => return Err(damaged("its pickle calls something that cannot be called")),
        };
        self.stack.push(made);
        Ok(())
    }

    fn integers(&self, sequence: usize) -> Result<Vec<i64>, CheckpointError> {
        let items = &self.sequences[sequence];
        if items.len() > MAX_DIMENSIONS {
            let dimensions = items.len();
            return Err(damaged(format!(
                "its pickle has a tensor of {dimensions} dimensions, more than {MAX_DIMENSIONS}"
            )));
        }
        items
            .iter()
            .map(|item| match item {
                Value::Integer(value) => Ok(*value),
                _ => Err(damaged("its pickle has a shape that is not made of whole numbers")),
            })
            .collect()
    }

    fn new_object(&mut self) -> Result<(), CheckpointError> {
        let arguments = self.pop()?;
        let class = self.pop()?;
        if let Value::Opaque(_) = class {
            self.stack.push(class);
            return Ok(());
        }
        if !matches!(
            (class, arguments),
            (Value::Callable(Callable::Class), Value::Sequence(_))
        ) {
            return Err(damaged(
                "its pickle makes an object of something that is not a TorchScript class",
            ));
        }
        let attributes = self.new_dictionary();
        self.stack.push(Value::Object(attributes));
        Ok(())
    }

    /// Gives an object its attributes. Attributes of a dictionary, such as a state dict's `_metadata`, say nothing
    /// about its items and are ignored.
    fn build(&mut self) -> Result<(), CheckpointError> {
        match (self.pop()?, self.stack.last()) {
            (Value::Dictionary(state), Some(&Value::Object(object))) => {
                let attributes = std::mem::take(&mut self.dictionaries[state]);
                self.dictionaries[object].extend(attributes);
                Ok(())
            }
            (Value::Dictionary(_), Some(Value::Dictionary(_))) | (_, Some(Value::Opaque(_))) => Ok(()),
            _ => Err(damaged("its pickle sets attributes of something that has none")),
        }
    }
}

impl Callable {
    fn find(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("collections", "OrderedDict") => Self::OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2") => Self::RebuildTensor,
            ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Self::RebuildParameter,
            (
                "torch.jit._pickle",
                "build_intlist" | "build_doublelist" | "build_boollist" | "build_tensorlist" | "restore_type_tag",
            ) => Self::TypeMark,
            ("torch", "FloatStorage") => Self::Storage(Kind::Float),
            ("torch", "HalfStorage") => Self::Storage(Kind::Half),
            ("torch", "BFloat16Storage") => Self::Storage(Kind::BFloat16),
            ("torch", "DoubleStorage") => Self::Storage(Kind::Double),
            ("torch", "LongStorage") => Self::Storage(Kind::Int64),
            ("torch", "IntStorage") => Self::Storage(Kind::Int),
            (module, _) if module.starts_with("__torch__.") || module == "__torch__" => Self::Class,
            _ => return None,
        })
    }
}

fn damaged(reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Damaged(reason.into())
}

fn stack_is_empty() -> CheckpointError {
    damaged("its pickle takes more than it has made")
}

#[cfg(test)]
mod tests;
