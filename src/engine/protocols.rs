//! The published test protocols of MaskCLIP's successors. A protocol's name joins a method and a data set, as in
//! `sclip-voc21`.
//!
//! The constants come from the released codes for ViT-B/16; one table holds them all. A protocol is listed here only if
//! the server implements all of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::{Display, VariantArray, VariantNames};

use super::DefaultSettings;
use crate::dense::{
    Attention, AttentionConstants, KeySmoothingMethod, PROPAGATION_CELLS, Refinement, ResclipConstants, Window,
};
use crate::image::Resize;
use crate::support::excerpt;
use crate::vocabulary::{Synonyms, TemplateSet};

/// A published test protocol: a method applied to a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Protocol {
    /// The method that the protocol was published with.
    pub method: ProtocolMethod,
    /// The data set that the protocol is for.
    pub data_set: ProtocolData,
}

/// The methods that have protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, VariantArray, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum ProtocolMethod {
    /// SCLIP, from wangf3014/SCLIP at b56bd30.
    Sclip,
    /// ClearCLIP, from mc-lan/ClearCLIP at ad68a40.
    Clearclip,
    /// NACLIP with its refinement, from sinahmr/NACLIP at 0cac3a6.
    Naclip,
    /// SC-CLIP, from SuleBai/SC-CLIP at 0417ba9.
    ScClip,
    /// ResCLIP with its path test as released, from yvhangyang/ResCLIP at 0e085f7.
    Resclip,
    /// PEARL with its rotation as released and its propagation, from PGSmall/PEARL at c26062b.
    Pearl,
}

/// The data sets that protocols are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Display, VariantArray, VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum ProtocolData {
    /// PASCAL VOC 2012 with background.
    Voc21,
    /// PASCAL Context with background.
    Context60,
    /// COCO-Object with background.
    Object,
    /// PASCAL VOC 2012 without background.
    Voc20,
    /// PASCAL Context without background.
    Context59,
    /// COCO-Stuff 164k.
    Stuff,
    /// Cityscapes.
    Cityscapes,
    /// ADE20K.
    Ade20k,
}

use ProtocolData::{Ade20k, Cityscapes, Context59, Context60, Object, Stuff, Voc20, Voc21};
use ProtocolMethod::{Clearclip, Naclip, Pearl, Resclip, ScClip, Sclip};

impl ProtocolMethod {
    /// Returns what the last attention computes in this method.
    const fn attention(self) -> Attention {
        match self {
            Sclip => Attention::Sclip,
            Clearclip => Attention::Clearclip,
            Naclip => Attention::Naclip,
            ScClip => Attention::ScClip,
            Resclip => Attention::Resclip,
            Pearl => Attention::PearlNewtonSchulz,
        }
    }
}

/// The constants that differ between protocols.
struct Constants {
    /// Factor on cosines before the softmax.
    scale: f32,
    /// A pixel whose best class probability is below this is background, 0 to 1.
    threshold: f32,
    /// A class that covers at most this share of the foreground is dropped, 0 to 1.
    area: f64,
    short_side: u32,
    window: Option<Window>,
    refinement: Refinement,
}

impl Protocol {
    /// Returns all protocols, method by method.
    pub fn all() -> impl Iterator<Item = Self> {
        let data_sets = <ProtocolData as VariantArray>::VARIANTS.iter();
        <ProtocolMethod as VariantArray>::VARIANTS
            .iter()
            .flat_map(move |&method| data_sets.clone().map(move |&data_set| Self { method, data_set }))
    }

