//! Where the published data sets keep their images and truths.
//!
//! The facts come from mmsegmentation's data set definitions (`mmseg/datasets/*.py` and its guide "Prepare datasets"),
//! which the CLIP segmentation protocols share. For VOC without background, Context and COCO-Object they come from
//! SCLIP's `custom_datasets.py` and its configurations.

use std::path::Path;

use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

use super::{Dataset, DatasetError, LabelMapping, LeftOut, Sample, TruthForm, unreadable};
use crate::support::{find_files, read_regular_text};

/// The layouts of the published data sets' validation sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, EnumString, IntoStaticStr, VariantArray, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Layout {
    /// PASCAL VOC 2012 (Everingham et al.), `VOCdevkit/VOC2012`: 20 classes. Background pixels do not count.
    #[strum(to_string = "voc-20")]
    Voc20,
    /// PASCAL VOC 2012 with the background as class 0.
    #[strum(to_string = "voc-21")]
    Voc21,
    /// PASCAL Context (Mottaghi et al. 2014), `VOCdevkit/VOC2010` with the index PNGs of mmsegmentation's converter:
    /// the 59 frequent classes. Other pixels do not count.
    #[strum(to_string = "pascal-context-59")]
    PascalContext59,
    /// PASCAL Context with all other pixels as class 0.
    #[strum(to_string = "pascal-context-60")]
    PascalContext60,
    /// COCO-Stuff 164k (Caesar, Uijlings, Ferrari 2018) with its 171 classes, in `images/val2017` and
    /// `annotations/val2017`.
    CocoStuff,
    /// COCO-Object (from GroupViT, Xu et al. 2022): the files of COCO-Stuff with a background and 80 things.
    CocoObject,
    /// The scene parsing benchmark of ADE20K (Zhou et al. 2017), `ADEChallengeData2016`: 150 classes.
    Ade20k,
    /// Cityscapes (Cordts et al. 2016) with the 19 classes of its benchmark.
    Cityscapes,
}

/// Where a layout keeps its files, relative to its root.
struct Places {
    /// The file that lists the names; `None` if every file in the folder of images counts.
    list: Option<&'static str>,
    images: &'static str,
    image_ending: &'static str,
    truths: &'static str,
    /// Endings of truth files and the meaning of their values. The first existing file is used.
    truth_endings: &'static [(&'static str, LabelMapping)],
}

impl Layout {
    /// Returns the name on the command line and in reports.
    pub fn name(self) -> &'static str {
        self.into()
    }

    /// Returns the name of the shipped vocabulary with the layout's classes, in the order of their ids.
    pub const fn vocabulary(self) -> &'static str {
        match self {
            Self::Voc20 => "voc-20",
            Self::Voc21 => "voc-21",
            Self::PascalContext59 => "pascal-context-59",
            Self::PascalContext60 => "pascal-context-60",
            Self::CocoStuff => "coco-stuff-171",
            Self::CocoObject => "coco-object-81",
            Self::Ade20k => "ade20k-150",
            Self::Cityscapes => "cityscapes-19",
        }
    }

    /// Returns the number of classes in the truths.
    pub const fn classes(self) -> usize {
        match self {
            Self::Voc20 => 20,
            Self::Voc21 => 21,
            Self::PascalContext59 => 59,
            Self::PascalContext60 => 60,
            Self::CocoStuff => 171,
            Self::CocoObject => 81,
            Self::Ade20k => 150,
            Self::Cityscapes => 19,
        }
    }

    const fn places(self) -> Places {
        use LabelMapping::{Cityscapes, CocoObject, CocoStuff, Identity, ReduceZero};
        const fn voc(truth_endings: &'static [(&'static str, LabelMapping)]) -> Places {
            Places {
                list: Some("ImageSets/Segmentation/val.txt"),
                images: "JPEGImages",
                image_ending: ".jpg",
                truths: "SegmentationClass",
                truth_endings,
            }
        }
        const fn context(truth_endings: &'static [(&'static str, LabelMapping)]) -> Places {
            Places {
                list: Some("ImageSets/SegmentationContext/val.txt"),
                truths: "SegmentationClassContext",
                ..voc(truth_endings)
            }
        }
        const fn coco(truth_endings: &'static [(&'static str, LabelMapping)]) -> Places {
            Places {
                list: None,
                images: "images/val2017",
                image_ending: ".jpg",
                truths: "annotations/val2017",
                truth_endings,
            }
        }
        match self {
            Self::Voc20 => voc(&[(".png", ReduceZero)]),
            Self::Voc21 => voc(&[(".png", Identity)]),
            Self::PascalContext59 => context(&[(".png", ReduceZero)]),
            Self::PascalContext60 => context(&[(".png", Identity)]),
            // The files of the converters if they exist, otherwise those of the download.
            Self::CocoStuff => coco(&[("_labelTrainIds.png", Identity), (".png", CocoStuff)]),
            Self::CocoObject => coco(&[("_instanceTrainIds.png", Identity), (".png", CocoObject)]),
            Self::Ade20k => Places {
                list: None,
                images: "images/validation",
                image_ending: ".jpg",
                truths: "annotations/validation",
                truth_endings: &[(".png", ReduceZero)],
            },
            Self::Cityscapes => Places {
                list: None,
                images: "leftImg8bit/val",
                image_ending: "_leftImg8bit.png",
                truths: "gtFine/val",
                truth_endings: &[
                    ("_gtFine_labelTrainIds.png", Identity),
                    ("_gtFine_labelIds.png", Cityscapes),
                ],
            },
        }
    }

    /// Finds the validation set under a root folder.
    ///
    /// # Errors
    /// [`DatasetError`] when a folder or the list cannot be read, an image has no truth, or there are no images.
    pub fn open(self, root: &Path) -> Result<Dataset, DatasetError> {
        let places = self.places();
        let images = root.join(places.images);
        let (names, hidden_images) = match places.list {
            Some(list) => (listed(&root.join(list))?, 0),
            None => {
                let found = find_files(&images, &[places.image_ending])?;
                (found.files.into_iter().map(|file| file.name).collect(), found.hidden)
            }
        };
        let samples = names.into_iter().map(|name| {
            let image = images.join(format!("{name}{}", places.image_ending));
            let truth_at = |ending: &str| root.join(places.truths).join(format!("{name}{ending}"));
            let mut truths = places
                .truth_endings
                .iter()
                .map(|&(ending, labels)| (truth_at(ending), labels));
            match truths.find(|(truth, _)| truth.is_file()) {
                Some((truth, labels)) => Ok(Sample {
                    name,
                    image,
                    truth,
                    form: TruthForm::Values(labels),
                }),
                None => Err(DatasetError::MissingTruth {
                    image,
                    truth: truth_at(places.truth_endings[0].0),
                }),
            }
        });
        let samples = samples.collect::<Result<Vec<_>, _>>()?;
        if samples.is_empty() {
            return Err(DatasetError::Empty {
                folder: images,
                looked_for: format!("{self} has files NAME{}", places.image_ending),
            });
        }
        Ok(Dataset {
            samples,
            left_out: LeftOut {
                hidden_images,
                ..LeftOut::default()
            },
            uncounted_names: Vec::new(),
        })
    }
}

/// Returns the names in a list file, one per line.
fn listed(list: &Path) -> Result<Vec<String>, DatasetError> {
    let text = read_regular_text(list).map_err(unreadable(list))?;
    let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
    Ok(names.map(str::to_owned).collect())
}
