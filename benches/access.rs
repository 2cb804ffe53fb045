//! Measures what a key costs a request beside HTTP: the search for the key by its text, and the count against its
//! client's quota. Right keys and wrong ones, near and far, must take the same time, and all of it little of the 50
//! microseconds that a request may lose. `reliability.py key-cost` measures whole requests.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use maskclip::access::{Access, AccessSettings, KeyDigest, KeyEntry, NewKey, Scope};

/// Returns the keys of a server with so many clients, and one of the keys.
fn access(clients: usize) -> (Access, String) {
    let keys: Vec<NewKey> = (0..clients)
        .map(|_| NewKey::random().expect("the system has random bytes"))
        .collect();
    let entries = keys.iter().enumerate().map(|(number, key)| KeyEntry {
        name: format!("client-{number}"),
        sha256: KeyDigest::of(key.text().as_bytes()),
        scopes: vec![Scope::Use],
        requests_per_second: Some(1e6),
        in_flight: Some(1000),
    });
    let settings = AccessSettings {
        keys: entries.collect(),
        ..AccessSettings::default()
    };
    let access = Access::open(settings).expect("the keys are valid");
    (access, keys[clients / 2].text().to_owned())
}

fn keys(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("keys");
    for clients in [1, 100, 10_000] {
        let (access, right) = access(clients);
        let near = format!("{}!", &right[..right.len() - 1]);
        let far = "!".repeat(right.len());
        for (kind, text) in [
            ("right", &right),
            ("wrong in the last letter", &near),
            ("wrong in all", &far),
        ] {
            group.bench_with_input(BenchmarkId::new(kind, clients), text, |bench, text| {
                bench.iter(|| black_box(access.find(black_box(text.as_bytes()))));
            });
        }
        let key = access.find(right.as_bytes()).expect("it is one of them");
        group.bench_function(BenchmarkId::new("quota", clients), |bench| {
            bench.iter(|| drop(black_box(key.admit())));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2));
    targets = keys
}
criterion_main!(benches);
