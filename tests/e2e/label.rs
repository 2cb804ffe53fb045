//! `maskclip label`: every format, kills, shards, damaged files, lists, servers and folders that fill.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use maskclip::evaluation::{DrawingOrder, Shape, Shapes};
use serde_json::Value;

use crate::server::{Server, maskclip, signal, wait};

const SCENES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scenes");

/// The longest time that a run may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

/// What all runs here ask, so that an image takes little time.
const REQUEST: [&str; 6] = [
    "--classes",
    "tree,house,tiger,sky",
    "--short-side",
    "64",
    "--templates",
    "simple",
];

const EVERY_FORMAT: &str = "png,png-grey,overlay,overlay-jpeg,confidence,yolo,coco,coco-polygons,panoptic,label-studio,\
                            label-studio-polygons,cvat,datumaro,numpy,numpy-probabilities,geotiff,csv,parquet";

/// Returns a folder with the first scenes, half of them in a subfolder.
fn scenes(count: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    for number in 0..count {
        let to = if number % 2 == 0 { "deep" } else { "." };
        let from = format!("{SCENES}/in-style/{number:02}.png");
        std::fs::copy(from, folder.path().join(format!("{to}/{number:02}.png"))).unwrap();
    }
    folder
}

fn start(inputs: &[&str], output: &Path, arguments: &[&str]) -> Child {
    let mut command = maskclip();
    command
        .arg("label")
        .args(inputs)
        .arg("--out")
        .arg(output)
        .args(REQUEST)
        .args(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn label(inputs: &[&str], output: &Path, arguments: &[&str]) -> Output {
    start(inputs, output, arguments).wait_with_output().unwrap()
}

/// Labels and returns what was said, or fails.
fn labelled(inputs: &[&str], output: &Path, arguments: &[&str]) -> String {
    let done = label(inputs, output, arguments);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    said
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Returns all files below a folder but the journal, by their paths.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let within = path.strip_prefix(folder).unwrap().to_owned();
            if within.starts_with(".maskclip") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(within, std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

fn assert_same_files(one: &Path, other: &Path) {
    let (one, other) = (files(one), files(other));
    let names = |files: &BTreeMap<PathBuf, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (name, bytes) in &one {
        assert!(other[name] == *bytes, "{} differs", name.display());
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Returns the number of finished label maps.
fn finished(output: &Path) -> usize {
    let journal = std::fs::read_to_string(output.join(".maskclip/journal.jsonl")).unwrap_or_default();
    journal.matches('\n').count()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LIMIT, "{what} took longer than {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Draws the objects of an annotation file's only image, as pycocotools does, and compares them with the label map.
fn assert_drawn(file: &Value, map: &[u16], shape: impl Fn(&Value) -> Shape) {
    let image = &file["images"][0];
    let side = |name: &str| u32::try_from(image[name].as_u64().unwrap()).unwrap();
    let object = |annotation: &Value| {
        let class = annotation["category_id"].as_u64().unwrap() - 1;
        (u16::try_from(class).unwrap(), shape(&annotation["segmentation"]))
    };
    let objects = file["annotations"].as_array().unwrap().iter().map(object).collect();
    let shapes = Shapes {
        width: side("width"),
        height: side("height"),
        rest: u16::MAX,
        objects,
        order: DrawingOrder::LargestFirst,
    };
    assert!(
        shapes.draw().unwrap() == map,
        "the objects are not those of the label map"
    );
}

#[test]
fn every_format_says_the_same() {
    let (images, output) = (scenes(1), tempfile::tempdir().unwrap());
    let said = labelled(
        &[text(images.path())],
        output.path(),
        &["--format", EVERY_FORMAT, "--background-threshold", "0.5"],
    );
    assert!(said.ends_with("1 images labelled\n"), "{said}");
    let open = |name: &str| image::open(output.path().join(name)).unwrap();
    let grey = open("grey/deep/00.png").into_luma8();
    let map: Vec<u16> = grey
        .as_raw()
        .iter()
        .map(|&value| if value == 255 { u16::MAX } else { value.into() })
        .collect();
    assert!(
        map.contains(&u16::MAX) && map.iter().any(|&label| label < 4),
        "the scene has both"
    );

    let instances = json(&output.path().join("coco-polygons.json"));
    assert_drawn(&instances, &map, |lines| {
        Shape::Polygons(serde_json::from_value(lines.clone()).unwrap())
    });
    let instances = json(&output.path().join("coco.json"));
    assert_eq!(instances["images"][0]["file_name"], "deep/00.png");
    for annotation in instances["annotations"].as_array().unwrap() {
        let class = annotation["category_id"].as_u64().unwrap() as u16 - 1;
        let pixels = map.iter().filter(|&&label| label == class).count();
        assert_eq!(annotation["area"], pixels);
    }
    let panoptic = open("panoptic/deep/00.png").into_rgb8();
    let same = panoptic
        .pixels()
        .zip(&map)
        .all(|(pixel, &label)| u16::from(pixel.0[0]) == label.wrapping_add(1));
    assert!(same, "the ids of segments are those of classes plus one");
    let colors = open("masks/deep/00.png").into_rgb8();
    let first = map.iter().position(|&label| label == 0);
    if let Some(first) = first {
        assert_eq!(colors.pixels().nth(first).unwrap().0, [128, 0, 0]);
    }
    let legend = std::fs::read_to_string(output.path().join("masks/labelmap.txt")).unwrap();
    assert_eq!(
        legend,
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ntree:128,0,0::\nhouse:0,128,0::\ntiger:128,128,0::\n\
         sky:0,0,128::\n"
    );
    let size = colors.dimensions();
    for name in ["overlays/deep/00.png", "overlays/deep/00.jpg", "confidence/deep/00.png"] {
        assert_eq!((open(name).width(), open(name).height()), size, "{name}");
    }
    let names: Vec<_> = files(output.path())
        .into_keys()
        .map(|name| name.display().to_string())
        .collect();
    for name in [
        "cvat.xml",
        "datumaro/annotations/default.json",
        "label-studio.json",
        "label-studio.xml",
        "label-studio-polygons.json",
        "label-studio-polygons.xml",
        "geotiff/deep/00.tif",
        "numpy/deep/00.npz",
        "probabilities/deep/00.npz",
        "panoptic.json",
        "statistics.csv",
        "statistics.parquet",
        "yolo/data.yaml",
        "yolo/labels/deep/00.txt",
    ] {
        assert!(names.iter().any(|found| found == name), "{name} is not among {names:?}");
    }
}

#[test]
fn a_run_that_is_killed_twice_comes_to_the_files_of_an_unbroken_one() {
    let images = scenes(6);
    let [whole, broken] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let arguments = ["--format", EVERY_FORMAT, "--jobs", "2"];
    labelled(&[text(images.path())], whole.path(), &arguments);
    for least in [1, 3] {
        let mut process = start(&[text(images.path())], broken.path(), &arguments);
        wait_until("a part of a run", || finished(broken.path()) >= least);
        process.kill().unwrap();
        process.wait().unwrap();
        // A line that was cut off, as by a full disk.
        let mut journal = std::fs::File::options();
        let mut journal = journal
            .append(true)
            .open(broken.path().join(".maskclip/journal.jsonl"))
            .unwrap();
        journal.write_all(b"{\"labelled\":{\"image\"").unwrap();
    }
    // A result that is lost, or empty after a loss of power, is made again.
    let mask = std::fs::read_dir(broken.path().join("masks"))
        .unwrap()
        .flatten()
        .find(|entry| entry.path().is_file());
    if let Some(mask) = mask {
        std::fs::write(mask.path(), "").unwrap();
    }
    labelled(&[text(images.path())], broken.path(), &arguments);
    assert_same_files(whole.path(), broken.path());
    let said = labelled(&[text(images.path())], broken.path(), &arguments);
    assert!(said.ends_with("0 images labelled, 6 were labelled before\n"), "{said}");
    assert_same_files(whole.path(), broken.path());
}

#[test]
fn shards_come_to_the_files_of_one_run_together_and_apart() {
    let images = scenes(6);
    let [whole, shared, one, other, merged] = [(); 5].map(|()| tempfile::tempdir().unwrap());
    let formats = ["--format", "png,coco,yolo,csv,label-studio"];
    let images = text(images.path());
    labelled(&[images], whole.path(), &formats);
    for (index, output) in [(0, &one), (1, &other)] {
        let shard = format!("{index}/2");
        let arguments = [&formats[..], &["--shard", &shard]].concat();
        let said = labelled(&[images], shared.path(), &arguments);
        assert_eq!(said.contains("other shards are not done"), index == 0, "{said}");
        labelled(&[images], output.path(), &arguments);
        assert!(
            !output.path().join("coco.json").exists(),
            "the other shard is elsewhere"
        );
    }
    assert_same_files(whole.path(), shared.path());

    let mut command = maskclip();
    command.args(["label", "--merge", text(one.path()), text(other.path())]);
    command.arg("--out").arg(merged.path()).args(formats);
    let done = command.output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && !said.contains("warning"), "{said}");
    for name in [
        "coco.json",
        "statistics.csv",
        "label-studio.json",
        "label-studio.xml",
        "yolo/data.yaml",
    ] {
        let read = |folder: &tempfile::TempDir| std::fs::read(folder.path().join(name)).unwrap();
        assert!(read(&whole) == read(&merged), "{name} differs");
    }
}

#[test]
fn damaged_images_are_listed_and_the_exit_status_says_so() {
    let (images, output) = (scenes(2), tempfile::tempdir().unwrap());
    let path = |name: &str| images.path().join(name);
    let whole = std::fs::read(path("01.png")).unwrap();
    std::fs::write(path("cut.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(path("notes.jpg"), "not an image").unwrap();
    std::fs::create_dir(path("folder.png")).unwrap();
    std::os::unix::fs::symlink(path("gone"), path("link.png")).unwrap();
    let arguments = ["--format", "png,csv"];
    let done = label(&[text(images.path())], output.path(), &arguments);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains("skipped: cut.png: "), "{said}");
    assert!(
        said.ends_with("maskclip: 3 of 5 images could not be labelled; skipped.csv lists them\n"),
        "{said}"
    );
    let list = std::fs::read_to_string(output.path().join("skipped.csv")).unwrap();
    let listed: Vec<_> = list.lines().map(|line| line.split(',').next().unwrap()).collect();
    assert_eq!(listed, ["image", "cut.png", "link.png", "notes.jpg"]);

    // What is mended is labelled, and what is gone is no longer missed.
    std::fs::write(path("cut.png"), &whole).unwrap();
    std::fs::remove_file(path("link.png")).unwrap();
    std::fs::remove_file(path("notes.jpg")).unwrap();
    let said = labelled(&[text(images.path())], output.path(), &arguments);
    assert!(said.ends_with("1 images labelled, 2 were labelled before\n"), "{said}");
}

#[test]
fn a_folder_of_other_settings_is_left_alone() {
    let (images, output) = (scenes(1), tempfile::tempdir().unwrap());
    // Settings that the first image shows to be wrong leave none behind.
    let done = label(&[text(images.path())], output.path(), &["--unlabelled", "1"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(said.contains("output.unlabelled must be"), "{said}");
    labelled(&[text(images.path())], output.path(), &[]);
    let before = files(output.path());
    let done = label(&[text(images.path())], output.path(), &["--temperature", "7"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(
        said.contains("holds labels of other settings, which differ in request.resolved, request.temperature"),
        "{said}"
    );
    assert_eq!(files(output.path()), before);
    let done = label(&["no-such-folder"], output.path(), &[]);
    assert!(
        String::from_utf8(done.stderr)
            .unwrap()
            .ends_with("maskclip: there is no no-such-folder\n")
    );
}

#[test]
fn a_server_labels_as_the_command_does() {
    let images = scenes(3);
    let [here, there] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let formats = ["--format", "png,confidence,coco,csv"];
    labelled(&[text(images.path())], here.path(), &formats);
    let server = Server::start(&[]);
    let broken = images.path().join("broken.png");
    std::fs::write(&broken, "not an image").unwrap();
    let arguments = [&formats[..], &["--server", &server.address]].concat();
    let done = label(&[text(images.path())], there.path(), &arguments);
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(3), "{said}");
    std::fs::remove_file(there.path().join("skipped.csv")).unwrap();
    assert_same_files(here.path(), there.path());

    let elsewhere = tempfile::tempdir().unwrap();
    let arguments = [&arguments[..], &["--model", "nobody"]].concat();
    let done = label(&[text(images.path())], elsewhere.path(), &arguments);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(
        said.ends_with("maskclip: the server has no model \"nobody\": demo\n"),
        "{said}"
    );
}

#[test]
fn a_list_on_standard_input_and_a_pattern_name_images() {
    let (images, output) = (scenes(4), tempfile::tempdir().unwrap());
    let mut process = start(&["-"], output.path(), &["--colors", "#010203", "--unlabelled", "9"]);
    let list = format!("{0}/01.png\r\n\n{0}/gone.png\n{0}/deep/00.png\n", text(images.path()));
    process.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
    let done = process.wait_with_output().unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(3), "{said}");
    assert!(said.contains("skipped: gone.png: No such file"), "{said}");
    std::fs::remove_file(output.path().join("skipped.csv")).unwrap();
    let names = |output: &Path| {
        let mut found = files(output);
        found.remove(Path::new("masks/labelmap.txt")).unwrap();
        found.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(
        names(output.path()),
        [PathBuf::from("masks/01.png"), PathBuf::from("masks/deep/00.png")]
    );

    let output = tempfile::tempdir().unwrap();
    let pattern = format!("{}/**/0[23].png", text(images.path()));
    labelled(&[&pattern], output.path(), &["--keep-endings"]);
    assert_eq!(
        names(output.path()),
        [
            PathBuf::from("masks/03.png.png"),
            PathBuf::from("masks/deep/02.png.png")
        ]
    );
}

#[test]
fn a_watched_folder_is_labelled_as_it_fills_whatever_comes_between() {
    let (above, output) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let images = above.path().join("images");
    std::fs::create_dir(&images).unwrap();
    let arguments = ["--format", "png,coco", "--watch"];
    let mut process = start(&[text(&images)], output.path(), &arguments);
    let copy = |number: usize, name: &str| {
        std::fs::copy(format!("{SCENES}/in-style/{number:02}.png"), images.join(name)).unwrap();
    };
    let images_in_file = || {
        let file = std::fs::read(output.path().join("coco.json")).unwrap_or_default();
        let file: Value = serde_json::from_slice(&file).unwrap_or_default();
        file["images"].as_array().map_or(0, Vec::len)
    };
    let label = |number: usize| {
        copy(number, &format!("{number}.png"));
        wait_until("labelling what came", || images_in_file() == number + 1);
    };
    label(0);
    copy(1, "0.jpg");
    let list = output.path().join("skipped.csv");
    wait_until("skipping what has a name of another", || list.exists());
    assert!(
        std::fs::read_to_string(&list)
            .unwrap()
            .contains("results of one name, 0")
    );
    label(1);

    let away = above.path().join("away");
    std::fs::rename(&images, &away).unwrap();
    let mut said = BufReader::new(process.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap);
    assert!(said.any(|line| line.contains("trying again: cannot read ")));
    std::fs::rename(&away, &images).unwrap();
    label(2);
    signal(&process, "TERM");
    assert_eq!(wait(&mut process, LIMIT), Some(3));
}

#[test]
fn an_overlay_does_not_overwrite_its_image() {
    let folder = scenes(1);
    let image = folder.path().join("deep/00.png");
    let before = std::fs::read(&image).unwrap();
    let same = folder.path().join("deep/../deep/00.png");
    let done = maskclip()
        .args(["segment", text(&image), "--output", text(&same)])
        .args(REQUEST)
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(1), "{said}");
    assert!(said.contains("the overlay would overwrite the image"), "{said}");
    assert_eq!(std::fs::read(&image).unwrap(), before);
}

#[test]
fn one_image_is_drawn_over_and_what_was_found_is_listed() {
    let output = tempfile::tempdir().unwrap();
    let overlay = output.path().join("overlay.png");
    let image = format!("{SCENES}/in-style/00.png");
    let segment = |output: &str| {
        let mut command = maskclip();
        command.args(["segment", &image, "--output", output, "--opacity", "1"]);
        command.args(REQUEST).output().unwrap()
    };
    let done = segment(text(&overlay));
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{said}");
    assert_eq!(
        String::from_utf8(done.stdout).unwrap(),
        format!("{}\n", overlay.display())
    );
    assert!(said.contains(" %  confidence "), "{said}");
    // Every pixel has a class, so the drawing has the colours of the classes alone.
    let drawn = image::open(&overlay).unwrap().into_rgb8();
    let colors: std::collections::BTreeSet<[u8; 3]> = drawn.pixels().map(|pixel| pixel.0).collect();
    assert!(
        colors.iter().all(|color| color[2] == 0 || *color == [0, 0, 128]),
        "{colors:?}"
    );
    let piped = segment("-");
    assert!(piped.status.success() && piped.stdout == std::fs::read(&overlay).unwrap());
    assert!(String::from_utf8(piped.stderr).unwrap().contains(" %  confidence "));
}
