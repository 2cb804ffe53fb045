//! Runs whose labels do not come from a teacher that scores each view.

use std::path::Path;

use tch::Tensor;

use super::*;
use crate::scores::UNLABELLED;

/// Draws label maps for all images: 0 for red, 1 for blue.
fn draw_labels(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for (number, edge) in EDGES {
        let map = ::image::GrayImage::from_fn(80, 72, |x, _| ::image::Luma([u8::from(x >= edge)]));
        map.save(folder.join(format!("{number}.png"))).unwrap();
    }
}

/// Writes the label maps that an engine would write: red left of the edge, blue right of it.
fn label_maps(world: &World, run: &str) -> LabelCache {
    let folder = world.folder.path().join(run);
    let cache = LabelCache::open(&folder, &world.plan, &[0, 1]).unwrap();
    for (number, edge) in EDGES {
        let map = ::image::GrayImage::from_fn(80, 72, |x, _| ::image::Luma([u8::from(x >= edge)]));
        map.save(folder.join(LABELS_FOLDER).join(format!("{number}.png")))
            .unwrap();
    }
    assert!(cache.is_complete(EDGES.len()));
    cache
}

#[test]
fn label_maps_of_whole_images_take_the_place_of_the_teacher() {
    let mut world = World::new();
    world.plan.settings.pseudo_labels = PseudoLabels::Once;
    let guide = Guide {
        texts: texts([false; 2]),
        cache: Some(label_maps(&world, "run")),
        given: None,
    };
    // This teacher would also label every pixel, but it answers no question.
    let mut silent = teacher(SURE, 0);
    world.train_with("run", &mut silent, &guide, u64::MAX).unwrap();
    let log = world.log("run");
    let labelled = |line: &String| line.rsplit(',').next().unwrap().parse::<f64>().unwrap();
    assert!(log[1..].iter().all(|line| labelled(line) > 0.9), "{log:?}");
}

#[test]
fn label_maps_of_another_plan_or_size_are_refused() {
    let mut world = World::new();
    world.plan.settings.pseudo_labels = PseudoLabels::Once;
    let guide = Guide {
        texts: texts([false; 2]),
        cache: Some(label_maps(&world, "run")),
        given: None,
    };
    let map = world.folder.path().join("run").join(LABELS_FOLDER).join("1.png");
    ::image::GrayImage::new(80, 71).save(map).unwrap();
    let error = world
        .train_with("run", &mut teacher(SURE, 0), &guide, u64::MAX)
        .unwrap_err();
    assert!(matches!(error, TrainError::LabelSize { .. }), "{error}");

    // The learning rate does not change label maps, but the confidence does.
    world.plan.settings.optimiser.learning_rate = 0.002;
    LabelCache::open(&world.folder.path().join("run"), &world.plan, &[0, 1]).unwrap();
    world.plan.settings.confidence = 0.7;
    let error = LabelCache::open(&world.folder.path().join("run"), &world.plan, &[0, 1]).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has label maps of another confidence: give it the same"),
        "{error}"
    );
}

/// Returns the given labels in the folder `labels`, where `labelled` says whose labels count.
fn given_labels(world: &World, labelled: [bool; 2]) -> Result<Guide, TrainError> {
    let texts = texts(labelled);
    let folder = world.folder.path().join("labels");
    let given = GivenLabels::find(
        &folder,
        &world.folder.path().join("images"),
        &world.images,
        texts.labelled.clone(),
    )?;
    Ok(Guide {
        texts,
        cache: None,
        given: Some(given),
    })
}

#[test]
fn a_student_that_trains_itself_asks_the_teacher_no_more() {
    let mut world = World::new();
    world.plan.settings.self_training_from = Some(4);
    world.plan.settings.confidence = 0.0;
    world.train("run", &mut teacher(SURE, 3 * 2), u64::MAX).unwrap();
    let labelled: Vec<f64> = world.log("run")[1..]
        .iter()
        .map(|line| line.rsplit(',').next().unwrap().parse().unwrap())
        .collect();
    assert!(labelled.iter().all(|share| *share > 0.9), "{labelled:?}");
}

#[test]
fn given_labels_go_before_pseudo_labels_which_are_of_other_classes() {
    let mut world = World::new();
    draw_labels(&world.folder.path().join("labels"));
    let guide = given_labels(&world, [true, false]).unwrap();
    let red = guide.given.as_ref().unwrap().read(1).unwrap();
    // Image 1 is red up to column 40. Blue pixels have no given label.
    assert_eq!((red.labels[39], red.labels[40]), (0, UNLABELLED));
    assert_eq!(guide.texts.taught, [1]);

    // The teacher has one text left and is sure of it everywhere.
    world.plan.settings.confidence = 0.9;
    world
        .train_with("both", &mut teacher(0.0, FOREVER), &guide, u64::MAX)
        .unwrap();
    let labelled = |run: &str| {
        let of = |line: &String| line.rsplit(',').next().unwrap().parse::<f64>().unwrap();
        world.log(run)[1..].iter().map(of).sum::<f64>() / 6.0
    };
    assert!(labelled("both") > 0.9, "{}", labelled("both"));

    // Without pseudo-labels only red has labels, and the teacher is not asked.
    let mut alone = World::new();
    draw_labels(&alone.folder.path().join("labels"));
    alone.plan.settings.pseudo_labels = PseudoLabels::None;
    let guide = given_labels(&alone, [true, false]).unwrap();
    alone
        .train_with("run", &mut teacher(SURE, 0), &guide, u64::MAX)
        .unwrap();
    let share = |line: &String| line.rsplit(',').next().unwrap().parse::<f64>().unwrap();
    let share = alone.log("run")[1..].iter().map(share).sum::<f64>() / 6.0;
    assert!(share > 0.1 && share < 0.8, "{share}");
}

