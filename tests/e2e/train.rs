//! `maskclip train` with the embedded model as the teacher of the smallest possible student.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::segment::segment;
use crate::server::{Server, maskclip, signal, wait};

/// The longest time that a process may take on a busy machine for work of seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// The message of a run at the first signal.
const STOPPING: &str = "stopping after this step; a second signal ends the process at once";

/// Four example scenes to learn from, a vocabulary, and a folder for students. With four scenes, no step of two views
/// shows the same scene twice.
pub struct World {
    folder: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let world = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(world.path("images")).unwrap();
        for name in ["00.png", "01.png", "02.png", "03.png"] {
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Returns the command that trains into a folder of this name. Values are small unless the arguments set others.
    pub fn command(&self, output: &str, arguments: &[&str]) -> Command {
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
        command
    }

    fn start(&self, output: &str, arguments: &[&str]) -> Child {
        self.command(output, arguments).spawn().expect("the binary starts")
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

    /// Returns the loss of each step.
    fn losses(&self, output: &str) -> Vec<f64> {
        let log = std::fs::read_to_string(self.path(output).join("log.csv")).unwrap();
        let loss = |line: &str| line.split(',').nth(1).unwrap().parse().unwrap();
        log.lines().skip(1).map(loss).collect()
    }

    /// Returns the number of steps in the log of a run.
    fn steps(&self, output: &str) -> usize {
        let log = std::fs::read_to_string(self.path(output).join("log.csv"));
        log.map_or(0, |log| log.lines().count().saturating_sub(1))
    }

    /// Takes a lease on an image and waits until a step opens it. That step does not end before the result is dropped,
    /// or for the 45 seconds that the system gives the holder of a lease.
    fn hold_a_step(&self) -> HeldStep {
        let mut holder = Command::new("python3");
        holder.args(["-c", HOLD_A_FILE]).arg(self.path("images").join("00.png"));
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(holder.stdout.take().unwrap());
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || tell.send(output.lines().next()));
        let held = HeldStep { holder };
        let line = told.recv_timeout(PATIENCE).expect("a step opens the image");
        assert_eq!(line.unwrap().unwrap(), "opened");
        held
    }

    fn wait_for_steps(&self, output: &str, steps: usize) {
        let start = Instant::now();
        while self.steps(output) < steps {
            assert!(start.elapsed() < PATIENCE, "no step {steps}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Holds a file: whoever opens it waits (fcntl(2), F_SETLEASE). Says when somebody does, and lets go when its standard
/// input ends. A lease needs a file that nobody has open, so it may take several attempts.
const HOLD_A_FILE: &str = r#"
import fcntl, signal, sys, time
file = open(sys.argv[1], "r+b")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
while True:
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        break
    except BlockingIOError:
        time.sleep(0.001)
signal.sigwait([signal.SIGIO])
print("opened", flush=True)
sys.stdin.read()
"#;

/// A step that waits for an image.
struct HeldStep {
    holder: Child,
}

impl Drop for HeldStep {
    /// Lets the held step go on if it still runs.
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
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
    assert_eq!(card["data"]["images"], 4);
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
    // People drew a tiger in the middle of each image. The teacher labels the rest, then the student does.
    std::fs::create_dir(world.path("labels")).unwrap();
    for name in ["00.png", "01.png", "02.png", "03.png"] {
        let (width, height) = image::image_dimensions(world.path("images").join(name)).unwrap();
        let inside = |at: u32, length: u32| at > length / 3 && at < 2 * length / 3;
        let value = |x, y| if inside(x, width) && inside(y, height) { 0 } else { 255 };
        let labels = image::GrayImage::from_fn(width, height, |x, y| image::Luma([value(x, y)]));
        labels.save(world.path("labels").join(name)).unwrap();
    }
    let labels = world.path("labels");
    let settings = [
        ["--steps", "40", "--checkpoint-steps", "2"].as_slice(),
        &["--labels", labels.to_str().unwrap(), "--labelled-classes", "tiger"],
        &["--pseudo-labels", "once", "--self-training-from", "7"],
        &["--distillation", "0.5", "--student-precision", "bfloat16"],
    ]
    .concat();
    assert!(world.train("whole", &settings).status.success());

    let mut killed = world.start("broken", &settings);
    world.wait_for_steps("broken", 5);
    let held = world.hold_a_step();
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(held);
    let after_kill = world.steps("broken");

    let mut terminated = world.start("broken", &settings);
    world.wait_for_steps("broken", after_kill + 3);
    let held = world.hold_a_step();
    signal(&terminated, "TERM");
    let mut stderr = BufReader::new(terminated.stderr.take().unwrap()).lines();
    assert!(stderr.any(|line| line.unwrap() == STOPPING));
    drop(held);
    let message: Vec<String> = stderr.map(Result::unwrap).collect();
    assert_eq!(terminated.wait().unwrap().code(), Some(0), "{message:?}");
    assert!(
        message[0].ends_with("of 40: the same command goes on from there"),
        "{message:?}"
    );
    assert!(!world.path("broken").join("student.safetensors").exists());

    assert!(world.train("broken", &settings).status.success());
    assert_eq!(world.steps("broken"), 40);
    for file in ["student.safetensors", "student.json"] {
        let [whole, broken] = ["whole", "broken"].map(|run| std::fs::read(world.path(run).join(file)).unwrap());
        assert!(whole == broken, "{file} differs");
    }
}

/// On processors without AVX-512 oneDNN uses other kernels. One of them is not safe with fewer than 8 channels.
#[test]
fn a_narrow_student_learns_the_same_with_older_instructions() {
    let world = World::new();
    let [newest, others @ ..] = ["DEFAULT", "AVX512_CORE", "AVX2"].map(|instructions| {
        let mut process = world
            .command(instructions, &["--width", "4", "--crop-pixels", "96", "--steps", "6"])
            .env("ONEDNN_MAX_CPU_ISA", instructions)
            .spawn()
            .unwrap();
        assert_eq!(wait(&mut process, PATIENCE), Some(0), "{instructions}");
        world.losses(instructions)
    });
    assert_eq!(newest.len(), 6);
    for other in others {
        assert_eq!(other.len(), 6);
        let differences = newest.iter().zip(&other).map(|(left, right)| (left - right).abs());
        assert!(differences.fold(0.0, f64::max) < 1e-4, "{other:?} for {newest:?}");
    }
}

#[test]
fn a_second_signal_ends_a_run_that_is_stuck_in_a_step() {
    for (name, status) in [("TERM", 143), ("INT", 130)] {
        let world = World::new();
        let mut process = world.start("stuck", &["--steps", "1000000"]);
        world.wait_for_steps("stuck", 1);
        let _held = world.hold_a_step();
        signal(&process, "TERM");
        let mut stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        assert!(stderr.any(|line| line.unwrap() == STOPPING));
        assert!(process.try_wait().unwrap().is_none());
        signal(&process, name);
        assert_eq!(wait(&mut process, PATIENCE), Some(status));
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

    // The classes are the vocabulary's texts, including the background name.
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

    // A run that was killed while it labelled images.
    std::fs::create_dir_all(world.path("broken")).unwrap();
    let copy = |name: &str| std::fs::copy(world.path("whole").join(name), world.path("broken").join(name)).unwrap();
    std::fs::create_dir(world.path("broken").join("pseudo-labels")).unwrap();
    for name in ["plan.json", "0.png"] {
        copy(&format!("pseudo-labels/{name}"));
    }
    assert!(world.train("broken", &settings).status.success());
    for image in 0..4 {
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
    refused(
        &["--backbone", "resnet34"],
        "[possible values: resnet18, resnet50, resnet101]",
    );
    refused(
        &["--crop-pixels", "60"],
        "crop-pixels has to be a multiple of 16, the teacher's patch",
    );
    refused(
        &["--attention", "sclop"],
        "--attention sclop: there is no sclop: clip, maskclip, ",
    );
    refused(&["--attention", "sclip"], "--attention sclip is not for");
    refused(
        &["--short-side", "192"],
        "--short-side: a teacher that labels each view sees it at its own size; use --pseudo-labels once",
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
    refused(&seen, "labels: No such file or directory");
    std::fs::create_dir(labels).unwrap();
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
