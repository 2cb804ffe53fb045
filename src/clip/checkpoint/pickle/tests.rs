use proptest::prelude::*;

use super::*;

/// A pickle of a dictionary with one tensor: `{"a": tensor of shape [2]}`.
const TENSOR: &[u8] = b"\x80\x02}q\0X\x01\0\0\0actorch._utils\n_rebuild_tensor_v2\n\
    ((X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x007X\x03\0\0\0cpuK\x02tQ\
    K\x01K\x02\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtRs.";

fn refused(pickle: &[u8]) -> String {
    read(pickle).expect_err("it is no pickle of PyTorch's").to_string()
}

#[test]
fn a_tensor_is_described() {
    let pickled = read(TENSOR).expect("it is as PyTorch writes it");
    let Value::Dictionary(root) = pickled.root else {
        panic!("{:?}", pickled.root);
    };
    assert_eq!(pickled.dictionaries[root], [(Value::Text("a"), Value::Tensor(0))]);
    let tensor = &pickled.tensors[0];
    let storage = Storage {
        kind: Kind::Half,
        key: "7",
    };
    assert_eq!((tensor.storage, tensor.offset), (storage, 1));
    assert_eq!(
        (tensor.shape.as_slice(), tensor.strides.as_slice()),
        (&[2][..], &[1][..])
    );
}

#[test]
fn whole_numbers_of_every_length_are_read() {
    let number = |opcodes: &[u8]| {
        let pickle = [b"\x80\x02".as_slice(), opcodes, b"."].concat();
        read(&pickle).map(|pickled| match pickled.root {
            Value::Integer(value) => value,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(number(b"K\xff").ok(), Some(255));
    assert_eq!(number(b"M\x01\xff").ok(), Some(0xff01));
    assert_eq!(number(b"J\xff\xff\xff\xff").ok(), Some(-1));
    assert_eq!(number(b"\x8a\0").ok(), Some(0));
    assert_eq!(number(b"\x8a\x02\0\xff").ok(), Some(-256));
    assert_eq!(number(b"\x8a\x05\0\0\0\0\x01").ok(), Some(1 << 32));
    assert!(number(b"\x8a\x09\0\0\0\0\0\0\0\0\x01").is_err());
}

#[test]
fn a_torchscript_object_has_its_attributes_and_lists_keep_their_items() {
    let pickle = b"\x80\x02c__torch__.clip\nCLIP\n)\x81}(\
        X\x05\0\0\0sidesctorch.jit._pickle\nbuild_intlist\n](K\x01K\x02e\x85R\
        X\x08\0\0\0training\x89ub.";
    let pickled = read(pickle).expect("it is as PyTorch writes it");
    let Value::Object(root) = pickled.root else {
        panic!("{:?}", pickled.root);
    };
    let [
        (Value::Text("sides"), Value::Sequence(_)),
        (Value::Text("training"), Value::Other),
    ] = pickled.dictionaries[root][..]
    else {
        panic!("{:?}", pickled.dictionaries[root]);
    };
}

#[test]
fn what_a_pickle_may_not_name_is_refused_by_its_name() {
    for (module, name) in [
        ("os", "system"),
        ("builtins", "eval"),
        ("torch", "load"),
        ("torch._utils", "_rebuild_tensor"),
        ("__torch__x", "y"),
    ] {
        let message = refused(format!("c{module}\n{name}\n.").as_bytes());
        assert!(
            message.contains(&format!("calls {module}.{name}: it is refused")),
            "{message}"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (pickle, message) in [
        (&b"\x80\x04."[..], "its pickle has protocol 4, PyTorch's is 2"),
        (
            b"\x80\x02i",
            "its pickle has the opcode 0x69, which PyTorch does not write",
        ),
        (b".", "takes more than it has made"),
        (b"K\x01\x86.", "takes more than it has made"),
        (b"X\x05\0\0\0abc", "ends too early"),
        (
            b"K\x01(u.",
            "its pickle sets items of something that is not a dictionary",
        ),
        (
            b"}(K\x01u.",
            "its pickle sets items of something that is not a dictionary",
        ),
        (b"}K\x01a.", "its pickle appends to something that is not a list"),
        (b"h\x01.", "refers to something it has not made"),
        (
            b"ccollections\nOrderedDict\nK\x01\x85R.",
            "calls OrderedDict with other arguments",
        ),
        (b"K\x01)R.", "calls something that cannot be called"),
        (b"ccollections\nOrderedDict\n)\x81.", "not a TorchScript class"),
        (b"K\x01}b.", "sets attributes of something that has none"),
        (b")Q.", "not a tensor's storage"),
    ] {
        let found = read(pickle)
            .map(|pickled| pickled.root)
            .map_err(|error| error.to_string());
        assert!(
            found.as_ref().is_err_and(|error| error.contains(message)),
            "{pickle:?}: {found:?}"
        );
    }
}

#[test]
fn a_pickle_longer_than_any_table_of_contents_is_refused() {
    assert!(refused(&vec![b'}'; MAX_BYTES + 1]).contains("bytes long, more than"));
}

/// Returns a pickle with a tuple of `length` numbers, memoised as 9, and `calls` that use it.
fn with_long_tuple(length: usize, calls: &[u8]) -> Vec<u8> {
    [b"\x80\x02(", b"K\x01".repeat(length).as_slice(), b"tq\x09", calls, b"."].concat()
}

/// 220 kB would ask for 12.8 GB: 20,000 tensors with a copy each of a shape of 40,000 numbers.
#[test]
fn a_memoised_shape_is_not_copied_at_length_for_each_tensor() {
    let storage = b"((X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x007X\x03\0\0\0cpuK\x02tQq\x08";
    let first = [
        b"ctorch._utils\n_rebuild_tensor_v2\nq\x07",
        &storage[..],
        b"K\0h\x09h\x09tR",
    ]
    .concat();
    let again = b"h\x07(h\x08K\0h\x09h\x09tR".repeat(20_000);
    let pickle = with_long_tuple(40_000, &[first, again].concat());
    assert!(refused(&pickle).ends_with("its pickle has a tensor of 40000 dimensions, more than 8"));
}

/// The arguments of a call beyond those that decide are not copied: here 20,000 calls of one long tuple.
#[test]
fn memoised_arguments_are_not_copied_at_length_for_each_call() {
    let call = b"ctorch.jit._pickle\nrestore_type_tag\nq\x07h\x09R";
    let again = b"h\x07h\x09R".repeat(20_000);
    let pickle = with_long_tuple(40_000, &[&call[..], &again].concat());
    assert_eq!(read(&pickle).expect("type marks are ignored").root, Value::Integer(1));
}

#[test]
fn a_callable_with_an_endless_name_is_refused() {
    let pickle = [b"c", &[b'a'; 100_000][..], b"\nb\n."].concat();
    assert!(refused(&pickle).ends_with("its pickle has a name of 100000 bytes"));
}

#[test]
fn no_beginning_of_a_pickle_is_a_pickle() {
    for length in 0..TENSOR.len() {
        refused(&TENSOR[..length]);
    }
}

proptest! {
    /// Opcodes in any order are either refused or read as a value; the reader never panics.
    #[test]
    fn hostile_bytes_end_in_words(
        opcodes in proptest::collection::vec(
            prop_oneof![
                proptest::sample::select(b"\x80(}])t\x85\x86\x87q\0h\0K\x01MJ\x8aXaesucRQb\x81N\x88.".to_vec()),
                any::<u8>(),
            ],
            0..200,
        ),
    ) {
        if let Err(error) = read(&opcodes) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