#[test]
fn bad_label_maps_are_named_before_anything_is_trained() {
    let world = World::new();
    let folder = world.folder.path().join("labels");
    draw_labels(&folder);
    let refused = |expected: &str| {
        let error = given_labels(&world, [true; 2]).err().unwrap().to_string();
        assert!(error.contains(expected), "{expected} in {error}");
    };
    let map = |width, value| ::image::GrayImage::from_pixel(width, 72, ::image::Luma([value]));
    map(80, 2).save(folder.join("1.png")).unwrap();
    refused("1.png");
    map(79, 1).save(folder.join("1.png")).unwrap();
    refused("1.png has another size");
    std::fs::remove_file(folder.join("1.png")).unwrap();
    refused("1.png");
}

#[test]
fn distillation_brings_features_nearer_to_the_teacher_s() {
    let mut world = World::new();
    world.plan.settings.steps = 60;
    world.plan.settings.distillation = 1.0;
    world.plan.settings.optimiser.learning_rate = 0.05;
    world.train("run", &mut teacher(SURE, FOREVER), u64::MAX).unwrap();
    let distance = |line: &String| line.split(',').nth(2).unwrap().parse::<f64>().unwrap();
    let log = world.log("run");
    let mean = |lines: &[String]| lines.iter().map(distance).sum::<f64>() / lines.len() as f64;
    let (first, last) = (mean(&log[1..6]), mean(&log[56..]));
    assert!(last < 0.7 * first, "{first} to {last}");
}

#[test]
fn a_run_with_everything_ends_with_the_bits_of_an_unbroken_one() {
    let mut world = World::new();
    draw_labels(&world.folder.path().join("labels"));
    world.plan.settings.pseudo_labels = PseudoLabels::Once;
    world.plan.settings.precision = StudentPrecision::Bfloat16;
    world.plan.settings.self_training_from = Some(4);
    world.plan.settings.distillation = 0.5;
    let mut guide = given_labels(&world, [true, false]).unwrap();
    // The embedding of red is learned, so its text does not matter.
    guide.texts.learned = Some(0);
    let mut train = |run: &str, stop| {
        guide.cache = Some(label_maps(&world, run));
        world
            .train_with(run, &mut teacher(SURE, FOREVER), &guide, stop)
            .unwrap()
    };
    train("whole", u64::MAX);
    for stop in [1, 3, u64::MAX] {
        train("broken", stop);
    }
    for file in [STUDENT_FILE, CARD_FILE, STATE_FILE] {
        assert!(world.read("broken", file) == world.read("whole", file), "{file}");
    }
    let tensors = Tensor::read_safetensors(world.folder.path().join("whole").join(STUDENT_FILE)).unwrap();
    let tensor = |name: &str| &tensors.iter().find(|(found, _)| found == name).unwrap().1;
    assert_eq!(tensor("classifier").get(0), *tensor("background"));
    assert_eq!(tensor("classifier").get(1), Tensor::from_slice(&[0.0_f32, 0.6, 0.8]));
}

#[test]
fn labels_that_often_mean_something_else_are_told() {
    let world = World::new();
    let folder = world.folder.path().join("labels");
    draw_labels(&folder);
    let names = ["red", "blue"];
    let said = |labelled: [bool; 2], are_alone: bool| {
        let given = given_labels(&world, labelled).unwrap().given.unwrap();
        given.warnings(&names, are_alone)
    };
    assert_eq!(said([true, true], true), [""; 0]);

    // Masks of 0 and 255 for two classes, as in many data sets, and one without an image.
    for (number, edge) in EDGES {
        let map = ::image::GrayImage::from_fn(80, 72, |x, _| ::image::Luma([if x < edge { 0 } else { 255 }]));
        map.save(folder.join(format!("{number}.png"))).unwrap();
    }
    std::fs::copy(folder.join("1.png"), folder.join("lost.png")).unwrap();
    let of_255: u32 = EDGES.iter().map(|(_, edge)| 80 - edge).sum();
    let share = 100.0 * f64::from(of_255) / (80.0 * EDGES.len() as f64);
    let uncounted = format!("{share:.1} % of the truths' pixels do not count");
    let lost = "1 truths have no image and are left out".to_owned();
    let absent = "1 of 2 classes have no pixel in any truth: blue".to_owned();
    assert_eq!(
        said([true, true], true),
        [absent.clone(), uncounted.clone(), lost.clone()]
    );
    assert_eq!(said([true, false], true), [uncounted, lost.clone()]);
    assert_eq!(
        said([true, true], false),
        [absent, lost],
        "a teacher labels these pixels"
    );
}
