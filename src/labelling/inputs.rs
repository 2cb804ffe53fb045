//! The images of a run: files, folders, patterns and lists, each image with the name under which its results stand.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest, Sha256};
use strum::VariantArray;

use super::OutputFormat;
use super::plan::PLAN_FILE;
use crate::image::FILE_ENDINGS;
use crate::support::{WalkError, check_pattern, find_files_outside, find_matches};

/// An image of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Input {
    /// Its path below the folder that it was found in, with its ending and with `/` between folders.
    pub file_name: String,
    /// The same without the ending, unless the run keeps endings. The image's results have this name.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// How results are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Naming {
    /// Whether the ending of an image stays in the name of its results, as in `a.jpg.png`.
    pub keeps_endings: bool,
}

/// Why the images of a run cannot be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// A folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A text is neither a file nor a pattern.
    #[error("there is no {0}")]
    Missing(String),
    /// A text has the signs of a pattern and is none.
    #[error("{pattern} is no pattern: {reason}")]
    Pattern {
        /// The text.
        pattern: String,
        /// The cause.
        reason: String,
    },
    /// A folder of images is the folder for the results, or lies among the results.
    #[error("{} would hold both images and results: let --out name another folder, such as one inside", folder.display())]
    HoldsResults {
        /// The folder.
        folder: PathBuf,
    },
    /// Two images would have results of one name.
    #[error(
        "{} and {} have results of one name, {name}: --keep-endings tells a.jpg from a.png, and the folder above both \
         tells their folders apart; otherwise rename one", one.display(), other.display()
    )]
    OneName {
        /// The name.
        name: String,
        /// The first image.
        one: PathBuf,
        /// The second image.
        other: PathBuf,
    },
}

impl From<WalkError> for InputError {
    fn from(WalkError { path, source }: WalkError) -> Self {
        Self::Unreadable { path, source }
    }
}

/// Where the images of a run are looked for.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Files, folders and patterns.
    places: Vec<Place>,
    naming: Naming,
    /// The folder for the results, which need not be there yet.
    output: PathBuf,
}

#[derive(Debug, Clone)]
enum Place {
    /// A folder with all its subfolders.
    Folder(PathBuf),
    /// A file, with the folder below which its name counts.
    File(PathBuf, PathBuf),
    /// A pattern as shells have them, with the folder before its first sign.
    Pattern(String, PathBuf),
}

impl Inputs {
    /// Sorts texts into folders, files, and patterns such as `photos/**/*.jpg`. The names of files count below the one
    /// folder that holds them all. Those of `listed` come from a program that listed them a while ago: what is none of
    /// these is a file that is gone, which whoever reads it will say. What a run has written, this one into the folder `output` or another one elsewhere,
    /// is no image.
    ///
    /// # Errors
    /// [`InputError`] for a text that is none of these, and for a folder that would hold images and results.
    pub fn new(texts: &[String], listed: &[String], naming: Naming, output: &Path) -> Result<Self, InputError> {
        let (mut places, mut files) = (Vec::with_capacity(texts.len()), Vec::new());
        let texts = texts.iter().map(|text| (text, false));
        for (text, is_listed) in texts.chain(listed.iter().map(|text| (text, true))) {
            let path = PathBuf::from(text);
            if path.is_dir() {
                check_folder(&path, output)?;
                places.push(Place::Folder(path));
            } else if path.exists() || path.is_symlink() {
                files.push(path);
            } else if let Some(sign) = text.find(['*', '?', '[']) {
                let folder = text[..sign].rfind('/').map_or("", |slash| &text[..=slash]);
                check_pattern(text).map_err(|error| InputError::Pattern {
                    pattern: text.clone(),
                    reason: error.to_string(),
                })?;
                places.push(Place::Pattern(text.clone(), PathBuf::from(folder)));
            } else if is_listed {
                files.push(path);
            } else {
                return Err(InputError::Missing(text.clone()));
            }
        }
        let above = folder_above(&files);
        places.extend(files.into_iter().map(|file| Place::File(file, above.clone())));
        let output = output.to_owned();
        Ok(Self { places, naming, output })
    }

