//! Compares the kernel with a reference in float64 and with PyTorch, and tests its edge cases.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde::Deserialize;

use super::super::{ClassStatistics, enlarge};
use super::*;
use crate::scores::{ScoreGrid, Windows};

/// All probabilities of an image, `[owners, height, width]`, in float64: classes, then the background. Every pixel is
/// interpolated from its four cells of each grid at once, by the textbook.
struct Reference {
    owners: Vec<Vec<f64>>,
}

impl Reference {
    fn new(map: &ScoreMap, query_owners: &[QueryOwner], options: &LabelMapOptions) -> Self {
        let (width, height) = (options.width as usize, options.height as usize);
        let mut owners = vec![vec![0.0_f64; width * height]; options.classes + 1];
        for y in 0..height {
            for x in 0..width {
                let mean = |query| {
                    let scores = map.grids.iter().map(|grid| bilinear(grid, query, x, y, options));
                    scores.sum::<f64>() / map.grids.len() as f64
                };
                let scores: Vec<f64> = (0..map.queries).map(mean).collect();
                let weights: Vec<f64> = match map.kind {
                    ScoreKind::Logits => {
                        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                        scores.iter().map(|score| (score - largest).exp()).collect()
                    }
                    ScoreKind::Weights => scores.iter().map(|score| score.max(0.0)).collect(),
                };
                let sum: f64 = weights.iter().sum();
                for (weight, owner) in weights.iter().zip(query_owners) {
                    let owner = match owner {
                        QueryOwner::Class(id) => usize::from(*id),
                        QueryOwner::Background if options.background_label == UNLABELLED => options.classes,
                        QueryOwner::Background => usize::from(options.background_label),
                    };
                    let probability = &mut owners[owner][y * width + x];
                    *probability = probability.max(if sum > 0.0 { weight / sum } else { 0.0 });
                }
            }
        }
        let mut reference = Self { owners };
        if options.smallest_area > 0.0 {
            reference.drop_small_classes(options);
        }
        reference
    }

    /// Applies the area rule word by word. `n_c` are the pixels with argmax `c`, and `n` are those of all classes.
    /// Where `n_c <= a n`, the probability of `c` becomes 0.
    fn drop_small_classes(&mut self, options: &LabelMapOptions) {
        let without_threshold = LabelMapOptions {
            background_threshold: 0.0,
            ..*options
        };
        let mut counts = vec![0_u64; options.classes];
        for pixel in 0..self.owners[0].len() {
            let (label, _) = self.label(pixel, &without_threshold);
            if label != options.background_label {
                counts[usize::from(label)] += 1;
            }
        }
        let foreground: u64 = counts.iter().sum();
        for (class, &count) in counts.iter().enumerate() {
            let is_small = count as f64 <= options.smallest_area * foreground as f64;
            if is_small && class != usize::from(options.background_label) {
                self.owners[class].fill(0.0);
            }
        }
    }

    /// Returns the probability that pixel `pixel` has the label.
    fn probability(&self, label: u16, pixel: usize) -> f64 {
        self.owners[usize::from(label).min(self.owners.len() - 1)][pixel]
    }

    /// Returns the label that a pixel should have, and the distance by which the runner-up or the threshold missed it.
    fn label(&self, pixel: usize, options: &LabelMapOptions) -> (u16, f64) {
        let mut ranked: Vec<(usize, f64)> = self.owners.iter().map(|plane| plane[pixel]).enumerate().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let (best, probability) = ranked[0];
        let threshold = f64::from(options.background_threshold);
        let margin = (probability - ranked[1].1).min((probability - threshold).abs());
        if best == options.classes || probability < threshold || probability == 0.0 {
            (options.background_label, margin)
        } else {
            (best as u16, margin)
        }
    }
}

