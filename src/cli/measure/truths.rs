//! The flags about truths, and where the truths of a folder's images come from.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::Args;

use super::{LayoutChoice, Result};
use crate::cli::input::read_text;
use crate::evaluation::{
    CocoTruths, CvatTruths, Dataset, FolderLayout, LabelMapping, LabelStudioTruths, Layout, Legend, TruthForm,
};
use crate::vocabulary::ClassList;

/// The flags about truths. All of them are for folders: published data sets have their own.
#[derive(Debug, Args)]
pub struct TruthArguments {
    /// Where the truths are, if not next to the images: a folder of PNGs, or a file of annotations: COCO's JSON (panoptic, or
    /// instances), Label Studio's JSON, or the XML of "CVAT for images".
    #[arg(long, value_name = "FOLDER|FILE")]
    truth: Option<PathBuf>,
    /// Ending of a truth's name, in place of its image's ending. By default `.truth.png` next to the images, `.png` in
    /// another folder.
    #[arg(long, value_name = "TEXT")]
    truth_ending: Option<String>,
    /// What the truths' values or colours mean: a text file with a line for each, as in "7 road", "128 64 128 road" or
    /// CVAT's labelmap.txt. By default, values are positions in the class list.
    #[arg(long, value_name = "FILE")]
    truth_classes: Option<PathBuf>,
    /// The value of pixels that do not count, or `none`. By default 255.
    #[arg(long, value_name = "VALUE|none")]
    ignore: Option<Ignored>,
    /// Do not count pixels with the value 0; the classes start at the value 1.
    #[arg(long)]
    reduce_zero_label: bool,
}

/// The value of pixels that do not count, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ignored(Option<u16>);

impl FromStr for Ignored {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            _ => match text.parse() {
                Ok(value) => Ok(Self(Some(value))),
                Err(_) => Err("it is neither a value from 0 to 65535 nor `none`".to_owned()),
            },
        }
    }
}

/// Truths, before their names are connected with classes.
pub enum TruthSource {
    /// Those of a published data set.
    Published(Layout),
    /// PNGs whose values are positions in the class list.
    Positions,
    /// PNGs with a legend.
    Legend(Legend),
    /// COCO's annotations.
    Coco(CocoTruths),
    /// Label Studio's export.
    LabelStudio(LabelStudioTruths),
    /// CVAT's export.
    Cvat(CvatTruths),
}

impl TruthSource {
    /// Returns the names of classes that the truths bring.
    pub fn names(&self) -> Option<Vec<String>> {
        match self {
            Self::Published(_) | Self::Positions => None,
            Self::Legend(legend) => Some(legend.names()),
            Self::Coco(truths) => Some(truths.names()),
            Self::LabelStudio(truths) => Some(truths.names()),
            Self::Cvat(truths) => Some(truths.names()),
        }
    }
}

/// Reads a file of annotations: XML is CVAT's, a list in JSON Label Studio's, an object COCO's.
fn annotations(file: &Path) -> Result<TruthSource> {
    let text = read_text(file)?;
    Ok(match text.trim_start().chars().next() {
        Some('<') => TruthSource::Cvat(CvatTruths::parse(file, &text)?),
        Some('[') => TruthSource::LabelStudio(LabelStudioTruths::parse(file, &text)?),
        _ => TruthSource::Coco(CocoTruths::parse(file, &text)?),
    })
}

impl TruthArguments {
    /// Reads what says what the truths mean.
    ///
    /// # Errors
    /// When flags exclude each other, or a file cannot be read.
    pub fn source(&self, layout: LayoutChoice) -> Result<TruthSource> {
        let given = [
            ("--truth", self.truth.is_some()),
            ("--truth-ending", self.truth_ending.is_some()),
            ("--truth-classes", self.truth_classes.is_some()),
            ("--ignore", self.ignore.is_some()),
            ("--reduce-zero-label", self.reduce_zero_label),
        ];
        let refuse =
            |flags: &[&str], why: String| match given.iter().find(|(flag, is_given)| *is_given && flags.contains(flag))
            {
                Some((flag, _)) => Err(format!("{flag} {why}")),
                None => Ok(()),
            };
        if let LayoutChoice::Published(layout) = layout {
            refuse(
                &given.map(|(flag, _)| flag),
                format!("is for folders; {layout} has its own truths"),
            )?;
            return Ok(TruthSource::Published(layout));
        }
        if let Some(file) = self.annotations() {
            let others = ["--truth-ending", "--truth-classes", "--ignore", "--reduce-zero-label"];
            refuse(
                &others,
                format!("is for PNGs; {} says itself what its truths mean", file.display()),
            )?;
            return annotations(file);
        }
        let Some(file) = &self.truth_classes else {
            return Ok(TruthSource::Positions);
        };
        let why = format!(
            "is for values without --truth-classes; {} says what they mean",
            file.display()
        );
        refuse(&["--ignore", "--reduce-zero-label"], why)?;
        let text = read_text(file)?;
        let legend = Legend::parse(&text).map_err(|error| format!("--truth-classes {}: {error}", file.display()))?;
        Ok(TruthSource::Legend(legend))
    }

    /// Returns the file of annotations, if the truths are one.
    fn annotations(&self) -> Option<&Path> {
        let is_annotations = |path: &&Path| {
            let ending = path.extension().unwrap_or_default();
            ["json", "xml"].iter().any(|known| ending.eq_ignore_ascii_case(known))
        };
        self.truth.as_deref().filter(is_annotations)
    }

    /// Finds the images under a root with their truths.
    ///
    /// # Errors
    /// When a file or folder cannot be read, or there are no images.
    pub fn dataset(&self, source: &TruthSource, root: &Path, list: &ClassList) -> Result<Dataset> {
        let class_of = |name: &str| list.class_called(name);
        let (form, uncounted_names) = match source {
            TruthSource::Published(layout) => return Ok(layout.open(root)?),
            TruthSource::Coco(truths) => return Ok(truths.dataset(root, &class_of)?),
            TruthSource::LabelStudio(truths) => return Ok(truths.dataset(root, &class_of)?),
            TruthSource::Cvat(truths) => return Ok(truths.dataset(root, &class_of)?),
            TruthSource::Positions => (TruthForm::Values(self.mapping()), Vec::new()),
            TruthSource::Legend(legend) => {
                let (code, uncounted) = legend.code(&class_of);
                (TruthForm::Legend(Arc::new(code)), uncounted)
            }
        };
        let beside = self.truth.as_ref().is_none_or(|truth| *truth == *root);
        let ending = if beside { ".truth.png" } else { ".png" };
        let layout = FolderLayout {
            images: root.to_owned(),
            truths: self.truth.clone().unwrap_or_else(|| root.to_owned()),
            truth_ending: self.truth_ending.clone().unwrap_or_else(|| ending.to_owned()),
            form,
            uncounted_names,
        };
        Ok(layout.open()?)
    }

    fn mapping(&self) -> LabelMapping {
        match (self.ignore, self.reduce_zero_label) {
            (None, false) => LabelMapping::Identity,
            (None, true) => LabelMapping::ReduceZero,
            (Some(Ignored(ignored)), reduce_zero) => LabelMapping::Chosen { reduce_zero, ignored },
        }
    }
}