    /// Returns the images that are there now, sorted by name, each once.
    ///
    /// # Errors
    /// [`InputError`] when a folder cannot be read, or two images would have results of one name.
    pub fn find(&self) -> Result<Vec<Input>, InputError> {
        let found = self.find_with_clashes()?;
        let mut names = ResultNames::default();
        found.iter().try_for_each(|image| names.take(image))?;
        Ok(found)
    }

    /// Returns the images as [`Inputs::find`] does, even if several would have results of one name.
    ///
    /// # Errors
    /// [`InputError`] when a folder cannot be read.
    pub fn find_with_clashes(&self) -> Result<Vec<Input>, InputError> {
        let mut found = Vec::new();
        let output = self.output.canonicalize().ok();
        let mut results = Results::default();
        for place in &self.places {
            match place {
                Place::Folder(folder) => {
                    results.look_from(folder, output.as_deref());
                    let files = find_files_outside(folder, &FILE_ENDINGS, |below| results.fill(below))?.files;
                    found.extend(files.into_iter().map(|file| self.input(folder, file.path)));
                }
                Place::File(file, above) => {
                    results.look_from(folder_of(file), output.as_deref());
                    if !results.are_written_to(folder_of(file)) {
                        found.push(self.input(above, file.clone()));
                    }
                }
                Place::Pattern(pattern, above) => {
                    results.look_from(above, output.as_deref());
                    let mut files = find_matches(pattern, &FILE_ENDINGS)?;
                    files.retain(|file| !results.hold(file, above));
                    found.extend(files.into_iter().map(|file| self.input(above, file)));
                }
            }
        }
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn input(&self, folder: &Path, path: PathBuf) -> Input {
        let within = path.strip_prefix(folder).unwrap_or(&path);
        let file_name: Vec<_> = within
            .components()
            .filter_map(|part| match part {
                Component::Normal(name) => Some(as_text(name)),
                _ => None,
            })
            .collect();
        let file_name = file_name.join("/");
        let start = file_name.rfind('/').map_or(0, |slash| slash + 1);
        let name = match file_name[start..].rfind('.') {
            Some(dot) if dot > 0 && !self.naming.keeps_endings => file_name[..start + dot].to_owned(),
            _ => file_name.clone(),
        };
        Input { file_name, name, path }
    }
}

/// The names of results that images have taken.
#[derive(Debug, Default)]
pub struct ResultNames {
    /// Where the image of each name lies.
    owners: HashMap<String, PathBuf>,
}

impl ResultNames {
    /// Takes the name of an image's results. An image may take its name again.
    ///
    /// # Errors
    /// [`InputError::OneName`] when another image has it.
    pub fn take(&mut self, image: &Input) -> Result<(), InputError> {
        match self.owners.get(&image.name) {
            Some(owner) if *owner != image.path => Err(InputError::OneName {
                name: image.name.clone(),
                one: owner.clone(),
                other: image.path.clone(),
            }),
            Some(_) => Ok(()),
            None => {
                self.owners.insert(image.name.clone(), image.path.clone());
                Ok(())
            }
        }
    }
}

impl Input {
    /// Returns whether the image belongs to a shard, of which there are `shards`, counted from 0. Every image belongs
    /// to one, by a digest of its name, so that it stays there whatever comes beside it.
    pub fn is_in_shard(&self, shard: u32, shards: u32) -> bool {
        let digest = Sha256::digest(&self.file_name);
        let number = digest[..8]
            .iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte));
        number % u64::from(shards) == u64::from(shard)
    }
}

/// What runs have written, as seen from a place where images are looked for.
#[derive(Debug, Default)]
struct Results {
    /// The folders of this run's results, without links.
    folders: Vec<PathBuf>,
    /// Whether the folders that were asked for are filled by a run.
    known: HashMap<PathBuf, bool>,
}

impl Results {
    /// Looks from another folder. Of a run's folder below it, everything counts as results; of one that the images lie
    /// in, as in `label photos --out .`, only the folders that formats have there.
    fn look_from(&mut self, base: &Path, output: Option<&Path>) {
        self.known.clear();
        self.folders = match output {
            None => Vec::new(),
            Some(output) if is_below(output, base) => vec![output.to_owned()],
            Some(output) => result_folders(output),
        };
    }

