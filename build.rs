//! Lets the linked programs find libtorch, compiles the C++ files of `clip::native`, and records what
//! `maskclip --version` and the build-info metric report.
//!
//! torch-sys names the libraries for the linker, but the flags of a dependency do not reach the programs of this
//! package. The run path therefore has to be set here. `tools/libtorch` provides libtorch itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    link_libtorch();
    if !is_clippy() {
        compile_native();
    }
    record_build();
}

/// Returns whether clippy runs this build. It links nothing, so it needs no compiled C++. cargo runs this script anew
/// for clippy, which would compile the same files twice.
fn is_clippy() -> bool {
    let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER").map(PathBuf::from);
    wrapper.is_some_and(|wrapper| wrapper.file_stem().is_some_and(|name| name == "clippy-driver"))
}

fn link_libtorch() {
    println!("cargo::rerun-if-env-changed=LIBTORCH");
    println!("cargo::rerun-if-env-changed=LIBTORCH_LIB");
    // LIBTORCH_LIB is torch-sys's variable for libraries that lie apart from the headers.
    let Some(root) = env::var_os("LIBTORCH_LIB").or_else(|| env::var_os("LIBTORCH")) else {
        fail(
            "LIBTORCH is not set, so there is no libtorch to link. Use `make build` (or any other make target), which \
             provides it, or call cargo after: eval \"$(make env)\"",
        );
    };
    let libraries = PathBuf::from(root).join("lib");
    if !libraries.join("libtorch_cpu.so").exists() {
        fail(&format!(
            "LIBTORCH is set, but {} holds no libtorch_cpu.so",
            libraries.display()
        ));
    }

    // Libraries beside the program come first, so that an unpacked release uses its own. Then come those of the build.
    // The flag selects RPATH instead of RUNPATH, because RPATH also serves the libraries that libtorch itself opens.
    println!("cargo::rustc-link-arg=-Wl,--disable-new-dtags");
    println!("cargo::rustc-link-arg=-Wl,-rpath,$ORIGIN/../lib");
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", libraries.display());

    // Nothing here calls the CUDA libraries by name, so without this the linker drops them as unneeded. libtorch then
    // finds no CUDA device.
    if libraries.join("libtorch_cuda.so").exists() {
        println!("cargo::rustc-link-arg=-Wl,--push-state,--no-as-needed,-ltorch_cuda,--pop-state");
    }
}

/// Compiles the operators that tch does not bind, against the same headers as torch-sys's own bindings.
fn compile_native() {
    let folder = Path::new("src/clip/native");
    for file in [
        "operators.cpp",
        "attention.h",
        "attention_kernel.h",
        "attention_float.cpp",
        "attention_bfloat16.cpp",
    ] {
        println!("cargo::rerun-if-changed={}", folder.join(file).display());
    }
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    println!("cargo::rerun-if-env-changed=LIBTORCH_CXX11_ABI");
    let headers = env::var_os("LIBTORCH_INCLUDE").or_else(|| env::var_os("LIBTORCH"));
    let headers = PathBuf::from(headers.expect("LIBTORCH_INCLUDE or LIBTORCH is set")).join("include");
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    let mut operators = cc::Build::new();
    operators
        .cpp(true)
        .std("c++17")
        .flag("-isystem")
        .flag(&headers)
        .define("_GLIBCXX_USE_CXX11_ABI", &*abi)
        // Parallel loops run on libtorch's own threads.
        .flag("-fopenmp")
        .file(folder.join("operators.cpp"));
    // Only these files may use instructions that some CPUs lack: their functions are called only after a check of the
    // CPU.
    if env::var("CARGO_CFG_TARGET_ARCH").as_deref() == Ok("x86_64") {
        let float = ["-mavx512f", "-mfma"];
        let bfloat16 = ["-mavx512f", "-mfma", "-mavx512bw", "-mavx512vl", "-mavx512bf16"];
        operators.objects(kernel(folder, "attention_float.cpp", &float));
        operators.objects(kernel(folder, "attention_bfloat16.cpp", &bfloat16));
    }
    sanitize(&mut operators);
    operators.compile("maskclip_native");
    println!("cargo::rustc-link-lib=gomp");
    link_sanitizers();
}

