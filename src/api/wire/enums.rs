//! Enumerations as clients write and read them, each the counterpart of one below.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::named::named;

/// Writes enumerations of the wire, each with the conversions from and to its counterpart below.
///
/// Both conversions match every variant, so that a variant that only one of the two has does not compile. Names on the
/// wire are the variants' in kebab case unless `#[serde(rename)]` and `#[strum(serialize)]` say otherwise.
macro_rules! counterparts {
    ($(
        $(#[$attribute:meta])*
        $name:ident of $below:ty {
            $($(#[$variant_attribute:meta])* $variant:ident,)+
        }
    )+) => {$(
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, strum::EnumString, strum::VariantNames)]
        #[serde(rename_all = "kebab-case")]
        #[strum(serialize_all = "kebab-case")]
        pub enum $name {
            $($(#[$variant_attribute])* $variant,)+
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                named(deserializer)
            }
        }

        impl From<$below> for $name {
            fn from(below: $below) -> Self {
                match below {
                    $(<$below>::$variant => Self::$variant,)+
                }
            }
        }

        impl From<$name> for $below {
            fn from(wire: $name) -> Self {
                match wire {
                    $($name::$variant => Self::$variant,)+
                }
            }
        }
    )+};
}

counterparts! {
    /// What the last attention of the visual tower does.
    ///
    /// - `clip`: CLIP without the change, the papers' baseline.
    /// - `maskclip`: MaskCLIP as its reference implementation has it.
    /// - `clip-no-positions`, for ResNets only: `clip` without the positions of the attention pool, as MaskCLIP's released code
    ///   computes its baseline.
    ///
    /// All others are for vision transformers only, each as its authors released it:
    /// - `maskclip-no-residual`: what later papers call MaskCLIP, the last block's projected values alone.
    /// - `sclip` (arXiv 2312.01597), `clearclip` (2407.12442), `naclip` (2404.08181): tokens attend to tokens of like queries and
    ///   keys, like queries, like keys nearby.
    /// - `pearl` (2603.21528): queries attend to keys turned towards them by an exact rotation; `pearl-newton-schulz` has the
    ///   released approximation of it, which the published figures are from.
    /// - `sc-clip` (2411.15869): outlying tokens repaired, attention from a middle layer; on a square input of at least 31 patches.
    /// - `resclip` (2411.15851): like keys nearby and the attention of middle blocks, in two passes, the second led by what the
    ///   classes label in the first; `resclip-repaired` mends the release's test of what lies between two patches.
    /// - `gem` (2312.00878): a parallel path of self-self attention over the last six blocks.
    ///
    /// Blocks are those of the published models, which have 12 or 24; in others their numbers are scaled in proportion.
    Attention of crate::dense::Attention {
        Clip,
        Maskclip,
        MaskclipNoResidual,
        Sclip,
        Clearclip,
        Naclip,
        Pearl,
        PearlNewtonSchulz,
        ScClip,
        Resclip,
        ResclipRepaired,
        Gem,
        ClipNoPositions,
    }

    /// The ways of key smoothing, as requests and settings name them.
    KeySmoothingMethod of crate::dense::KeySmoothingMethod {
        None,
        Formula,
        Reference,
        Likeness,
    }

    /// Whether a model answers requests.
    ModelState of crate::engine::ModelState {
        Starting,
        Ready,
        Recovering,
        Failed,
    }

    /// What is done to scores at the image's size, before they become probabilities.
    Refinement of crate::dense::Refinement {
        None,
        Pamr,
        PearlPropagation,
    }

    /// How an image comes to the size of the model's input.
    Resize of crate::image::Resize {
        Bicubic,
        Mmcv,
    }

    /// How the pixels of an image are turned.
    Orientation of crate::image::Orientation {
        Exif,
        Stored,
    }

    /// Which prompt templates a text is put into before it is embedded.
    TemplateSet of crate::vocabulary::TemplateSet {
        #[serde(rename = "maskclip-85")]
        #[strum(serialize = "maskclip-85")]
        Maskclip85,
        #[serde(rename = "imagenet-80")]
        #[strum(serialize = "imagenet-80")]
        Imagenet80,
        Simple,
        None,
    }

    /// What the synonyms of a class come to.
    Synonyms of crate::vocabulary::Synonyms {
        Mean,
        Max,
    }

    /// The forms a label map can be written in.
    LabelMapFormat of crate::label_map::LabelMapFormat {
        Png,
        PngGrey,
        CocoRle,
        Polygons,
        Panoptic,
        Raw,
        None,
    }

    /// Kinds of models.
    ModelKind of crate::labeller::ModelKind {
        Clip,
        Student,
    }

    /// Element type of a model's arithmetic.
    Precision of crate::labeller::Precision {
        Float32,
        Bfloat16,
        Float16,
    }

    /// Kinds of warnings.
    WarningCode of crate::engine::WarningCode {
        SingleClass,
        NoBackground,
        DuplicateClass,
        CommasInName,
        NumberedNames,
        SignsInNames,
        UnknownWord,
        TextTruncated,
        DenoisingDroppedAll,
    }
}

impl Default for LabelMapFormat {
    fn default() -> Self {
        crate::label_map::LabelMapFormat::default().into()
    }
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::json;
    use strum::{VariantArray, VariantNames};
    use utoipa::PartialSchema;

    use super::*;
    use crate::{dense, engine, image, labeller, vocabulary};

    /// Checks that the wire writes every variant under its name below, and that the schema lists these names in order.
    fn check<Below, Wire>()
    where
        Below: VariantArray + VariantNames + Copy,
        Wire: From<Below> + Serialize + DeserializeOwned + PartialSchema,
    {
        let names = <Below as VariantNames>::VARIANTS;
        let all = <Below as VariantArray>::VARIANTS.iter();
        let written: Vec<_> = all.map(|&below| Wire::from(below)).collect();
        assert_eq!(json!(written), json!(names));
        assert_eq!(json!(Wire::schema())["enum"], json!(names));
        let read: Vec<Wire> = serde_json::from_value(json!(names)).expect("the wire reads what it writes");
        assert_eq!(json!(read), json!(names));
    }

    #[test]
    fn names_on_the_wire_are_those_below() {
        check::<dense::Attention, Attention>();
        check::<dense::KeySmoothingMethod, KeySmoothingMethod>();
        check::<dense::Refinement, Refinement>();
        check::<image::Orientation, Orientation>();
        check::<image::Resize, Resize>();
        check::<labeller::Precision, Precision>();
        check::<engine::WarningCode, WarningCode>();
        check::<vocabulary::Synonyms, Synonyms>();
        check::<vocabulary::TemplateSet, TemplateSet>();
    }
}