fn bilinear(grid: &ScoreGrid, query: usize, x: usize, y: usize, options: &LabelMapOptions) -> f64 {
    let cell = |x: usize, y: usize| f64::from(grid.values[(query * grid.height + y) * grid.width + x]);
    let place = |pixel: usize, cells: usize, pixels: u32| {
        let last = (cells - 1) as f64;
        let position = ((pixel as f64 + 0.5) * cells as f64 / f64::from(pixels) - 0.5).clamp(0.0, last);
        (
            position as usize,
            (position as usize + 1).min(cells - 1),
            position.fract(),
        )
    };
    let (left, right, across) = place(x, grid.width, options.width);
    let (top, bottom, down) = place(y, grid.height, options.height);
    cell(left, top) * (1.0 - across) * (1.0 - down)
        + cell(right, top) * across * (1.0 - down)
        + cell(left, bottom) * (1.0 - across) * down
        + cell(right, bottom) * across * down
}

/// Computes the statistics of a class from the labels and the reference's probabilities.
fn recount(map: &LabelMap, reference: &Reference, class: u16) -> (u64, Option<[u32; 4]>, Option<f64>, Option<f64>) {
    let own: Vec<usize> = (0..map.labels.len())
        .filter(|&pixel| map.labels[pixel] == class)
        .collect();
    let probabilities = || own.iter().map(|&pixel| reference.probability(class, pixel));
    let x = || own.iter().map(|&pixel| pixel as u32 % map.width);
    let y = || own.iter().map(|&pixel| pixel as u32 / map.width);
    let span = |low: Option<u32>, high: Option<u32>| Some((low?, high? - low? + 1));
    let bounding_box = span(x().min(), x().max())
        .zip(span(y().min(), y().max()))
        .map(|((left, width), (top, height))| [left, top, width, height]);
    let mean = bounding_box.map(|_| probabilities().sum::<f64>() / own.len() as f64);
    (own.len() as u64, bounding_box, mean, probabilities().reduce(f64::max))
}

fn close(ours: Option<f32>, theirs: Option<f64>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => (f64::from(ours) - theirs).abs() < 1e-5,
        (ours, theirs) => ours.is_none() && theirs.is_none(),
    }
}

/// Compares all content of a label map with the reference.
fn assert_matches_reference(map: &LabelMap, scores: &ScoreMap, owners: &[QueryOwner], options: &LabelMapOptions) {
    let reference = Reference::new(scores, owners, options);
    let confidence = map.confidence.as_ref().expect("these tests ask for confidence");
    for (pixel, &label) in map.labels.iter().enumerate() {
        let (expected, margin) = reference.label(pixel, options);
        assert!(
            label == expected || margin < 1e-5,
            "pixel {pixel}: {label}, expected {expected} by {margin}"
        );
        let probability = 255.0 * reference.probability(label, pixel);
        assert!(
            (f64::from(confidence[pixel]) - probability).abs() < 0.51,
            "pixel {pixel}: confidence"
        );
    }
    for (class, statistics) in map.classes.iter().enumerate() {
        let (pixels, bounding_box, mean, max) = recount(map, &reference, class as u16);
        let presence = reference.owners[class].iter().copied().reduce(f64::max);
        assert_eq!(
            (statistics.pixels, statistics.bounding_box),
            (pixels, bounding_box),
            "class {class}"
        );
        assert!(
            close(statistics.mean_confidence, mean),
            "class {class}: {statistics:?}, mean {mean:?}"
        );
        assert!(
            close(statistics.max_confidence, max),
            "class {class}: {statistics:?}, max {max:?}"
        );
        assert!(
            close(Some(statistics.presence), presence),
            "class {class}: {statistics:?}, {presence:?}"
        );
    }
}

fn grid(height: usize, width: usize, values: Vec<f32>) -> ScoreGrid {
    ScoreGrid {
        height,
        width,
        windows: None,
        values,
    }
}

/// Builds a score map of one grid.
pub(super) fn scores(kind: ScoreKind, queries: usize, height: usize, width: usize, values: Vec<f32>) -> ScoreMap {
    ScoreMap {
        kind,
        queries,
        grids: vec![grid(height, width, values)],
    }
}

pub(super) fn options(width: u32, height: u32, classes: usize) -> LabelMapOptions {
    LabelMapOptions {
        width,
        height,
        classes,
        background_label: UNLABELLED,
        background_threshold: 0.0,
        smallest_area: 0.0,
        confidence_map: true,
    }
}

