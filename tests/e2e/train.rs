//! `maskclip train` with the embedded model as the teacher of the smallest student there is.

use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::segment::segment;
use crate::server::{Server, maskclip};

/// Three example scenes to learn from, a vocabulary, and a place for students.
struct World {
    folder: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(world.path("images")).unwrap();
        for name in ["00.png", "01.png", "02.png"] {
            let scene = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("examples/scenes/in-style")
                .join(name);
            std::fs::copy(scene, world.path("images").join(name)).unwrap();
        }
        let vocabulary =
            "[options]\ntemplates: simple\n[classes]\ntiger; big cat\nlemon\nbus\n[background]\ngreen background\n";
        std::fs::write(world.path("classes.txt"), vocabulary).unwrap();
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts training into a folder of that name; small, where the arguments do not say otherwise.
    fn start(&self, output: &str, arguments: &[&str]) -> Child {
        let small = [
            ["--backbone", "resnet18"],
            ["--width", "4"],
            ["--batch", "2"],
            ["--crop-pixels", "64"],
            ["--view-short-side", "96"],
            ["--device", "cpu"],
        ];
        let small = small.iter().filter(|[name, _]| !arguments.contains(name)).flatten();
        let mut command = maskclip();
        command
            .arg("train")
            .arg(self.path("images"))
            .arg("--classes")
            .arg(self.path("classes.txt"))
            .arg("--output")
            .arg(self.path(output))
            .args(small)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().expect("the binary starts")
    }

    fn train(&self, output: &str, arguments: &[&str]) -> Output {
        let process = self.start(output, arguments);
        process.wait_with_output().expect("the process is ours")
    }

