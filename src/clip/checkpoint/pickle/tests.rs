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
    assert_eq!(number(b"\x8b\x02\0\0\0\0\xff").ok(), Some(-256));
    // The state of numpy's random generator has numbers of 128 bits, which are of no use here.
    let pickled = read(b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\0\x01.").expect("Python reads it, too");
    assert_eq!(pickled.root, Value::Other);
}

/// The same dictionary as in [`TENSOR`], with the opcodes of protocol 4.
#[test]
fn later_protocols_say_the_same() {
    for protocol in 2..=5 {
        let pickle = [
            &[0x80, protocol][..],
            b"\x95\x40\0\0\0\0\0\0\0}\x94\x8c\x01a\x94\x8c\x0ctorch._utils\x94\x8c\x12_rebuild_tensor_v2\x94\x93\x94\
            ((\x8c\x07storage\x94\x8c\x05torch\x94\x8c\x0bHalfStorage\x94\x93\x94\x8c\x017\x94\x8c\x03cpu\x94K\x02t\x94Q\
            K\x01K\x02\x85\x94K\x01\x85\x94\x89\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94t\x94R\x94s.",
        ]
        .concat();
        let (pickled, expected) = (read(&pickle).expect("it is sound"), read(TENSOR).expect("it is sound"));
        assert_eq!(pickled.dictionaries, expected.dictionaries);
        assert_eq!(format!("{:?}", pickled.tensors), format!("{:?}", expected.tensors));
    }
}

/// A dictionary of values beside the weights, each made by a callable that is unknown here.
#[test]
fn what_lies_beside_the_weights_is_opaque_and_never_made() {
    for value in [
        // numpy.float64(0.0), as protocol 2 has it
        &b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(X\x02\0\0\0f8\x89\x88tR(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xff\
          J\xff\xff\xff\xffK\0tbc_codecs\nencode\n(X\x08\0\0\0\0\0\0\0\0\0\0\0X\x06\0\0\0latin1tRtR"[..],
        // argparse.Namespace(lr=...)
        b"cargparse\nNamespace\n)\x81}X\x02\0\0\0lrG\0\0\0\0\0\0\0\0sb",
        // an object made with named arguments, in protocol 4
        b"\x8c\x01m\x8c\x01C\x93)}\x92",
        // a set, a frozen set, a deque and a default dictionary
        b"\x8f(K\x01\x90",
        b"(K\x01\x91",
        b"ccollections\ndeque\n)R(K\x01e",
        b"ccollections\ndefaultdict\n)R(K\x01K\x02u",
        // a tensor of bytes, the state of a random generator
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x02tQ\
          K\0K\x02\x85K\x01\x85\x89}tR",
        b"cos\nsystem\nX\x02\0\0\0id\x85R",
    ] {
        let pickle = [b"\x80\x04}(X\x01\0\0\0a", value, b"X\x01\0\0\0bK\x01u."].concat();
        let pickled = read(&pickle).unwrap_or_else(|error| panic!("{}: {error}", String::from_utf8_lossy(value)));
        let Value::Dictionary(root) = pickled.root else {
            panic!("{:?}", pickled.root);
        };
        let [
            (Value::Text("a"), Value::Opaque(_)),
            (Value::Text("b"), Value::Integer(1)),
        ] = pickled.dictionaries[root][..]
        else {
            panic!("{:?}", pickled.dictionaries[root]);
        };
        assert!(pickled.tensors.is_empty());
    }
}

#[test]
fn bytes_of_every_length_and_values_that_are_dropped_leave_nothing() {
    let pickle = b"\x80\x05C\x01a0B\x01\0\0\0a0\x8e\x01\0\0\0\0\0\0\0a0\x96\x01\0\0\0\0\0\0\0a0(NN1K\x012\x86.";
    let pickled = read(pickle).expect("it is sound");
    assert!(matches!(pickled.root, Value::Sequence(_)), "{:?}", pickled.root);
    assert!(refused(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff.").contains("ends too early"));
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
        (
            &b"\x80\x06."[..],
            "its pickle has protocol 6; protocols 2 to 5 are read",
        ),
        (b"K\x01K\x02\x93.", "names a callable with something that is not a text"),
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
                proptest::sample::select(b"\x80(}])t\x85\x86\x87q\0h\0K\x01MJ\x8aXaesucRQb\x81N\x88.\x93\x94\x95\x8c\x8f\x90\x91\x9201C".to_vec()),
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
