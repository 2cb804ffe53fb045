//! Starts the real binary on its own port and ends it with the test.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The longest time that a server may take to load the embedded model on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The arguments of a server on the embedded model and a free port.
pub const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--device", "cpu"];

const PROGRAM: &str = env!("CARGO_BIN_EXE_maskclip");

const STORE_PATH: &str = "MASKCLIP_VOCABULARY__STORE_PATH";

/// A running `maskclip serve`.
pub struct Server {
    process: Child,
    stdout: BufReader<PipeReader>,
    /// The address, `http://127.0.0.1:PORT`.
    pub address: String,
}

impl Server {
    /// Starts the embedded model without a store on disk and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = maskclip();
        command.args(SERVE).args(arguments).stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Starts with settings in the environment and without a store on disk. Waits until the server is ready.
    pub fn start_with(environment: &[(&str, &str)]) -> Self {
        let mut command = maskclip();
        command
            .args(SERVE)
            .envs(environment.iter().copied())
            .stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Starts the embedded model on a store and waits until it is ready. Its log goes to the file `log` next to the
    /// store.
    pub fn start_on(store: &Path) -> Self {
        let log = File::options()
            .create(true)
            .append(true)
            .open(store.with_file_name("log"))
            .expect("the log can be written");
        let mut command = maskclip_on(store);
        command.args(SERVE).stderr(log);
        Self::spawn(command)
    }

    /// Starts a line of bash in which `maskclip` is the binary under test, on a store, and waits until it is ready.
    pub fn start_shell(line: &str, store: &Path, log: File) -> Self {
        let line = line.replace("exec maskclip", &format!("exec '{PROGRAM}'"));
        let folder = store.parent().expect("a store lies in a folder");
        let mut command = shell(&line, folder, store);
        command.stderr(log);
        Self::spawn(command)
    }

    /// Starts the embedded model on a terminal, without a store on disk, and waits until it is ready.
    pub fn start_on_terminal() -> Self {
        let line = [&[PROGRAM], &SERVE[..]].concat().join(" ");
        let mut command = without_settings(Command::new("script"));
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.stdin(Stdio::null()).stderr(Stdio::null());
        Self::spawn(command)
    }

    /// Starts a command that serves and waits until it is ready.
    pub fn spawn(command: Command) -> Self {
        let server = Self::launch(command);
        server.wait_until_ready();
        server
    }

    /// Starts a command that serves and waits until it listens.
    pub fn launch(mut command: Command) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let stdout: OwnedFd = process.stdout.take().expect("standard output is piped").into();
        let mut stdout = BufReader::new(PipeReader::from(stdout));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("standard output can be read");
        let address = line
            .trim()
            .strip_prefix("listening on ")
            .expect("the first line names the address")
            .to_owned();
        Self {
            process,
            stdout,
            address,
        }
    }

    /// Starts a command that serves and whose log, in JSON, goes to a file. Waits until it listens.
    pub fn launch_logging(mut command: Command, log: &Path) -> Self {
        let mut process = command.stdout(Stdio::piped()).spawn().expect("the binary starts");
        let stdout: OwnedFd = process.stdout.take().expect("standard output is piped").into();
        let mut server = Self {
            process,
            stdout: BufReader::new(PipeReader::from(stdout)),
            address: String::new(),
        };
        let start = Instant::now();
        while server.address.is_empty() {
            assert!(start.elapsed() < START_LIMIT, "the server does not listen");
            std::thread::sleep(Duration::from_millis(20));
            let log = std::fs::read_to_string(log).expect("the log can be read");
            let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
            let mut addresses = lines.filter_map(|line: serde_json::Value| Some(line["address"].as_str()?.to_owned()));
            server.address = addresses.next().unwrap_or_default();
        }
        server
    }