pub(super) fn each_its_own(classes: u16) -> Vec<QueryOwner> {
    (0..classes).map(QueryOwner::Class).collect()
}

/// Labels with a given set of the processor's instructions.
fn label_with(
    instructions: Instructions,
    scores: &ScoreMap,
    owners: &[QueryOwner],
    options: &LabelMapOptions,
) -> LabelMap {
    let plan = Plan::new(instructions, scores, owners, options);
    plan.carry_out(&|| false).expect("nothing stops it").0
}

prop_compose! {
    /// Any grid with so many queries. `spread` scales the scores; at 1, every query has a part in every pixel.
    fn any_grid(queries: usize, spread: f32)(height in 1_usize..9, width in 1_usize..9)(
        values in prop::collection::vec(-3.0_f32..5.0, queries * height * width),
        (height, width) in Just((height, width)),
    ) -> ScoreGrid {
        grid(height, width, values.into_iter().map(|value| value * spread).collect())
    }
}

prop_compose! {
    /// Any scores, owners and options that do not contradict each other.
    fn any_input()(
        kind in prop::sample::select(vec![ScoreKind::Logits, ScoreKind::Weights]),
        (image_height, image_width) in (1_u32..24, 1_u32..150),
        owners in prop::collection::vec(prop::option::weighted(0.8, 0_u16..5), 1..9),
        spread in prop::sample::select(vec![1.0_f32, 1.0, 12.0]),
        background_label in prop::option::of(0_u16..5),
        background_threshold in prop::sample::select(vec![0.0_f32, 0.3, 0.7, 1.0]),
        smallest_area in prop::sample::select(vec![0.0_f64, 0.0, 0.1, 0.3]),
    )(
        grids in prop::collection::vec(any_grid(owners.len(), spread), 1..4),
        owners in Just(owners),
        options in Just(LabelMapOptions {
            width: image_width,
            height: image_height,
            classes: 5,
            background_label: background_label.unwrap_or(UNLABELLED),
            background_threshold,
            smallest_area,
            confidence_map: true,
        }),
        kind in Just(kind),
    ) -> (ScoreMap, Vec<QueryOwner>, LabelMapOptions) {
        let queries = owners.len();
        let mut grids = grids;
        if kind == ScoreKind::Weights {
            // Where all weights are almost 0, rounding decides whether a probability is 1 or 0. The weights of the
            // first query therefore stay away from 0.
            for grid in &mut grids {
                let cells = grid.height * grid.width;
                grid.values[..cells].iter_mut().for_each(|value| *value = 0.5 + value.abs());
            }
        }
        let owners = owners.into_iter().map(|owner| owner.map_or(QueryOwner::Background, QueryOwner::Class)).collect();
        (ScoreMap { kind, queries, grids }, owners, options)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn equals_the_reference_with_whatever_instructions((scores, owners, options) in any_input()) {
        for instructions in Instructions::supported() {
            let map = label_with(instructions, &scores, &owners, &options);
            assert_matches_reference(&map, &scores, &owners, &options);
        }
    }

    #[test]
    fn probability_maps_are_those_of_the_reference_and_change_nothing_else((scores, owners, options) in any_input()) {
        let classes = [4, 0, 2];
        let labelled = label_map_with_probabilities(&scores, &owners, &options, &classes, &|| false);
        let (map, probabilities) = labelled.expect("nothing stops it");
        prop_assert_eq!(map, label_map(&scores, &owners, &options));
        let reference = Reference::new(&scores, &owners, &options);
        prop_assert_eq!(probabilities.iter().map(|map| map.class_id).collect::<Vec<_>>(), classes);
        for map in probabilities {
            for (pixel, &value) in map.values.iter().enumerate() {
                let expected = 255.0 * reference.owners[usize::from(map.class_id)][pixel];
                prop_assert!((f64::from(value) - expected).abs() < 0.51, "{}, {}: {}", map.class_id, pixel, value);
            }
        }
    }

    #[test]
    fn windows_come_to_what_their_enlargement_comes_to(
        (mut scores, owners, options) in any_input(),
        (side, stride) in (3_usize..9).prop_flat_map(|side| (Just(side), 1..=side)),
    ) {
        for grid in &mut scores.grids {
            // The input has one pixel per cell and as many more as the windows need to fit.
            let windows = Windows::new(grid.height + side, grid.width + side, side, stride);
            let fits = |windows: &Windows| {
                grid.height.is_multiple_of(windows.rows.starts.len()) && grid.width.is_multiple_of(windows.columns.starts.len())
            };
            grid.windows = windows.filter(fits);
        }
        let enlarged = enlarge(&scores, options.height as usize, options.width as usize);
        assert_matches_reference(&label_map(&scores, &owners, &options), &enlarged, &owners, &options);
    }

    #[test]
    fn every_pixel_is_counted_once((scores, owners, options) in any_input()) {
        let map = label_map(&scores, &owners, &options);
        let counted: u64 = map.classes.iter().map(|class| class.pixels).sum();
        let unlabelled = map.labels.iter().filter(|&&label| label == UNLABELLED).count() as u64;
        prop_assert_eq!(counted + unlabelled, u64::from(options.width) * u64::from(options.height));
    }

    #[test]
    fn every_label_is_a_class_or_the_background((scores, owners, options) in any_input()) {
        let map = label_map(&scores, &owners, &options);
        let pixels = options.width as usize * options.height as usize;
        prop_assert_eq!((map.width, map.height, map.labels.len()), (options.width, options.height, pixels));
        prop_assert_eq!(map.confidence.map(|confidence| confidence.len()), Some(pixels));
        prop_assert_eq!(map.classes.len(), options.classes);
        for label in map.labels {
            prop_assert!(usize::from(label) < options.classes || label == options.background_label, "{}", label);
        }
    }

    #[test]
    fn other_ids_of_the_classes_are_other_labels_and_nothing_else(
        (scores, owners, options) in any_input(),
        order in Just((0_u16..5).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let renamed = |label: u16| order.get(usize::from(label)).copied().unwrap_or(label);
        let other_owners: Vec<_> = owners
            .iter()
            .map(|owner| match owner {
                QueryOwner::Class(id) => QueryOwner::Class(renamed(*id)),
                QueryOwner::Background => QueryOwner::Background,
            })
            .collect();
        let other_options = LabelMapOptions { background_label: renamed(options.background_label), ..options };
        let reference = Reference::new(&scores, &owners, &options);
        let map = label_map(&scores, &owners, &options);
        let other = label_map(&scores, &other_owners, &other_options);
        // Of two classes that are equally probable, the one with the lower id wins, and a class can win or lose its
        // last pixel.
        let margins = (0..map.labels.len()).map(|pixel| reference.label(pixel, &options).1);
        let has_ties = margins.fold(f64::INFINITY, f64::min) < 1e-5;
        prop_assume!(!has_ties || options.smallest_area == 0.0);
        for (pixel, (&label, &other_label)) in map.labels.iter().zip(&other.labels).enumerate() {
            prop_assert!(
                renamed(label) == other_label || reference.label(pixel, &options).1 < 1e-5,
                "pixel {}: {} and {}", pixel, label, other_label
            );
        }
        if !has_ties {
            for (class, ours) in map.classes.iter().enumerate() {
                let theirs = &other.classes[usize::from(order[class])];
                prop_assert_eq!((ours.pixels, ours.bounding_box), (theirs.pixels, theirs.bounding_box));
                // Sums in another order are rounded otherwise.
                for (one, other) in [
                    (ours.mean_confidence, theirs.mean_confidence),
                    (ours.max_confidence, theirs.max_confidence),
                    (Some(ours.presence), Some(theirs.presence)),
                ] {
                    prop_assert!(close(one, other.map(f64::from)), "class {}: {:?} and {:?}", class, one, other);
                }
            }
        }
    }

    #[test]
    fn the_thread_count_changes_nothing((scores, owners, options) in any_input()) {
        let with_threads = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads start");
            pool.install(|| label_map(&scores, &owners, &options))
        };
        prop_assert_eq!(with_threads(1), with_threads(5));
    }

    #[test]
    fn the_size_of_the_slices_changes_nothing((scores, owners, options) in any_input(), slice_work in 1_usize..200) {
        let plan = Plan::new(Instructions::widest(), &scores, &owners, &options);
        let sliced = Plan { slice_work, ..plan };
        let map = sliced.carry_out(&|| false).map(|(map, _)| map);
        prop_assert_eq!(map, Some(label_map(&scores, &owners, &options)));
    }
}

#[test]
fn it_asks_before_every_slice_and_ends_when_told_to() {
    let (scores, owners) = (scores(ScoreKind::Logits, 2, 1, 1, vec![1.0, 0.0]), each_its_own(2));
    let options = options(1, 10, 2);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .expect("a thread starts");
    let asked_until = |last: usize| {
        let asked = AtomicUsize::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) >= last;
        let done = pool.install(|| {
            let plan = Plan::new(Instructions::widest(), &scores, &owners, &options);
            // A slice is a row.
            Plan { slice_work: 1, ..plan }.carry_out(&stop).is_some()
        });
        (done, asked.into_inner())
    };
    assert_eq!(asked_until(0), (false, 1));
    assert_eq!(asked_until(4), (false, 5));
    assert_eq!(asked_until(10), (true, 10));
}

