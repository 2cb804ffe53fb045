//! Measures the step from scores to a label map with confidence, on all cores and on one.
//!
//! Run it with `cargo bench --bench label_map`. docs/experiments.md has the figures.

#![allow(missing_docs)]

mod support;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use maskclip::label_map::label_map;
use maskclip::scores::ScoreKind;

fn label_maps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("label map");
    group.sample_size(10);
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread starts");
    for (classes, width, height) in [(171, 2048, 1536), (20, 1152, 864)] {
        let (owners, options) = (support::owners(classes), support::options(classes, width, height));
        let logits = support::scores(classes, 28, 37);
        let mut weights = logits.clone();
        weights.kind = ScoreKind::Weights;
        for (kind, scores) in [("logits", logits), ("weights", weights)] {
            let name = format!("{classes} classes, {width} x {height}, {kind}");
            group.bench_function(&name, |bencher| {
                bencher.iter(|| label_map(black_box(&scores), &owners, &options));
            });
            group.bench_function(format!("{name}, one thread"), |bencher| {
                one_thread.install(|| bencher.iter(|| label_map(black_box(&scores), &owners, &options)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, label_maps);
criterion_main!(benches);