    /// Returns what the server has printed, once it has ended.
    pub fn rest_of_output(&mut self) -> String {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).expect("the output is text");
        text
    }

    /// Waits until the server says that it is ready.
    pub fn wait_until_ready(&self) {
        let start = Instant::now();
        while agent()
            .get(self.url("/health/ready"))
            .call()
            .is_ok_and(|reply| reply.status() != 200)
        {
            assert!(
                start.elapsed() < START_LIMIT,
                "the server is not ready after {START_LIMIT:?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the URL of a path on this server.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    /// Returns the metrics that Prometheus scrapes.
    pub fn metrics(&self) -> String {
        let mut reply = agent().get(self.url("/metrics")).call().expect("the server answers");
        reply.body_mut().read_to_string().expect("metrics are text")
    }

    /// Returns the value of a metric without labels.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("{name} is missing from\n{text}"));
        value.parse().expect("the metric is a whole number")
    }

    /// Stops to read standard output, as `head` does.
    pub fn stop_reading(&mut self) {
        let (closed, _) = std::io::pipe().expect("a pipe can be made");
        // Replacing the reader drops the only reading end of the server's pipe.
        self.stdout = BufReader::new(closed);
    }

    /// Returns the memory that the server has in RAM, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Returns the most bytes of memory that the process has held so far.
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("it runs");
        let value = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_suffix(" kB"));
        1024 * value.expect("Linux says so").trim().parse::<u64>().expect("a number")
    }

    /// Returns the lines that a server on a terminal prints once the model is ready, up to the end of the example request.
    pub fn printed_example(&mut self) -> String {
        let mut text = String::new();
        while !text.trim_end().ends_with('\'') {
            let mut line = String::new();
            assert!(
                self.stdout.read_line(&mut line).expect("standard output can be read") > 0,
                "no example in {text:?}"
            );
            text.push_str(&line);
        }
        // A terminal ends its lines with a carriage return, too.
        let text = text.replace('\r', "");
        text.trim_start_matches("try it:").trim().to_owned()
    }

    /// Returns the id of the server's process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends the server a signal, named as for `kill`.
    pub fn signal(&self, name: &str) {
        signal(&self.process, name);
    }

    /// Waits for the server to end by itself. Returns its exit code.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        wait(&mut self.process, limit)
    }
}

/// Sends a process a signal, named as for `kill`.
pub fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &process.id().to_string()])
        .status();
    assert!(sent.expect("kill runs").success());
}

/// Waits for a process to end by itself. Returns its exit code. Kills the process and fails if it runs longer than the
/// limit.
pub fn wait(process: &mut Child, limit: Duration) -> Option<i32> {
    let start = Instant::now();
    loop {
        if let Some(status) = process.try_wait().expect("the process is ours") {
            return status.code();
        }
        if start.elapsed() > limit {
            process.kill().expect("the process is ours");
            panic!("the process still runs after {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error here means that the process has already ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.stdout.read_to_string(&mut String::new());
    }
}

/// Returns the command of the binary under test, without a store on disk.
pub fn maskclip() -> Command {
    build(this_build())
}

/// Returns the path of the binary under test.
pub fn this_build() -> &'static Path {
    Path::new(PROGRAM)
}

/// Returns the command of a build of the program, without a store on disk.
pub fn build(program: &Path) -> Command {
    without_settings(Command::new(program))
}

/// Returns a command line for bash in a folder. In it, `maskclip` is the binary under test, on a store.
pub fn shell(line: &str, folder: &Path, store: &Path) -> Command {
    let mut command = without_settings(Command::new("bash"));
    let definition = format!("maskclip() {{ '{PROGRAM}' \"$@\"; }}; {line}");
    command
        .args(["-c", &definition])
        .current_dir(folder)
        .env(STORE_PATH, store);
    command
}

/// Removes the settings of whoever runs the tests, the store on disk, and texts that nobody asked for. Sets float32, so that the processor does not
/// choose the precision. Waiting threads leave the processor to the programs of other tests.
fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MASKCLIP_")) {
        command.env_remove(name);
    }
    command
        .env(STORE_PATH, "none")
        .env("MASKCLIP_VOCABULARY__EMBED_AHEAD", "none")
        .env("MASKCLIP_MODEL__PRECISION", "float32")
        // Settings of tests are small, whatever memory the machine of the tests has.
        .env("MASKCLIP_MEMORY__LIMIT_BYTES", "1000000000000");
    if std::env::var_os("OMP_WAIT_POLICY").is_none() {
        command.env("OMP_WAIT_POLICY", "passive");
    }
    command
}

/// Returns the command of the binary under test on a store.
pub fn maskclip_on(store: &Path) -> Command {
    let mut command = maskclip();
    command.env(STORE_PATH, store);
    command
}

/// Runs the binary to its end and returns its output.
pub fn run(arguments: &[&str]) -> Output {
    maskclip().args(arguments).output().expect("the binary starts")
}

/// Returns an HTTP client that returns replies with an error status as replies.
pub fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).build().into()
}