/// One entry of label_map.json, written by tools/golden/label_map.py.
#[derive(Deserialize)]
struct Golden {
    name: String,
    grid: [usize; 2],
    image: [u32; 2],
    owners: Vec<Option<u16>>,
    scores: Vec<f32>,
    owner: Vec<u16>,
    probability: Vec<f32>,
    margin: Vec<f32>,
}

#[test]
fn equals_pytorch() {
    let goldens: Vec<Golden> =
        serde_json::from_str(include_str!("../../../tests/golden/label_map.json")).expect("the goldens are JSON");
    assert_eq!(goldens.len(), 5);
    for golden in goldens {
        let classes = golden
            .owners
            .iter()
            .flatten()
            .max()
            .map_or(0, |&last| usize::from(last) + 1);
        let owners: Vec<_> = golden
            .owners
            .iter()
            .map(|owner| owner.map_or(QueryOwner::Background, QueryOwner::Class))
            .collect();
        let [height, width] = golden.grid;
        let scores = scores(ScoreKind::Logits, owners.len(), height, width, golden.scores);
        let map = label_map(&scores, &owners, &options(golden.image[1], golden.image[0], classes));
        let confidence = map.confidence.expect("asked for");
        for (pixel, &confidence) in confidence.iter().enumerate() {
            let label = usize::from(map.labels[pixel]).min(classes);
            let (owner, margin) = (usize::from(golden.owner[pixel]), golden.margin[pixel]);
            assert!(
                label == owner || margin <= 1e-5,
                "{}, pixel {pixel}: {label}, not {owner}",
                golden.name
            );
            let difference = f32::from(confidence) - 255.0 * golden.probability[pixel];
            assert!(
                difference.abs() < 0.51,
                "{}, pixel {pixel}: confidence {difference}",
                golden.name
            );
        }
    }
}