    /// Returns the name of the shipped vocabulary that has the protocol's class names, background names and synonyms.
    pub const fn vocabulary(self) -> &'static str {
        match (self.data_set, self.method) {
            (Voc21, Clearclip) => "clearclip-voc-21",
            (Voc21, _) => "sclip-voc-21",
            (Voc20, Clearclip) => "clearclip-voc-20",
            (Voc20, _) => "sclip-voc-20",
            (Object, Clearclip) => "clearclip-coco-object-81",
            (Object, _) => "sclip-coco-object-81",
            (Context60, _) => "sclip-pascal-context-60",
            (Context59, _) => "sclip-pascal-context-59",
            (Stuff, _) => "sclip-coco-stuff-171",
            (Cityscapes, _) => "sclip-cityscapes-19",
            (Ade20k, _) => "sclip-ade20k-150",
        }
    }

    /// Returns the constants inside the method's attention. Constants of other attentions keep their defaults.
    pub fn attention_constants(self) -> AttentionConstants {
        let common = AttentionConstants::default();
        match (self.method, self.data_set) {
            (Resclip, data_set) => AttentionConstants {
                resclip: resclip(data_set),
                ..common
            },
            (Pearl, Cityscapes | Ade20k) => AttentionConstants {
                pearl_key_weight: 0.3,
                ..common
            },
            (Sclip | Clearclip | Naclip | ScClip | Pearl, _) => common,
        }
    }

    /// Returns the approximate number of cells along each side to which PEARL's propagation averages an image.
    pub fn propagation_cells(self) -> u32 {
        match (self.method, self.data_set) {
            (Pearl, Cityscapes) => 224,
            _ => PROPAGATION_CELLS,
        }
    }

    /// Returns the values of all request fields that the protocol sets, in place of the server's defaults.
    pub fn settings(self) -> DefaultSettings {
        let Constants {
            scale,
            threshold,
            area,
            short_side,
            window,
            refinement,
        } = self.constants();
        DefaultSettings {
            templates: TemplateSet::Imagenet80,
            synonyms: Synonyms::Max,
            attention: self.method.attention(),
            temperature: scale,
            prompt_denoising: 0.0,
            key_smoothing: KeySmoothingMethod::None,
            background_threshold: threshold,
            background_area: area,
            short_side,
            scales: vec![1.0],
            resize: Resize::Mmcv,
            window,
            refinement: Some(refinement),
        }
    }

    #[expect(
        clippy::too_many_lines,
        reason = "one table, with a row for each method and its data sets"
    )]
    fn constants(self) -> Constants {
        let common = Constants {
            scale: 40.0,
            threshold: 0.0,
            area: 0.0,
            short_side: if self.data_set == Cityscapes { 560 } else { 336 },
            window: window(224, 112),
            refinement: Refinement::None,
        };
        match (self.method, self.data_set) {
            (Sclip, Voc21) => Constants {
                scale: 65.0,
                threshold: 0.1,
                area: 0.1,
                ..common
            },
            (Sclip, Context60 | Object) => Constants {
                scale: 50.0,
                threshold: 0.1,
                ..common
            },
            (Sclip, Stuff) => Constants {
                short_side: 448,
                ..common
            },
            (Sclip, _) => common,
            (Clearclip, data_set) => Constants {
                scale: 50.0,
                threshold: match data_set {
                    Voc21 => 0.5,
                    Context60 => 0.15,
                    Object => 0.4,
                    _ => 0.0,
                },
                short_side: 448,
                window: if data_set == Cityscapes {
                    window(224, 224)
                } else {
                    window(448, 224)
                },
                ..common
            },
            (Naclip | Resclip | Pearl, data_set) => Constants {
                threshold: if matches!(data_set, Voc21 | Context60 | Object) {
                    0.1
                } else {
                    0.0
                },
                window: if matches!(data_set, Voc21 | Voc20) {
                    None
                } else {
                    common.window
                },
                refinement: match self.method {
                    Naclip => Refinement::Pamr,
                    Pearl => Refinement::PearlPropagation,
                    Resclip | Sclip | Clearclip | ScClip => Refinement::None,
                },
                ..common
            },
            (ScClip, Voc21) => Constants {
                scale: 50.0,
                threshold: 0.15,
                area: 0.1,
                ..common
            },
            (ScClip, Context60) => Constants {
                threshold: 0.15,
                ..common
            },
            (ScClip, Object) => Constants {
                scale: 55.0,
                threshold: 0.35,
                ..common
            },
            (ScClip, _) => common,
        }
    }
}