    fn refusal(&self, arguments: &[&str]) -> String {
        let output = self.train("refused", arguments);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Steps that the log of a run tells of.
    fn steps(&self, output: &str) -> usize {
        let log = std::fs::read_to_string(self.path(output).join("log.csv"));
        log.map_or(0, |log| log.lines().count().saturating_sub(1))
    }

    fn wait_for_steps(&self, output: &str, steps: usize) {
        let start = Instant::now();
        while self.steps(output) < steps {
            assert!(start.elapsed() < Duration::from_secs(120), "no step {steps}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn a_student_comes_with_a_card_of_what_it_is_and_where_it_is_from() {
    let world = World::new();
    let output = world.train("student", &["--steps", "3"]);
    assert!(output.status.success(), "{output:?}");
    let student = world.path("student").join("student.safetensors");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().trim(),
        student.to_str().unwrap()
    );
    assert_eq!(world.steps("student"), 3);

    let card = std::fs::read(world.path("student").join("student.json")).unwrap();
    let card: Value = serde_json::from_slice(&card).unwrap();
    assert_eq!(card["format"], "maskclip-student-1");
    assert_eq!(card["network"]["backbone"], "resnet18");
    assert_eq!(
        card["vocabulary"],
        json!({"classes": [["tiger", "big cat"], ["lemon"], ["bus"]], "background": ["green background"], "templates": "simple"})
    );
    assert_eq!(card["teacher"]["name"], "demo");
    assert_eq!(card["teacher"]["weights_sha256"].as_str().unwrap().len(), 64);
    assert_eq!(card["data"]["images"], 3);
    assert_eq!(card["last_step"]["step"], 3);
    assert!(card["last_step"]["loss"].as_f64().unwrap() > 0.0, "{card}");

    #[allow(clippy::disallowed_types)] // To look into the file alone.
    let tensors = tch::Tensor::read_safetensors(&student).unwrap();
    let (_, classifier) = tensors.iter().find(|(name, _)| name == "classifier").unwrap();
    assert_eq!(classifier.size()[0], 4);
}

#[test]
fn a_run_that_was_killed_or_terminated_ends_with_the_weights_of_an_unbroken_one() {
    let world = World::new();
    // A tiger in the middle of each image that somebody drew; all else is the teacher's, then the student's.
    std::fs::create_dir(world.path("labels")).unwrap();
    for name in ["00.png", "01.png", "02.png"] {
        let (width, height) = image::image_dimensions(world.path("images").join(name)).unwrap();
        let inside = |at: u32, length: u32| at > length / 3 && at < 2 * length / 3;
        let value = |x, y| if inside(x, width) && inside(y, height) { 0 } else { 255 };
        let labels = image::GrayImage::from_fn(width, height, |x, y| image::Luma([value(x, y)]));
        labels.save(world.path("labels").join(name)).unwrap();
    }
    let labels = world.path("labels");
    let settings = [
        ["--steps", "16", "--checkpoint-steps", "2"].as_slice(),
        &["--labels", labels.to_str().unwrap(), "--labelled-classes", "tiger"],
        &["--pseudo-labels", "once", "--self-training-from", "7"],
        &["--distillation", "0.5", "--student-precision", "bfloat16"],
    ]
    .concat();
    assert!(world.train("whole", &settings).status.success());

    let mut killed = world.start("broken", &settings);
    world.wait_for_steps("broken", 5);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let after_kill = world.steps("broken");
    assert!((5..12).contains(&after_kill), "killed half-way");

    let terminated = world.start("broken", &settings);
    world.wait_for_steps("broken", after_kill + 3);
    let sent = std::process::Command::new("kill")
        .arg(terminated.id().to_string())
        .status();
    assert!(sent.unwrap().success());
    let output = terminated.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("of 16: the same command goes on from there"),
        "{message}"
    );
    assert!(!world.path("broken").join("student.safetensors").exists());

    assert!(world.train("broken", &settings).status.success());
    assert_eq!(world.steps("broken"), 16);
    for file in ["student.safetensors", "student.json"] {
        let [whole, broken] = ["whole", "broken"].map(|run| std::fs::read(world.path(run).join(file)).unwrap());
        assert!(whole == broken, "{file} differs");
    }
}

#[test]
fn whole_images_are_labelled_once_as_a_request_would_and_labelling_goes_on_where_it_was() {
    let world = World::new();
    let settings = [
        "--steps",
        "3",
        "--pseudo-labels",
        "once",
        "--short-side",
        "192",
        "--scales",
        "0.75+1",
    ];
    let settings = [settings.as_slice(), &["--refinement", "pamr", "--confidence", "0.2"]].concat();
    assert!(world.train("whole", &settings).status.success());
    let label_map = |run: &str, image: usize| {
        let file = world.path(run).join("pseudo-labels").join(format!("{image}.png"));
        std::fs::read(file).unwrap()
    };

    // The vocabulary's texts are the classes, the background's name one of them.
    let request = json!({
        "image": BASE64_STANDARD.encode(std::fs::read(world.path("images").join("01.png")).unwrap()),
        "classes": [{"name": "tiger", "synonyms": ["big cat"]}, "lemon", "bus", "green background"],
        "templates": "simple", "short_side": 192, "scales": [0.75, 1], "refinement": "pamr",
        "background": {"names": [], "threshold": 0.2}, "output": {"label_map": "png"},
    });
    let answer = segment(&Server::start(&[]), &request);
    assert_eq!(
        answer["label_map"]["data"],
        BASE64_STANDARD.encode(label_map("whole", 1))
    );

    // A run that was killed while it labelled.
    std::fs::create_dir_all(world.path("broken")).unwrap();
    let copy = |name: &str| std::fs::copy(world.path("whole").join(name), world.path("broken").join(name)).unwrap();
    std::fs::create_dir(world.path("broken").join("pseudo-labels")).unwrap();
    for name in ["plan.json", "0.png"] {
        copy(&format!("pseudo-labels/{name}"));
    }
    assert!(world.train("broken", &settings).status.success());
    for image in 0..3 {
        assert!(label_map("broken", image) == label_map("whole", image), "{image}");
    }
    for file in ["student.safetensors", "student.json"] {
        let [whole, broken] = ["whole", "broken"].map(|run| std::fs::read(world.path(run).join(file)).unwrap());
        assert!(whole == broken, "{file} differs");
    }

    let other = world.train("broken", &[settings.as_slice(), &["--attention", "clip"]].concat());
    let message = String::from_utf8(other.stderr).unwrap();
    assert!(message.contains("holds a run with another teacher"), "{message}");
}

#[test]
fn mistakes_are_named_with_what_is_possible() {
    let world = World::new();
    let refused = |arguments: &[&str], expected: &str| {
        let message = world.refusal(arguments);
        assert!(message.contains(expected), "{expected} in {message}");
    };
    refused(&["--backbone", "resnet34"], "there are resnet18, resnet50, resnet101");
    refused(
        &["--crop-pixels", "60"],
        "crop-pixels has to be a multiple of 32, the teacher's patch",
    );
    refused(
        &["--attention", "sclop"],
        "--attention sclop: there is no sclop: clip, maskclip, ",
    );
    refused(&["--attention", "sclip"], "--attention sclip is not for");
    refused(
        &["--short-side", "192"],
        "--short-side: a teacher that labels each view sees it at its own size; --pseudo-labels once",
    );
    refused(
        &["--confidence", "1", "--temperature", "1"],
        "no pixel had a label in 20 steps",
    );
    refused(&["--learned-background"], "a learned background needs a class called");
    refused(
        &["--pseudo-labels", "none"],
        "pseudo-labels has to be each-view or once",
    );
    refused(
        &["--self-training-from", "0"],
        "self-training-from has to be 1 to the last",
    );
    let labels = world.path("labels");
    let labels = labels.to_str().unwrap();
    refused(
        &["--labels", labels, "--background", "none"],
        "pseudo-labels has to be none where all classes are labelled",
    );
    let seen = ["--labels", labels, "--labelled-classes", "tiger,bus"];
    refused(&seen, "00.png");
    refused(
        &["--labels", labels, "--labelled-classes", "cow"],
        "--labelled-classes: no class is called",
    );
    refused(&["--backbone-weights", labels], "labels");
    std::fs::remove_dir_all(world.path("images")).unwrap();
    std::fs::create_dir(world.path("images")).unwrap();
    refused(&[], "there are no images that can be decoded in");
}