#[test]
fn one_cell_labels_the_whole_image() {
    let scores = scores(ScoreKind::Weights, 2, 1, 1, vec![1.0, 3.0]);
    let map = label_map(&scores, &each_its_own(2), &options(3, 2, 2));
    assert_eq!(map.labels, [1; 6]);
    assert_eq!(map.confidence, Some(vec![191; 6]));
    assert_eq!(
        map.classes[0],
        ClassStatistics {
            pixels: 0,
            bounding_box: None,
            mean_confidence: None,
            max_confidence: None,
            presence: 0.25,
        }
    );
    assert_eq!(map.classes[1].bounding_box, Some([0, 0, 3, 2]));
    assert_eq!(map.classes[1].mean_confidence, Some(0.75));
}

#[test]
fn ties_go_to_the_lowest_id_and_to_a_class_before_the_background() {
    let scores = scores(ScoreKind::Logits, 3, 1, 1, vec![1.0, 1.0, 1.0]);
    let owners = [QueryOwner::Background, QueryOwner::Class(1), QueryOwner::Class(0)];
    assert_eq!(label_map(&scores, &owners, &options(1, 1, 2)).labels, [0]);
    let owners = [QueryOwner::Background, QueryOwner::Class(1), QueryOwner::Background];
    assert_eq!(label_map(&scores, &owners, &options(1, 1, 2)).labels, [1]);
}