const fn window(side: u32, stride: u32) -> Option<Window> {
    Some(Window { side, stride })
}

const fn resclip(data_set: ProtocolData) -> ResclipConstants {
    let (threshold, middle_share, score_scale, layout_share) = match data_set {
        Voc21 => (0.5, 0.3, 2.2, 0.7),
        Context60 => (0.3, 0.3, 1.8, 0.7),
        Object | Stuff => (0.11, 0.4, 1.8, 0.7),
        Voc20 => (0.1, 0.6, 2.1, 0.6),
        Context59 => (0.25, 0.4, 1.8, 0.7),
        Cityscapes => (0.1, 0.2, 2.1, 0.6),
        Ade20k => (0.25, 0.3, 2.1, 0.7),
    };
    ResclipConstants {
        threshold,
        middle_share,
        score_scale,
        layout_share,
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.method, self.data_set)
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::all().find(|protocol| protocol.to_string() == name).ok_or_else(|| {
            let methods = <ProtocolMethod as VariantNames>::VARIANTS.join(", ");
            let data = <ProtocolData as VariantNames>::VARIANTS.join(", ");
            let name = excerpt(name);
            format!("{name:?} is not a protocol: a method ({methods}), a hyphen and a data set ({data}), as in sclip-voc21")
        })
    }
}

