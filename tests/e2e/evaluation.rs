//! `maskclip eval` and `maskclip compare` on the example scenes and on tiny stand-ins for data sets of every published
//! layout.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use image::{GrayImage, Luma, Rgb, RgbImage};
use maskclip::engine::{ProtocolData, ProtocolMethod};
use serde_json::Value;
use strum::{VariantArray, VariantNames};

use crate::server::{maskclip, run, shell};

const SCENES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scenes");

fn scenes(path: &str) -> String {
    format!("{SCENES}/{path}")
}

/// Runs a command on the first scenes with small inputs. Returns its standard output, or its error.
fn measure(command: &str, arguments: &[&str]) -> Result<String, String> {
    let (classes, background) = (scenes("classes.txt"), scenes("backgrounds.txt"));
    let scene = [
        command,
        &scenes("in-style"),
        "--classes",
        &classes,
        "--background",
        &background,
    ]
    .map(str::to_owned)
    .to_vec();
    let all: Vec<&str> = scene
        .iter()
        .map(String::as_str)
        .chain(["--short-side", "128", "--templates", "simple"])
        .chain(arguments.iter().copied())
        .collect();
    outcome(&all)
}

fn outcome(arguments: &[&str]) -> Result<String, String> {
    let output = run(arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(text(output.stderr).lines().last().unwrap_or_default().to_owned()),
    }
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Returns everything in the report except times.
fn figures(report: &Value) -> [&Value; 4] {
    ["mean_iou", "pixel_accuracy", "mean_accuracy", "classes"].map(|name| &report[name])
}

#[test]
fn the_example_scenes_are_measured_and_written_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let printed = measure(
        "eval",
        &[
            "--limit",
            "3",
            "--json",
            &file("a.json"),
            "--markdown",
            &file("a.md"),
            "--grid",
            &file("a.png"),
            "--grid-rows",
            "2",
            "--unseen",
            "tiger,bus",
        ],
    );
    let printed = printed.unwrap();

    let report = json(&folder.path().join("a.json"));
    assert_eq!((&report["images"], &report["layout"]), (&3.into(), &"folder".into()));
    assert_eq!(report["request"]["short_side"], 128);
    let classes = report["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 21);
    let pixels = |name: &str| classes.iter().map(|class| class[name].as_u64().unwrap()).sum::<u64>();
    // Every pixel of the three scenes has a truth. The class called background takes the pixels that belong to no other
    // class.
    assert_eq!(pixels("truth_pixels"), 3 * 256 * 256);
    assert_eq!(pixels("predicted_pixels"), 3 * 256 * 256);
    let right = pixels("intersection_pixels") as f64 / (3 * 256 * 256) as f64;
    assert_eq!(report["pixel_accuracy"].as_f64().unwrap(), right);
    assert!(report["zero_shot"]["seen_iou"].as_f64().unwrap() > 0.0);

    let worst: Vec<f64> = report["per_image"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| image["mean_iou"].as_f64().unwrap())
        .collect();
    assert!(worst.is_sorted() && worst.len() == 3, "{worst:?}");

    let percent = format!("| {:.2} |", 100.0 * report["mean_iou"].as_f64().unwrap());
    assert!(printed.contains("| mIoU |") && printed.contains(&percent), "{printed}");
    let markdown = std::fs::read_to_string(folder.path().join("a.md")).unwrap();
    assert!(
        markdown.contains(&percent) && markdown.contains("| tiger |"),
        "{markdown}"
    );
    let grid = image::open(folder.path().join("a.png")).unwrap();
    assert_eq!((grid.width(), grid.height()), (3 * 320 + 4 * 4, 2 * 320 + 3 * 4));
}

#[test]
fn a_run_that_was_killed_goes_on_and_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (state, whole) = (file("state"), file("whole.json"));
    measure("eval", &["--limit", "8", "--json", &whole]).unwrap();

    let mut process = maskclip()
        .args(["eval", &scenes("in-style"), "--classes", &scenes("classes.txt")])
        .args([
            "--background",
            &scenes("backgrounds.txt"),
            "--short-side",
            "128",
            "--templates",
            "simple",
        ])
        .args(["--limit", "8", "--state", &state])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = || std::fs::read_to_string(&state).unwrap_or_default().lines().count();
    let start = Instant::now();
    while lines() < 2 && process.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(120), "nothing is measured");
        std::thread::sleep(Duration::from_millis(5));
    }
    process.kill().unwrap();
    process.wait().unwrap();
    let kept = std::fs::read_to_string(&state).unwrap();
    assert!((2..8).contains(&kept.lines().count()), "killed half-way: {kept}");

    let resumed = file("resumed.json");
    measure("eval", &["--limit", "8", "--state", &state, "--json", &resumed]).unwrap();
    assert_eq!(figures(&json(Path::new(&resumed))), figures(&json(Path::new(&whole))));
    let whole_lines = kept.rfind('\n').unwrap() + 1;
    assert!(
        std::fs::read_to_string(&state)
            .unwrap()
            .starts_with(&kept[..whole_lines])
    );
    assert_eq!(lines(), 8);

    // A run with another setting finds no record that it could use.
    measure("eval", &["--limit", "1", "--state", &state, "--attention", "clip"]).unwrap();
    assert_eq!(lines(), 9);
}

