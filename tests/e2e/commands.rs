//! Starts that must fail with a helpful message.

use crate::server::{maskclip, run};

fn refusal(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "nothing listens: {output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn cuda_where_there_is_none_stops_the_start() {
    if tch::Cuda::is_available() {
        return;
    }
    let message = refusal(&["serve", "--listen", "127.0.0.1:0", "--device", "cuda:0"]);
    assert!(
        message.contains("cuda:0") && message.contains("--device cpu"),
        "{message}"
    );
}

#[test]
fn a_checkpoint_that_is_not_there_stops_the_start() {
    let message = refusal(&[
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--model",
        "/nowhere/ViT-B-16.safetensors",
    ]);
    assert!(message.contains("/nowhere/ViT-B-16.safetensors"), "{message}");
}

#[test]
fn a_file_that_is_no_checkpoint_ends_the_server_and_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "not weights").unwrap();
    let path = file.path().to_str().unwrap();
    let output = run(&["serve", "--listen", "127.0.0.1:0", "--device", "cpu", "--model", path]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let message = String::from_utf8(output.stderr).unwrap();
    let last = message.lines().last().unwrap();
    assert!(last.starts_with("maskclip: ") && last.contains(path), "{message}");
}

/// A named pipe without a writer would block whoever opens it, and a device may have no end.
#[test]
fn what_is_not_a_regular_file_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let inside = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (pipe, model) = (inside("pipe"), inside("model.safetensors"));
    for path in [&pipe, &model] {
        let made = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(made.success());
    }
    let (serve, scenes) = (["serve", "--listen", "127.0.0.1:0"], "examples/scenes/in-style");
    for (arguments, file, kind) in [
        (
            [&serve[..], &["--model", &pipe]].concat(),
            pipe.as_str(),
            "a named pipe",
        ),
        (
            [&serve[..], &["--model", folder.path().to_str().unwrap()]].concat(),
            &model,
            "a named pipe",
        ),
        (
            [&serve[..], &["--model", "/dev/zero"]].concat(),
            "/dev/zero",
            "a device",
        ),
        ([&serve[..], &["--config", &pipe]].concat(), &pipe, "a named pipe"),
        (vec!["eval", scenes, "--classes", &pipe], &pipe, "a named pipe"),
    ] {
        let message = refusal(&arguments);
        assert!(message.contains(file), "{message}");
        assert!(
            message.contains(&format!("it is {kind}, not a regular file")),
            "{message}"
        );
    }
}

#[test]
fn settings_that_add_up_to_more_memory_than_there_is_stop_the_start() {
    let mut command = maskclip();
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("MASKCLIP_MEMORY__LIMIT_BYTES", "500000000");
    let output = command.output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(output.stdout.is_empty(), "nothing listens");
    for part in [
        "and there are 500: lower",
        "MB  engine.workers x the weights of demo\n",
        "MB  images.cache_bytes",
    ] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn an_unknown_setting_stops_the_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "limits:\n  max_imege_pixels: 5\n").unwrap();
    let message = refusal(&["serve", "--config", file.path().to_str().unwrap()]);
    assert!(message.contains("max_imege_pixels"), "{message}");
    assert!(message.contains("limits"), "{message}");
    assert!(message.contains(file.path().to_str().unwrap()), "{message}");
}

#[test]
fn an_address_in_use_stops_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let message = refusal(&["serve", "--listen", &address]);
    assert!(message.contains(&format!("cannot listen on {address}")), "{message}");
}

#[test]
fn the_version_names_the_build() {
    let output = run(&["--version"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with(concat!("maskclip ", env!("CARGO_PKG_VERSION"), " (commit ")),
        "{text}"
    );
}

#[test]
fn the_doctor_says_what_it_found_and_times_a_pass() {
    let output = run(&["doctor", "--device", "cpu"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    for part in [
        "program           maskclip ",
        "threads           ",
        "store             none",
        "text cache        embeddings: up to 268 MB in memory (vocabulary.cache_bytes), none on disk",
        "image cache       features: up to 268 MB in memory (images.cache_bytes); images: up to 268 MB (images.held_bytes)",
        "device            cpu, float32",
        "model             demo",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(
        text.lines()
            .last()
            .unwrap()
            .starts_with("pass              640 x 480 pixels in "),
        "{text}"
    );
}

#[test]
fn the_models_are_listed_with_what_is_here() {
    let text = String::from_utf8(run(&["models"]).stdout).unwrap();
    assert!(text.contains("demo                      compiled in"), "{text}");
    assert!(
        text.contains("ViT-B-16 ") && text.contains("maskclip fetch NAME"),
        "{text}"
    );
}
