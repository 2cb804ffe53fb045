//! A student that `maskclip train` has trained: served next to its teacher, measured, and refused when its files are
//! wrong.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::segment::{picnic, segment};
use crate::server::{Server, agent, maskclip};

const SCENES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scenes/in-style");

/// A student of the embedded model after a few steps, trained once. Tests that change its files copy it.
static STUDENT: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    for name in ["00.png", "01.png"] {
        std::fs::copy(Path::new(SCENES).join(name), folder.path().join("images").join(name)).unwrap();
    }
    let classes = "[options]\ntemplates: simple\n[classes]\ntiger; big cat\nlemon\n[background]\ngreen background\n";
    std::fs::write(folder.path().join("classes.txt"), classes).unwrap();
    let output = maskclip()
        .arg("train")
        .arg(folder.path().join("images"))
        .arg("--classes")
        .arg(folder.path().join("classes.txt"))
        .arg("--output")
        .arg(folder.path().join("tiny"))
        .args(["--backbone", "resnet18", "--width", "4", "--batch", "2", "--steps", "2"])
        .args(["--crop-pixels", "64", "--view-short-side", "96", "--device", "cpu"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    folder
});

fn student() -> PathBuf {
    STUDENT.path().join("tiny")
}

/// Copies the student's two files to a folder called `copy`.
fn copy(parent: &Path) -> PathBuf {
    let copy = parent.join("copy");
    std::fs::create_dir(&copy).unwrap();
    for file in ["student.safetensors", "student.json"] {
        std::fs::copy(student().join(file), copy.join(file)).unwrap();
    }
    copy
}

fn change_card(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("student.json");
    let mut card: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut card);
    std::fs::write(path, card.to_string()).unwrap();
}

