//! Compares the native operators with the same formulas in libtorch's plain operators.

use super::*;

/// Returns values between -1 and 1: the sines of multiples of `seed`.
fn noise(shape: &[i64], seed: f64) -> Tensor {
    let count: i64 = shape.iter().product();
    let angle = (Tensor::arange(count, (Kind::Double, Device::Cpu)) + 1.0) * seed;
    angle.sin().to_kind(Kind::Float).view(shape)
}

fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    (found.to_kind(Kind::Double) - expected.to_kind(Kind::Double))
        .abs()
        .max()
        .double_value(&[])
}

#[test]
fn a_packed_layer_is_the_plain_one_with_whatever_follows() {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.03)] {
        let weight = (noise(&[40, 24], 3.7) / 4.0).to_kind(kind);
        let bias = noise(&[40], 5.1).to_kind(kind);
        let Some(packed) = PackedWeight::new(&weight) else {
            continue;
        };
        for rows in [1, 7, 50] {
            let x = noise(&[2, rows, 24], 1.3).to_kind(kind);
            let [x_, weight_, bias_] = [&x, &weight, &bias].map(|tensor| tensor.to_kind(Kind::Float));
            let plain = x_.linear(&weight_, Some(&bias_));
            for then in [Pointwise::Identity, Pointwise::Relu, Pointwise::Silu, Pointwise::Gelu] {
                let found = packed.linear(&x, Some(&bias), then);
                let expected = then.forward(plain.shallow_clone());
                assert!(difference(&found, &expected) < tolerance, "{kind:?} {rows} {then:?}");
            }
            let without_bias = packed.linear(&x, None, Pointwise::Identity);
            assert!(difference(&without_bias, &x_.linear::<&Tensor>(&weight_, None)) < tolerance);
            // A part of a larger tensor, such as the cells without the class token.
            let larger = noise(&[2, rows + 1, 40], 2.9).to_kind(kind);
            let other = larger.narrow(1, 1, rows);
            let found = packed.linear_added(&x, Some(&bias), &other);
            assert!(difference(&found, &(plain + other.to_kind(Kind::Float))) < tolerance);
            assert_eq!(found.kind(), kind);
        }
    }
}

#[test]
fn float16_and_what_is_no_matrix_are_not_packed() {
    assert!(PackedWeight::new(&noise(&[4, 4], 1.0).to_kind(Kind::Half)).is_none());
    let caught = std::panic::catch_unwind(|| PackedWeight::new(&noise(&[2, 2, 2, 2], 1.0)));
    if let Err(panic) = caught {
        let text = panic.downcast_ref::<String>().map_or("", String::as_str);
        assert!(text.starts_with("libtorch: "), "{text}");
    }
}

/// Computes the formula in float64 with the whole attention matrix.
fn formula(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Tensor {
    let [query, key, value] = [query, key, value].map(|part| part.to_kind(Kind::Double));
    (query.matmul(&key.transpose(2, 3)) * scale)
        .softmax(3, Kind::Double)
        .matmul(&value)
}

#[test]
fn attention_is_its_formula_at_any_number_of_queries_and_keys() {
    for (kind, tolerance) in [(Kind::Float, 1e-5), (Kind::BFloat16, 0.02)] {
        for (queries, tokens) in [(12, 1), (23, 63), (24, 64), (50, 50), (85, 300), (31, 785)] {
            // Two images with three heads each; keys and values lie in one tensor, as a fused projection leaves them.
            let fused = (noise(&[2, tokens, 2 * 3 * 64], 3.3) * 3.0).to_kind(kind);
            let [key, value] =
                [0, 1].map(|part| fused.narrow(-1, part * 192, 192).unflatten(-1, [3, 64]).transpose(1, 2));
            let query = (noise(&[2, queries, 192], 1.9) * 3.0).to_kind(kind);
            let query = query.unflatten(-1, [3, 64]).transpose(1, 2);
            let Some(found) = attention(&query, &key, &value, 0.125) else {
                continue;
            };
            let difference = difference(&found, &formula(&query, &key, &value, 0.125));
            assert!(difference < tolerance, "{kind:?} {queries} {tokens}: {difference}");
            assert!(found.transpose(1, 2).is_contiguous());
        }
    }
}

#[test]
fn attention_to_one_of_many_keys_overflows_nothing() {
    let key = noise(&[1, 1, 400, 64], 1.7);
    let query = key.narrow(2, 350, 12) * 100.0;
    if let Some(found) = attention(&query, &key, &key, 1.0) {
        let expected = formula(&query, &key, &key, 1.0);
        // Float32 numbers of some thousands have about four digits after the point.
        assert!(difference(&found, &expected) < 1e-3);
    }
}

#[test]
fn attention_of_other_widths_and_of_few_queries_is_left_to_libtorch() {
    let wide = noise(&[1, 1, 30, 80], 1.0);
    assert!(attention(&wide, &wide, &wide, 1.0).is_none());
    let few = noise(&[1, 1, 2, 64], 1.0);
    assert!(attention(&few, &few, &few, 1.0).is_none());
}