#[test]
fn combinations_are_compared_in_one_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.json");
    let printed = measure(
        "compare",
        &[
            "--limit",
            "2",
            "--attention",
            "clip,maskclip",
            "--prompt-denoising",
            "0.5",
            "--corruption",
            "none,jpeg:5",
            "--json",
            file.to_str().unwrap(),
        ],
    );
    let printed = printed.unwrap();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with("| attention | corruption | mIoU |"), "{printed}");
    let settings: Vec<_> = lines[2..]
        .iter()
        .map(|line| line.split('|').map(str::trim).skip(1).take(2).collect::<Vec<_>>())
        .collect();
    assert_eq!(
        settings,
        [
            ["clip", "none"],
            ["clip", "jpeg:5"],
            ["maskclip", "none"],
            ["maskclip", "jpeg:5"]
        ]
    );
    let table = json(&file);
    let rows = table["rows"].as_array().unwrap();
    assert!(
        rows.iter()
            .all(|row| row["median_milliseconds"].as_f64().unwrap() > 0.0)
    );
    assert!(rows.iter().all(|row| row["request"]["prompt_denoising"] == 0.5));

    let alone = folder.path().join("alone.json");
    let settings = [
        "--limit",
        "2",
        "--prompt-denoising",
        "0.5",
        "--corruption",
        "jpeg:5",
        "--json",
    ];
    measure("eval", &[&settings[..], &[alone.to_str().unwrap()]].concat()).unwrap();
    assert_eq!(
        rows[3]["mean_iou"],
        json(&alone)["mean_iou"],
        "a cell is what eval finds"
    );
    assert_ne!(rows[3]["mean_iou"], rows[2]["mean_iou"], "a corruption shows");
}

#[test]
fn mistakes_are_named() {
    for (arguments, expected) in [
        (
            &["--attention", "gem2"][..],
            "--attention gem2: there is no gem2: clip, maskclip, ",
        ),
        (
            &["--attention", "maskclip-no-residual"],
            "cannot compute the attention maskclip-no-residual",
        ),
        (&["--attention", "clip,maskclip"], "several values of attention"),
        (&["--prompt-denoising", "7"], "--prompt-denoising must be 0 to 1, not 7"),
        (&["--unseen", "unicorn"], "no class is called \"unicorn\""),
    ] {
        let Err(error) = measure("eval", arguments) else {
            panic!("{arguments:?} is refused");
        };
        assert!(error.contains(expected), "{arguments:?}: {error}");
    }
}

/// A data set of two images, 32 x 32 pixels, whose truths have one value in the left half and another in the right.
struct StandIn {
    layout: &'static str,
    /// The file with the list of names; `None` if all files count.
    list: Option<&'static str>,
    image: &'static str,
    truth: &'static str,
    values: [u8; 2],
    /// The class that each value means; `None` if the value does not count.
    classes: [Option<usize>; 2],
    count: usize,
}

const VOC: &str = "ImageSets/Segmentation/val.txt";
const CONTEXT: &str = "ImageSets/SegmentationContext/val.txt";
const PHOTO: &str = "JPEGImages/NAME.jpg";
const COCO: &str = "images/val2017/NAME.jpg";
const STREET: &str = "leftImg8bit/val/ulm/NAME_leftImg8bit.png";