#[test]
fn synonyms_compete_one_by_one() {
    // Two middling queries of class 0 do not add up against class 1.
    let scores = scores(ScoreKind::Weights, 3, 1, 1, vec![0.3, 0.3, 0.4]);
    let owners = [QueryOwner::Class(0), QueryOwner::Class(0), QueryOwner::Class(1)];
    let map = label_map(&scores, &owners, &options(1, 1, 2));
    assert_eq!(map.labels, [1]);
    assert!((map.classes[0].presence - 0.3).abs() < 1e-6);
}

#[test]
fn under_the_threshold_is_background_with_the_background_s_own_probability() {
    let scores = scores(ScoreKind::Weights, 3, 1, 1, vec![0.5, 0.375, 0.125]);
    let owners = [QueryOwner::Class(0), QueryOwner::Class(1), QueryOwner::Background];
    let at = |background_label, background_threshold| {
        let map = label_map(
            &scores,
            &owners,
            &LabelMapOptions {
                background_label,
                background_threshold,
                ..options(1, 1, 2)
            },
        );
        (map.labels[0], map.confidence.expect("asked for")[0])
    };
    assert_eq!(at(UNLABELLED, 0.4), (0, 128));
    assert_eq!(at(UNLABELLED, 0.6), (UNLABELLED, 32));
    assert_eq!(at(1, 0.6), (1, 96));
}

/// One row of pixels, each its own cell. Class `c` scores highest on its share of them, and the background on none.
fn shares(pixels: &[usize]) -> (ScoreMap, Vec<QueryOwner>, LabelMapOptions) {
    let classes = pixels.len();
    let winner: Vec<usize> = pixels
        .iter()
        .enumerate()
        .flat_map(|(class, &count)| vec![class; count])
        .collect();
    let value = |class: usize, pixel: usize| match winner[pixel] == class {
        true => 0.6,
        false => 0.1 * class as f32 / classes as f32,
    };
    let values = (0..classes).flat_map(|class| (0..winner.len()).map(move |pixel| (class, pixel)));
    let values = values.map(|(class, pixel)| value(class, pixel)).collect();
    let width = winner.len() as u32;
    (
        scores(ScoreKind::Weights, classes, 1, winner.len(), values),
        each_its_own(classes as u16),
        options(width, 1, classes),
    )
}

#[test]
fn a_class_with_at_most_its_share_of_the_foreground_is_nowhere() {
    let (scores, owners, options) = shares(&[50, 45, 5]);
    let counts = |smallest_area, background_threshold| {
        let options = LabelMapOptions {
            smallest_area,
            background_threshold,
            ..options
        };
        let map = label_map(&scores, &owners, &options);
        assert_eq!(map.classes[2].presence > 0.0, map.classes[2].pixels > 0);
        map.classes.iter().map(|class| class.pixels).collect::<Vec<_>>()
    };
    assert_eq!(counts(0.04, 0.0), [50, 45, 5]);
    // 5 <= 0.1 * 100, so the pixels of class 2 go to the next best, class 1.
    assert_eq!(counts(0.1, 0.0), [50, 50, 0]);
    // The next best class is below the threshold in these pixels.
    assert_eq!(counts(0.1, 0.5), [50, 45, 0]);
    assert_eq!(counts(1.0, 0.0), [0, 0, 0]);
}