    /// Returns whether this run writes into a folder.
    fn are_written_to(&self, folder: &Path) -> bool {
        let folder = without_links(folder);
        folder.is_some_and(|folder| self.folders.iter().any(|results| folder.starts_with(results)))
    }

    /// Returns whether a folder is one that this or another run fills.
    fn fill(&mut self, folder: &Path) -> bool {
        if let Some(&is_filled) = self.known.get(folder) {
            return is_filled;
        }
        let is_filled = folder.join(PLAN_FILE).exists() || self.are_written_to(folder);
        self.known.insert(folder.to_owned(), is_filled);
        is_filled
    }

    /// Returns whether a file lies in a folder below `base` that a run fills.
    fn hold(&mut self, file: &Path, base: &Path) -> bool {
        let folders = file.ancestors().skip(1);
        let mut folders = folders.take_while(|folder| *folder != base && !folder.as_os_str().is_empty());
        folders.any(|folder| self.fill(folder)) || self.are_written_to(folder_of(file))
    }
}

/// Returns the name of a file or folder as text. Bytes that are no UTF-8 become `%` and two digits, so that names stay
/// different.
fn as_text(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("%{byte:02X}")));
    }
    text
}

/// Returns the folders below that of a run which the formats fill.
fn result_folders(output: &Path) -> Vec<PathBuf> {
    let paths = OutputFormat::VARIANTS.iter().filter_map(|format| format.path("name"));
    paths.map(|path| output.join(folder_of(Path::new(&path)))).collect()
}

/// Checks that a folder of images gets no results.
fn check_folder(folder: &Path, output: &Path) -> Result<(), InputError> {
    let (Some(images), Ok(output)) = (without_links(folder), output.canonicalize()) else {
        return Ok(());
    };
    let is_filled = result_folders(&output)
        .iter()
        .any(|results| images.starts_with(results));
    match images == output || is_filled {
        true => Err(InputError::HoldsResults {
            folder: folder.to_owned(),
        }),
        false => Ok(()),
    }
}

/// Returns whether a folder lies below another one and is not the same.
fn is_below(folder: &Path, base: &Path) -> bool {
    without_links(base).is_some_and(|base| folder != base && folder.starts_with(base))
}

/// Returns the path of a folder without links, if there is such a folder. An empty path is the folder where the process
/// is.
fn without_links(folder: &Path) -> Option<PathBuf> {
    let is_here = folder.as_os_str().is_empty();
    let folder = if is_here { Path::new(".") } else { folder };
    folder.canonicalize().ok()
}

/// Returns the folder that a file lies in.
fn folder_of(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new(""))
}