#[rustfmt::skip]
const STAND_INS: [StandIn; 11] = [
    stand_in("voc-20", Some(VOC), PHOTO, "SegmentationClass/NAME.png", [15, 0], [Some(14), None], 20),
    stand_in("voc-21", Some(VOC), PHOTO, "SegmentationClass/NAME.png", [15, 255], [Some(15), None], 21),
    stand_in("pascal-context-59", Some(CONTEXT), PHOTO, "SegmentationClassContext/NAME.png", [59, 0], [Some(58), None], 59),
    stand_in("pascal-context-60", Some(CONTEXT), PHOTO, "SegmentationClassContext/NAME.png", [59, 0], [Some(59), Some(0)], 60),
    stand_in("coco-stuff", None, COCO, "annotations/val2017/NAME_labelTrainIds.png", [170, 255], [Some(170), None], 171),
    stand_in("coco-stuff", None, COCO, "annotations/val2017/NAME.png", [181, 12], [Some(170), Some(11)], 171),
    stand_in("coco-object", None, COCO, "annotations/val2017/NAME_instanceTrainIds.png", [80, 0], [Some(80), Some(0)], 81),
    stand_in("coco-object", None, COCO, "annotations/val2017/NAME.png", [89, 255], [Some(80), Some(0)], 81),
    stand_in("ade20k", None, "images/validation/NAME.jpg", "annotations/validation/NAME.png", [150, 0], [Some(149), None], 150),
    stand_in("cityscapes", None, STREET, "gtFine/val/ulm/NAME_gtFine_labelTrainIds.png", [18, 255], [Some(18), None], 19),
    stand_in("cityscapes", None, STREET, "gtFine/val/ulm/NAME_gtFine_labelIds.png", [33, 3], [Some(18), None], 19),
];

const fn stand_in(
    layout: &'static str,
    list: Option<&'static str>,
    image: &'static str,
    truth: &'static str,
    values: [u8; 2],
    classes: [Option<usize>; 2],
    count: usize,
) -> StandIn {
    StandIn {
        layout,
        list,
        image,
        truth,
        values,
        classes,
        count,
    }
}

const NAMES: [&str; 2] = ["first_000001", "second_000002"];
const HALF: u64 = 16 * 32;

impl StandIn {
    fn write(&self, root: &Path) {
        let place = |pattern: &str, name: &str| {
            let path = root.join(pattern.replace("NAME", name));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        for name in NAMES {
            let color = |x, y| Rgb([8 * x as u8, 8 * y as u8, 90]);
            RgbImage::from_fn(32, 32, color).save(place(self.image, name)).unwrap();
            let value = |x| Luma([self.values[usize::from(x >= 16)]]);
            GrayImage::from_fn(32, 32, |x, _| value(x))
                .save(place(self.truth, name))
                .unwrap();
        }
        if let Some(list) = self.list {
            std::fs::write(place(list, ""), format!("{}\n{}\n", NAMES[0], NAMES[1])).unwrap();
        }
    }

    fn truth(&self, root: &Path) -> PathBuf {
        root.join(self.truth.replace("NAME", NAMES[1]))
    }
}

#[test]
fn every_published_layout_is_read_as_its_protocol_has_it() {
    for stand_in in STAND_INS {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("data");
        stand_in.write(&root);
        let report = folder.path().join("report.json");
        let arguments = [
            "eval",
            root.to_str().unwrap(),
            "--layout",
            stand_in.layout,
            "--json",
            report.to_str().unwrap(),
        ];
        let small = ["--short-side", "32", "--templates", "simple"];
        outcome(&[&arguments[..], &small].concat()).unwrap_or_else(|error| panic!("{}: {error}", stand_in.layout));
        let report = json(&report);
        assert_eq!(report["images"], 2, "{}", stand_in.layout);
        let classes = report["classes"].as_array().unwrap();
        assert_eq!(classes.len(), stand_in.count, "{}", stand_in.layout);
        let mut expected = vec![0; stand_in.count];
        for class in stand_in.classes.into_iter().flatten() {
            expected[class] += 2 * HALF;
        }
        let counted: Vec<u64> = classes
            .iter()
            .map(|class| class["truth_pixels"].as_u64().unwrap())
            .collect();
        assert_eq!(counted, expected, "{} with {}", stand_in.layout, stand_in.truth);
    }
}

#[test]
fn a_data_set_with_a_defect_is_refused_by_the_files_name() {
    let stand_in = &STAND_INS[0];
    let refusal = |harm: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().unwrap();
        stand_in.write(folder.path());
        harm(&stand_in.truth(folder.path()));
        let root = folder.path().to_str().unwrap();
        let arguments = [
            "eval",
            root,
            "--layout",
            stand_in.layout,
            "--short-side",
            "32",
            "--templates",
            "simple",
        ];
        let error = outcome(&arguments).expect_err("refused");
        assert!(error.contains("SegmentationClass/second_000002.png"), "{error}");
        error
    };
    let missing = refusal(&|truth| std::fs::remove_file(truth).unwrap());
    assert!(missing.contains("second_000002.jpg has no truth"), "{missing}");
    let foreign = refusal(&|truth| GrayImage::from_pixel(32, 32, Luma([21])).save(truth).unwrap());
    assert!(
        foreign.contains("has the value 21, which is none of the 20 classes"),
        "{foreign}"
    );
    let small = refusal(&|truth| GrayImage::from_pixel(32, 31, Luma([1])).save(truth).unwrap());
    assert!(small.contains("has 32 x 32 pixels, but its truth"), "{small}");
    let colours = refusal(&|truth| RgbImage::new(32, 32).save(truth).unwrap());
    assert!(
        colours.contains("class indices are in indexed or grey ones"),
        "{colours}"
    );
}