/// Compiles a file for its own instructions and returns its objects. They are optimised in every profile, because tests
/// run them, too.
fn kernel(folder: &Path, file: &str, instructions: &[&str]) -> Vec<PathBuf> {
    let mut build = cc::Build::new();
    // GCC warns of the deliberately undefined operands in its own intrinsics.
    build
        .cpp(true)
        .std("c++17")
        .opt_level(3)
        .flag_if_supported("-Wno-maybe-uninitialized");
    for instruction in instructions {
        build.flag(instruction);
    }
    sanitize(&mut build);
    build.file(folder.join(file)).compile_intermediates()
}

/// Returns the GCC sanitizers that the C++ is compiled with. `tools/sanitizers/run` sets `address,undefined`.
fn sanitizers() -> Option<String> {
    println!("cargo::rerun-if-env-changed=MASKCLIP_NATIVE_SANITIZERS");
    env::var("MASKCLIP_NATIVE_SANITIZERS")
        .ok()
        .filter(|names| !names.is_empty())
}

/// Lets a compilation insert the checks of the sanitizers. A check that fails ends the program.
fn sanitize(build: &mut cc::Build) {
    if let Some(names) = sanitizers() {
        build
            .flag(format!("-fsanitize={names}"))
            .flag("-fno-sanitize-recover=all")
            .flag("-fno-omit-frame-pointer");
    }
}

/// Links the libraries of the sanitizers by name: `-fsanitize` links none, because rustc passes `-nodefaultlibs`.
fn link_sanitizers() {
    for name in sanitizers().iter().flat_map(|names| names.split(',')) {
        match name {
            "address" => println!("cargo::rustc-link-arg=-lasan"),
            "undefined" => println!("cargo::rustc-link-arg=-lubsan"),
            _ => fail(&format!(
                "MASKCLIP_NATIVE_SANITIZERS names {name}; known are address and undefined"
            )),
        }
    }
}

/// Records the commit, target and compiler. cargo also puts these names into the program's environment under
/// `cargo run` and `cargo test`. Settings in the environment are called `MASKCLIP_<SECTION>__<KEY>`, so the names do
/// not collide.
fn record_build() {
    let commit = commit();
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let rustc = env::var("RUSTC").expect("cargo sets RUSTC");
    let rustc = output(Command::new(rustc).arg("--version"));
    println!(
        "cargo::rustc-env=MASKCLIP_BUILD_COMMIT={}",
        commit.as_deref().unwrap_or("unknown")
    );
    println!("cargo::rustc-env=MASKCLIP_BUILD_TARGET={target}");
    println!(
        "cargo::rustc-env=MASKCLIP_BUILD_RUSTC={}",
        rustc.as_deref().unwrap_or("unknown")
    );
}

/// Returns the commit of a release build. In other profiles, it would recompile the package after each commit.
fn commit() -> Option<String> {
    // Container builds have no repository and set the commit instead.
    println!("cargo::rerun-if-env-changed=MASKCLIP_BUILD_COMMIT");
    if let Some(named) = env::var("MASKCLIP_BUILD_COMMIT").ok().filter(|name| !name.is_empty()) {
        return Some(named);
    }
    if env::var("PROFILE").as_deref() != Ok("release") {
        return None;
    }
    // A new commit changes the log of HEAD. Without a repository or logs, there is nothing to watch.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// Returns the output of git if this folder is the top of a repository, and not a folder inside somebody else's.
fn git(arguments: &[&str]) -> Option<String> {
    fs::metadata(".git").ok()?;
    output(Command::new("git").args(arguments))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn fail(message: &str) -> ! {
    println!("cargo::error={message}");
    std::process::exit(1);
}