/// Returns the last line of a server that does not start.
fn refusal(arguments: &[&str]) -> String {
    let output = maskclip()
        .args(["serve", "--listen", "127.0.0.1:0", "--device", "cpu"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(!output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_student_answers_beside_its_teacher_also_for_classes_it_was_not_trained_on() {
    let path = student();
    let server = Server::start(&["--model", "demo", "--model", path.to_str().unwrap()]);
    let list: Value = agent()
        .get(server.url("/v1/models"))
        .call()
        .unwrap()
        .body_mut()
        .read_json()
        .unwrap();
    let card: Value = serde_json::from_slice(&std::fs::read(path.join("student.json")).unwrap()).unwrap();
    let [teacher, student] = [0, 1].map(|index| &list["models"][index]);
    assert_eq!((&teacher["name"], &teacher["embedded"]), (&json!("demo"), &json!(true)));
    // What it learned: exp(logit_scale).
    assert_eq!(teacher["temperature"], json!(42.771));
    assert_eq!(
        (&student["name"], &student["kind"]),
        (&json!("tiny"), &json!("student"))
    );
    assert_eq!(student["weights_sha256"], card["weights_sha256"]);
    assert_eq!(
        (&student["short_side"], &student["temperature"]),
        (&json!(96), &json!(1.0))
    );
    assert_eq!(
        student["student"],
        json!({
            "classes": [{"name": "tiger", "synonyms": ["big cat"]}, "lemon"],
            "background": ["green background"],
            "templates": "simple",
            "learned_background": false,
            "teacher": {"name": "demo", "weights_sha256": teacher["weights_sha256"]},
        })
    );

    let image = BASE64_STANDARD.encode(picnic());
    let ask = |fields: Value| {
        let mut request = json!({"image": image, "model": "tiny", "templates": "simple"});
        request
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        segment(&server, &request)
    };
    let trained = ask(json!({"classes": ["tiger", "lemon"], "background": ["green background"]}));
    assert_eq!((&trained["model"], &trained["width"]), (&json!("tiny"), &json!(512)));
    let other = ask(json!({
        "classes": ["penguin", {"name": "boat", "synonyms": ["ship"]}, "lemon"],
        "synonyms": "max", "prompt_denoising": 0.2, "scales": [0.5, 1], "refinement": "pamr",
        "window": {"side": 64, "stride": 48}, "output": {"confidence_map": true},
    }));
    let classes = other["classes"].as_array().unwrap();
    let pixels: u64 = classes.iter().map(|class| class["pixels"].as_u64().unwrap()).sum();
    assert_eq!(pixels, 512 * 384);
    let probabilities: f64 = classes
        .iter()
        .map(|class| class["image_probability"].as_f64().unwrap())
        .sum();
    // The rest of the probability belongs to "ship".
    assert!(probabilities > 0.5 && probabilities <= 1.0 + 1e-5, "{other}");
    for class in classes {
        let similarity = class["similarity"].as_f64().unwrap();
        assert!((-1.0..=1.0).contains(&similarity), "{class}");
    }

    // The teacher asks for the same texts and finds them embedded.
    let misses = server.metric("maskclip_vocabulary_misses_total");
    let request = json!({"image": image, "classes": ["penguin", "lemon"], "templates": "simple"});
    assert_eq!(segment(&server, &request)["model"], "demo");
    assert_eq!(server.metric("maskclip_vocabulary_misses_total"), misses);
}

#[test]
fn a_student_is_measured_as_clip_is() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("report.json");
    let scenes = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/scenes");
    let output = maskclip()
        .args([
            "eval",
            SCENES,
            "--classes",
            &format!("{scenes}/classes.txt"),
            "--unseen",
            "tiger,bus",
        ])
        .args([
            "--background",
            &format!("{scenes}/backgrounds.txt"),
            "--templates",
            "simple",
            "--limit",
            "2",
        ])
        .arg("--model")
        .arg(student().join("student.json"))
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!((&report["model"], &report["images"]), (&json!("tiny"), &json!(2)));
    assert!(report["zero_shot"]["seen_iou"].is_number(), "{report}");
    // Every pixel has a label.
    let classes = report["classes"].as_array().unwrap();
    let pixels: u64 = classes
        .iter()
        .map(|class| class["predicted_pixels"].as_u64().unwrap())
        .sum();
    assert_eq!(pixels, 2 * 256 * 256);
}

#[test]
fn a_student_that_is_not_what_its_card_says_stops_the_start() {
    let parent = tempfile::tempdir().unwrap();
    let path = copy(parent.path());
    let model = path.to_str().unwrap();
    let whole = std::fs::read(path.join("student.safetensors")).unwrap();
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(path.join("student.safetensors"), damaged).unwrap();
    let message = refusal(&["--model", "demo", "--model", model]);
    assert!(
        message.contains("models[1]: ")
            && message.contains("is not the student that its card is about: its SHA-256 is "),
        "{message}"
    );
    std::fs::write(path.join("student.safetensors"), whole).unwrap();

    let card = std::fs::read(path.join("student.json")).unwrap();
    let with = |change: fn(&mut Value), expected: &str| {
        change_card(&path, change);
        let message = refusal(&["--model", model]);
        assert!(
            message.contains("models[0]: ") && message.contains(expected),
            "{message}"
        );
        std::fs::write(path.join("student.json"), &card).unwrap();
    };
    with(
        |card| card["format"] = json!("maskclip-student-9"),
        "is no student's card: its format is \"maskclip-student-9\", and this program reads \"maskclip-student-1\"",
    );
    with(
        |card| card["network"]["backbone"] = json!("resnet50"),
        "is not the student that its card is about: the tensor backbone.",
    );
    with(
        |card| card["teacher"]["weights_sha256"] = json!("0".repeat(64)),
        "its teacher has weights of SHA-256 0000",
    );
    with(
        |card| card["teacher"]["name"] = json!("nobody"),
        "copy is a student of \"nobody\", whose text tower it needs: \"nobody\" is no file",
    );
    std::fs::write(path.join("student.json"), &card[..card.len() / 2]).unwrap();
    let message = refusal(&["--model", model]);
    assert!(message.contains("student.json is no student's card: EOF"), "{message}");
}

#[test]
fn models_come_from_the_environment_and_names_that_are_taken_need_an_alias() {
    let parent = tempfile::tempdir().unwrap();
    let path = copy(parent.path());
    change_card(&path, |card| card["teacher"]["name"] = json!("somewhere else"));
    let (student, path) = (student(), path.to_str().unwrap());
    let entries = format!(
        "[{{name={path:?}, teacher=demo, alias=tiny}}, {:?}]",
        student.to_str().unwrap()
    );
    let output = maskclip()
        .arg("serve")
        .env("MASKCLIP_MODELS", &entries)
        .output()
        .unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(
        message.contains("models[1]: the name \"tiny\" is that of models[0], too; an alias gives it another one"),
        "{message}"
    );

    let server = Server::start_with(&[("MASKCLIP_MODELS", &entries.replace("alias=tiny", "alias=other"))]);
    let request =
        json!({"image": BASE64_STANDARD.encode(picnic()), "classes": ["lemon", "bus"], "templates": "simple"});
    assert_eq!(segment(&server, &request)["model"], "other");
}