#[test]
fn images_of_a_folder_without_a_truth_are_left_out_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let (images, truths) = (folder.path().join("images"), folder.path().join("truths"));
    std::fs::create_dir_all(images.join("deep")).unwrap();
    std::fs::create_dir_all(truths.join("deep")).unwrap();
    for name in ["a.png", "b.jpg", "deep/c.png"] {
        RgbImage::new(32, 32).save(images.join(name)).unwrap();
    }
    for name in ["a.png", "deep/c.png"] {
        GrayImage::from_pixel(32, 32, Luma([1]))
            .save(truths.join(name))
            .unwrap();
    }
    let classes = folder.path().join("classes.txt");
    std::fs::write(&classes, "tiger\nbus\n").unwrap();
    let report = folder.path().join("report.json");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let arguments = [
        "eval",
        &text(&images),
        "--truth",
        &text(&truths),
        "--classes",
        &text(&classes),
    ];
    let more = [
        "--json",
        &text(&report),
        "--reduce-zero-label",
        "--short-side",
        "32",
        "--templates",
        "simple",
    ];
    outcome(&[&arguments[..], &more].concat()).unwrap();
    let report = json(&report);
    assert_eq!(
        (&report["images"], &report["images_without_truth"]),
        (&2.into(), &1.into())
    );
    assert_eq!(report["classes"][0]["truth_pixels"], 2 * 32 * 32);
}

/// Writes two images of 32 x 32 pixels whose truths are a cat above and a dog below, and the truths as values, as colours
/// and as COCO's instances.
fn masks_in_every_form(root: &Path) {
    let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
    for folder in ["images", "values", "colours"] {
        std::fs::create_dir(root.join(folder)).unwrap();
    }
    let upper = |y: u32| y < 16;
    for name in ["a", "b"] {
        RgbImage::from_fn(32, 32, |x, y| Rgb([(8 * x) as u8, (8 * y) as u8, 90]))
            .save(root.join(format!("images/{name}.png")))
            .unwrap();
        GrayImage::from_fn(32, 32, |_, y| Luma([if upper(y) { 7 } else { 9 }]))
            .save(root.join(format!("values/{name}.png")))
            .unwrap();
        RgbImage::from_fn(32, 32, |_, y| Rgb(if upper(y) { [128, 64, 0] } else { [0, 0, 0] }))
            .save(root.join(format!("colours/{name}.png")))
            .unwrap();
    }
    write("values.txt", "value\tname\n7\tcat\n9\tdog\n255\tvoid\n");
    write(
        "labelmap.txt",
        "# label:color_rgb:parts:actions\ncat:128,64,0::\ndog:0,0,0::\n",
    );
    let object = |image: u32, category: u32, top: u32| {
        let bottom = top + 16;
        serde_json::json!({"image_id": image, "category_id": category,
            "segmentation": [[0, top, 32, top, 32, bottom, 0, bottom]]})
    };
    let objects = [object(1, 7, 0), object(1, 9, 16), object(2, 7, 0), object(2, 9, 16)];
    let image = |id: u32, name: &str| serde_json::json!({"id": id, "file_name": name, "width": 32, "height": 32});
    let annotations = serde_json::json!({
        "images": [image(1, "a.png"), image(2, "b.png")],
        "annotations": objects,
        "categories": [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}],
    });
    write("instances.json", &annotations.to_string());
}