/// Returns the folder that holds all files.
fn folder_above(files: &[PathBuf]) -> PathBuf {
    let mut folders = files.iter().map(|file| folder_of(file));
    let Some(first) = folders.next() else {
        return PathBuf::new();
    };
    folders.fold(first.to_owned(), |above, folder| {
        let common = above.components().zip(folder.components());
        common
            .take_while(|(one, other)| one == other)
            .map(|(one, _)| one)
            .collect()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        folder
    }

    fn names(folder: &Path, texts: &[&str], naming: Naming) -> Result<Vec<String>, String> {
        let texts: Vec<_> = texts
            .iter()
            .map(|text| folder.join(text).display().to_string())
            .collect();
        let found = Inputs::new(&texts, &[], naming, &folder.join("labels")).and_then(|inputs| inputs.find());
        let found = found.map_err(|error| error.to_string().replace(&format!("{}/", folder.display()), ""))?;
        Ok(found.into_iter().map(|input| input.name).collect())
    }

    #[test]
    fn names_count_below_what_was_named() {
        let folder = folder(&["a/one.jpg", "a/b/two.PNG", "a/b/notes.txt", "c/three.webp"]);
        let names = |texts: &[&str]| names(folder.path(), texts, Naming::default()).unwrap();
        assert_eq!(names(&["a"]), ["b/two", "one"]);
        assert_eq!(names(&["a/b", "c"]), ["three", "two"]);
        assert_eq!(names(&["a/one.jpg"]), ["one"]);
        assert_eq!(names(&["a/one.jpg", "a/b/two.PNG", "a/one.jpg"]), ["b/two", "one"]);
        assert_eq!(names(&["a/**/*"]), ["b/two", "one"]);
        assert_eq!(names(&["*/t*.webp"]), ["c/three"]);
    }

    #[test]
    fn names_that_are_no_utf_8_stay_different() {
        use std::os::unix::ffi::OsStrExt;

        let folder = folder(&["x%.png"]);
        for name in [&b"x\xff.png"[..], b"x\xfe.png", b"\xc3\xa9\xc3.png"] {
            std::fs::write(folder.path().join(OsStr::from_bytes(name)), "").unwrap();
        }
        let found = names(folder.path(), &["."], Naming::default()).unwrap();
        assert_eq!(found, ["x%", "x%FE", "x%FF", "\u{e9}%C3"]);
    }

    #[test]
    fn what_runs_have_written_is_no_image() {
        let folder = folder(&[
            "one.jpg",
            "b/two.jpg",
            "labels/masks/one.png",
            "labels/.maskclip/plan.json",
            "labels/three.jpg",
            "b/other/masks/two.png",
            "b/other/.maskclip/plan.json",
        ]);
        std::os::unix::fs::symlink(folder.path().join("labels/masks"), folder.path().join("b/link")).unwrap();
        let names = |texts: &[&str]| names(folder.path(), texts, Naming::default());
        let here = || Ok(vec!["b/two".to_owned(), "one".to_owned()]);
        assert_eq!(names(&["."]), here());
        assert_eq!(names(&["**/*"]), here());
        // A list of files, as `find` prints it.
        assert_eq!(names(&["one.jpg", "b/two.jpg", "labels/masks/one.png"]), here());
        // Images beside the results, in the folder that --out names.
        assert_eq!(names(&["labels/*"]).unwrap(), ["three"]);
        assert_eq!(names(&["labels/**/*"]).unwrap(), ["three"]);
        for refused in ["labels", "labels/masks", "b/link", "b/../labels"] {
            let error = names(&[refused]).unwrap_err();
            assert!(
                error.starts_with(&format!("{refused} would hold both images and results")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_is_gone_from_a_list_is_a_file() {
        let folder = folder(&["a.jpg", "b/c.jpg"]);
        let listed = ["a.jpg", "gone.jpg", "b"].map(|name| folder.path().join(name).display().to_string());
        let inputs = Inputs::new(&[], &listed, Naming::default(), Path::new("no folder")).unwrap();
        let names: Vec<_> = inputs.find().unwrap().into_iter().map(|input| input.name).collect();
        assert_eq!(names, ["a", "c", "gone"]);
    }

    #[test]
    fn results_of_one_name_are_refused_unless_endings_stay() {
        let folder = folder(&["a.jpg", "a.png", "b/x.jpg", "c/x.jpg"]);
        let refused = |texts: &[&str]| names(folder.path(), texts, Naming::default()).unwrap_err();
        assert!(refused(&["a.jpg", "a.png"]).starts_with("a.jpg and a.png have results of one name, a:"));
        assert!(refused(&["b", "c"]).starts_with("b/x.jpg and c/x.jpg have results of one name, x:"));
        let kept = names(folder.path(), &["."], Naming { keeps_endings: true }).unwrap();
        assert_eq!(kept, ["a.jpg", "a.png", "b/x.jpg", "c/x.jpg"]);
        assert_eq!(refused(&["none.jpg"]), "there is no none.jpg");
        assert!(refused(&["x[.jpg"]).starts_with("x[.jpg is no pattern:"));
    }

    #[test]
    fn every_image_is_in_one_shard_and_stays_there() {
        let images: Vec<String> = (0..200).map(|number| format!("{number}.jpg")).collect();
        let images: Vec<&str> = images.iter().map(String::as_str).collect();
        let folder = folder(&images);
        let found = Inputs::new(
            &[folder.path().display().to_string()],
            &[],
            Naming::default(),
            Path::new("no folder"),
        )
        .unwrap()
        .find()
        .unwrap();
        let sizes: Vec<usize> = (0..3)
            .map(|shard| found.iter().filter(|input| input.is_in_shard(shard, 3)).count())
            .collect();
        assert_eq!(sizes.iter().sum::<usize>(), 200);
        assert!(sizes.iter().all(|&size| size > 40), "{sizes:?}");
        assert!(found.iter().all(|input| input.is_in_shard(0, 1)));
    }
}
