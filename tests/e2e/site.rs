//! A site that fetches models: its folder, its settings, and the weights available to it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::loopback::{Answer, Loopback, Request};
use crate::server::maskclip;

/// A model whose digest the hub states.
pub const MODEL: &str = "ViT-B-32-laion2b";
pub const HUB_FOLDER: &str = "/laion/CLIP-ViT-B-32-laion2B-s34B-b79K/resolve/main";

/// Returns bytes that stand in for weights in downloads.
pub fn weights() -> Vec<u8> {
    (0..100_000_u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the file as a hub serves it.
pub fn as_the_hub(request: &Request) -> Answer {
    Answer::file(&weights(), request).linked(&sha256(&weights()))
}

/// A folder of models, and settings that name it.
pub struct Site {
    folder: TempDir,
    pub config: PathBuf,
}

impl Site {
    pub fn new(server: &Loopback) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.yaml");
        let models = folder.path().join("models");
        let text = format!(
            "model:\n  folder: {}\nfetch:\n  hub: {}\n",
            models.display(),
            server.address
        );
        fs::write(&config, text).unwrap();
        Self { folder, config }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = maskclip();
        command
            .args(["fetch", "--config", self.config.to_str().unwrap()])
            .args(arguments);
        command
    }

    pub fn fetch(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Fetches successfully. Returns the printed path.
    pub fn fetched(&self, arguments: &[&str]) -> PathBuf {
        let output = self.fetch(arguments);
        assert!(output.status.success(), "{output:?}");
        PathBuf::from(String::from_utf8(output.stdout).unwrap().trim_end())
    }

    /// Fails to fetch. Returns the error.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let output = self.fetch(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    pub fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    pub fn path(&self, ending: &str) -> PathBuf {
        self.models().join(format!("{MODEL}.{ending}"))
    }

    /// Returns the names in the folder of models, sorted.
    pub fn listing(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.models())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}