/// Measures the images under a root with small inputs. Returns the report and what was said on standard error.
fn measured(root: &Path, flags: &[&str]) -> (Value, String) {
    let (images, report) = (root.join("images"), root.join("report.json"));
    let fixed = [
        "--short-side",
        "32",
        "--templates",
        "simple",
        "--json",
        report.to_str().unwrap(),
    ];
    let output = run(&[&["eval", images.to_str().unwrap()], flags, &fixed].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    (json(&report), said)
}

#[test]
fn masks_are_measured_alike_in_every_form_that_people_keep() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    masks_in_every_form(root);
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let (values, said) = measured(
        root,
        &["--truth", &path("values"), "--truth-classes", &path("values.txt")],
    );
    let truths: Vec<_> = values["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|class| &class["truth_pixels"])
        .collect();
    assert_eq!(truths, [2 * 16 * 32, 2 * 16 * 32]);
    assert_eq!(values["classes"][1]["name"], "dog");
    assert!(
        values["warnings"] == serde_json::json!([]) && !said.contains("warning"),
        "{said}"
    );
    let (colours, _) = measured(
        root,
        &["--truth", &path("colours"), "--truth-classes", &path("labelmap.txt")],
    );
    assert_eq!(figures(&colours), figures(&values));
    let (instances, _) = measured(root, &["--truth", &path("instances.json")]);
    assert_eq!(figures(&instances), figures(&values));
}

/// Writes EXIF with an orientation into a JPEG.
fn turn(path: &Path, orientation: u8) {
    let jpeg = std::fs::read(path).unwrap();
    let tiff = [
        &b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0"[..],
        &[orientation, 0, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let exif = [&b"Exif\0\0"[..], &tiff].concat();
    let length = u16::try_from(exif.len() + 2).unwrap().to_be_bytes();
    let segment = [&[0xff, 0xe1][..], &length, &exif].concat();
    std::fs::write(path, [&jpeg[..2], &segment, &jpeg[2..]].concat()).unwrap();
}

#[test]
fn a_truth_on_stored_pixels_of_a_turned_image_is_told_and_measured_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("images")).unwrap();
    RgbImage::new(32, 48).save(path("images/a.jpg")).unwrap();
    turn(&root.join("images/a.jpg"), 6);
    GrayImage::new(32, 48).save(path("images/a.truth.png")).unwrap();
    std::fs::write(path("classes.txt"), "cat\ndog\n").unwrap();
    let classes = path("classes.txt");
    let images = path("images");
    let refused = outcome(&[
        "eval",
        &images,
        "--classes",
        &classes,
        "--short-side",
        "32",
        "--templates",
        "simple",
    ]);
    let refused = refused.unwrap_err();
    assert!(
        refused.contains("has 48 x 32 pixels after its EXIF orientation 6 turned it"),
        "{refused}"
    );
    let (report, _) = measured(root, &["--classes", &classes, "--orientation", "stored"]);
    assert_eq!(report["classes"][0]["truth_pixels"], 32 * 48);
}

#[test]
fn what_is_odd_about_a_run_is_said_at_its_end_and_files_that_cannot_be_read_are_skipped_on_demand() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    masks_in_every_form(root);
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    std::fs::write(path("images/._a.png"), "a Mac's").unwrap();
    let whole = std::fs::read(path("images/b.png")).unwrap();
    std::fs::write(path("images/b.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::rename(path("images/a.png"), path("images/a.PNG")).unwrap();
    std::fs::write(path("classes.txt"), "cat\n1. car\n2. tree\n").unwrap();
    let flags = [
        "--truth",
        &path("values"),
        "--truth-classes",
        &path("values.txt"),
        "--classes",
        &path("classes.txt"),
    ];
    let images = path("images");
    let ended = outcome(
        &[
            &["eval", &images][..],
            &flags,
            &["--short-side", "32", "--templates", "simple"],
        ]
        .concat(),
    );
    assert!(ended.unwrap_err().contains("b.png: the image is cut short"));
    let (report, said) = measured(root, &[&flags[..], &["--skip-unreadable"]].concat());
    assert_eq!(
        (&report["images"], &report["skipped"][0]["image"]),
        (&1.into(), &"b".into())
    );
    let codes: Vec<_> = report["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|warning| &warning["code"])
        .collect();
    let expected = [
        "classes-without-truth",
        "pixels-not-counted",
        "names-not-counted",
        "files-left-out",
        "images-skipped",
        "class-list",
    ];
    assert_eq!(codes, expected);
    assert!(
        said.contains("warning: 50.0 % of the truths' pixels do not count\n"),
        "{said}"
    );
    assert!(
        said.contains("skipped: ") && said.contains("the image is cut short"),
        "{said}"
    );
}

/// The folders that docs/papers.md names, with the stand-ins that are written there.
const DOCUMENTED: [(&str, &str); 5] = [
    ("VOCdevkit/VOC2012", "voc-20"),
    ("VOCdevkit/VOC2010", "pascal-context-59"),
    ("coco_stuff164k", "coco-stuff"),
    ("cityscapes", "cityscapes"),
    ("ADEChallengeData2016", "ade20k"),
];

/// The start of the commands in docs/papers.md that measure the protocols of all methods in turn.
const EVERY_METHOD: &str = "for method in ";

#[test]
fn every_protocol_is_among_the_documented_commands() {
    let methods = <ProtocolMethod as VariantNames>::VARIANTS.join(" ");
    let document = include_str!("../../docs/papers.md");
    for data in <ProtocolData as VariantArray>::VARIANTS {
        let line = document.lines().find(|line| {
            line.starts_with(&format!("{EVERY_METHOD}{methods}; do maskclip eval "))
                && line.ends_with(&format!("--protocol $method-{}; done", data))
        });
        assert!(line.is_some(), "{} for {methods}", data);
    }
}

#[test]
fn the_documented_commands_for_the_papers_tables_run() {
    let folder = tempfile::tempdir().unwrap();
    for (root, layout) in DOCUMENTED {
        // The last stand-in of the layout. If a layout has two kinds of files, this one has those of the data set's own
        // download.
        let stand_in = STAND_INS.iter().rev().find(|stand_in| stand_in.layout == layout);
        stand_in.unwrap().write(&folder.path().join(root));
    }
    // A tiny vision transformer in the format of OpenAI's files.
    let weights = File::open(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/forms/vit/openai.pt.gz"
    ))
    .unwrap();
    let mut unpacked = File::create(folder.path().join("tiny.pt")).unwrap();
    std::io::copy(&mut flate2::read::GzDecoder::new(weights), &mut unpacked).unwrap();

    let document = include_str!("../../docs/papers.md");
    let is_command = |line: &&str| line.starts_with("maskclip ") || line.starts_with(EVERY_METHOD);
    let commands: Vec<&str> = document.lines().filter(is_command).collect();
    assert!(commands.len() > 20, "{commands:?}");
    // Each data set gets one method, in turn, so that every method is used. The table of corruptions gets two methods.
    let all_methods = <ProtocolMethod as VariantNames>::VARIANTS;
    let mut turn = all_methods.iter().cycle();
    let severities = ":{1,2,3,4,5}";
    for command in commands {
        // The protocols' sizes and templates take too long in a debug build. The tiny tower's 8 x 8 patches are enough
        // for every method.
        let line = command
            .replace("--model ViT-B-16", "--model ./tiny.pt")
            .replace("--protocol", "--short-side 64 --templates simple --protocol")
            .replace(severities, ":{1,5}");
        let line = match line.strip_prefix(EVERY_METHOD) {
            None => line,
            Some(_) => line.replace(&all_methods.join(" "), turn.next().expect("it has no end")),
        };
        assert_ne!(line, command, "every command names its model");
        let output = shell(&line, folder.path(), &folder.path().join("store"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{command}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let printed = String::from_utf8(output.stdout).unwrap();
        let lines = match command {
            _ if command.starts_with("maskclip compare") => 2 + 1 + 8 * 2,
            _ => 2 + 1,
        };
        assert_eq!(printed.lines().count(), lines, "{command}: {printed}");
        assert!(
            !printed.contains("NaN") && printed.starts_with("| "),
            "{command}: {printed}"
        );
    }
}