#[test]
fn the_background_has_no_part_in_the_foreground_and_no_smallest_area() {
    let (scores, mut owners, mut options) = shares(&[50, 45, 5]);
    options.smallest_area = 0.1;
    // The foreground has 45 and 5 pixels: 5 <= 0.1 * 50.
    owners[0] = QueryOwner::Background;
    assert_eq!(label_map(&scores, &owners, &options).classes[2].pixels, 0);
    // The last class is the background. It is small but stays.
    let (_, owners, mut options) = shares(&[50, 45, 5]);
    options.smallest_area = 0.1;
    options.background_label = 2;
    assert_eq!(label_map(&scores, &owners, &options).classes[2].pixels, 5);
}

#[test]
fn a_pixel_without_evidence_is_background_with_probability_0() {
    for (kind, values) in [
        (ScoreKind::Weights, vec![0.0, -1.0]),
        (ScoreKind::Logits, vec![f32::NAN, f32::NAN]),
        (ScoreKind::Logits, vec![f32::NEG_INFINITY, f32::NEG_INFINITY]),
    ] {
        let map = label_map(&scores(kind, 2, 1, 1, values), &each_its_own(2), &options(1, 1, 2));
        assert_eq!(map.labels, [UNLABELLED], "{kind:?}");
        assert_eq!(map.confidence, Some(vec![0]));
        assert_eq!(map.classes[0].presence, 0.0);
    }
}

#[test]
fn dropped_classes_and_large_logits_stay_finite() {
    let values = vec![-10_000.0, 100.0, -10_000.0, 98.0];
    let map = label_map(
        &scores(ScoreKind::Logits, 4, 1, 1, values),
        &each_its_own(4),
        &options(5, 5, 4),
    );
    assert_eq!(map.labels, [1; 25]);
    assert_eq!(map.classes[0].presence, 0.0);
    let expected = 1.0 / (1.0 + (-2_f32).exp());
    assert!((map.classes[1].presence - expected).abs() < 1e-6);
}

#[test]
fn the_next_best_class_gets_a_pixel_however_far_it_is_below_a_small_one() {
    // One cell of class 0 lies among nine of class 1. Where class 0 is dropped, its pixel goes to class 1 by any
    // margin.
    let mut values = vec![0.0; 10];
    values[3] = 60.0;
    values.extend([30.0; 10]);
    values[13] = 0.0;
    let scores = scores(ScoreKind::Logits, 2, 1, 10, values);
    let at = |smallest_area| {
        let options = LabelMapOptions {
            smallest_area,
            ..options(10, 1, 2)
        };
        label_map(&scores, &each_its_own(2), &options).labels
    };
    assert_eq!(at(0.0)[2..5], [1, 0, 1]);
    assert_eq!(at(0.2), [1; 10]);
}

/// There are hundreds of queries over many tiles, and few of them matter in any one tile.
#[test]
fn equals_the_reference_where_most_queries_are_left_out() {
    let (queries, height, width) = (150, 3, 12);
    let region = |query: usize, x: usize| if query % width == x { 40.0 } else { 0.0 };
    let jitter = |query: usize, y: usize, x: usize| ((query * 37 + y * 11 + x * 5) % 64) as f32 / 8.0;
    let cells = (0..queries).flat_map(|query| (0..height * width).map(move |cell| (query, cell / width, cell % width)));
    let values = cells
        .map(|(query, y, x)| region(query, x) + jitter(query, y, x))
        .collect();
    let scores = scores(ScoreKind::Logits, queries, height, width, values);
    let (owners, options) = (each_its_own(queries as u16), options(260, 6, queries));
    for instructions in Instructions::supported() {
        let map = label_with(instructions, &scores, &owners, &options);
        assert_matches_reference(&map, &scores, &owners, &options);
    }
}

#[test]
#[should_panic(expected = "every query has one owner")]
fn owners_have_to_match_the_queries() {
    label_map(
        &scores(ScoreKind::Logits, 2, 1, 1, vec![0.0, 0.0]),
        &each_its_own(1),
        &options(1, 1, 1),
    );
}

#[test]
#[should_panic(expected = "the score map is empty")]
fn there_is_at_least_one_query() {
    label_map(&scores(ScoreKind::Logits, 0, 1, 1, vec![]), &[], &options(1, 1, 1));
}