impl TryFrom<String> for Protocol {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<Protocol> for String {
    fn from(protocol: Protocol) -> Self {
        protocol.to_string()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn settings(name: &str) -> DefaultSettings {
        name.parse::<Protocol>().unwrap().settings()
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        assert_eq!(Protocol::all().count(), 48);
        for protocol in Protocol::all() {
            assert_eq!(protocol.to_string().parse(), Ok(protocol));
        }
        assert_eq!(
            "sclip-voc12".parse::<Protocol>().unwrap_err(),
            "\"sclip-voc12\" is not a protocol: a method (sclip, clearclip, naclip, sc-clip, resclip, pearl), a hyphen and a \
             data set (voc21, context60, object, voc20, context59, stuff, cityscapes, ade20k), as in sclip-voc21"
        );
    }

    #[test]
    fn constants_are_the_released_ones() {
        let constants = |name: &str| {
            let settings = settings(name);
            let window = settings.window.map(|window| (window.side, window.stride));
            (
                settings.short_side,
                window,
                settings.temperature,
                settings.background_threshold,
                settings.background_area,
            )
        };
        assert_eq!(constants("sclip-voc21"), (336, Some((224, 112)), 65.0, 0.1, 0.1));
        assert_eq!(constants("sclip-object"), (336, Some((224, 112)), 50.0, 0.1, 0.0));
        assert_eq!(constants("sclip-stuff"), (448, Some((224, 112)), 40.0, 0.0, 0.0));
        assert_eq!(constants("sclip-cityscapes"), (560, Some((224, 112)), 40.0, 0.0, 0.0));
        assert_eq!(
            constants("clearclip-context60"),
            (448, Some((448, 224)), 50.0, 0.15, 0.0)
        );
        assert_eq!(
            constants("clearclip-cityscapes"),
            (448, Some((224, 224)), 50.0, 0.0, 0.0)
        );
        assert_eq!(constants("naclip-voc21"), (336, None, 40.0, 0.1, 0.0));
        assert_eq!(constants("naclip-ade20k"), (336, Some((224, 112)), 40.0, 0.0, 0.0));
        assert_eq!(constants("sc-clip-object"), (336, Some((224, 112)), 55.0, 0.35, 0.0));
        assert_eq!(constants("resclip-voc21"), (336, None, 40.0, 0.1, 0.0));
        assert_eq!(constants("resclip-object"), (336, Some((224, 112)), 40.0, 0.1, 0.0));
        assert_eq!(constants("pearl-voc20"), (336, None, 40.0, 0.0, 0.0));
        assert_eq!(constants("pearl-cityscapes"), (560, Some((224, 112)), 40.0, 0.0, 0.0));
    }

    #[test]
    fn every_constant_of_the_released_configurations_is_here() {
        let table = include_str!("../../tools/protocols/released/constants.txt");
        let rows = table.lines().filter(|line| !line.starts_with('#'));
        let mut compared = 0;
        for row in rows {
            let (method, rest) = row.split_once(' ').unwrap();
            let (data_set, numbers) = rest.split_once(' ').unwrap();
            let numbers: Vec<f64> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
            let protocol: Protocol = format!("{method}-{data_set}").parse().unwrap();
            let settings = protocol.settings();
            let whole_image = Window { side: 0, stride: 112 };
            let Window { side, stride } = settings.window.unwrap_or(whole_image);
            // By their shortest decimals, since a float in single precision has others in double precision.
            let single = |value: f32| value.to_string().parse::<f64>().unwrap();
            let mut here = vec![
                f64::from(settings.short_side),
                f64::from(side),
                f64::from(stride),
                single(settings.temperature),
                single(settings.background_threshold),
                settings.background_area,
            ];
            if protocol.method == Resclip {
                let constants = protocol.attention_constants().resclip;
                here.extend([
                    single(constants.threshold),
                    constants.middle_share,
                    constants.score_scale,
                    constants.layout_share,
                ]);
            }
            assert_eq!(here, numbers, "{protocol}");
            compared += 1;
        }
        assert_eq!(compared, 38);
    }

    #[test]
    fn attentions_and_refinements_are_the_released_ones() {
        let parts = |name: &str| (settings(name).attention, settings(name).refinement);
        assert_eq!(parts("sclip-stuff"), (Attention::Sclip, Some(Refinement::None)));
        assert_eq!(parts("naclip-stuff"), (Attention::Naclip, Some(Refinement::Pamr)));
        assert_eq!(parts("resclip-stuff"), (Attention::Resclip, Some(Refinement::None)));
        assert_eq!(
            parts("pearl-stuff"),
            (Attention::PearlNewtonSchulz, Some(Refinement::PearlPropagation))
        );
    }

    #[test]
    fn constants_inside_the_methods_are_the_released_ones() {
        let constants = |name: &str| name.parse::<Protocol>().unwrap().attention_constants();
        let resclip = |data_set: &str| {
            let constants = constants(&format!("resclip-{data_set}"));
            assert_eq!(constants.pearl_key_weight, 0.08);
            let ResclipConstants {
                threshold,
                middle_share,
                score_scale,
                layout_share,
            } = constants.resclip;
            (threshold, middle_share, score_scale, layout_share)
        };
        assert_eq!(resclip("voc21"), (0.5, 0.3, 2.2, 0.7));
        assert_eq!(resclip("context60"), (0.3, 0.3, 1.8, 0.7));
        assert_eq!(resclip("object"), (0.11, 0.4, 1.8, 0.7));
        assert_eq!(resclip("voc20"), (0.1, 0.6, 2.1, 0.6));
        assert_eq!(resclip("context59"), (0.25, 0.4, 1.8, 0.7));
        assert_eq!(resclip("stuff"), (0.11, 0.4, 1.8, 0.7));
        assert_eq!(resclip("cityscapes"), (0.1, 0.2, 2.1, 0.6));
        assert_eq!(resclip("ade20k"), (0.25, 0.3, 2.1, 0.7));

        let pearl = |data_set: &str| {
            let name = format!("pearl-{data_set}");
            let constants = constants(&name);
            assert_eq!(constants.resclip, ResclipConstants::default());
            let cells = name.parse::<Protocol>().unwrap().propagation_cells();
            (constants.pearl_key_weight, cells)
        };
        assert_eq!(pearl("cityscapes"), (0.3, 224));
        assert_eq!(pearl("ade20k"), (0.3, 80));
        for data_set in ["voc21", "context60", "object", "voc20", "context59", "stuff"] {
            assert_eq!(pearl(data_set), (0.08, 80), "{data_set}");
        }
        assert_eq!(constants("naclip-cityscapes"), AttentionConstants::default());
    }
}
